"""Why a flow of a tenant does not run, from the documents, the state, the records and the queues."""

import asyncio
import shlex
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from http import HTTPStatus

import msgspec

from datasync.errors import FlowUnknown, StateInvalid, TenantInvalid, TenantUnknown
from datasync.flow.registry import Flow, FlowRegistry
from datasync.model.display import shown
from datasync.model.lease import Lease
from datasync.model.run import Outcome
from datasync.model.state import FlowState
from datasync.model.tenant import FLEET, FlowEntry, Tenant
from datasync.model.times import utc_text
from datasync.operate.flows import late_since
from datasync.operate.gates import Gate
from datasync.operate.queue import Queues, queues
from datasync.operate.runs import FAILED, RunLine
from datasync.operate.ticks import TickStatus, tick_status
from datasync.schedule import second_tick_after, tick_after
from datasync.services import Services
from datasync.stores.fleet import StandingProblem
from datasync.stores.overview import Records, RunFilter, Running

_LONGEST_REASON = 500  # characters
_MOST_AT_ONCE = 16  # overlapping runs of one flow, of which one is looked for
_ENDING = timedelta(minutes=1)  # for a flow that is cancelled, and for clocks that differ
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_RESTART = (
    "restart the app, and the message is delivered again: "
    "az functionapp restart --name <app> --resource-group <group>; "
    "on your machine, end `make start`, and start it again"
)


class Cause(StrEnum):
    """Why a flow does not run, in the order in which the causes are looked at."""

    NO_TENANT = "no_tenant"
    NO_ENTRY = "no_entry"
    PROBLEM = "problem"
    """The document, the entry or the state has to be corrected."""
    DISABLED = "disabled"
    STUCK = "stuck"
    """An attempt holds the lease, and the time limit of its flow has passed."""
    RUNNING = "running"
    CLOSED = "closed"
    """Its provider has asked not to be called until a time."""
    DEFERRED = "deferred"
    """A run waits for a time that the flow has asked for, or for a service."""
    POISONED = "poisoned"
    """A message of it waits in the poison queue."""
    QUEUED = "queued"
    """A message of it waits in the queue."""
    NO_TICK = "no_tick"
    """It is due, and no tick has come."""
    FAILING = "failing"
    SKIPPED = "skipped"
    LATE = "late"
    """No run has succeeded in time, and none of the other causes says why."""
    UNUSUAL = "unusual"
    """It runs, but a count of its last successful run is zero, which it is not usually, or the run took long."""
    DUE = "due"
    """The next tick enqueues it."""
    NOT_DUE = "not_due"
    RAN = "ran"
    """It ran at the time that was asked for."""
    EDITED = "edited"
    """Its entry was another one at the time that was asked for."""
    EXPIRED = "expired"
    """The time that was asked for is so long ago that no records are left."""
    UNKNOWN = "unknown"

    @property
    def is_wrong(self) -> bool:
        """Whether somebody has to do something."""
        return self in (
            Cause.PROBLEM,
            Cause.STUCK,
            Cause.POISONED,
            Cause.NO_TICK,
            Cause.FAILING,
            Cause.LATE,
            Cause.UNUSUAL,
        )


class Finding(msgspec.Struct, frozen=True, rename="camel"):
    """A cause, with its facts."""

    cause: Cause
    applies: bool
    why: str
    """A sentence: the finding, or the fact that rules the cause out."""
    next: str | None = None
    """The command to run next, or the edit to make."""
    run_id: str | None = None
    """The run that it is about."""
    gate: Gate | None = None
    """The provider that is closed."""
    in_flow_file: bool = False
    """Whether the flow file has to be corrected, and not the document."""


class Why(msgspec.Struct, frozen=True, rename="camel"):
    """Why a flow of a tenant does not run."""

    tenant_id: str
    flow_name: str
    at_utc: datetime
    answer: Finding
    also: tuple[Finding, ...]
    """Other causes that apply."""
    ruled_out: tuple[Finding, ...]
    next_run_utc: datetime | None
    last_success_utc: datetime | None

    @property
    def is_wrong(self) -> bool:
        """Whether somebody has to do something. A flow that is disabled on purpose is not wrong."""
        applying = (self.answer, *self.also)
        return self.answer.cause is not Cause.DISABLED and any(each.cause.is_wrong for each in applying)


