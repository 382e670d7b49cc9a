"""lease: one attempt at a time runs a flow of a tenant. Its lease is renewed while it runs, and fences its writes.

A lease is a field of the flow's state (of the run's record, if the flow allows overlapping runs). A conditional patch
takes it, and each lease has a higher token than the one before. An attempt that stood still until its lease was over
(a frozen machine, a blocked process) has lost it if another attempt has taken it since.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
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
from datasync.run.execute import GRACE
from datasync.services import Services
from datasync.tries import tries

RENEWAL = timedelta(minutes=1)
"""Time between two renewals."""

ENDING = 2 * GRACE
"""How long before the end of its lease an attempt gives up. Its cancelled flow and its tasks have ended by then."""

_TIME_TO_TRY = DURATION - ENDING - RENEWAL
_RENEW_AGAIN = timedelta(seconds=5)
_SHORTEST_RENEWAL = timedelta(seconds=10)
"""The time to try, even if less is left: then the process has stood still, and asks whether it still has the lease."""


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
        async with _in_background(self._renew_on()):
            yield

    async def check(self) -> None:
        """Make sure that the attempt still holds the lease, before it does something that cannot be repeated.

        Raises:
            LeaseLost: it does not.

        """
        if self._is_over() and not self.lost.done():
            try:
                await self.renew()
            except ServiceUnavailable:
                raise self._lose() from None
        if self.lost.done():  # perhaps while the renewal waited for its answer
            raise self.lost.result()

    def keep_until(self, left: Collection[asyncio.Future[Any]], *, is_recorded: bool) -> None:
        """Keep the lease until the tasks and threads have ended that an attempt has left behind; then release it.

        The lease of an attempt that is not on record ends by itself, so that whoever takes it over records the attempt.
        """
        self._kept = asyncio.ensure_future(self._keep_until(left, is_recorded=is_recorded))

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

    async def _keep_until(self, left: Collection[asyncio.Future[Any]], *, is_recorded: bool) -> None:
        with self.guarded():
            while not all(each.done() for each in left):
                with suppress(asyncio.CancelledError):  # a flow has cancelled all tasks of the process
                    async with _in_background(self._renew_without_end()):
                        await asyncio.wait(left)
        if is_recorded:
            with suppress(ServiceUnavailable):  # the lease expires then
                await self._services.runs.release(self.document)

    async def _renew_without_end(self) -> None:
        """Renew the lease of code that cannot be stopped, also after an outage, until another attempt has taken it."""
        with suppress(LeaseLost):
            while True:
                pause = RENEWAL
                try:
                    await self.renew()
                except ServiceUnavailable:
                    pause = _RENEW_AGAIN
                await self._services.clock.pause(pause)

    async def _renew_on(self) -> None:
        with suppress(LeaseLost):
            while True:
                await self._services.clock.pause(min(self._left() - _TIME_TO_TRY, RENEWAL))
                await self._renew_within(max(self._left(), _SHORTEST_RENEWAL))

    async def _renew_within(self, time: timedelta) -> None:
        """Renew the lease, in as many tries as it takes. It is lost if none has succeeded in time."""
        end = asyncio.ensure_future(self._services.clock.pause(time))
        renewal = asyncio.ensure_future(self._try_to_renew())
        try:
            await asyncio.wait({renewal, end}, return_when=asyncio.FIRST_COMPLETED)
            if not renewal.done():
                raise self._lose()
            renewal.result()
        finally:
            renewal.cancel()
            end.cancel()
            await asyncio.wait({renewal, end})

    async def _try_to_renew(self) -> None:
        while True:
            with suppress(ServiceUnavailable):
                return await self.renew()
            await self._services.clock.pause(_RENEW_AGAIN)

    async def renew(self) -> None:
        """Renew the lease.

        Raises:
            LeaseLost: another attempt has it, or it was edited by hand.
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        async with self._lock:
            until = (self._services.clock.now() + DURATION).timestamp()
            try:
                renewed = await self._services.runs.renew(self.document, until)
            except StateInvalid:  # it was edited by hand, and nothing can be written under it
                raise self._lose() from None
            if renewed is None:
                raise self._lose()
            self.document = renewed

    def _is_over(self) -> bool:
        return self._left() <= timedelta()

    def _left(self) -> timedelta:
        """Return how long the attempt may go on without a renewal. Zero or less if it may not."""
        until = (self.document.lease and self.document.lease.until) or 0
        return timedelta(seconds=until - self._services.clock.now().timestamp()) - ENDING

    def _lose(self) -> LeaseLost:
        error = LeaseLost(
            f"the lease of {self.document.tenant_id}/{self.document.flow_name} is over, or another attempt has it"
        )
        if not self.lost.done():
            self.lost.set_result(error)
        return error


@asynccontextmanager
async def _in_background(renewals: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run renewals during the block."""
    task = asyncio.ensure_future(renewals)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


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
