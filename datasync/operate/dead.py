"""Dead runs: those that failed for the last time, and those in which the flow gave up. Their records are kept."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from datasync.errors import (
    ActionInvalid,
    ActionRefused,
    ChangedMeanwhile,
    MessageTooLarge,
    StateInvalid,
    TenantInvalid,
    TenantUnknown,
)
from datasync.flow.registry import FlowRegistry
from datasync.model.audit import Audit, Verb
from datasync.model.display import shown
from datasync.model.job import JobMessage, PlannedJob, Trigger
from datasync.model.run import Outcome, RunRecord
from datasync.model.tenant import Tenant
from datasync.model.times import read_utc, utc_text
from datasync.operate.action import Action, Ask, Change, Done, perform
from datasync.operate.runs import RunLine
from datasync.services import Services
from datasync.stores.overview import RunFilter

SLICE = 1000
"""Runs that are in memory at once."""

MOST_UNREADABLE = 100
"""The most records that cannot be read, and are named."""

LONGEST_SPREAD = timedelta(days=6)
"""The queue hides a message for seven days at most."""

_DEAD = (Outcome.DEAD, Outcome.GAVE_UP)
_READS_AT_ONCE = 16
_MOST_NAMED = 3  # reasons
_LONGEST_REASON = 500  # characters


class DeadFilter(msgspec.Struct, frozen=True):
    """Which dead runs."""

    fingerprint: str | None = None
    tenant_id: str | None = None
    flow: str | None = None
    since: datetime | None = None
    """The earliest start of a run (aware)."""

    def arguments(self) -> dict[str, Any]:
        """Return the parts that are set, as JSON."""
        given = {"fingerprint": self.fingerprint, "since": self.since and utc_text(self.since)}
        return {name: value for name, value in given.items() if value is not None}


class DeadRuns(msgspec.Struct, frozen=True, rename="camel"):
    """Dead runs, the newest first."""

    runs: tuple[RunLine, ...]
    """Up to the number that was asked for."""
    count: int
    """The number of all that match."""
    unreadable: tuple[str, ...]
    """Sentences about records that were edited and cannot be read."""


async def dead(services: Services, registry: FlowRegistry, wanted: DeadFilter, most: int) -> DeadRuns:
    """Return up to `most` of the dead runs that were not purged, and their number. Raises ServiceUnavailable."""
    lines: list[RunLine] = []
    unreadable: list[str] = []
    count = 0
    async for each in _dead(services, registry, wanted):
        if isinstance(each, StateInvalid):
            unreadable += [str(each)] if len(unreadable) < MOST_UNREADABLE else []
            continue
        count += 1
        if count <= most:
            lines.append(RunLine.of(each))
    return DeadRuns(runs=tuple(lines), count=count, unreadable=tuple(unreadable))


async def retry(
    services: Services, registry: FlowRegistry, ask: Ask, wanted: DeadFilter, *, count: int, spread: timedelta
) -> Done:
    """Attempt dead runs again, with their ids. Their messages appear on the queue one after the other.

    A run whose entry is disabled or gone could not run: it is left out, and stays dead.

    Args:
        services: The services of the app.
        registry: The flows, for their aliases.
        ask: The operator.
        wanted: Which runs.
        count: How many there are, as the operator has seen. A repeat may have another number.
        spread: The time over which they start, from zero to LONGEST_SPREAD.

    Raises:
        ActionInvalid: the spread is too long.
        ActionRefused: no run is dead, or none of them could run.
        ChangedMeanwhile: there are more or fewer than the operator has seen.
        ServiceUnavailable: Cosmos DB or the queue refused or could not be reached. A repeat sends the rest.

    """
    if not timedelta() <= spread <= LONGEST_SPREAD:
        raise ActionInvalid(f"a spread of {spread}: expected a time from 0 to {LONGEST_SPREAD.days} days")
    arguments = {**wanted.arguments(), "count": count, "spreadSeconds": int(spread.total_seconds())}
    start = services.clock.now()

    async def send(records: Sequence[RunRecord], position: int, total: int) -> list[str]:
        reasons = await _reasons(services, registry, records)
        jobs = [
            PlannedJob(message=_again(record, start), visible_at=start + spread * (position + number) / total)
            for number, (record, why) in enumerate(zip(records, reasons, strict=True))
            if why is None
        ]
        left_out = [why for why in reasons if why]
        try:
            await services.jobs.send_all(jobs)
        except MessageTooLarge as error:
            left_out.append(str(error))
        return left_out

    said = f"attempted again{f' over {spread}' if spread else ''}"
    return await _on_each(services, registry, ask, Verb.RETRY, wanted=wanted, arguments=arguments, act=send, said=said)


async def purge(services: Services, registry: FlowRegistry, ask: Ask, wanted: DeadFilter, *, count: int) -> Done:
    """Take dead runs off the list, for good. Their records stay until they expire, with `purgedUtc`.

    Args and errors are those of `retry`.
    """

    async def mark(records: Sequence[RunRecord], _: int, __: int) -> list[str]:
        await services.runs.purge(records, services.clock.now())
        return []

    arguments = {**wanted.arguments(), "count": count}
    said = "purged. Their records stay until they expire"
    return await _on_each(services, registry, ask, Verb.PURGE, wanted=wanted, arguments=arguments, act=mark, said=said)


async def _on_each(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    verb: Verb,
    *,
    wanted: DeadFilter,
    arguments: dict[str, Any],
    act: Callable[[Sequence[RunRecord], int, int], Awaitable[list[str]]],
    said: str,
) -> Done:
    """Act on all dead runs that a filter finds, in slices, if their number is the one that the operator has seen.

    `act` has a slice, the number of runs before it, and the number of all. It returns why runs were left out.
    """

    async def decide() -> Change:
        found, last = 0, None
        tenants: set[str] = set()
        async for each in _dead(services, registry, wanted):
            if isinstance(each, RunRecord):
                found, last = found + 1, max(last or each.finished_utc, each.finished_utc)
                tenants.add(each.tenant_id)
        if last is None:
            raise ActionRefused("no dead run matches: nothing to do")
        if found != arguments["count"]:
            raise ChangedMeanwhile(
                f"{_runs(found)} match now, and {arguments['count']} were confirmed. Nothing was done: list them again"
            )
        # A run that dies later, also for the second time, has ended later: this action leaves it alone.
        return Change(
            f"{_runs(found)} to be {said}",
            after={"runs": found},
            basis=last.isoformat(),
            tenants=() if wanted.tenant_id is not None else tuple(sorted(tenants)),
        )

    async def make(intent: Audit, is_repeat: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        first = replace(wanted, since=read_utc(intent.arguments["since"]) if wanted.since else None)
        last, total = datetime.fromisoformat(str(intent.basis)), int(intent.arguments["count"])
        position, left_out = 0, Counter[str]()
        async for records in _slices(_dead(services, registry, first), last):
            left_out.update(await act(records, position, total))
            position += len(records)
        done = total - left_out.total()
        if done <= 0 and not is_repeat:
            raise ActionRefused(f"nothing was done: {_named(left_out)}")
        stay = f". {_stay(left_out.total())}: {_named(left_out)}" if left_out else ""
        return Change(f"{_runs(done)} {said}{stay}", after={"runs": done})

    action = Action(verb, wanted.tenant_id, wanted.flow, arguments, varying=frozenset(("count", "since")))
    return await perform(services, ask, action, decide, make)


async def _dead(
    services: Services, registry: FlowRegistry, wanted: DeadFilter
) -> AsyncIterator[RunRecord | StateInvalid]:
    """Yield the dead runs that match, the newest first, and the errors of records that cannot be read."""
    names = registry.names_of(wanted.flow) if wanted.flow is not None else ()
    query = RunFilter(tenant_id=wanted.tenant_id, names=names, outcomes=_DEAD, since=wanted.since)
    async for each in services.overview.every_record(query):
        if isinstance(each, StateInvalid) or (
            each.purged_utc is None
            and (wanted.fingerprint is None or (each.error and each.error.fingerprint == wanted.fingerprint))
        ):
            yield each


async def _slices(found: AsyncIterator[RunRecord | StateInvalid], last: datetime) -> AsyncIterator[list[RunRecord]]:
    """Yield the runs that ended at `last` or before, SLICE at a time."""
    records: list[RunRecord] = []
    async for each in found:
        if isinstance(each, RunRecord) and each.finished_utc <= last:
            records.append(each)
        if len(records) == SLICE:
            yield records
            records = []
    if records:
        yield records


async def _reasons(services: Services, registry: FlowRegistry, records: Sequence[RunRecord]) -> list[str | None]:
    """Return for each run why it cannot run at present, with the remedy; None if it can."""
    limit = asyncio.Semaphore(_READS_AT_ONCE)

    async def look(tenant_id: str) -> Tenant | str:
        async with limit:
            try:
                return await services.tenants.get(tenant_id)
            except (TenantUnknown, TenantInvalid) as error:
                return shown(str(error), _LONGEST_REASON)

    ids = [*dict.fromkeys(each.tenant_id for each in records)]
    tenants = dict(zip(ids, await asyncio.gather(*map(look, ids)), strict=True))
    return [_reason(registry, tenants[each.tenant_id], each) for each in records]


def _reason(registry: FlowRegistry, tenant: Tenant | str, record: RunRecord) -> str | None:
    if isinstance(tenant, str):
        return tenant
    subject = f"{shown(tenant.id)}/{shown(record.flow_name)}"
    try:
        entry = tenant.entry((record.flow_name, *registry.names_of(record.flow_name)))
    except TenantInvalid as error:
        return shown(str(error), _LONGEST_REASON)
    if entry is None:
        return f"{subject} has no entry in the document: add it, or purge the run"
    if not entry.enabled:
        why = f" ({shown(entry.pause_reason)})" if entry.pause_reason else ""
        return f"{subject} is disabled{why}: resume it first"
    return None


def _again(record: RunRecord, now: datetime) -> JobMessage:
    return JobMessage(
        tenant_id=record.tenant_id,
        flow_name=record.flow_name,
        scheduled_utc=record.scheduled_utc,
        run_id=record.run_id,
        trigger=Trigger.REDRIVE,
        enqueued_utc=now,
        redrive=record.redrive + 1,
        part=record.part,
    )


def _runs(number: int) -> str:
    return f"{number} dead run{'' if number == 1 else 's'}"


def _stay(number: int) -> str:
    return f"{_runs(number)} {'stays' if number == 1 else 'stay'} dead"


def _named(reasons: Counter[str]) -> str:
    others = len(reasons) - _MOST_NAMED
    return "; ".join([*reasons][:_MOST_NAMED]) + (f"; and {others} more" if others > 0 else "")
