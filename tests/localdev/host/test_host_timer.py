"""The timer trigger."""

import asyncio
import json
import logging
import signal
from collections.abc import Container, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, override

import pytest

from localdev.host.app import NO_RETRIES, Function, RetryPolicy, TimerTrigger
from localdev.host.execution import Executor
from localdev.host.ncrontab import Schedule
from localdev.host.timers import NAP, TimerListener
from localdev.host.worker import NOT_A_RETRY, Datum, Invoked, Retry
from localdev.hosting import invoke
from tests.localdev.host.running import App
from tests.waiting import wait_until


class Recorder(Executor):
    """Notes the runs, which fail, and stops the listener after a number of them."""

    def __init__(self, stopping: asyncio.Event, runs: int, successes: Container[int]) -> None:
        self.got: list[dict[str, Any]] = []
        self.retries: list[Retry] = []
        self._stopping = stopping
        self._runs = runs
        self._successes = successes

    @override
    async def run(
        self,
        function: Function,
        data: Datum,
        metadata: Mapping[str, Datum],
        *,
        reason: str,
        details: str = "",
        retry: Retry = NOT_A_RETRY,
    ) -> Invoked:
        assert isinstance(data.value, str)
        self.got.append(json.loads(data.value))
        self.retries.append(retry)
        if len(self.got) == self._runs:
            self._stopping.set()
        return Invoked(None if len(self.got) in self._successes else "failed")


async def run_timer(
    schedule: str,
    clock: list[str],
    *,
    runs: int,
    use_monitor: bool = True,
    nap: timedelta = NAP,
    retries: RetryPolicy = NO_RETRIES,
    successes: Container[int] = (),
) -> Recorder:
    """Run a timer with a clock that shows these times, one after the other.

    Runs fail, except those with the numbers in `successes`. The first is 1.
    """
    times: Iterator[str] = iter(clock)

    def now() -> datetime:
        return datetime.fromisoformat(f"2025-08-23T{next(times)}Z")

    trigger = TimerTrigger(
        schedule=Schedule.parse(schedule), run_on_startup=False, use_monitor=use_monitor, retries=retries
    )
    function = Function(name="tick", id="tick", bindings=(), parameter="timer", trigger=trigger, disabled=False)
    stopping = asyncio.Event()
    recorder = Recorder(stopping, runs, successes)
    listener = TimerListener(function, trigger, recorder, now=now, nap=nap)
    async with asyncio.timeout(10):
        await listener.run(stopping, asyncio.ensure_future)
    assert next(times, None) is None, "the clock was read less often"
    return recorder


async def test_one_run_follows_missed_occurrences() -> None:
    """It is not past due, as the host was not stopped. The next occurrence is on time, also after a failed run."""
    clock = ["12:00:00.5", "12:00:05.1", "12:00:05.2", "12:00:06.1", "12:00:06.2"]
    late, on_time = (await run_timer("* * * * * *", clock, runs=2)).got
    assert late == {
        "Schedule": {"AdjustForDST": True},
        "ScheduleStatus": {
            "Last": "0001-01-01T00:00:00+00:00",
            "Next": "2025-08-23T12:00:01+00:00",
            "LastUpdated": "0001-01-01T00:00:00+00:00",
        },
        "IsPastDue": False,
    }
    assert not on_time["IsPastDue"]
    assert on_time["ScheduleStatus"]["Last"] == "2025-08-23T12:00:05.200000+00:00"
    assert on_time["ScheduleStatus"]["Next"] == "2025-08-23T12:00:06+00:00"


async def test_a_timer_follows_the_wall_clock() -> None:
    """The host reads the wall clock often, because the event loop's clock stops while the machine sleeps."""
    clock = ["12:00:01", "12:00:02", "13:00:00", "13:00:00"]
    (run,) = (await run_timer("0 0 * * * *", clock, runs=1, use_monitor=False, nap=timedelta(milliseconds=10))).got
    assert not run["IsPastDue"]
    assert run["ScheduleStatus"] is None, "without use_monitor there is no status"


AT_ONCE = RetryPolicy(max_count=2, minimum=timedelta(), maximum=timedelta())
HOURLY = "0 0 * * * *"


async def test_a_failed_run_is_repeated_until_it_succeeds() -> None:
    """Each attempt gets the same data, and the number of the retry. After a success, the schedule continues."""
    clock = ["12:00:00.5", "13:00:00", "13:00:00.1", "14:00:00", "14:00:00.1"]
    ran = await run_timer(HOURLY, clock, runs=3, retries=AT_ONCE, successes={2, 3})
    assert ran.retries == [Retry(0, 2), Retry(1, 2), Retry(0, 2)]
    first, repeated, next_run = ran.got
    assert first == repeated
    assert next_run["ScheduleStatus"]["Last"] == "2025-08-23T13:00:00.100000+00:00"


async def test_retries_end_at_their_limit(caplog: pytest.LogCaptureFixture) -> None:
    """Then the host logs an error, and waits for the next occurrence."""
    clock = ["12:00:00.5", "13:00:00", "13:00:00.1", "14:00:00", "14:00:00.1"]
    ran = await run_timer(HOURLY, clock, runs=4, retries=AT_ONCE, successes={4})
    assert ran.retries == [Retry(0, 2), Retry(1, 2), Retry(2, 2), Retry(0, 2)]
    assert caplog.messages.count("Function execution failed after '2' retries.") == 1


