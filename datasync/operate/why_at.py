"""Why a flow of a tenant did not run at a time, according to the records, the ticks and the document."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec

from datasync.errors import StateInvalid, TenantInvalid, TenantUnknown
from datasync.flow.registry import FlowRegistry
from datasync.model.run import Outcome
from datasync.model.tenant import FlowEntry, Tenant
from datasync.model.tick import TickRecord
from datasync.model.times import utc_text
from datasync.operate.runs import FAILED, RunLine
from datasync.operate.why import Cause, Finding, Why, command, found, ruled_out, why
from datasync.schedule import Expectation, second_tick_after
from datasync.services import Services
from datasync.stores.overview import RunFilter

_WINDOWS = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=366))
"""How far back the last occurrence is looked for."""


async def why_at(
    services: Services, registry: FlowRegistry, tenant_id: str, flow: str, *, at: datetime, now: datetime
) -> Why:
    """Return why a flow of a tenant did or did not run at an instant, as of `now` (both aware).

    The occurrence that is meant is the last one until the instant, by the cron of the present document: older versions
    of documents are not kept. For a time in the future, the answer states the plan.

    Raises:
        ServiceUnavailable: Cosmos DB or the queue refused or could not be reached.

    """
    present, names = await why(services, registry, tenant_id, flow, now), registry.names_of(flow)
    findings = [present.answer]
    with suppress(TenantUnknown, TenantInvalid, StateInvalid):  # the present answer says so
        tenant = await services.tenants.get(tenant_id)
        if entry := tenant.entry((flow, *names)):
            if at > now:
                findings = [*_planned(entry, at, services.settings.schedule), present.answer]
            else:
                findings = await _Past(services, tenant, entry, names, at=at, now=now).findings()
    applying = [each for each in findings if each.applies]
    return msgspec.structs.replace(
        present,
        at_utc=at,
        answer=applying[0],
        also=tuple(applying[1:]),
        ruled_out=tuple(each for each in findings if not each.applies),
    )


def _planned(entry: FlowEntry, at: datetime, ticks: str) -> Iterator[Finding]:
    if not entry.enabled:
        return  # the present answer says so
    if entry.next_run is None or entry.next_run <= at:
        when = (
            f"its next run is at {utc_text(entry.next_run)}" if entry.next_run else "the next tick plans its next run"
        )
        by = utc_text(second_tick_after(ticks, max(at, entry.next_run or at)))
        yield found(Cause.DUE, f"{when}; a tick should have enqueued it by {by}")
    else:
        yield found(Cause.NOT_DUE, f"its next run is at {utc_text(entry.next_run)}, after {utc_text(at)}")


class _Past:
    def __init__(
        self,
        services: Services,
        tenant: Tenant,
        entry: FlowEntry,
        names: tuple[str, ...],
        *,
        at: datetime,
        now: datetime,
    ) -> None:
        self._services = services
        self._tenant = tenant
        self._entry = entry
        self._names = names
        self._at = at
        self._now = now
        self._ticks = services.settings.schedule
        expectation = Expectation.of(tenant, entry, self._ticks)
        windows = (expectation.last_until(at, window) for window in _WINDOWS)
        self._due = next((each for each in windows if each), at)
        """The occurrence that is meant."""

    async def findings(self) -> list[Finding]:
        overview, own = self._services.overview, RunFilter(tenant_id=self._tenant.id, names=self._names)
        replace = msgspec.structs.replace
        after, before, ticks, state = await asyncio.gather(
            overview.records(replace(own, since=self._due), 1, is_oldest_first=True),
            overview.records(replace(own, until=self._due), 1),
            self._services.fleet.ticks_since(self._due, 2),
            self._services.runs.state(self._tenant.id, self._names),
        )
        following = RunLine.of(after.records[0]) if after.records else None
        former = RunLine.of(before.records[0]) if before.records else None
        return [
            self._record(following),
            self._running(former),
            self._tick(ticks),
            self._edited(state.schedule_since_utc),
            self._expired(),
            found(Cause.UNKNOWN, f"nothing is left that says why: {self._occurrence}", self._runs),
        ]

    @property
    def _occurrence(self) -> str:
        return f"the occurrence until {utc_text(self._at)} was that of {utc_text(self._due)}"

    @property
    def _runs(self) -> str:
        return command("runs", self._tenant.id, self._entry.name)

    def _record(self, run: RunLine | None) -> Finding:
        if run is None or run.scheduled_utc > self._at:
            later = f"; the next one is run {run.run_id} of {utc_text(run.scheduled_utc)}" if run else ""
            return ruled_out(Cause.RAN, f"no record of a run for {utc_text(self._due)}{later}")
        outcome = run.outcome or "running"
        cause = Cause.RAN
        if outcome in FAILED:
            cause = Cause.FAILING
        elif outcome == Outcome.DEFERRED:
            cause = Cause.DEFERRED
        elif outcome.startswith("skipped"):
            cause = Cause.SKIPPED
        error = f": {run.error.message}" if run.error else ""
        scheduled = f" (scheduled for {utc_text(run.scheduled_utc)})" if run.scheduled_utc != self._due else ""
        return found(
            cause,
            f"run {run.run_id}{scheduled} started at {utc_text(run.started_utc)}, and is {outcome}{error}",
            command("show", run.run_id, "--tenant", self._tenant.id),
        )

    def _running(self, run: RunLine | None) -> Finding:
        if run is None or run.finished_utc <= self._due:
            return ruled_out(Cause.RUNNING, "no run before it was going on")
        return found(
            Cause.RUNNING,
            f"run {run.run_id} was going on from {utc_text(run.started_utc)} to {utc_text(run.finished_utc)}",
            command("show", run.run_id, "--tenant", self._tenant.id),
        )

    def _tick(self, ticks: list[TickRecord]) -> Finding:
        by = second_tick_after(self._ticks, self._due)
        first = ticks[0] if ticks else None
        if first is None or first.started_utc > by:
            if first is None and self._now <= by:
                return ruled_out(Cause.NO_TICK, f"a tick may still come until {utc_text(by)}")
            came = f"the next one came at {utc_text(first.started_utc)}" if first else "none has come since"
            return found(Cause.NO_TICK, f"no tick came from {utc_text(self._due)} to {utc_text(by)}; {came}", _TICKS)
        if first.failure or first.ended_utc is None:
            what = f"failed: {first.failure}" if first.failure else "did not end"
            return found(Cause.NO_TICK, f"the tick of {utc_text(first.started_utc)} {what}", _TICKS)
        return ruled_out(Cause.NO_TICK, f"the tick of {utc_text(first.started_utc)} was complete")

    def _edited(self, since: datetime | None) -> Finding:
        if since is None or since <= self._due:
            return ruled_out(Cause.EDITED, "its schedule has not changed since")
        now = "" if self._entry.enabled else ", and is disabled now"
        return found(
            Cause.EDITED,
            f"its entry was added, enabled, disabled or scheduled otherwise after that: the tick of {utc_text(since)} "
            f"has found it so{now}",
        )

    def _expired(self) -> Finding:
        retention = self._services.settings.run_retention
        if self._now - self._due < retention:
            return ruled_out(Cause.EXPIRED, f"records are kept for {retention.days} days")
        return found(Cause.EXPIRED, f"records are kept for {retention.days} days, and that is longer ago")


_TICKS = command("ticks")
