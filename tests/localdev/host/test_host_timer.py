"""The timer trigger."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, override

from localdev.host.app import Function, TimerTrigger
from localdev.host.execution import Executor
from localdev.host.ncrontab import Schedule
from localdev.host.timers import NAP, TimerListener
from localdev.host.worker import Datum
from tests.localdev.host.running import App
from tests.waiting import wait_until


class Recorder(Executor):
    """Notes the data of each run, and stops the listener after a number of runs."""

    def __init__(self, stopping: asyncio.Event, runs: int) -> None:
        self.got: list[dict[str, Any]] = []
        self._stopping = stopping
        self._runs = runs

    @override
    async def run(
        self, function: Function, data: Datum, metadata: Mapping[str, Datum], *, reason: str, details: str = ""
    ) -> bool:
        self.got.append(json.loads(data.value))
        if len(self.got) == self._runs:
            self._stopping.set()
        return False


async def run_timer(
    schedule: str, clock: list[str], *, runs: int, use_monitor: bool = True, nap: timedelta = NAP
) -> list[dict[str, Any]]:
    """Run a timer with a clock that shows these times, one after the other."""
    times: Iterator[str] = iter(clock)

    def now() -> datetime:
        return datetime.fromisoformat(f"2025-08-23T{next(times)}Z")

    trigger = TimerTrigger(schedule=Schedule.parse(schedule), run_on_startup=False, use_monitor=use_monitor)
    function = Function(name="tick", id="tick", bindings=(), parameter="timer", trigger=trigger, disabled=False)
    stopping = asyncio.Event()
    recorder = Recorder(stopping, runs)
    listener = TimerListener(function, trigger, recorder, now=now, nap=nap)
    async with asyncio.timeout(10):
        await listener.run(stopping, asyncio.ensure_future)
    return recorder.got


async def test_one_run_follows_missed_occurrences() -> None:
    """The run has `past_due`, and the next occurrence is on time. Failed runs do not change the schedule."""
    clock = ["12:00:00.5", "12:00:05.1", "12:00:05.2", "12:00:06.1", "12:00:06.2"]
    late, on_time = await run_timer("* * * * * *", clock, runs=2)
    assert late == {
        "Schedule": {"AdjustForDST": True},
        "ScheduleStatus": {
            "Last": "0001-01-01T00:00:00+00:00",
            "Next": "2025-08-23T12:00:01+00:00",
            "LastUpdated": "0001-01-01T00:00:00+00:00",
        },
        "IsPastDue": True,
    }
    assert not on_time["IsPastDue"]
    assert on_time["ScheduleStatus"]["Last"] == "2025-08-23T12:00:05.200000+00:00"
    assert on_time["ScheduleStatus"]["Next"] == "2025-08-23T12:00:06+00:00"


async def test_a_timer_follows_the_wall_clock() -> None:
    """The host reads the wall clock often, because the event loop's clock stops while the machine sleeps."""
    clock = ["12:00:01", "12:00:02", "13:00:00", "13:00:00"]
    (run,) = await run_timer("0 0 * * * *", clock, runs=1, use_monitor=False, nap=timedelta(milliseconds=10))
    assert not run["IsPastDue"]
    assert run["ScheduleStatus"] is None, "without use_monitor there is no status"


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
