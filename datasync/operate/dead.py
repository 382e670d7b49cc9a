"""Dead runs: those that failed for the last time, and those in which the flow gave up. Their records are kept."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from datasync.errors import ActionInvalid, ActionRefused, ChangedMeanwhile, MessageTooLarge
from datasync.flow.registry import FlowRegistry
from datasync.model.audit import Audit, Verb
from datasync.model.job import JobMessage, PlannedJob, Trigger
from datasync.model.run import Outcome, RunRecord
from datasync.model.times import utc_text
from datasync.operate.action import Action, Ask, Change, Done, perform
from datasync.operate.flows import names_of
from datasync.operate.runs import RunLine
from datasync.services import Services
from datasync.stores.overview import RunFilter

MOST_DEAD = 10_000
"""The most dead runs that are read, the newest first. An action is for these."""

LONGEST_SPREAD = timedelta(days=6)
"""The queue hides a message for seven days at most."""

_DEAD = (Outcome.DEAD, Outcome.GAVE_UP)


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
    has_more: bool
    """Whether there are more than MOST_DEAD in all, of which the oldest were left out."""
    unreadable: tuple[str, ...]
    """Sentences about records that were edited and cannot be read."""


async def dead(services: Services, registry: FlowRegistry, wanted: DeadFilter) -> DeadRuns:
    """Return the dead runs that were not purged. Raises ServiceUnavailable."""
    records, unreadable, has_more = await _dead(services, registry, wanted)
    return DeadRuns(runs=tuple(map(RunLine.of, records)), has_more=has_more, unreadable=tuple(unreadable))


async def retry(
    services: Services, registry: FlowRegistry, ask: Ask, wanted: DeadFilter, *, count: int, spread: timedelta
) -> Done:
    """Attempt dead runs again, with their ids. Their messages appear on the queue one after the other.

    Args:
        services: The services of the app.
        registry: The flows, for their aliases.
        ask: The operator.
        wanted: Which runs.
        count: How many there are, as the operator has seen.
        spread: The time over which they start, from zero to LONGEST_SPREAD.

    Raises:
        ActionInvalid: the spread is too long.
        ActionRefused: no run is dead.
        ChangedMeanwhile: there are more or fewer than the operator has seen.
        ServiceUnavailable: Cosmos DB or the queue refused or could not be reached. A repeat sends what is left.

    """
    if not timedelta() <= spread <= LONGEST_SPREAD:
        raise ActionInvalid(f"a spread of {spread}: expected a time from 0 to {LONGEST_SPREAD.days} days")
    arguments = {**wanted.arguments(), "count": count, "spreadSeconds": int(spread.total_seconds())}

    async def send(records: Sequence[RunRecord]) -> str:
        now = services.clock.now()
        jobs = [
            PlannedJob(message=_again(record, now), visible_at=now + spread * number / len(records))
            for number, record in enumerate(records)
        ]
        try:
            await services.jobs.send_all(jobs)
        except MessageTooLarge as error:  # of which no message could have been sent
            return f"; not sent: {error}"
        return f" over {spread}" if spread else ""

    return await _on_each(
        services,
        registry,
        ask,
        verb=Verb.RETRY,
        wanted=wanted,
        arguments=arguments,
        act=send,
        said="attempted again",
    )


async def purge(services: Services, registry: FlowRegistry, ask: Ask, wanted: DeadFilter, *, count: int) -> Done:
    """Take dead runs off the list, for good. Their records stay until they expire, with `purgedUtc`.

    Args and errors are those of `retry`.
    """

    async def mark(records: Sequence[RunRecord]) -> str:
        await services.runs.purge(records, services.clock.now())
        return ". Their records stay until they expire"

    arguments = {**wanted.arguments(), "count": count}
    return await _on_each(
        services, registry, ask, verb=Verb.PURGE, wanted=wanted, arguments=arguments, act=mark, said="purged"
    )


async def _on_each(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    *,
    verb: Verb,
    wanted: DeadFilter,
    arguments: dict[str, Any],
    act: Callable[[Sequence[RunRecord]], Awaitable[str]],
    said: str,
) -> Done:
    """Act on all dead runs that a filter finds, if their number is the one that the operator has seen."""
    decided: list[RunRecord] = []

    async def decide() -> Change:
        found, _, _ = await _dead(services, registry, wanted)
        if not found:
            raise ActionRefused("no dead run matches: nothing to do")
        if len(found) != arguments["count"]:
            raise ChangedMeanwhile(
                f"{_runs(len(found))} match now, and {arguments['count']} were confirmed. Nothing was done: list them "
                "again"
            )
        decided.extend(found)
        # A run that dies again has ended later, so that a repeat of this action leaves it alone.
        last = max(record.finished_utc for record in found)
        return Change(f"{_runs(len(found))} to be {said}", after={"runs": len(found)}, basis=last.isoformat())

    async def make(intent: Audit, is_repeat: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        records = decided
        if is_repeat:
            last = datetime.fromisoformat(str(intent.basis))
            records = [each for each in (await _dead(services, registry, wanted))[0] if each.finished_utc <= last]
        more = await act(records) if records else ""
        return Change(f"{_runs(arguments['count'])} {said}{more}", after=intent.after)

    return await perform(services, ask, Action(verb, wanted.tenant_id, wanted.flow, arguments), decide, make)


async def _dead(
    services: Services, registry: FlowRegistry, wanted: DeadFilter
) -> tuple[list[RunRecord], list[str], bool]:
    names = names_of(registry, wanted.flow) if wanted.flow is not None else ()
    query = RunFilter(tenant_id=wanted.tenant_id, names=names, outcomes=_DEAD, since=wanted.since)
    found = await services.overview.records(query, MOST_DEAD + 1)
    records = [
        record
        for record in found.records[:MOST_DEAD]
        if record.purged_utc is None
        and (wanted.fingerprint is None or (record.error and record.error.fingerprint == wanted.fingerprint))
    ]
    return records, found.unreadable, len(found.records) > MOST_DEAD


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