async def why(services: Services, registry: FlowRegistry, tenant_id: str, flow: str, now: datetime) -> Why:
    """Return why a flow of a tenant does not run at `now` (aware).

    Raises:
        ServiceUnavailable: Cosmos DB or the queue refused or could not be reached.

    """
    ask = _Question(services, registry, tenant_id, flow, now)
    findings = [each async for each in ask.findings()]
    applying = [each for each in findings if each.applies]
    return Why(
        tenant_id=tenant_id,
        flow_name=flow,
        at_utc=now,
        answer=applying[0],
        also=tuple(applying[1:]),
        ruled_out=tuple(each for each in findings if not each.applies),
        next_run_utc=ask.entry.next_run if ask.entry else None,
        last_success_utc=ask.state.last_success_utc if ask.state else None,
    )


class _Facts(msgspec.Struct, frozen=True):
    """The facts about an entry, from the services."""

    last: RunLine | None
    """The run that started last, as far as its record can be read."""
    failed: RunLine | None
    """The run that failed last."""
    unusual: str | None
    """The id of the run that first had an unusual number that the last successful run has."""
    queues: Queues
    tick: TickStatus
    closed_until: datetime | None
    running: tuple[Running, ...]
    """Runs that have a lease of their own."""


class _Question:
    def __init__(self, services: Services, registry: FlowRegistry, tenant_id: str, flow: str, now: datetime) -> None:
        self._services = services
        self._now = now
        self._tenant_id = tenant_id
        self._name = flow
        self._names = registry.names_of(flow)
        self._registry = registry
        self._flow = _resolved(registry, flow)
        self.entry: FlowEntry | None = None
        self.state: FlowState | None = None

    async def findings(self) -> AsyncIterator[Finding]:
        """Yield findings in the order of Cause. A finding that ends the search is the last one."""
        try:
            tenant = await self._services.tenants.get(self._tenant_id)
        except TenantUnknown:
            yield await self._no_tenant()
            return
        except TenantInvalid as error:
            yield found(Cause.PROBLEM, f"the document cannot be used: {error}", self._correct)
            return
        yield ruled_out(Cause.NO_TENANT, "the tenant has a document")
        try:
            self.entry = tenant.entry((self._name, *self._names))
        except TenantInvalid as error:
            yield found(Cause.PROBLEM, str(error), self._correct)
            return
        if self.entry is None:
            yield self._no_entry(tenant)
            return
        yield ruled_out(Cause.NO_ENTRY, f"the entry is flows[{self.entry.index}]")
        problem = await self._problem(tenant, self.entry)
        yield problem
        for each in self._of_entry(tenant, self.entry, await self._facts(), has_problem=problem.applies):
            yield each

    async def _no_tenant(self) -> Finding:
        claim = await self._services.fleet.claim(self._tenant_id)
        is_other = claim is not None and claim.tenant not in ("", self._tenant_id)
        similar = f"; there is one of {shown(claim.tenant)!r}, in other capitals" if claim and is_other else ""
        return found(
            Cause.NO_TENANT, f"there is no document of tenant {shown(self._tenant_id)!r}{similar}", command("flows")
        )

    async def _problem(self, tenant: Tenant, entry: FlowEntry) -> Finding:
        for each in await self._services.fleet.problems():
            if each.level == "error" and each.tenant == tenant.id and _stops(each, entry):
                if self._is_broken(each):
                    return msgspec.structs.replace(found(Cause.PROBLEM, _said(each), self._deploy), in_flow_file=True)
                return found(Cause.PROBLEM, _said(each), self._correct)
        try:
            self.state = await self._services.runs.state(self._tenant_id, self._names)
        except StateInvalid as error:
            return found(Cause.PROBLEM, str(error), "correct the state in the container of the runs")
        return ruled_out(Cause.PROBLEM, "the last tick has found no problem of the entry")

    def _no_entry(self, tenant: Tenant) -> Finding:
        close = get_close_matches(self._name, tenant.entries, n=1)
        others = f"; did you mean {shown(close[0])!r}?" if close else ""
        return found(
            Cause.NO_ENTRY,
            f"the document has no entry for {shown(self._name)!r}{others}",
            command("flows", "--tenant", self._tenant_id),
        )

    async def _facts(self) -> _Facts:
        overview = self._services.overview
        last, failed, both, tick, closed, running = await asyncio.gather(
            overview.records(RunFilter(tenant_id=self._tenant_id, names=self._names), 1),
            overview.records(RunFilter(tenant_id=self._tenant_id, names=self._names, outcomes=FAILED), 1),
            queues(self._services),
            tick_status(self._services, self._now),
            self._closed(),
            overview.running(self._now, self._tenant_id),
        )
        return _Facts(
            last=_first(last),
            failed=_first(failed),
            unusual=await self._first_unusual(),
            queues=both,
            tick=tick,
            closed_until=closed,
            running=tuple(each for each in running if each.flow_name in self._names),
        )

    async def _first_unusual(self) -> str | None:
        standing = self.state.unusual if self.state else ()
        if not standing:
            return None
        wanted = RunFilter(
            tenant_id=self._tenant_id,
            names=self._names,
            outcomes=(Outcome.SUCCEEDED,),
            until=min(each.since_utc for each in standing),
        )
        records = (await self._services.overview.records(wanted, _MOST_AT_ONCE)).records
        return next((each.run_id for each in records if any(own in standing for own in each.unusual)), None)

    async def _closed(self) -> datetime | None:
        """Return until when the provider of the flow is closed, as far as the flow is known here."""
        if self._flow is None or self._flow.provider is None:
            return None
        partition = self._flow.cooldown_partition(self._tenant_id)
        try:
            until = await self._services.runs.cooldown(partition, self._flow.provider)
        except StateInvalid:  # a run ignores it, too
            return None
        return until if until and until > self._now else None

    def _of_entry(self, tenant: Tenant, entry: FlowEntry, facts: _Facts, *, has_problem: bool) -> Iterator[Finding]:
        state = self.state or FlowState(tenant_id=tenant.id, flow_name=self._names[0])
        if entry.enabled:
            yield ruled_out(Cause.DISABLED, "the entry is enabled")
        else:
            reason = f"the entry is disabled: {shown(entry.pause_reason or 'enabled is false', _LONGEST_REASON)}"
            yield found(Cause.DISABLED, reason, command("resume", tenant.id, entry.name))
        yield self._running(state, facts)
        yield self._closed_finding(facts)
        yield self._deferred(state, facts)
        yield self._waiting(Cause.POISONED, "the poison queue", facts)
        yield self._waiting(Cause.QUEUED, "the queue", facts)
        yield self._no_tick(entry, facts)
        yield self._failing(entry, state, facts)
        yield self._skipped(facts)
        if not has_problem:
            yield self._late(entry, state)
        yield self._unusual(entry, state, facts)
        if entry.enabled and not has_problem:
            yield self._schedule(entry)

    def _running(self, state: FlowState, facts: _Facts) -> Finding:
        if facts.running:
            first = min(facts.running, key=lambda each: each.lease.started_utc or self._now)
            since = utc_text(first.lease.started_utc) if first.lease.started_utc else "?"
            others = f", and {len(facts.running) - 1} more of the flow" if facts.running[1:] else ""
            text = f"run {first.run_id} is going on since {since}{others}"
            following = command("show", first.run_id, "--tenant", self._tenant_id)
            return self._stuck(text, first.lease, first.run_id) or found(
                Cause.RUNNING, f"{text}{self._limit_text}", following, first.run_id
            )
        lease = state.lease
        if lease is None or lease.until is None:
            return ruled_out(Cause.RUNNING, "no attempt holds its lease")
        holder = lease.holder(state.tenant_id)
        run = holder.run_id if holder else "?"
        since = utc_text(lease.started_utc) if lease.started_utc else "?"
        if lease.is_live(self._now):
            text = f"run {run} is going on since {since}, and its lease lasts until {_utc_text(lease.until)}"
            # A stuck one has no link on the page, as the run cannot be opened yet.
            return self._stuck(text, lease) or found(
                Cause.RUNNING,
                f"{text}{self._limit_text}",
                command("runs", self._tenant_id, state.flow_name),
                holder.run_id if holder else None,
            )
        return ruled_out(
            Cause.RUNNING,
            f"the process of run {run} died, or stood still, in an attempt of {since}: "
            "its message is delivered again, or the next run takes over",
        )

    def _stuck(self, text: str, lease: Lease, run_id: str | None = None) -> Finding | None:
        """Return that an attempt goes on after the time limit of its flow; None if it does not."""
        limit = self._flow.timeout if self._flow else None
        if not (limit and lease.started_utc and self._now > lease.started_utc + limit + _ENDING):
            return None
        why = f"{text}, although the time limit of the flow, {limit}, has passed: the flow ignores that"
        return found(Cause.STUCK, why, _RESTART, run_id)

    @property
    def _limit_text(self) -> str:
        return f". Its time limit is {self._flow.timeout}" if self._flow else ""

    def _closed_finding(self, facts: _Facts) -> Finding:
        if facts.closed_until and self._flow and self._flow.provider:
            provider, partition = self._flow.provider, self._flow.cooldown_partition(self._tenant_id)
            gate = Gate(provider, None if partition == FLEET else partition, facts.closed_until, None)
            why = f"{provider} has asked not to be called until {utc_text(facts.closed_until)}"
            return msgspec.structs.replace(found(Cause.CLOSED, why, open_command(gate)), gate=gate)
        if self._flow is None:
            return ruled_out(Cause.CLOSED, "the flow is unknown here, and so is its provider: cool-downs not read")
        if self._flow.provider is None:
            return ruled_out(Cause.CLOSED, "the flow has no provider")
        return ruled_out(Cause.CLOSED, f"{self._flow.provider} may be called")

    def _deferred(self, state: FlowState, facts: _Facts) -> Finding:
        deferral = state.deferred(self._now)
        if deferral is None:
            return ruled_out(Cause.DEFERRED, "no run of it is deferred")
        error = facts.last.error if facts.last and facts.last.run_id == deferral.run_id else None
        reason = f": {error.message}" if error else ""
        until = utc_text(deferral.until_utc)
        return self._of_run(Cause.DEFERRED, deferral.run_id, f"run {deferral.run_id} waits until {until}{reason}")

    def _waiting(self, cause: Cause, name: str, facts: _Facts) -> Finding:
        queue = facts.queues.poison if cause is Cause.POISONED else facts.queues.jobs
        own = [each for each in queue.front if each.tenant_id == self._tenant_id and each.flow_name in self._names]
        if own:
            since = utc_text(own[0].inserted_utc)
            what = f"run {own[0].run_id}" if own[0].run_id else "a posted job"
            return found(cause, f"{what} waits in {name} since {since}", command("queue"))
        hidden = queue.length - len(queue.front)
        if hidden > 0:
            return ruled_out(
                cause,
                f"none of the {len(queue.front)} messages at the front of {name} is of this flow; "
                f"{hidden} more cannot be seen",
            )
        return ruled_out(cause, f"no message of it is in {name}")

    def _no_tick(self, entry: FlowEntry, facts: _Facts) -> Finding:
        tick, started = facts.tick, facts.tick.started_utc
        is_due = entry.enabled and entry.next_run is not None and entry.next_run <= self._now
        if tick.is_missing:
            when = f"since {utc_text(started)}" if started else "so far"
            due = f", and it is due since {utc_text(entry.next_run)}" if is_due and entry.next_run else ""
            text = f"no tick has started {when}{due}"
            if is_due or (entry.enabled and entry.next_run is None):
                return found(Cause.NO_TICK, text, command("ticks"))
            return ruled_out(Cause.NO_TICK, f"{text}, but the flow is not due yet")
        if is_due and entry.next_run and self._now > second_tick_after(tick.schedule, entry.next_run):
            return found(
                Cause.NO_TICK,
                f"it is due since {utc_text(entry.next_run)}, and the tick of {started and utc_text(started)} has not "
                "enqueued it: look for UNAVAILABLE in the log",
                command("status"),
            )
        return ruled_out(Cause.NO_TICK, f"the last tick was at {started and utc_text(started)}")

    def _failing(self, entry: FlowEntry, state: FlowState, facts: _Facts) -> Finding:
        number, run = state.consecutive_failures, facts.failed
        if not number and (run is None or facts.last is None or run.run_id != facts.last.run_id):
            return ruled_out(Cause.FAILING, "its last attempt did not fail")
        times = f"{number} failed attempt{'' if number == 1 else 's'} in a row" if number else "the last run failed"
        if run is None or run.error is None:
            return found(Cause.FAILING, times, self._runs(entry))
        again = ". It will be attempted again" if run.outcome == Outcome.FAILED else ""
        text = f"{times}; run {run.run_id} is {run.outcome}: {run.error.message}{again}"
        if run.error.status in _REFUSED:
            return found(Cause.FAILING, text, command("secrets", self._tenant_id), run.run_id)
        return self._of_run(Cause.FAILING, run.run_id, text)

    def _skipped(self, facts: _Facts) -> Finding:
        last = facts.last
        if last is None or last.outcome is None or not last.outcome.startswith("skipped"):
            return ruled_out(Cause.SKIPPED, "its last run was not skipped" if last else "it has no record of a run")
        reason = f": {last.error.message}" if last.error else ""
        return self._of_run(Cause.SKIPPED, last.run_id, f"run {last.run_id} was {last.outcome}{reason}")

    def _late(self, entry: FlowEntry, state: FlowState) -> Finding:
        late = late_since(self._services.settings.schedule, entry, state, self._now) if entry.enabled else None
        success = f"its last success was at {utc_text(state.last_success_utc)}" if state.last_success_utc else ""
        if late is None:
            by = f"it is expected to succeed by {utc_text(state.stale_utc)}" if state.stale_utc else ""
            why = "; ".join(filter(None, (success, by)))
            return ruled_out(Cause.LATE, why or "no tick has examined its entry yet")
        what = "be enqueued at" if late == entry.next_run else "succeed by"
        text = f"it should {what} {utc_text(late)}; {success or 'it has never succeeded'}"
        return found(Cause.LATE, text, self._runs(entry))

    def _unusual(self, entry: FlowEntry, state: FlowState, facts: _Facts) -> Finding:
        if not (entry.enabled and state.unusual):
            why = "its last successful run was as usual" if state.usual else "no run of it has succeeded yet"
            return ruled_out(Cause.UNUSUAL, why)
        numbers = ", ".join(map(str, state.unusual))
        since = utc_text(min(each.since_utc for each in state.unusual))
        why = f"its last successful run differs from those before: {numbers} (since {since})"
        if facts.unusual:
            return self._of_run(Cause.UNUSUAL, facts.unusual, why)
        return found(Cause.UNUSUAL, why, self._runs(entry))

    def _schedule(self, entry: FlowEntry) -> Finding:
        following = utc_text(tick_after(self._services.settings.schedule, self._now))
        if entry.next_run is None:
            return found(Cause.DUE, f"nextRunUtc is null: the next tick, at {following}, fills it in")
        next_run = utc_text(entry.next_run)
        if entry.next_run <= self._now:
            return found(Cause.DUE, f"it is due since {next_run}: the next tick is at {following}")
        return found(Cause.NOT_DUE, f"the next run is at {next_run}", self._runs(entry))

    @property
    def _correct(self) -> str:
        return f"correct the document: {command('tenant', 'get', self._tenant_id)}"

    @property
    def _deploy(self) -> str:
        return f"correct the flow file, and deploy the app. To check it before: {command('check', '--tenants')}"

    def _is_broken(self, problem: StandingProblem) -> bool:
        """Return whether a problem is that of a flow whose file cannot be loaded, as far as that is known here."""
        return self._flow is None and bool(self._registry.broken) and problem.path.endswith(".name")

    def _runs(self, entry: FlowEntry) -> str:
        return command("runs", self._tenant_id, entry.name)

    def _of_run(self, cause: Cause, run_id: str, why: str) -> Finding:
        return found(cause, why, command("show", run_id, "--tenant", self._tenant_id), run_id)


