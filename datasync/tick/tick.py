"""One tick: examine the documents that changed or are due, enqueue their jobs, move `nextRunUtc`."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import batched, chain, islice
from typing import Any

from msgspec.structs import replace

from datasync.errors import MessageTooLarge, ServiceUnavailable, StateInvalid, TenantInvalid, TenantUnknown
from datasync.flow.registry import FlowRegistry
from datasync.model.decode import shorten
from datasync.model.tenant import FlowEntry, Problem, Tenant, document_key, is_tenant_document
from datasync.model.tick import TickRecord
from datasync.services import Services
from datasync.slices import finished
from datasync.stores.fleet import Watermark
from datasync.stores.jobs import TOO_LARGE
from datasync.stores.tenants import MOST_MOVES, Move
from datasync.telemetry.emit import emit
from datasync.telemetry.events import (
    DocumentInvalid,
    FlowFileBroken,
    LetterKept,
    MisplacedOmitted,
    ProblemsOmitted,
    SettingDoubtful,
    StateMisplaced,
    TenantFailed,
    TickEnded,
    TickFailed,
    WatermarkInvalid,
)
from datasync.tick.check import spelling_problems
from datasync.tick.heartbeat import beat
from datasync.tick.late import report_late
from datasync.tick.plan import Advance, plan
from datasync.tick.standing import StandingProblems
from datasync.tick.states import ExpectedStates
from datasync.tick.turns import REQUESTS, Turn
from datasync.tick.warn import entry_warnings, field_warning_steps
from datasync.tries import MOST, tries

SCAN_INTERVAL = timedelta(days=1)
"""Time between two complete scans of the tenants container."""

OVERLAP = 60
"""Seconds by which a tick reads changes again: `_ts` has whole seconds, and each replica its own clock."""

MOST_LISTED = 100
"""The most standing problems that a tick logs, and the most states that no run finds."""

MOST_PROBLEMS = 100
"""The most problems of one document that are stored, besides one that counts the others."""

MOST_WARNINGS = 20
"""The most warnings of one document that a tick stores and logs. `python -m datasync validate` shows all."""

MOST_RETRIED = 100
"""The most documents that the next tick tries again. If more fail, the watermark does not move."""

_OPEN_FOR_EACH_PLACE = 2
"""Documents in memory for each place. Those without a place wait in line: new ones, and large ones for another turn."""


@dataclass(slots=True)
class Tally:
    """The result of a tick, in numbers."""

    tenants: int = 0
    """Documents examined."""
    due: int = 0
    """Jobs to put on the queue."""
    enqueued: int = 0
    advanced: int = 0
    """Entries whose `nextRunUtc` was written."""
    conflicts: int = 0
    """Writes repeated because somebody else had written meanwhile."""
    problems: int | None = 0
    """Standing problems in documents, which somebody must correct; None where they could not be read."""
    late: int | None = 0
    """Flows that have not succeeded in time, up to 1000; None where they could not be read."""
    broken: int = 0
    """Flow files that could not be loaded."""
    failed: int = 0
    """Tenants that could not be handled; the next tick tries again."""


async def tick(services: Services, registry: FlowRegistry) -> Tally:
    """Enqueue the jobs that are due now, and within the lookahead, and schedule the occurrences after them.

    A tenant that cannot be handled is logged and counted, and the tick goes on. Killed at any point, it loses nothing:
    jobs are enqueued before `nextRunUtc` moves, and a job that is enqueued twice has the same run id. The watermark
    moves when all documents were listed, and keeps those that could not be handled, so that an edit is examined in full
    at least once. A complete tick ends with the heartbeat.

    Raises:
        ServiceUnavailable, or another exception of the first tenant that failed, when the others are done. The host
            repeats the tick within minutes.

    """
    with services.spans.tick(services.clock.now(), services.settings.schedule):
        tally = await _Tick(services, registry).run()
        await beat(services)
        return tally


class _Tick:
    def __init__(self, services: Services, registry: FlowRegistry) -> None:
        self._services = services
        self._registry = registry
        self._now = services.clock.now()
        self._horizon = self._now + services.settings.lookahead
        self._standing: StandingProblems | None = None
        self._states: ExpectedStates | None = None
        self._places = asyncio.Semaphore(services.settings.tenants_at_once)
        self._tally = Tally(broken=len(registry.broken), late=None)
        self._examined: set[str] = set()
        self._retry: list[str] = []
        self._failure: Exception | None = None
        self._is_scan = False
        self._is_recorded = False

    async def run(self) -> Tally:
        for module, traceback in self._registry.broken.items():
            emit(FlowFileBroken(module=module, cause=self._registry.cause(module), traceback=traceback))
        for why in self._services.settings.warnings:
            emit(SettingDoubtful(why=why))
        try:
            await self._examine_documents()
            await self._keep_undecodable()
        except Exception as error:  # noqa: BLE001 - the tenants listed so far are done; the others wait for the next tick
            self._fail(error)
            emit(TickFailed(error=_cause(error)))
        self._tally.problems = self._number_of_problems()
        if self._failure or not self._is_recorded:
            with suppress(ServiceUnavailable):  # then the record says that the tick did not end
                await self._services.fleet.save_tick(self._record())
        self._report()
        if self._failure:
            raise self._failure
        return self._tally

    async def _examine_documents(self) -> None:
        fleet = self._services.fleet
        watermark, started_ts = await self._begin()
        standing = self._standing = StandingProblems(fleet, await fleet.problems(delete_unreadable=True), self._now)
        scope = self._scope()
        if watermark.since_ts is None or watermark.scope != scope or self._scan_is_old(watermark):
            watermark = Watermark(scanned_utc=self._now, scope=scope)
            self._is_scan = True
            states = self._expected(await self._schedules())
            await self._examine(self._services.tenants.all(), standing)
            async with self._turn() as turn:
                await standing.keep_only(self._examined, turn)
                await states.retire_others(self._examined, turn)
        else:
            self._expected(None)
            since = watermark.since_ts - OVERLAP
            pages = self._services.tenants.changed_or_due(since, self._horizon, watermark.retry)
            await self._examine(pages, standing)
        self._tally.late = await report_late(self._services, self._registry, self._now)
        if len(self._retry) <= MOST_RETRIED:
            moved = replace(watermark, since_ts=started_ts, retry=tuple(self._retry))
            await fleet.end_tick(moved, self._record())
            self._is_recorded = True

    async def _keep_undecodable(self) -> None:
        """Keep messages of the poison queue that no function can receive as dead letters."""
        why = "the message is not a text in base64: send it as the queue trigger expects it"
        async for message_id, text in self._services.poison.undecodable():
            await self._services.fleet.keep_letter(message_id, text, why, self._now)
            emit(LetterKept(message_id=message_id, why=why))

    async def _begin(self) -> tuple[Watermark, int]:
        try:
            return await self._services.fleet.begin_tick(self._now)
        except StateInvalid as error:
            emit(WatermarkInvalid(error=error))
            return Watermark(), 0

    async def _schedules(self) -> Mapping[str, Mapping[str, str | None]]:
        found = await self._services.runs.schedules()
        for error in found.misplaced[:MOST_LISTED]:
            emit(StateMisplaced(error=error))
        if found.misplaced[MOST_LISTED:]:
            emit(MisplacedOmitted(count=len(found.misplaced) - MOST_LISTED))
        return found.revs

    def _expected(self, stored: Mapping[str, Mapping[str, str | None]] | None) -> ExpectedStates:
        self._states = ExpectedStates(self._services, self._registry, stored)
        return self._states

    def _scope(self) -> str:
        settings = self._services.settings
        return f"{settings.cosmos_database}/{settings.tenants_container} {self._registry.fingerprint}"

    def _scan_is_old(self, watermark: Watermark) -> bool:
        # A clock that was wrong once may have left a time in the future.
        return watermark.scanned_utc is None or abs(self._now - watermark.scanned_utc) >= SCAN_INTERVAL

    async def _examine(self, pages: AsyncIterator[list[dict[str, Any]]], standing: StandingProblems) -> None:
        """Examine documents while the next ones are read."""
        room = asyncio.Semaphore(_OPEN_FOR_EACH_PLACE * self._services.settings.tenants_at_once)

        async def examine(document: Mapping[str, Any]) -> None:
            try:
                await self._examine_document(document, standing)
            finally:
                room.release()

        failure: Exception | None = None
        async with asyncio.TaskGroup() as documents:
            try:
                async for page in pages:
                    for document in page:
                        await room.acquire()
                        documents.create_task(examine(document))
            except Exception as error:  # noqa: BLE001 - those that were read are examined
                failure = error
        if failure:
            raise failure

    async def _examine_document(self, document: Mapping[str, Any], standing: StandingProblems) -> None:
        key = document_key(document)
        if not is_tenant_document(document) and not standing.has(key):
            return
        async with self._turn() as turn:
            try:
                if is_tenant_document(document):
                    await self._examine_tenant(key, document, standing, turn)
                else:  # it was a tenant's document before
                    await standing.update(key, (), turn)
            except Exception as error:  # noqa: BLE001 - one tenant never stops the others
                self._fail(error)
                if not isinstance(_cause(error), TenantUnknown):  # deleted meanwhile
                    self._retry.append(str(document["id"]))
                emit(TenantFailed(tenant=key, error=_cause(error)))

    async def _examine_tenant(
        self, key: str, document: Mapping[str, Any], standing: StandingProblems, turn: Turn
    ) -> None:
        self._examined.add(key)
        self._tally.tenants += 1
        try:
            tenant = await finished(Tenant.reading(document), turn.pause)
        except TenantInvalid as error:
            problem = Problem(tenant_id=error.tenant_id, path=error.path, why=error.why)
            await standing.update(key, [problem, *await _field_warnings(document, turn)], turn)
            return
        if twins := [*spelling_problems(tenant.id, await self._services.claims.holder(tenant.id))]:
            await standing.update(key, [*twins, *_first(tenant, await self._problems(tenant, turn))], turn)
            return
        problems, etag = await self._schedule(tenant, turn)
        if etag and self._states:
            etag = await self._states.update(replace(tenant, etag=etag), turn)
        warnings = await self._warnings(document, tenant, turn)
        await standing.update(key, [*_first(tenant, problems), *warnings], turn)
        if etag and etag != tenant.etag:
            self._services.tenants.remember(tenant.id, etag)

    async def _problems(self, tenant: Tenant, turn: Turn) -> list[Problem]:
        """Return the problems of a tenant that is not scheduled."""
        plan, problems = self._plan(tenant), dict[Problem, None]()
        while await _next_group(plan, (), problems, turn):
            pass
        return [*problems]

    def _turn(self) -> Turn:
        return Turn(self._places, self._services.clock)

    async def _schedule(self, tenant: Tenant, turn: Turn) -> tuple[list[Problem], str | None]:
        """Enqueue and move the entries of a tenant, which is planned again only if somebody has edited it meanwhile.

        Returns:
            The problems, and the ETag of the document as this process has left it; None where somebody else has edited
            it meanwhile.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached, or others edited the document all the time.

        """
        served: set[str] = set()
        refused: list[Problem] = []
        is_edited = False
        async for _ in tries(self._services.clock.sleep):
            plan, problems = self._plan(tenant), dict[Problem, None]()
            while group := await _next_group(plan, served, problems, turn):
                if not (present := await self._serve(tenant, group, served, refused, turn)):
                    break
                tenant = present
            else:
                return [*problems, *refused], None if is_edited else tenant.etag
            is_edited = True
            tenant = await self._services.tenants.get(tenant.id)
        raise ServiceUnavailable(
            f"tenant {tenant.id!r} was edited by others each of the {MOST} times it was planned. It will be tried again"
        )

    async def _serve(
        self, tenant: Tenant, group: Sequence[Advance], served: set[str], refused: list[Problem], turn: Turn
    ) -> Tenant | None:
        """Enqueue and move a group. If the tick is killed, the next one repeats only the present group.

        Returns:
            The document with its new ETag; None if somebody else has edited it meanwhile.

        """
        tenants, now = self._services.tenants, self._now
        unnoted = {each.entry.name: each.is_own_without_note for each in group if each.needs_note}
        await turn.spend(1 + bool(unnoted))  # the patches: nothing comes between the last message and its patch
        if unnoted:
            noted = await tenants.note(tenant, unnoted, now)
            self._tally.conflicts += noted.conflicts
            if noted.conflicts:
                return None
            tenant = replace(tenant, etag=noted.etag)
            entries = {entry.name: entry for entry in noted.entries}
            group = [replace(each, entry=entries.get(each.entry.name, each.entry)) for each in group]
        too_large = await self._send(group, turn)
        refused += [_too_large(tenant, each.entry) for each in group if each.entry.name in too_large]
        moved = await tenants.move(tenant, [_move(each) for each in group if each.entry.name not in too_large], now)
        self._tally.advanced += len(moved.entries)
        self._tally.conflicts += moved.conflicts
        served.update(each.entry.name for each in group)
        return None if moved.conflicts else replace(tenant, etag=moved.etag)

    async def _send(self, group: Sequence[Advance], turn: Turn) -> set[str]:
        """Enqueue the jobs of a group. Returns the flows whose jobs are too large for a message."""
        too_large: set[str] = set()
        for jobs in batched(chain.from_iterable(each.jobs() for each in group), REQUESTS, strict=False):
            await turn.spend(len(jobs))
            self._tally.due += len(jobs)
            try:
                await self._services.jobs.send_all(jobs)
            except MessageTooLarge as error:
                too_large |= error.flows
            self._tally.enqueued += sum(job.message.flow_name not in too_large for job in jobs)
        return too_large

    async def _warnings(self, document: Mapping[str, Any], tenant: Tenant, turn: Turn) -> list[Problem]:
        found = await _field_warnings(document, turn)
        for entry in tenant.flows:
            await turn.pause()
            if entry.enabled:
                warnings = entry_warnings(tenant, entry, self._registry, self._now, self._horizon)
                found += islice(warnings, MOST_WARNINGS - len(found))
        return found

    def _plan(self, tenant: Tenant) -> Iterator[Advance | Problem | None]:
        return plan(tenant, self._registry, self._now, self._horizon, self._services.settings.spread)

    def _fail(self, error: Exception) -> None:
        self._tally.failed += 1
        cause = _cause(error)
        if isinstance(cause, ServiceUnavailable):
            self._services.outages.note(cause, self._now)
        if not isinstance(cause, TenantUnknown):  # deleted meanwhile, which says nothing about the others
            self._failure = self._failure or cause

    def _seconds(self) -> float:
        return (self._services.clock.now() - self._now).total_seconds()

    def _number_of_problems(self) -> int | None:
        return len(self._standing.errors()) if self._standing else None

    def _record(self) -> TickRecord:
        return TickRecord(
            started_utc=self._now,
            ended_utc=self._services.clock.now(),
            seconds=self._seconds(),
            is_scan=self._is_scan,
            tally={**asdict(self._tally), "problems": self._number_of_problems()},
            failure=shorten(str(self._failure), 2000) if self._failure else None,
        )

    def _report(self) -> None:
        problems = self._standing.errors() if self._standing else []
        for problem in problems[:MOST_LISTED]:
            emit(DocumentInvalid(problem=problem))
        if len(problems) > MOST_LISTED:
            emit(ProblemsOmitted(count=len(problems) - MOST_LISTED))
        if self._failure is None:
            self._services.outages.end("Cosmos DB", "the queue")
        self._services.spans.ticked(asdict(self._tally))
        emit(TickEnded(**asdict(self._tally), seconds=self._seconds(), away=str(self._services.outages)))


async def _next_group(
    plan: Iterator[Advance | Problem | None], served: Collection[str], problems: dict[Problem, None], turn: Turn
) -> list[Advance]:
    """Return the next entries, as many as one patch can move, and add the problems that come with them, each once."""
    group: list[Advance] = []
    for step in plan:
        await turn.pause()
        if isinstance(step, Problem):
            problems[step] = None
        elif step and step.entry.name not in served:
            group.append(step)
        if len(group) == MOST_MOVES:
            break
    return group


async def _field_warnings(document: Mapping[str, Any], turn: Turn) -> list[Problem]:
    found: list[Problem] = []
    for step in field_warning_steps(document):
        await turn.pause()
        found += [step] if step else []
        if len(found) == MOST_WARNINGS:
            break
    return found


def _first(tenant: Tenant, problems: Collection[Problem]) -> list[Problem]:
    """Return the first problems of a document, and one that counts the others: each tick reads all that are stored."""
    if len(problems) <= MOST_PROBLEMS:
        return [*problems]
    number = len(problems) - MOST_PROBLEMS + max(tenant.unlisted - 1, 0)
    more = f"{number:,} more problems, which are not listed: correct the others first"
    return [*islice(problems, MOST_PROBLEMS), Problem(tenant_id=tenant.id, path="flows", why=more)]


def _too_large(tenant: Tenant, entry: FlowEntry) -> Problem:
    return Problem(
        tenant_id=tenant.id, flow=entry.name, path=f"flows[{entry.index}].name", why=f"no job can be sent: {TOO_LARGE}"
    )


def _move(advance: Advance) -> Move:
    entry = advance.entry
    is_rewritten_only = not advance.instants and advance.next_run == entry.next_run and not entry.is_planned
    return Move(entry, advance.next_run, is_planned=not is_rewritten_only)


def _cause(error: Exception) -> Exception:
    first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    return first if isinstance(first, Exception) else error
