"""One tick: examine the documents that changed or are due, enqueue their jobs, move `nextRunUtc`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from datasync.errors import ServiceUnavailable, StateInvalid, TenantInvalid, TenantUnknown
from datasync.flow.registry import FlowRegistry
from datasync.model.tenant import Problem, Tenant, document_key, is_tenant_document
from datasync.services import Services
from datasync.stores.fleet import Watermark
from datasync.stores.tenants import MOST_MOVES, Move
from datasync.telemetry.emit import emit
from datasync.telemetry.events import (
    DocumentInvalid,
    FlowFileBroken,
    LetterKept,
    ProblemsOmitted,
    TenantFailed,
    TickEnded,
    TickFailed,
    WatermarkInvalid,
)
from datasync.tick.check import spelling_problems
from datasync.tick.plan import Advance, Plan, plan
from datasync.tick.standing import StandingProblems

SCAN_INTERVAL = timedelta(days=1)
"""Time between two complete scans of the tenants container."""

OVERLAP = 60
"""Seconds by which a tick reads changes again: `_ts` has whole seconds, and each replica its own clock."""

MOST_LISTED = 100
"""The most standing problems that a tick logs."""

MOST_RETRIED = 100
"""The most documents that the next tick tries again. If more fail, the watermark does not move."""


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
    broken: int = 0
    """Flow files that could not be loaded."""
    failed: int = 0
    """Tenants that could not be handled; the next tick tries again."""


async def tick(services: Services, registry: FlowRegistry) -> Tally:
    """Enqueue the jobs that are due now, and within the lookahead, and schedule the occurrences after them.

    A tenant that cannot be handled is logged and counted, and the tick goes on. Killed at any point, it loses nothing:
    jobs are enqueued before `nextRunUtc` moves, and a job that is enqueued twice has the same run id. The watermark
    moves when all documents were listed, and keeps those that could not be handled, so that an edit is examined in full
    at least once.

    Raises:
        ServiceUnavailable, or another exception of the first tenant that failed, when the others are done. The host
            repeats the tick within minutes.

    """
    return await _Tick(services, registry).run()


class _Tick:
    def __init__(self, services: Services, registry: FlowRegistry) -> None:
        self._services = services
        self._registry = registry
        self._now = services.clock.now()
        self._horizon = self._now + services.settings.lookahead
        self._standing: StandingProblems | None = None
        self._limit = asyncio.Semaphore(services.settings.tenants_at_once)
        self._tally = Tally(broken=len(registry.broken))
        self._examined: set[str] = set()
        self._retry: list[str] = []
        self._failure: Exception | None = None

    async def run(self) -> Tally:
        for module, traceback in self._registry.broken.items():
            emit(FlowFileBroken(module=module, cause=self._registry.cause(module), traceback=traceback))
        try:
            await self._examine_documents()
            await self._keep_undecodable()
        except Exception as error:  # noqa: BLE001 - the tenants listed so far are done; the others wait for the next tick
            self._fail(error)
            emit(TickFailed(error=_cause(error)))
        self._report()
        if self._failure:
            raise self._failure
        return self._tally

    async def _examine_documents(self) -> None:
        fleet = self._services.fleet
        watermark, started_ts = await self._begin()
        standing = self._standing = StandingProblems(fleet, await fleet.problems(), self._now)
        scope = self._scope()
        if watermark.since_ts is None or watermark.scope != scope or self._scan_is_old(watermark):
            watermark = Watermark(scanned_utc=self._now, scope=scope)
            await self._examine(self._services.tenants.all(), standing)
            await standing.keep_only(self._examined)
        else:
            since = watermark.since_ts - OVERLAP
            pages = self._services.tenants.changed_or_due(since, self._horizon, watermark.retry)
            await self._examine(pages, standing)
        if len(self._retry) <= MOST_RETRIED:
            await fleet.end_tick(replace(watermark, since_ts=started_ts, retry=tuple(self._retry)))

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

    def _scope(self) -> str:
        settings = self._services.settings
        return f"{settings.cosmos_database}/{settings.tenants_container} {self._registry.fingerprint}"

    def _scan_is_old(self, watermark: Watermark) -> bool:
        # A clock that was wrong once may have left a time in the future.
        return watermark.scanned_utc is None or abs(self._now - watermark.scanned_utc) >= SCAN_INTERVAL

    async def _examine(self, pages: AsyncIterator[list[dict[str, Any]]], standing: StandingProblems) -> None:
        async for page in _read_ahead(pages):
            async with asyncio.TaskGroup() as documents:
                for document in page:
                    documents.create_task(self._examine_document(document, standing))

    async def _examine_document(self, document: Mapping[str, Any], standing: StandingProblems) -> None:
        key = document_key(document)
        if not is_tenant_document(document) and not standing.has(key):
            return
        async with self._limit:
            try:
                if is_tenant_document(document):
                    await self._examine_tenant(key, document, standing)
                else:  # it was a tenant's document before
                    await standing.update(key, ())
            except Exception as error:  # noqa: BLE001 - one tenant never stops the others
                self._fail(error)
                if not isinstance(_cause(error), TenantUnknown):  # deleted meanwhile
                    self._retry.append(str(document["id"]))
                emit(TenantFailed(tenant=key, error=_cause(error)))

    async def _examine_tenant(self, key: str, document: Mapping[str, Any], standing: StandingProblems) -> None:
        self._examined.add(key)
        self._tally.tenants += 1
        try:
            tenant = Tenant.from_document(document)
        except TenantInvalid as error:
            await standing.update(key, [Problem(tenant_id=error.tenant_id, path=error.path, why=error.why)])
            return
        decision = self._plan(tenant)
        if twins := [*spelling_problems(tenant.id, await self._services.claims.holder(tenant.id))]:
            await standing.update(key, [*twins, *decision.problems])
            return
        moved = await self._schedule(tenant, decision)
        await standing.update(key, decision.problems)
        if moved and moved.etag != tenant.etag:
            self._services.tenants.remember(moved)

    async def _schedule(self, tenant: Tenant, decision: Plan) -> Tenant | None:
        """Enqueue and move the entries of a tenant.

        Returns:
            The document as this process has left it; None where somebody else has edited it meanwhile.

        """
        conflicts = 0
        while unnoted := [each.entry.name for each in decision.advances if each.needs_note]:
            noted = await self._services.tenants.note(tenant, unnoted, self._now)
            conflicts += noted.conflicts
            tenant, decision = noted.tenant, self._plan(noted.tenant)
        served: set[str] = set()
        # In groups that one patch can move. If the tick is killed, the next one repeats only the present group.
        while group := [each for each in decision.advances if each.entry.name not in served][:MOST_MOVES]:
            jobs = [job for advance in group for job in advance.jobs]
            self._tally.due += len(jobs)
            await self._services.jobs.send_all(jobs)
            self._tally.enqueued += len(jobs)
            moved = await self._services.tenants.move(tenant, [_move(each) for each in group], self._now)
            self._tally.advanced += moved.entries
            conflicts += moved.conflicts
            served.update(advance.entry.name for advance in group)
            tenant = moved.tenant
            if moved.conflicts:
                decision = self._plan(tenant)
        self._tally.conflicts += conflicts
        return None if conflicts else tenant

    def _plan(self, tenant: Tenant) -> Plan:
        return plan(tenant, self._registry, self._now, self._horizon, self._services.settings.spread)

    def _fail(self, error: Exception) -> None:
        self._tally.failed += 1
        cause = _cause(error)
        if isinstance(cause, ServiceUnavailable):
            self._services.outages.note(cause, self._now)
        if not isinstance(cause, TenantUnknown):  # deleted meanwhile, which says nothing about the others
            self._failure = self._failure or cause

    def _report(self) -> None:
        problems = self._standing.all() if self._standing else []
        for problem in problems[:MOST_LISTED]:
            emit(DocumentInvalid(problem=problem))
        if len(problems) > MOST_LISTED:
            emit(ProblemsOmitted(count=len(problems) - MOST_LISTED))
        self._tally.problems = len(problems) if self._standing else None
        if self._failure is None:
            self._services.outages.end("Cosmos DB", "the queue")
        seconds = (self._services.clock.now() - self._now).total_seconds()
        emit(TickEnded(**asdict(self._tally), seconds=seconds, away=str(self._services.outages)))


def _move(advance: Advance) -> Move:
    entry = advance.entry
    is_rewritten_only = not advance.jobs and advance.next_run == entry.next_run and not entry.is_planned
    return Move(entry.name, entry.next_run_text, entry.note, advance.next_run, is_planned=not is_rewritten_only)


def _cause(error: Exception) -> Exception:
    first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    return first if isinstance(first, Exception) else error


async def _read_ahead[T](pages: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield pages, reading the next one while the caller works on this one."""
    upcoming = asyncio.ensure_future(anext(pages, None))
    try:
        while (page := await upcoming) is not None:
            upcoming = asyncio.ensure_future(anext(pages, None))
            yield page
    finally:
        upcoming.cancel()
