"""lease: one attempt at a time runs a flow of a tenant. Its lease is renewed while it runs, and fences its writes.

A lease is a field of the flow's state (of the run's record, if the flow allows overlapping runs). A conditional patch
takes it, and each lease has a higher token than the one before. An attempt that stood still until its lease was over
(a frozen machine, a blocked process) has lost it if another attempt has taken it since.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from random import random
from typing import Any
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from datasync.errors import LeaseLost, ServiceUnavailable, StateInvalid
from datasync.model.failure import Failure
from datasync.model.job import Job
from datasync.model.lease import DURATION, Lease
from datasync.model.run import Attempt, Outcome, RunRecord
from datasync.model.state import FlowState, Leased
from datasync.services import Services

RENEWAL = timedelta(minutes=1)
"""Time between two renewals."""

_INTERRUPTED = Failure(
    kind="Interrupted",
    message="the process died, or stood still until the lease of the attempt was over",
    fingerprint="interrupted",
)
_TRIES = 20
_LONGEST_PAUSE = timedelta(milliseconds=200)
_RENEW_AGAIN = timedelta(seconds=5)


class Taken(msgspec.Struct, frozen=True):
    """A lease that was taken."""

    document: Leased
    interrupted: RunRecord | None
    """The record of the run whose attempt had lost the lease before, with that attempt as interrupted."""


async def acquire(services: Services, free: Leased, names: Sequence[str], job: Job) -> Taken | Leased:
    """Take the lease for an attempt, at the present time.

    Args:
        services: The services of the process.
        free: The document that holds the lease, as it is before its first use.
        names: The names of the flow.
        job: The job of the attempt.

    Returns:
        The lease; or the document with the live lease of another attempt.

    Raises:
        StateInvalid: a document was edited and cannot be read.
        ServiceUnavailable: Cosmos DB refused or could not be reached, or others were faster in every try.

    """
    runs = services.runs
    for _ in range(_TRIES):
        now = services.clock.now()
        lease = Lease(
            until=(now + DURATION).timestamp(),
            nonce=uuid4().hex,
            started_utc=now,
            message=job.copy(),
        )
        if taken := await runs.take(free, lease):
            return Taken(document=taken, interrupted=None)
        found = await _find(services, free, names)
        if found.lease and found.lease.is_live(now):
            return found
        if found.lease and found.lease.until is not None:
            if won := await _take_over(services, found, lease, now):
                return won
        elif found.etag is None:
            created = replace(found, lease=lease, token=found.token + 1)
            if etags := await runs.save(created):
                return Taken(document=replace(created, etag=etags[0]), interrupted=None)
        await services.clock.sleep(_LONGEST_PAUSE * random())  # noqa: S311 - spreads tries, protects nothing
    raise ServiceUnavailable(
        f"the lease of {job.tenant_id}/{names[0]} was changed by others in each of {_TRIES} tries. "
        "It will be tried again"
    )


async def _find(services: Services, free: Leased, names: Sequence[str]) -> Leased:
    if isinstance(free, FlowState):
        return await services.runs.state(free.tenant_id, names)
    return await services.runs.record(free.tenant_id, free.run_id) or free


async def _take_over(services: Services, found: Leased, lease: Lease, now: datetime) -> Taken | None:
    """Replace a lease that is over, and record the attempt that held it; None if somebody else was faster."""
    lost, token = found.lease or Lease(), found.token + 1
    job = _job_of(lost)
    if job is None or lost.nonce is None:
        taken = replace(found, lease=lease, token=token)
        etags = await services.runs.save(taken)
        return Taken(document=replace(taken, etag=etags[0]), interrupted=None) if etags else None
    attempt = Attempt(
        id=lost.nonce,
        outcome=Outcome.INTERRUPTED,
        started_utc=lost.started_utc or now,
        finished_utc=now,
        token=found.token,
        error=_INTERRUPTED,
    )
    if isinstance(found, RunRecord):
        own = replace(found.after_interruption(attempt, job), lease=lease, token=token)
        etags = await services.runs.save(own)
        own = replace(own, etag=etags[0]) if etags else own
        return Taken(document=own, interrupted=own) if etags else None
    record = await services.runs.record(found.tenant_id, job.run_id) or RunRecord.begin(job, found.flow_name, now)
    record = record.after_interruption(attempt, job)
    state = replace(found, lease=lease, token=token, last_run_utc=now, last_outcome=Outcome.INTERRUPTED)
    if not (etags := await services.runs.save(state, record)):
        return None
    return Taken(document=replace(state, etag=etags[0]), interrupted=replace(record, etag=etags[1]))


def _job_of(lease: Lease) -> Job | None:
    """Return the job of the attempt that holds a lease; None where the lease was edited by hand."""
    try:
        return Job.of(lease.message) if lease.message else None
    except ValueError:
        return None


def renew_in_thread(services: Services) -> None:
    """Renew the leases that this process holds while its event loop is blocked. Runs in another thread.

    It uses connections of its own, since those of the process belong to the blocked loop.
    """
    asyncio.run(_renew_held(services))


async def _renew_held(services: Services) -> None:
    own = Services(services.settings, services.clock)
    try:
        until = (services.clock.now() + DURATION).timestamp()
        renewals = [own.runs.renew(document, until) for document in [*services.held.values()]]
        await asyncio.gather(*renewals, return_exceptions=True)  # a lease that was not renewed is found lost later
    finally:
        await own.close()


class HeldLease:
    """The lease of the present attempt."""

    def __init__(self, services: Services, document: Leased) -> None:
        self._services = services
        self._lock = asyncio.Lock()
        self.document = document
        """The document as it was read or written last."""
        self.lost: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Done with a LeaseLost as soon as the attempt knows that it no longer holds the lease."""

    @property
    def nonce(self) -> str:
        """Identifies the attempt."""
        return (self.document.lease and self.document.lease.nonce) or ""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew the lease in the background."""
        services = self._services
        services.held[self.nonce] = self.document
        services.watchdog.on_long_block = partial(renew_in_thread, services)
        renewals = asyncio.ensure_future(self._renew_on())
        try:
            yield
        finally:
            renewals.cancel()
            await asyncio.wait({renewals})
            del services.held[self.nonce]

    async def check(self) -> None:
        """Make sure that the attempt still holds the lease, before it does something that cannot be repeated.

        Raises:
            LeaseLost: it does not.

        """
        if self.lost.done():
            raise self.lost.result()
        if self._is_over():
            await self._renew()

    def keep_until(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Keep the lease until tasks have ended, which an attempt has left behind; then release it."""
        self._kept = asyncio.ensure_future(self._keep_until(tasks))

    async def save_cursor(self, cursor: Any) -> None:
        """Keep a cursor under the lease.

        Raises:
            LeaseLost: the attempt no longer holds the lease.
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        await self.check()
        async with self._lock:
            for _ in range(_TRIES):
                changed = replace(self.document, cursor=cursor)
                if etags := await self._services.runs.save(changed):
                    self.document = replace(changed, etag=etags[0])
                    return
                await self.refresh()
        raise ServiceUnavailable(f"the cursor of {self.document.id} could not be kept: others changed it all the time")

    async def refresh(self) -> None:
        """Read the document again.

        Raises:
            LeaseLost: another attempt has the lease.

        """
        name = getattr(self.document, "flow_name", "")
        found = await _find(self._services, self.document, [name])
        if found.lease is None or found.lease.nonce != self.nonce:
            raise self._lose()
        self.document = found

    async def _keep_until(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        async with self.kept():
            await asyncio.wait(tasks)
        await self._services.runs.release(self.document)

    async def _renew_on(self) -> None:
        pause = RENEWAL
        while True:
            await self._services.clock.pause(pause)
            try:
                await self._renew()
            except LeaseLost:
                return
            except ServiceUnavailable:
                pause = _RENEW_AGAIN
            else:
                pause = RENEWAL

    async def _renew(self) -> None:
        """Renew the lease. A failure counts as a loss once the lease is over."""
        async with self._lock:
            until = (self._services.clock.now() + DURATION).timestamp()
            try:
                renewed = await self._services.runs.renew(self.document, until)
            except ServiceUnavailable:
                if self._is_over():
                    raise self._lose() from None
                raise
            except StateInvalid:  # it was edited by hand, and nothing can be written under it
                raise self._lose() from None
            if renewed is None:
                raise self._lose()
            self.document = renewed

    def _is_over(self) -> bool:
        lease = self.document.lease
        return lease is None or lease.until is None or self._services.clock.now().timestamp() >= lease.until

    def _lose(self) -> LeaseLost:
        error = LeaseLost(
            f"the lease of {self.document.tenant_id}/{self.document.flow_name} is over, and was taken over"
        )
        if not self.lost.done():
            self.lost.set_result(error)
        return error