async def test_retries_can_have_no_limit() -> None:
    """A `max_retry_count` of -1 means this."""
    retries = RetryPolicy(max_count=-1, minimum=timedelta(), maximum=timedelta())
    ran = await run_timer(HOURLY, ["12:00:00.5", "13:00:00", "13:00:00.1"], runs=50, retries=retries)
    assert ran.retries == [Retry(count, -1) for count in range(50)]


async def test_occurrences_during_retries_give_one_run() -> None:
    """It follows at once, however many there were. Then the next one is computed from the start of this run."""
    clock = ["12:00:00.5", "12:00:01", "12:00:01.1", "12:00:09", "12:00:09.1", "12:00:10", "12:00:10.1"]
    ran = await run_timer("* * * * * *", clock, runs=4, retries=AT_ONCE, successes={2, 3, 4})
    assert ran.retries == [Retry(0, 2), Retry(1, 2), Retry(0, 2), Retry(0, 2)]
    late, on_time = ran.got[2:]
    assert not late["IsPastDue"]
    assert late["ScheduleStatus"]["Next"] == "2025-08-23T12:00:02+00:00"
    assert on_time["ScheduleStatus"]["Next"] == "2025-08-23T12:00:10+00:00"


async def test_the_pause_before_a_retry_grows(caplog: pytest.LogCaptureFixture) -> None:
    """With exponential back-off, it grows from the minimum to the maximum."""
    caplog.set_level(logging.DEBUG, "localdev.host.timers")
    retries = RetryPolicy(max_count=4, minimum=timedelta(milliseconds=1), maximum=timedelta(milliseconds=4))
    await run_timer(HOURLY, ["12:00:00.5", "13:00:00", "13:00:00.1"], runs=5, retries=retries)
    pauses = [line.split("`")[1] for line in caplog.messages if line.startswith("Waiting for ")]
    assert pauses[0] == "0:00:00.001000"
    assert pauses[0] < pauses[1] < pauses[2] < pauses[3] == "0:00:00.004000"


async def test_a_host_that_stops_does_not_wait_for_a_retry(caplog: pytest.LogCaptureFixture) -> None:
    """The run that has failed is not repeated."""
    retries = RetryPolicy(max_count=-1, minimum=timedelta(hours=1), maximum=timedelta(hours=1))
    ran = await run_timer(HOURLY, ["12:00:00.5", "13:00:00", "13:00:00.1"], runs=1, retries=retries)
    assert len(ran.got) == 1
    assert "Invocation cancelled - exiting retry loop." in caplog.messages


async def test_a_timer_runs_on_schedule_and_at_the_start(bare_app: App) -> None:
    """The schedule can be an app setting. A failed run is logged, and the next occurrence still runs."""
    bare_app.write(
        """
@app.timer_trigger(arg_name="timer", schedule="%EVERY%", run_on_startup=True)
async def tick(timer: func.TimerRequest) -> None:
    seen(past_due=timer.past_due, next=timer.schedule_status["Next"])
    raise ValueError("no good")

@app.timer_trigger(arg_name="timer", schedule="0 0 0 31 2 *")
def never(timer: func.TimerRequest) -> None: ...
""",
        settings={"IsEncrypted": False, "Values": {"EVERY": "* * * * * *"}},
    )
    async with bare_app.running() as host:
        assert host.ready.startswith("Host started: 2 functions (tick timer, never timer) on ")
        await wait_until(lambda: len(bare_app.seen()) >= 3, description="two occurrences have run")
    assert host.has_logged("Trigger Details: UnscheduledInvocationReason: RunOnStartup")
    assert host.has_logged("Executed 'Functions.tick' (Failed", times=3)
    assert host.has_logged("Executing 'Functions.tick' (Reason='Timer fired at 20", times=3)
    first, second, third = bare_app.seen()[:3]
    assert not first["past_due"]
    assert datetime.fromisoformat(third["next"]).astimezone(UTC) > datetime.fromisoformat(second["next"])
    assert host.has_logged("Function 'never' never runs: no day matches 0 0 0 31 2 *"), "the real host accepts it too"


async def test_the_retry_policy_is_that_of_the_decorator(bare_app: App) -> None:
    """A run that an admin call has started is repeated too. Each attempt is an invocation of its own."""
    bare_app.write(
        """
@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
@app.retry(strategy="exponential_backoff", max_retry_count="3", minimum_interval="00:00:00",
           maximum_interval="00:00:01")
async def tick(timer: func.TimerRequest, context: func.Context) -> None:
    retry = context.retry_context
    seen(retry=retry.retry_count, limit=retry.max_retry_count, invocation=context.invocation_id)
    if retry.retry_count < 2:
        raise ValueError("no good")
"""
    )
    async with bare_app.running() as host:
        await invoke(host.url, "tick")
        await wait_until(lambda: host.has_logged("Executed 'Functions.tick' (Succeeded"), description="it succeeded")
    assert [(seen["retry"], seen["limit"]) for seen in bare_app.seen()] == [(0, 3), (1, 3), (2, 3)]
    assert len({seen["invocation"] for seen in bare_app.seen()}) == 3


async def test_a_host_stops_during_the_pause_before_a_retry(bare_app: App) -> None:
    """The pause takes an hour."""
    bare_app.write(
        """
@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
@app.retry(strategy="fixed_delay", max_retry_count="-1", delay_interval="01:00:00")
async def tick(timer: func.TimerRequest) -> None:
    raise ValueError("no good")
"""
    )
    async with bare_app.running("--drain", "3600") as host:
        await invoke(host.url, "tick")
        await wait_until(lambda: host.has_logged("Executed 'Functions.tick' (Failed"), description="it failed")
        assert await host.exit_code(signal.SIGTERM) == 0
    assert host.has_logged("Invocation cancelled - exiting retry loop.")
