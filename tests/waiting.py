"""Waits for a condition instead of a fixed time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def wait_until(
    predicate: Callable[[], object] | Callable[[], Awaitable[object]],
    *,
    description: str,
    seconds: float = 30,
    pause: float = 0.05,
) -> None:
    """Wait until the predicate, sync or async, is true. Raises TimeoutError, with the description, after `seconds`.

    `pause` is the time between two looks, in seconds.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                held = predicate()
                if inspect.isawaitable(held):
                    held = await held
                if held:
                    return
                await asyncio.sleep(pause)
    except TimeoutError:
        raise TimeoutError(f"not true after {seconds} s: {description}") from None
