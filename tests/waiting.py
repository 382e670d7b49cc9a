"""Waiting for a condition, instead of sleeping."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def wait_until(
    predicate: Callable[[], object] | Callable[[], Awaitable[object]], *, description: str, seconds: float = 30
) -> None:
    """Return as soon as the predicate, sync or async, holds. Raises TimeoutError, with the description, if not."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                held = predicate()
                if inspect.isawaitable(held):
                    held = await held
                if held:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TimeoutError(f"waited {seconds} s, in vain, until {description}") from None
