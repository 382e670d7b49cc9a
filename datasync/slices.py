"""Long work in slices, between which others use the event loop."""

from collections.abc import Awaitable, Callable, Generator


async def finished[T](work: Generator[object, None, T], pause: Callable[[], Awaitable[None]]) -> T:
    """Do work that yields after each of its steps, with a pause after each step, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        await pause()
