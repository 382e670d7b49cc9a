"""lease: one attempt at a time runs a flow of a tenant. Its lease is renewed while it runs, and fences its writes.

A lease is a field of the flow's state (of the run's record, if the flow allows overlapping runs). A conditional patch
takes it, and each lease has a higher token than the one before. An attempt that stood still until its lease was over
(a frozen machine, a blocked process) has lost it if another attempt has taken it since.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

from msgspec.structs import replace

from datasync.errors import LeaseLost, ServiceUnavailable, StateInvalid
from datasync.flow.watchdog import Block
from datasync.model.display import shown
from datasync.model.lease import BLOCKED_LIMIT, DURATION
from datasync.model.state import Checkpoint, Leased
from datasync.run.acquire import find
from datasync.services import Services
from datasync.tries import tries

RENEWAL = timedelta(minutes=1)
"""Time between two renewals."""

_RENEW_AGAIN = timedelta(seconds=5)
_SHORTEST_RENEWAL = timedelta(seconds=10)
"""How long a renewal may take in any case: the process may have stood still until the lease was over."""


class HeldLease:
    """The lease of the present attempt."""

    def __init__(self, services: Services, document: Leased) -> None:
        self._services = services
        self._lock = asyncio.Lock()
        self.document = document
        """The document as it was read or written last."""
        self.lost: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Done with a LeaseLost as soon as the attempt knows that it no longer holds the lease."""
        self._is_sealed = False

    @property
    def nonce(self) -> str:
        """Identifies the attempt."""
        return (self.document.lease and self.document.lease.nonce) or ""

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let another thread renew the lease while the event loop is blocked."""
        services, document = self._services, self.document
        services.held.append(document)
        services.watchdog.on_long_block = partial(renew_in_thread, services)
        try:
            yield
        finally:
            services.held.remove(document)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew the lease in the background."""
        renewals = asyncio.ensure_future(self._renew_on())
        try:
            yield
        finally:
            renewals.cancel()
            await asyncio.wait({renewals})

    async def check(self) -> None:
        """Make sure that the attempt still holds the lease, before it does something that cannot be repeated.

        Raises:
            LeaseLost: it does not.

        """
        if self.lost.done():
            raise self.lost.result()
        if self._is_over():
            await self.renew()

    def keep_until(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Keep the lease until tasks have ended, which an attempt has left behind; then release it."""
        self._kept = asyncio.ensure_future(self._keep_until(tasks))

    def seal(self) -> None:
        """Keep no further cursor: the flow has returned. A task that it has left behind may still run."""
        self._is_sealed = True

    async def save_cursor(self, cursor: Any, checkpoint: Checkpoint) -> None:
        """Keep a cursor under the lease, and the counts of the run so far.

        Raises:
            LeaseLost: the attempt no longer holds the lease, or its flow has returned.
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        await self.check()
        if self._is_sealed:
            raise LeaseLost(f"{self.document.tenant_id}/{self.document.flow_name} has returned: the cursor is not kept")
        async with self._lock:
            async for _ in tries(self._services.clock.sleep):
                changed = replace(self.document, cursor=cursor, checkpoint=checkpoint)
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
        found = await find(self._services, self.document, [self.document.flow_name])
        if found.lease is None or found.lease.nonce != self.nonce:
            raise self._lose()
        self.document = found

    async def _keep_until(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        with self.guarded():
            while not all(task.done() for task in tasks):
                with suppress(asyncio.CancelledError):  # a flow has cancelled all tasks of the process
                    async with self.kept():
                        await asyncio.wait(tasks)
        with suppress(ServiceUnavailable):  # the lease expires then
            await self._services.runs.release(self.document)

    async def _renew_on(self) -> None:
        clock = self._services.clock
        due = clock.now() + RENEWAL
        while True:
            await clock.pause(due - clock.now())
            due = clock.now() + RENEWAL
            try:
                await self._renew_in_time()
            except LeaseLost:
                return
            except ServiceUnavailable:
                due = clock.now() + _RENEW_AGAIN

    async def _renew_in_time(self) -> None:
        """Renew the lease. It is lost if the request takes longer than the lease lasts."""
        until = (self.document.lease and self.document.lease.until) or 0
        left = timedelta(seconds=until - self._services.clock.now().timestamp())
        renewal = asyncio.ensure_future(self.renew())
        end = asyncio.ensure_future(self._services.clock.pause(max(left, _SHORTEST_RENEWAL)))
        try:
            await asyncio.wait({renewal, end}, return_when=asyncio.FIRST_COMPLETED)
            if not renewal.done():
                raise self._lose()
            renewal.result()
        finally:
            renewal.cancel()
            end.cancel()
            await asyncio.wait({renewal, end})

    async def renew(self) -> None:
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
            f"the lease of {self.document.tenant_id}/{self.document.flow_name} is over, or another attempt has it"
        )
        if not self.lost.done():
            self.lost.set_result(error)
        return error


def renew_in_thread(services: Services, block: Block) -> None:
    """Renew the leases that this process holds while its event loop is blocked. Runs in another thread.

    The leases name the block, since the process may die in it. It uses connections of its own, since those of the
    process belong to the blocked loop.
    """
    asyncio.run(_renew_held(services, shown(str(block), BLOCKED_LIMIT)))


async def _renew_held(services: Services, blocked_by: str) -> None:
    own = Services(services.settings, services.clock)
    try:
        until = (services.clock.now() + DURATION).timestamp()
        renewals = [own.runs.renew(document, until, blocked_by) for document in [*services.held]]
        await asyncio.gather(*renewals, return_exceptions=True)  # a lease that was not renewed is found lost later
    finally:
        await own.close()
