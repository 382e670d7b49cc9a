"""The watchdog notices that the event loop stands still, and names the run and the line of code."""

import asyncio
import ctypes
import inspect
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from types import FunctionType

import pytest

from datasync.clock import Clock
from datasync.flow.watchdog import DEBUGGER, Block, Watchdog, current_run
from tests.waiting import wait_until

THRESHOLD = timedelta(seconds=0.2)
BLOCK = 0.5  # seconds


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """Return a watchdog that keeps blocks of 0.2 s and more."""
    made = Watchdog(Clock(), threshold=THRESHOLD)
    yield made
    made.stop()


@pytest.fixture
def switch_interval() -> Iterator[Callable[[float], None]]:
    """Return a function that sets how many seconds Python code holds the interpreter lock before it passes it on."""
    before = sys.getswitchinterval()
    yield sys.setswitchinterval
    sys.setswitchinterval(before)


def line_of(function: Callable[..., object], text: str) -> str:
    """Return `file:line` of a text in a function."""
    lines, first = inspect.getsourcelines(function)
    (number,) = (first + n for n, line in enumerate(lines) if text in line)
    return f"tests/unit/test_watchdog.py:{number}"


async def in_run(subject: str, function: Callable[[], object]) -> None:
    """Call a function in a task of a run."""

    async def flow() -> None:
        function()

    context = copy_context()
    context.run(current_run.set, subject)
    await asyncio.get_running_loop().create_task(flow(), context=context)


async def watched(watchdog: Watchdog) -> float:
    """Start the watchdog, and return the moment."""
    watchdog.start(asyncio.get_running_loop())
    return watchdog.clock.monotonic()


def sleeps() -> None:
    time.sleep(BLOCK)  # in C, without a frame of its own


def computes() -> None:
    end = time.monotonic() + BLOCK
    total = 0
    while time.monotonic() < end:
        total += sum(range(10_000))


def matches() -> None:
    re.match("(a+)+$", "a" * 25 + "b")  # tries every way to split the text. In C, with the interpreter lock


def freezes() -> None:
    ctypes.PyDLL(None).usleep(int(BLOCK * 1e6))  # no thread runs meanwhile, as after SIGSTOP


def waits_in_a_library() -> None:
    event = threading.Event()
    event.wait(
        timeout=BLOCK,
    )


def calls_a_method_on_another_line() -> None:
    (
        threading.Event()
        .wait(BLOCK)
    )  # fmt: skip


async def test_a_block_has_the_run_and_the_line_and_the_call(watchdog: Watchdog) -> None:
    """The innermost line of the flow's own code, and the name of the function that it called there."""
    moment = await watched(watchdog)

    await in_run("acme/slow", sleeps)

    (block,) = watchdog.blocks_since(moment)
    assert (block.subject, block.place) == ("acme/slow", f"{line_of(sleeps, 'time.sleep')} (time.sleep)")
    assert block.seconds >= BLOCK
    assert datetime.now(UTC) - timedelta(minutes=1) < block.started <= datetime.now(UTC)


async def test_the_time_in_which_a_debugger_waits_belongs_to_no_run(watchdog: Watchdog) -> None:
    """So it counts in no timeout."""
    moment = await watched(watchdog)
    prompt = FunctionType(sleeps.__code__, {"__name__": "pdb", "time": time, "BLOCK": BLOCK})

    await in_run("acme/debugged", prompt)

    (block,) = watchdog.blocks_since(moment)
    assert (block.subject, block.place) == (None, DEBUGGER)
    assert watchdog.blocked_since(moment, except_by="acme/debugged").total_seconds() >= BLOCK


async def test_a_block_above_two_seconds_is_kept_by_default() -> None:
    """With the values of production: a block of 2.5 s is kept, one of 0.5 s is not."""
    watchdog = Watchdog(Clock())
    try:
        moment = await watched(watchdog)
        await in_run("acme/short", sleeps)
        await in_run("acme/slow", lambda: time.sleep(2.5))

        assert [block.subject for block in watchdog.blocks_since(moment)] == ["acme/slow"]
    finally:
        watchdog.stop()


@pytest.mark.parametrize(
    ("blocks", "line", "call"),
    [
        (waits_in_a_library, "event.wait(", "event.wait"),
        (calls_a_method_on_another_line, ".wait(", "….wait"),
    ],
)
async def test_a_call_into_a_library_is_named_by_the_own_line(
    watchdog: Watchdog, blocks: Callable[[], None], line: str, call: str
) -> None:
    """The lines of the library are not shown, and of the expression before a method only names."""
    moment = await watched(watchdog)

    await in_run("acme/slow", blocks)

    (block,) = watchdog.blocks_since(moment)
    assert block.place == f"{line_of(blocks, line)} ({call})"


async def test_a_computation_is_found_too(watchdog: Watchdog) -> None:
    """Python code that runs without a pause is a block, with one of its lines as the place."""
    moment = await watched(watchdog)

    await in_run("acme/computes", computes)

    (block,) = watchdog.blocks_since(moment)
    lines, first = inspect.getsourcelines(computes)
    number = int(block.place.split(" ")[0].removeprefix("tests/unit/test_watchdog.py:"))
    assert block.subject == "acme/computes"
    assert first <= number < first + len(lines)


