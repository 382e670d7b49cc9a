"""Tries: a write under an ETag is repeated if somebody else was faster, a limited number of times."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from random import uniform

MOST = 20
"""The most tries. They take up to half a minute, besides the time of the requests."""

_FIRST_PAUSE = timedelta(milliseconds=50)
_LONGEST_PAUSE = timedelta(seconds=2)


async def tries(sleep: Callable[[timedelta], Awaitable[None]]) -> AsyncIterator[None]:
    """Yield MOST times, with random pauses in between that grow, to spread the writers that have met."""
    pause = _FIRST_PAUSE
    yield
    for _ in range(MOST - 1):
        await sleep(pause * uniform(0.5, 1))  # noqa: S311 - spreads tries, protects nothing
        pause = min(pause * 2, _LONGEST_PAUSE)
        yield
