"""Stage 1, each tick: find the tenants that have something due, put their jobs on the queue, move `nextRunUtc`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from datasync import log
from datasync.errors import TenantInvalid, TenantUnknown
from datasync.model import Tenant
from datasync.schedule import Plan, plan
from datasync.services import Services
from datasync.stores.tenants import PATCH_LIMIT


@dataclass(slots=True)
class Tally:
    """What a tick did."""

    tenants: int = 0
    """Documents that were looked at."""
    due: int = 0
    """Jobs that had to be put on the queue."""
    enqueued: int = 0
    advanced: int = 0
    """Flows whose `nextRunUtc` was moved."""
    conflicts: int = 0
    """Writes repeated because somebody else had written in between."""
    invalid: int = 0
    """Problems in documents, which a person has to mend."""
    failed: int = 0
    """Tenants that could not be dealt with; the next tick tries again."""


async def tick(services: Services, now: datetime) -> Tally:
    """Enqueue what is due at `now` (aware), and within the lookahead after it, and schedule what comes next.

    A tenant that cannot be dealt with is logged and counted, and the tick goes on. Killed at any point, it leaves
    nothing lost: jobs are enqueued before `nextRunUtc` moves, and what is enqueued twice has the same run id.

    Raises:
        ServiceUnavailable: nothing at all could be done; any other exception of a first tenant likewise.

    """
    return await _Tick(services, now).run()


class _Tick:
    def __init__(self, services: Services, now: datetime) -> None:
        self._services = services
        self._now = now
        self._started = asyncio.get_running_loop().time()
        self._horizon = now + services.settings.lookahead
        self._tally = Tally()
        self._limit = asyncio.Semaphore(services.settings.tenants_at_once)
        self._failure: Exception | None = None

    async def run(self) -> Tally:
        try:
            async for page in _read_ahead(self._services.tenants.due(self._horizon)):
                async with asyncio.TaskGroup() as tenants:
                    for document in page:
                        tenants.create_task(self._deal_with(document))
        except Exception as error:  # noqa: BLE001 - what was listed so far has been dealt with; the rest waits
            self._fail("TICK could not list all tenants", error)
        tally = self._tally
        log.event(logging.INFO, "TICK", **asdict(tally), seconds=round(self._seconds(), 2))
        if self._failure and not (tally.enqueued or tally.advanced):
            raise self._failure
        return tally

    async def _deal_with(self, document: Mapping[str, Any]) -> None:
        async with self._limit:
            self._tally.tenants += 1
            try:
                await self._schedule(Tenant.from_document(document))
            except TenantInvalid as problem:
                self._report(problem)
            except Exception as error:  # noqa: BLE001 - one tenant never stops the others
                self._fail(f"tenant {document.get('tenantId')!r} could not be scheduled", error)

    async def _schedule(self, tenant: Tenant) -> None:
        decision = self._plan(tenant)
        for problem in decision.problems:
            self._report(problem)
        served: set[str] = set()
        # In groups that one patch can move: killed in between, the group is decided again from the same document
        # (same ETag, hence same run ids), and the groups before it are not decided again at all.
        while group := [each for each in decision.advances if each.flow.name not in served][:PATCH_LIMIT]:
            jobs = [job for advance in group for job in advance.jobs]
            self._tally.due += len(jobs)
            await self._services.jobs.send_all(jobs, self._started)
            self._tally.enqueued += len(jobs)
            advanced = await self._services.tenants.advance(tenant, group)
            self._tally.advanced += advanced.flows
            self._tally.conflicts += advanced.conflicts
            served.update(advance.flow.name for advance in group)
            tenant = advanced.tenant
            decision = self._plan(tenant)

    def _plan(self, tenant: Tenant) -> Plan:
        return plan(tenant, self._now, self._horizon, self._services.settings.spread)

    def _seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    def _report(self, problem: object) -> None:
        self._tally.invalid += 1
        log.event(logging.ERROR, f"INVALID {problem}")

    def _fail(self, what: str, error: Exception) -> None:
        self._tally.failed += 1
        cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        if not isinstance(cause, TenantUnknown):  # deleted meanwhile: nothing is wrong with the rest
            self._failure = self._failure or cause
        log.event(logging.ERROR, f"{what}: {cause}", error=type(cause).__name__)


async def _read_ahead[T](pages: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield pages, reading the next one while the caller works on this one."""
    upcoming = asyncio.ensure_future(anext(pages, None))
    try:
        while (page := await upcoming) is not None:
            upcoming = asyncio.ensure_future(anext(pages, None))
            yield page
    finally:
        upcoming.cancel()
