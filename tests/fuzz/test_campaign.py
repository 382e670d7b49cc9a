"""The campaigns themselves: a case that keeps the event loop is a finding, and one that was slow only once is not."""

import asyncio
from collections.abc import Callable, Iterator
from functools import lru_cache
from random import Random
from time import thread_time

import pytest
from hypothesis import strategies as st

from tests.fuzz.campaign import Campaign

TOO_LONG = 1.0  # seconds of CPU: far above the limit, also on a slow machine


@pytest.fixture
def own() -> Campaign:
    """Return a campaign that does not appear in the summary."""
    return Campaign("own", 1, 1, None)


def _work(seconds: float) -> None:
    end = thread_time() + seconds
    while thread_time() < end:
        pass


def number(choices: Random) -> int:
    return choices.randrange(10)


def _slow_once() -> Callable[[object], None]:
    done = list[bool]()

    def check(_: object) -> None:
        if not done:
            done.append(True)
            _work(TOO_LONG)

    return check


def test_a_case_that_is_always_slow_is_a_finding(own: Campaign) -> None:
    """It is measured again before."""
    with pytest.raises(pytest.fail.Exception, match="Slow at .* ms of CPU in one piece; the limit is"):
        own.run(1, number, lambda _: _work(TOO_LONG))


async def test_an_asynchronous_case_that_keeps_the_loop_is_a_finding(own: Campaign) -> None:
    """One that waits, or that works in pieces, is not."""

    async def keeps(_: int) -> None:
        await asyncio.sleep(0)
        _work(TOO_LONG)
        await asyncio.sleep(0)

    async def yields(_: int) -> None:
        for _ in range(100):
            _work(TOO_LONG / 100)
            await asyncio.sleep(0)

    await own.run_async(1, number, yields)
    with pytest.raises(pytest.fail.Exception, match="Slow at"):
        await own.run_async(1, number, keeps)


def test_an_example_that_is_always_slow_is_a_finding(own: Campaign) -> None:
    """Hypothesis does not try to make it small."""
    with pytest.raises(pytest.fail.Exception, match="Slow at"):
        own.explore(1, st.just(1), lambda _: _work(TOO_LONG))


def test_a_case_that_is_slow_only_the_first_time_is_in_the_summary(own: Campaign) -> None:
    """It may have imported a module, or met the garbage collector."""
    own.run(3, number, _slow_once())

    first, once = own.summary()
    assert "3 cases, 0 findings, first case " in first
    assert "ms when it was measured again" in once


def test_work_in_steps_is_measured_step_by_step(own: Campaign) -> None:
    """As a tick does it, which lets others use the event loop between two steps."""

    def check(_: int) -> Iterator[None]:
        for _ in range(100):
            _work(TOO_LONG / 100)
            yield

    own.run(1, number, check)
    assert "ms when it was measured again" not in str(own.summary())


def test_a_cache_of_the_app_does_not_make_the_second_time_fast(own: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches are emptied before a case is measured again."""

    @lru_cache(maxsize=10)
    def find(_: int) -> None:
        _work(TOO_LONG)

    monkeypatch.setattr("datasync.cron.find", find, raising=False)
    with pytest.raises(pytest.fail.Exception, match="Slow at"):
        own.run(1, number, find)