async def test_code_without_a_source_has_a_place(watchdog: Watchdog) -> None:
    """If the source cannot be read, the line is named without the call."""
    code = compile("import time\ndef blocks(): time.sleep(0.5)\n", "/nowhere/generated.py", "exec")
    names: dict[str, Callable[[], None]] = {}
    exec(code, names)  # noqa: S102 - code without a file
    moment = await watched(watchdog)

    await in_run("acme/generated", names["blocks"])

    (block,) = watchdog.blocks_since(moment)
    assert block.place == "/nowhere/generated.py:2"


async def test_a_callback_that_blocks_belongs_to_no_run(watchdog: Watchdog) -> None:
    """A callback runs outside tasks."""
    moment = await watched(watchdog)

    asyncio.get_running_loop().call_soon(sleeps)
    await wait_until(lambda: watchdog.blocks_since(moment), description="the block is noticed")

    (block,) = watchdog.blocks_since(moment)
    assert (block.subject, block.place) == (None, f"{line_of(sleeps, 'time.sleep')} (time.sleep)")


async def test_a_coroutine_of_a_library_that_blocks_is_named_by_the_own_line(watchdog: Watchdog) -> None:
    """The flow awaits a library, which blocks without the flow's doing."""
    stack = AsyncExitStack()
    stack.callback(time.sleep, BLOCK)

    async def flow() -> None:
        await stack.aclose()

    moment = await watched(watchdog)
    await flow()

    (block,) = watchdog.blocks_since(moment)
    assert block.place == f"{line_of(flow, 'stack.aclose')} (stack.aclose)"


async def test_a_call_that_holds_the_interpreter_lock_is_seen_at_its_end(watchdog: Watchdog) -> None:
    """The lock stops the watchdog too. When it is released, the thread of the loop is still in the same line."""
    moment = await watched(watchdog)

    await in_run("acme/matches", matches)

    (block,) = watchdog.blocks_since(moment)
    assert (block.subject, block.place) == ("acme/matches", f"{line_of(matches, 're.match')} (re.match)")


async def test_a_process_that_stood_still_blames_no_run(watchdog: Watchdog) -> None:
    """It has used no CPU meanwhile. Its time counts all the same."""
    moment = await watched(watchdog)

    await in_run("acme/innocent", freezes)

    (block,) = watchdog.blocks_since(moment)
    assert (block.subject, block.place.split(":")[0]) == (None, "an unknown place")
    assert watchdog.blocked_since(moment) >= THRESHOLD


async def test_another_thread_that_holds_the_interpreter_lock_blames_no_run(watchdog: Watchdog) -> None:
    """The loop only waits for the lock. Which thread had it is not known."""
    moment = await watched(watchdog)

    await asyncio.to_thread(matches)

    assert {each.subject for each in watchdog.blocks_since(moment)} <= {None}
    assert watchdog.blocked_since(moment) >= THRESHOLD


async def test_a_block_whose_place_is_over_before_the_watchdog_looks_has_none(
    watchdog: Watchdog, switch_interval: Callable[[float], None]
) -> None:
    """The watchdog does not get the interpreter lock before the loop runs again."""
    moment = await watched(watchdog)

    switch_interval(60)
    await in_run("acme/holds", computes)

    (block,) = watchdog.blocks_since(moment)
    assert (block.subject, block.place.split(":")[0]) == (None, "an unknown place")
    assert watchdog.blocked_since(moment) >= THRESHOLD


async def test_a_callback_counts_as_blocked_time(watchdog: Watchdog) -> None:
    """Blocks without a run count, also beside the blocks of a run that asks."""
    moment = await watched(watchdog)

    asyncio.get_running_loop().call_soon(sleeps)
    await wait_until(lambda: watchdog.blocks_since(moment), description="the block is noticed")

    assert watchdog.blocked_since(moment) >= THRESHOLD
    assert watchdog.blocked_since(moment, except_by="acme/asks") >= THRESHOLD


async def test_the_blocked_time_counts_from_a_moment(watchdog: Watchdog) -> None:
    """Blocks before the moment do not count, nor the blocks of the run that asks."""
    start = await watched(watchdog)
    await in_run("acme/slow", sleeps)
    between = watchdog.clock.monotonic()
    await in_run("acme/slower", sleeps)
    end = watchdog.clock.monotonic()

    in_all, later = watchdog.blocked_since(start), watchdog.blocked_since(between)

    assert in_all >= timedelta(seconds=2 * BLOCK)
    assert timedelta(seconds=BLOCK) <= later <= timedelta(seconds=end - between)
    assert watchdog.blocked_since(end) == timedelta()
    assert [block.subject for block in watchdog.blocks_since(between)] == ["acme/slower"]
    assert watchdog.blocked_since(start, except_by="acme/slow") == timedelta(
        seconds=watchdog.blocks_since(between)[0].seconds
    )