def _resolved(registry: FlowRegistry, name: str) -> Flow | None:
    try:
        return registry.resolve(name)
    except FlowUnknown:
        return None


def _first(found: Records) -> RunLine | None:
    return RunLine.of(found.records[0]) if found.records else None


def _stops(problem: StandingProblem, entry: FlowEntry) -> bool:
    """Return whether a problem keeps an entry from running: its own, or one of the document that concerns it."""
    if problem.flow is not None:
        return problem.flow == entry.name
    return problem.path == "id" or (problem.path == "timezone" and entry.timezone == "tenant")


def _said(problem: StandingProblem) -> str:
    return f"{problem.path}: {problem.why} (found at the tick of {problem.since_utc})"


def _utc_text(seconds: float) -> str:
    """Return an instant that is given in seconds since 1970."""
    return utc_text(datetime.fromtimestamp(int(seconds), UTC))


def found(cause: Cause, why: str, following: str | None = None, run_id: str | None = None) -> Finding:
    """Return a cause that applies."""
    return Finding(cause=cause, applies=True, why=why, next=following, run_id=run_id)


def ruled_out(cause: Cause, because: str) -> Finding:
    """Return a cause that does not apply."""
    return Finding(cause=cause, applies=False, why=because)


def open_command(gate: Gate) -> str:
    """Return the command that opens a closed provider, if it is still closed until the time that is known here."""
    tenant = () if gate.tenant_id is None else (gate.tenant_id,)
    seen = () if gate.until_utc is None else ("--seen", utc_text(gate.until_utc))
    return command("gate", "open", gate.provider, *tenant, *seen)


def command(*words: str) -> str:
    """Return a command of the command line, as a shell reads it."""
    return shlex.join(["python", "-m", "datasync", *words])
