"""The event loop on which the functions of an app run."""

import asyncio
import threading

import pytest

from localdev.host.worker import Worker


async def test_a_call_ends_though_it_was_cancelled_before_it_began() -> None:
    """A function that cancels all tasks meets others that have just been created. The host must not wait for them."""
    worker = Worker(lambda _: None)
    worker.start()
    has_begun, is_scheduled = threading.Event(), threading.Event()

    async def cancel_all() -> None:
        has_begun.set()
        is_scheduled.wait()  # blocks the loop, so that the next call waits in its queue
        await asyncio.sleep(0)  # the task of the next call is created
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def work() -> None:
        pytest.fail("the call began")

    culprit = worker.call(cancel_all)
    has_begun.wait()
    innocent = worker.call(work)
    is_scheduled.set()

    await asyncio.wrap_future(culprit)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await asyncio.wrap_future(innocent)