async def test_the_block_that_lasts_counts_in_other_threads(watchdog: Watchdog) -> None:
    """Another thread sees the time of a block before the block has ended."""
    moment = await watched(watchdog)
    seen: list[timedelta] = []

    def look() -> None:
        while not seen:
            if blocked := watchdog.blocked_since(moment):
                seen.append(blocked)

    other = threading.Thread(target=look)
    other.start()
    await in_run("acme/slow", lambda: other.join(30))

    assert timedelta() < seen[0] < timedelta(seconds=30)


async def test_the_hook_is_called_while_a_block_lasts() -> None:
    """It is called again and again with the block so far, outside the thread of the loop. Its exceptions do nothing."""
    called: list[int] = []
    told: list[Block] = []
    third = threading.Event()

    def hook(block: Block) -> None:
        called.append(threading.get_ident())
        told.append(block)
        if len(called) == 3:
            third.set()
        raise RuntimeError("the hook fails")

    watchdog = Watchdog(Clock(), threshold=THRESHOLD, on_long_block=hook, every=timedelta(seconds=0.3))
    try:
        moment = await watched(watchdog)
        await in_run("acme/slow", lambda: third.wait(30))
        (block,) = watchdog.blocks_since(moment)
    finally:
        watchdog.stop()

    assert len(called) == 3
    assert threading.get_ident() not in called
    assert {(each.subject, each.place) for each in told} == {(block.subject, block.place)}
    assert [each.seconds for each in told] == sorted(each.seconds for each in told)
    assert all(0.3 <= each.seconds <= block.seconds for each in told)
    assert block.seconds >= 0.9


async def test_a_hook_that_takes_longer_than_the_block_is_called_once() -> None:
    """The watchdog goes on beside it: the time after the end of the block is not blocked."""
    called, release = threading.Event(), threading.Event()

    def blocks_longer_than_the_interval() -> None:
        called.wait(30)
        time.sleep(1)

    calls: list[bool] = []

    def hook(_: Block) -> None:
        called.set()
        calls.append(release.wait(30))

    long_block = Watchdog(Clock(), threshold=THRESHOLD, on_long_block=hook, every=timedelta(seconds=0.3))
    try:
        moment = await watched(long_block)
        await in_run("acme/slow", blocks_longer_than_the_interval)
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=2 * THRESHOLD.total_seconds())
        blocks = long_block.blocks_since(moment)
        release.set()
        await wait_until(lambda: calls, description="the hook has returned")
    finally:
        long_block.stop()

    assert [block.subject for block in blocks] == ["acme/slow"]
    assert calls == [True]


async def test_a_loop_that_only_waits_is_not_blocked(watchdog: Watchdog) -> None:
    """Waiting tasks leave the loop free."""
    moment = await watched(watchdog)

    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=2 * THRESHOLD.total_seconds())

    assert watchdog.blocked_since(moment) == timedelta()
    assert watchdog.blocks_since(moment) == []


def test_a_loop_that_does_not_run_is_not_blocked(watchdog: Watchdog) -> None:
    """Between two calls of `run_until_complete`, nothing waits for the loop."""
    loop = asyncio.new_event_loop()
    try:
        moment = loop.run_until_complete(watched(watchdog))
        time.sleep(BLOCK)

        assert loop.run_until_complete(blocked_in(watchdog, moment)) == timedelta()
    finally:
        loop.close()


async def blocked_in(watchdog: Watchdog, moment: float) -> timedelta:
    return watchdog.blocked_since(moment)


def watchdog_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "watchdog"}


async def test_a_repeated_start_changes_nothing(watchdog: Watchdog) -> None:
    """One thread watches the loop, and it does not keep the process alive."""
    before = watchdog_threads()
    await watched(watchdog)
    first = watchdog_threads() - before
    await watched(watchdog)

    assert watchdog_threads() - before == first
    assert [thread.daemon for thread in first] == [True]


def test_another_loop_replaces_the_one_before(watchdog: Watchdog) -> None:
    """Blocks of the new loop are found, and one thread remains."""
    before = watchdog_threads()

    async def block() -> list[str | None]:
        moment = await watched(watchdog)
        await in_run("acme/slow", sleeps)
        return [block.subject for block in watchdog.blocks_since(moment)]

    assert [asyncio.run(block()), asyncio.run(block())] == [["acme/slow"]] * 2
    assert len(watchdog_threads() - before) <= 1


def test_the_thread_ends_with_the_loop(watchdog: Watchdog) -> None:
    """A closed loop needs no watchdog."""
    before = watchdog_threads()
    asyncio.run(watched(watchdog))
    for thread in watchdog_threads() - before:
        thread.join(30)

    assert watchdog_threads() <= before


async def test_a_watchdog_that_is_not_started_reports_nothing() -> None:
    """It costs nothing before the first run."""
    watchdog = Watchdog(Clock())

    assert watchdog.blocked_since(0) == timedelta()
    assert watchdog.blocks_since(0) == []
