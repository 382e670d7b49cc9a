"""The answers of `datasync/operate/` as lines: columns without borders, times in UTC."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import msgspec

from datasync.cli.validate import count as _count
from datasync.flow.secrets import command_to_delete, command_to_set
from datasync.model.display import shown
from datasync.model.times import utc_text
from datasync.operate.action import Done
from datasync.operate.add_flow import Addition, AdditionLine
from datasync.operate.audit import AuditLines
from datasync.operate.dead import DeadRuns
from datasync.operate.documents import SecretLine, TenantLine
from datasync.operate.flows import FlowLine
from datasync.operate.gates import Gate
from datasync.operate.incidents import Incidents
from datasync.operate.memory import Memory
from datasync.operate.queue import QueueLook, Queues
from datasync.operate.runs import ErrorLine, RunDetail, RunLine, Runs
from datasync.operate.status import Status
from datasync.operate.ticks import Ticks, TickStatus
from datasync.operate.why import Why, command, open_command
from datasync.settings import Settings

_GAP = "   "
_MOST_NAMED = 2  # tenants
_LONGEST_SEEN = 1000  # characters of a cursor in a command, which a reader can still copy


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a header and rows in columns. Foreign texts cannot leave their column."""
    cells = [[*header], *([shown(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    for row in cells:
        yield _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def age(span: timedelta) -> str:
    """Render a time span in its largest unit and the next one: `2 h 5 min`."""
    seconds = max(int(span.total_seconds()), 0)
    for name, length, small, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            rest = seconds % length // part
            return f"{seconds // length} {name}" + (f" {rest} {small}" if rest else "")
    return f"{seconds} s"


def time(instant: datetime | None) -> str:
    """Render an instant; `-` where there is none."""
    return utc_text(instant) if instant else "-"


def status(found: Status) -> Iterator[str]:
    """Yield the lines of the state of the fleet."""
    for name, value in _status(found):
        yield f"{name:<10}{_GAP}{value}"


def _status(found: Status) -> Iterator[tuple[str, str]]:
    unread = "could not be read"
    yield "last tick", _last_tick(found.tick, found.at_utc) if found.tick else unread
    if found.tick and found.tick.failed:
        yield "ticks", _failed_ticks(found.tick)
    yield "queue", f"{found.queue.name}: {_count(found.queue.length, 'message')}" if found.queue else unread
    yield "poison", f"{found.poison.name}: {_count(found.poison.length, 'message')}" if found.poison else unread
    if found.flows is None:
        yield "flows", unread
        return
    counts = found.flows
    switched = f"{counts.enabled} enabled, {counts.disabled} disabled"
    yield "flows", f"{switched}, {counts.running} running, of {_count(counts.tenants, 'tenant')}"
    yield "failing", _with_command(counts.failing, "incidents")
    yield "late", _with_command(counts.late, "flows --late")
    yield "unusual", _with_command(counts.unusual, "flows --unusual")
    yield "problems", _with_command(counts.problems, "flows --problems")


def ticks(found: Ticks, now: datetime) -> Iterator[str]:
    """Yield a line for each tick, then the error of each that failed, and a line if ticks are missing."""
    if found.ticks:
        yield from table(
            ("started", "result", "seconds", *_TALLY),
            [
                (
                    time(each.started_utc),
                    f"{each.result} scan" if each.is_scan else str(each.result),
                    f"{each.seconds:.1f}" if each.ended_utc else "-",
                    *("-" if each.tally.get(name) is None else str(each.tally[name]) for name in _TALLY),
                )
                for each in found.ticks
            ],
        )
    for each in found.ticks:
        if each.failure:
            yield f"failed: {time(each.started_utc)} {each.failure}"
    if found.last.is_missing or not found.ticks:
        yield f"last tick: {_tick(found.last, now)}"
    if found.last.is_missing:
        yield from _MISSING
        yield f"* Do the services answer? {command('check')}"


_MISSING = (
    "check, in this order:",
    "* On your machine: does `make start` run?",
    "* On Azure: does the app run? az functionapp show --name <app> --resource-group <group> --query state -o tsv",
    (
        "* Does it have the function orchestrator? az functionapp function list --name <app> --resource-group <group> "
        '--query "[].name" -o tsv'
    ),
    "* A restart starts the timer again: az functionapp restart --name <app> --resource-group <group>",
)


_TALLY = ("tenants", "due", "enqueued", "advanced", "conflicts", "problems", "late", "broken", "failed")


def _last_tick(tick: TickStatus, now: datetime) -> str:
    return f"{_tick(tick, now)}{f': {command("ticks")}' if tick.is_missing else ''}"


def _tick(tick: TickStatus, now: datetime) -> str:
    if tick.started_utc is None:
        return f"none so far: is the function orchestrator running? Its schedule is {tick.schedule}"
    missing = f". The next ones are missing: the schedule is {tick.schedule}" if tick.is_missing else ""
    return f"{time(tick.started_utc)}, {age(now - tick.started_utc)} ago{missing}"


def _failed_ticks(tick: TickStatus) -> str:
    last = "the last tick" if tick.failed == 1 else f"the last {tick.failed} ticks"
    return f"{last} failed (python -m datasync ticks): {tick.failure or 'the process died'}"


def _with_command(number: int, command: str) -> str:
    return f"{number}: python -m datasync {command}" if number else "0"


def flows(found: Sequence[FlowLine]) -> Iterator[str]:
    """Yield a line for each flow, and then one for each problem."""
    if not found:
        yield "no flow"
        return
    yield from table(
        ("tenant", "flow", "health", "last success", "next run", "last outcome", "failures"),
        [
            (
                line.tenant_id,
                line.flow_name or "-",
                str(line.health),
                time(line.last_success_utc),
                time(line.next_run_utc),
                line.last_outcome or "-",
                str(line.consecutive_failures),
            )
            for line in found
        ],
    )
    yield ""
    yield _count(len(found), "flow")
    for line in found:
        subject = f"{shown(line.tenant_id)}{'/' if line.flow_name else ''}{shown(line.flow_name or '')}"
        if line.problem:
            since = f" (since {line.problem_since_utc})" if line.problem_since_utc else ""
            yield f"problem of {subject} {line.problem}{since}"
        elif line.late_since_utc:
            what = "been enqueued at" if line.late_since_utc == line.next_run_utc else "succeeded by"
            yield f"late: {subject} should have {what} {time(line.late_since_utc)}"
        for each in line.unusual if line.is_unusual else ():
            yield f"unusual: {subject} {each.text} (since {time(each.since_utc)})"
    if wrong := next((line for line in found if line.is_wrong), None):
        is_entry = wrong.flow_name and wrong.cron is not None
        own = ("why", wrong.tenant_id, wrong.flow_name or "") if is_entry else ("tenant", "get", wrong.tenant_id)
        yield f"next: {command(*own)}"


def incidents(found: Incidents) -> Iterator[str]:
    """Yield the lines of each incident."""
    if not found.incidents:
        yield "no incident"
    for at, each in enumerate(found.incidents):
        if at:
            yield ""
        yield (
            f"{_count(each.tenants, 'tenant')}, since {time(each.since_utc)}: "
            f"{each.error.message if each.error else 'the records of the failures are gone'}"
        )
        yield (
            f"  {_count(each.failing, 'flow')} failing, {_count(each.dead, 'dead run')}; {', '.join(each.flows)}; "
            f"fingerprint {each.fingerprint or '-'}"
        )
        if each.example_run_id:
            following = command("show", each.example_run_id, "--tenant", each.example_tenant_id)
        else:
            following = command("why", each.example_tenant_id, each.example_flow_name)
        yield f"  last at {time(each.last_utc)}: {following}"
        if each.dead and each.fingerprint:
            yield f"  attempt the dead again: {command('dead', 'retry', '--fingerprint', each.fingerprint)}"


def runs(found: Runs) -> Iterator[str]:
    """Yield a line for each run."""
    if not found.runs:
        yield "no run"
        return
    yield from table(
        ("started", "tenant", "flow", "outcome", "attempts", "run", "counts or error"),
        [
            (
                time(each.started_utc),
                each.tenant_id,
                each.flow_name,
                each.outcome or "running",
                str(each.attempts),
                each.run_id,
                each.error.message if each.error else _counts(each.counts),
            )
            for each in found.runs
        ],
    )


def dead(found: DeadRuns) -> Iterator[str]:
    """Yield a line for each dead run that is listed, and the number of all."""
    if found.runs:
        yield from table(
            ("finished", "tenant", "flow", "outcome", "run", "fingerprint", "error"),
            [
                (
                    time(each.finished_utc),
                    each.tenant_id,
                    each.flow_name,
                    each.outcome or "-",
                    each.run_id,
                    (each.error.fingerprint if each.error else "") or "-",
                    each.error.message if each.error else "-",
                )
                for each in found.runs
            ],
        )
        yield ""
    left_out = found.count - len(found.runs)
    yield _count(found.count, "dead run") + (f", of which {left_out} are not listed" if left_out else "")


def ended(found: RunLine) -> Iterator[str]:
    """Yield when and how a run has ended."""
    for line in run_end(found):
        yield f"{time(found.finished_utc)} {line}"


def run_end(found: RunLine) -> Iterator[str]:
    """Yield how the last attempt of a run has ended."""
    detail = found.error.message if found.error else _counts(found.counts)
    yield (
        f"{shown(found.tenant_id)}/{shown(found.flow_name)}: run {found.run_id}, attempt {found.attempts}: "
        f"{found.outcome}{f': {detail}' if detail else ''}"
    )


def run(found: RunDetail) -> Iterator[str]:
    """Yield the lines of a run, and of each of its attempts."""
    for name, value in _facts(found):
        if value:
            yield f"{name:<10}{_GAP}{value}"
    left_out = found.run.attempts - len(found.attempts)
    if left_out > 0:
        yield f"the first {_count(left_out, 'attempt')} left out"
    last: ErrorLine | None = None
    for number, each in enumerate(found.attempts, start=left_out + 1):
        seconds = (each.finished_utc - each.started_utc).total_seconds()
        yield ""
        yield f"attempt {number}{_GAP}{each.outcome} after {seconds:.1f} s, at {time(each.finished_utc)}"
        yield from ["  the same error"] if each.error and each.error == last else _error(each.error)
        last = each.error
        for name, at in each.secrets.items():
            yield f"  secret {name}, read from the vault at {time(at)}"
    yield from _log(found)
    if following := [*_next_steps(found)]:
        yield ""
        yield from following


def _log(found: RunDetail) -> Iterator[str]:
    if not found.log:
        return
    left_out = f" ({_count(found.log_left_out, 'earlier line')} left out)" if found.log_left_out else ""
    yield ""
    yield f"log of the last attempt{left_out}"
    for each in found.log:
        yield f"  {each.seconds:>8.3f} s{_GAP}{each.level:<8}{_GAP}{each.text}"


def _next_steps(found: RunDetail) -> Iterator[str]:
    """Yield the commands that an operator may want to run after seeing a run."""
    own, error, window = found.run, found.run.error, found.window
    if error and error.status in _REFUSED:
        yield f"the server refused the credentials; the secrets: {command('secrets', own.tenant_id)}"
    if found.recording:
        again = command("replay", own.run_id, "--tenant", own.tenant_id)
        yield f"run the flow of this folder again on the recorded answers: {again}"
    if error and error.fingerprint and own.outcome in _DEAD and found.purged_utc is None:
        again = command("dead", "retry", "--tenant", own.tenant_id, "--fingerprint", error.fingerprint)
        yield f"attempt the dead again, when the cause is gone: {again}"
    if own.unusual and window and window.start:
        set_back = command("window", "set", own.tenant_id, own.flow_name, utc_text(window.start))
        yield f"read the window again, when the cause is gone: {set_back}"
        yield f"  and then: {command('enqueue', own.tenant_id, own.flow_name)}"


_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_DEAD = ("dead", "gave_up")


def _facts(found: RunDetail) -> Iterator[tuple[str, str]]:
    own, window, cursor = found.run, found.window, found.cursor_after
    yield "run", own.run_id
    yield "tenant", own.tenant_id
    yield "flow", own.flow_name
    yield "outcome", own.outcome or "running"
    yield "trigger", own.trigger
    yield "scheduled", time(own.scheduled_utc)
    yield "started", time(own.started_utc)
    yield "finished", time(own.finished_utc)
    yield "part", str(found.part) if found.part > 1 else ""
    yield "sent again", _count(found.redrive, "time") if found.redrive else ""
    yield "purged", time(found.purged_utc) if found.purged_utc else ""
    yield "counts", _counts(own.counts)
    yield "unusual", "; ".join(each.text for each in own.unusual)
    yield "http", _counts(found.http)
    yield "window", f"{time(window.start)} to {time(window.end)}" if window else ""
    yield "cursor", "" if cursor is None else _json(cursor)


def _error(error: ErrorLine | None) -> Iterator[str]:
    if error is None:
        return
    yield f"  {error.message}"
    if error.body:
        yield f"  the answer: {error.body}"
    if error.fingerprint:
        yield f"  fingerprint {error.fingerprint}"


def why(found: Why) -> Iterator[str]:
    """Yield the answer, the other causes, the command to run next, and the causes that were ruled out."""
    yield f"{shown(found.tenant_id)}/{shown(found.flow_name)}: {found.answer.why}"
    for each in found.also:
        yield f"also: {each.why}"
    if found.answer.next:
        yield f"next: {found.answer.next}"
    if found.ruled_out:
        yield ""
        yield "ruled out:"
    for each in found.ruled_out:
        yield f"  {each.cause.replace('_', ' ')}: {each.why}"


def _counts(counts: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:g}" for name, value in counts.items())


def done(found: Done) -> Iterator[str]:
    """Yield the result of an action."""
    yield found.message + (" (an earlier request with this action id has done it)" if found.is_repeat else "")


def audit(found: AuditLines) -> Iterator[str]:
    """Yield a line for each action."""
    if not found.actions:
        yield "no action"
        return
    yield from table(
        ("at", "who", "action", "tenant", "flow", "end", "what"),
        [
            (
                time(each.at_utc),
                each.who,
                each.action,
                each.tenant_id or _first(each.tenant_ids),
                each.flow_name or "-",
                each.end or "not finished",
                each.message,
            )
            for each in found.actions
        ],
    )


def _first(names: Sequence[str]) -> str:
    others = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {others} more" if others > 0 else "") or "-"


def gates(found: Sequence[Gate]) -> Iterator[str]:
    """Yield a line for each provider that is closed, and the command that opens it."""
    if not found:
        yield "no provider is closed"
        return
    yield from table(
        ("provider", "tenant", "since", "until"),
        [
            (each.provider, each.tenant_id or "(all)", each.since_utc or "-", each.why or time(each.until_utc))
            for each in found
        ],
    )
    yield ""
    for each in found:
        yield f"to open {shown(each.provider)} for {shown(each.tenant_id or 'all')}: {open_command(each)}"


def cursor(found: Memory) -> Iterator[str]:
    """Yield the cursor as JSON."""
    yield _json(found.cursor)


def cursor_commands(found: Memory) -> Iterator[str]:
    """Yield the commands that change the cursor, if it is still this one."""
    seen = _json(found.cursor)
    if len(seen) > _LONGEST_SEEN:
        return
    yield f"to set it: {command('cursor', 'set', found.tenant_id, found.flow_name, 'JSON', '--seen', seen)}"
    yield f"to reset it: {command('cursor', 'reset', found.tenant_id, found.flow_name, '--seen', seen)}"


def window(found: Memory) -> Iterator[str]:
    """Yield the start of the next window."""
    yield time(found.window_end_utc)


def window_commands(found: Memory) -> Iterator[str]:
    """Yield the commands that change the window, if it is still this one."""
    seen = utc_text(found.window_end_utc) if found.window_end_utc else "null"
    yield f"to set it: {command('window', 'set', found.tenant_id, found.flow_name, 'TIME', '--seen', seen)}"
    yield f"to reset it: {command('window', 'reset', found.tenant_id, found.flow_name, '--seen', seen)}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def tenants(found: Sequence[TenantLine]) -> Iterator[str]:
    """Yield a line for each tenant, and then one for each document that cannot be used."""
    if found:
        yield from table(
            ("tenant", "name", "timezone", "flows", "enabled"),
            [(each.tenant_id, each.name, each.timezone, str(each.flows), str(each.enabled)) for each in found],
        )
        yield ""
    yield _count(len(found), "tenant")
    for each in found:
        if each.problem:
            yield f"problem of {shown(each.tenant_id)} {each.problem}"


def removed(found: Done, settings: Settings) -> Iterator[str]:
    """Yield the removed parts, the parts that are left, and the commands that delete the secrets."""
    yield from done(found)
    after: dict[str, Any] = found.after if isinstance(found.after, dict) else {}
    states = _count(int(after.get("states", 0)), "state")
    yield f"{states} deleted. The records of its runs expire within {settings.run_retention.days} days"
    names = after.get("secrets")
    if names is None:
        yield "Key Vault could not be read. Look for secrets of the tenant, and delete them"
        return
    yield f"{_count(len(names), 'secret')} in Key Vault{', to delete with:' if names else ''}"
    for name in names:
        yield command_to_delete(name, settings.key_vault_url)


def additions(found: Sequence[AdditionLine]) -> Iterator[str]:
    """Yield a line for each tenant, and the numbers."""
    if not found:
        yield "no tenant"
        return
    yield from table(("tenant", "what", "why"), [(each.tenant_id, each.what, each.why or "") for each in found])
    yield ""
    numbers = Counter(each.what for each in found)
    yield ", ".join(f"{numbers[what]} {what}" for what in Addition if numbers[what])


def secrets(found: Sequence[SecretLine], settings: Settings) -> Iterator[str]:
    """Yield a line for each secret."""
    if not found:
        yield "no secret"
        return
    yield from table(
        ("secret", "in the vault", "declared by"),
        [(each.name, "yes" if each.is_present else "MISSING", ", ".join(each.flows) or "-") for each in found],
    )
    missing = next((each.name for each in found if not each.is_present), None)
    yield ""
    yield (
        f"to set a value, which runs read within {settings.secret_cache.total_seconds():.0f} s: "
        f"{command_to_set(missing or found[0].name, settings.key_vault_url)}"
    )


def queues(found: Queues, now: datetime) -> Iterator[str]:
    """Yield the lines of both queues."""
    yield from _queue(found.jobs, now)
    yield ""
    yield from _queue(found.poison, now)


def _queue(found: QueueLook, now: datetime) -> Iterator[str]:
    yield f"{found.name}: {_count(found.length, 'message')}"
    if found.front:
        yield from table(
            ("tenant", "flow", "run", "waits", "deliveries"),
            [
                (
                    each.tenant_id or "not a job",
                    each.flow_name or "-",
                    each.run_id or "-",
                    age(now - each.inserted_utc),
                    str(each.deliveries),
                )
                for each in found.front
            ],
        )
