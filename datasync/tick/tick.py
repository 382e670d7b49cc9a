"""One tick: examine the documents that changed or are due, enqueue their jobs, move `nextRunUtc`."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from datasync.errors import StateInvalid, TenantInvalid, TenantUnknown
from datasync.flow.registry import FlowRegistry
from datasync.model.tenant import Problem, Tenant, document_key, is_tenant_document
from datasync.services import Services
from datasync.stores.fleet import Watermark
from datasync.stores.tenants import PATCH_LIMIT, Move
from datasync.telemetry.emit import emit
from datasync.telemetry.events import (
    DocumentInvalid,
    FlowFileBroken,
    ProblemsOmitted,
    TenantFailed,
    TickEnded,
    TickFailed,
    WatermarkInvalid,
)
from datasync.tick.plan import Plan, plan
from datasync.tick.standing import StandingProblems

SCAN_INTERVAL = timedelta(days=1)
"""A complete scan of the tenants container follows the last one after this time."""

OVERLAP = 60
"""Seconds by which a tick reads changes again: `_ts` has whole seconds, and each replica its own clock."""

MOST_LISTED = 100
"""The most standing problems that a tick logs."""


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
    problems: int = 0
    """Standing problems in documents, which somebody must correct."""
    broken: int = 0
    """Flow files that could not be loaded."""
    failed: int = 0
    """Tenants that could not be handled; the next tick tries again."""


async def tick(services: Services, registry: FlowRegistry) -> Tally:
    """Enqueue the jobs that are due now, and within the lookahead, and schedule the occurrences after them.

    A tenant that cannot be handled is logged and counted, and the tick goes on. Killed at any point, it loses nothing:
    jobs are enqueued before `nextRunUtc` moves, and a job that is enqueued twice has the same run id. The watermark
    moves at the end of a tick without failures, so that an edit is examined in full at least once.

    Raises:
        ServiceUnavailable: nothing at all could be done; any other exception of a first tenant likewise.

    """
    return await _Tick(services, registry).run()


class _Tick:
    def __init__(self, services: Services, registry: FlowRegistry) -> None:
        self._services = services
        self._registry = registry
        self._now = services.clock.now()
        self._horizon = self._now + services.settings.lookahead
        self._standing = StandingProblems(services.fleet, (), self._now)
        self._limit = asyncio.Semaphore(services.settings.tenants_at_once)
        self._tally = Tally(broken=len(registry.broken))
        self._examined: set[str] = set()
        self._failure: Exception | None = None

    async def run(self) -> Tally:
        for module, traceback in self._registry.broken.items():
            emit(FlowFileBroken(module=module, traceback=traceback))
        try:
            await self._examine_documents()
        except Exception as error:  # noqa: BLE001 - the tenants listed so far are done; the others wait for the next tick
            self._fail(error)
            emit(TickFailed(error=_cause(error)))
        self._report()
        if self._failure and not (self._tally.enqueued or self._tally.advanced):
            raise self._failure
        return self._tally

    async def _examine_documents(self) -> None:
        fleet, fingerprint = self._services.fleet, self._registry.fingerprint
        watermark, started_ts = await self._begin()
        self._standing = StandingProblems(fleet, await fleet.problems(), self._now)
        since = watermark.since_ts
        if since is None or watermark.registry != fingerprint or self._scan_is_old(watermark):
            watermark = Watermark(scanned_utc=self._now, registry=fingerprint)
            await self._examine(self._services.tenants.all())
            await self._standing.keep_only(self._examined)
        else:
            await self._examine(self._services.tenants.changed_or_due(since - OVERLAP, self._horizon))
        if not self._failure:
            await fleet.end_tick(
                Watermark(since_ts=started_ts, scanned_utc=watermark.scanned_utc, registry=watermark.registry)
            )

    async def _begin(self) -> tuple[Watermark, int]:
        try:
            return await self._services.fleet.begin_tick(self._now)
        except StateInvalid as error:
            emit(WatermarkInvalid(error=error))
            return Watermark(), 0

    def _scan_is_old(self, watermark: Watermark) -> bool:
        return watermark.scanned_utc is None or self._now - watermark.scanned_utc >= SCAN_INTERVAL

    async def _examine(self, pages: AsyncIterator[list[dict[str, Any]]]) -> None:
        async for page in _read_ahead(pages):
            async with asyncio.TaskGroup() as documents:
                for document in page:
                    if is_tenant_document(document):
                        documents.create_task(self._examine_document(document))

    async def _examine_document(self, document: Mapping[str, Any]) -> None:
        async with self._limit:
            key = document_key(document)
            self._examined.add(key)
            self._tally.tenants += 1
            try:
                await self._standing.examined(key, await self._schedule(document))
            except Exception as error:  # noqa: BLE001 - one tenant never stops the others
                self._fail(error)
                emit(TenantFailed(tenant=key, error=_cause(error)))

    async def _schedule(self, document: Mapping[str, Any]) -> Sequence[Problem]:
        """Enqueue and move the entries of a document; return its problems."""
        try:
            tenant = Tenant.from_document(document)
        except TenantInvalid as error:
            return [Problem(tenant_id=error.tenant_id, path=error.path, why=error.why)]
        decision = self._plan(tenant)
        problems = decision.problems
        served: set[str] = set()
        # In groups that one patch can move. Killed in between, the next tick decides on the group again from the same
        # document (same ETag, so the same run ids), and no longer on the groups before it.
        while group := [each for each in decision.advances if each.entry.name not in served][:PATCH_LIMIT]:
            jobs = [job for advance in group for job in advance.jobs]
            self._tally.due += len(jobs)
            await self._services.jobs.send_all(jobs)
            self._tally.enqueued += len(jobs)
            moved = await self._services.tenants.move(
                tenant, [Move(each.entry.name, each.entry.next_run_text, each.next_run) for each in group]
            )
            self._tally.advanced += moved.entries
            self._tally.conflicts += moved.conflicts
            served.update(advance.entry.name for advance in group)
            tenant = moved.tenant
            decision = self._plan(tenant)
        return problems

    def _plan(self, tenant: Tenant) -> Plan:
        return plan(tenant, self._registry, self._now, self._horizon, self._services.settings.spread)

    def _fail(self, error: Exception) -> None:
        self._tally.failed += 1
        cause = _cause(error)
        if not isinstance(cause, TenantUnknown):  # deleted meanwhile, which says nothing about the others
            self._failure = self._failure or cause

    def _report(self) -> None:
        problems = self._standing.all()
        for problem in problems[:MOST_LISTED]:
            emit(DocumentInvalid(problem=problem))
        if len(problems) > MOST_LISTED:
            emit(ProblemsOmitted(count=len(problems) - MOST_LISTED))
        self._tally.problems = len(problems)
        seconds = (self._services.clock.now() - self._now).total_seconds()
        emit(TickEnded(**asdict(self._tally), seconds=seconds))


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
