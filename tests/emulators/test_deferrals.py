"""Runs that are deferred: one at a time waits for each flow of a tenant, and not too short."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRun, GiveUp, RetryLater
from datasync.model.job import Trigger, run_id
from datasync.run.settle import MOST_DEFERRALS
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, registered
from tests.documents import document, entry
from tests.faults import Wire
from tests.world import World

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


class Source:
    """A flow whose first run is deferred for a day."""

    def __init__(self, services: Services, wire: Wire, end: BaseException | None = None, **options: Any) -> None:
        self.runs: list[str] = []
        self.windows: list[tuple[datetime | None, datetime]] = []
        self.ends: list[BaseException | None] = [end or RetryLater(DAY, "asked too often")]
        self.host = Deliveries(services, wire, registered(self.flow, **options))

    async def flow(self, _tenant_id: str, _kv: SecretClient, run: FlowRun) -> None:
        self.runs.append(run.run_id)
        if end := self.ends.pop(0) if self.ends else None:
            raise end
        self.windows.append((run.window.start, run.window.end))

    async def comes(self, run: str, after: timedelta, **fields: Any) -> None:
        """Deliver the job of an occurrence, at its time."""
        self.host.clock.time = NOW + after
        posted = self.host.post(run_id=run, scheduled_utc=NOW + after, **fields)
        self.host.waiting.remove(posted)
        self.host.waiting.insert(0, posted)
        await self.host.next()


async def outcomes(world: World) -> dict[str, list[str]]:
    return {each["runId"]: [attempt["outcome"] for attempt in each["attempts"]] for each in await world.records()}


async def test_an_hourly_flow_that_is_deferred_for_a_day_has_one_job_on_the_queue(
    world: World, wire: Wire, services: Services
) -> None:
    """The other occurrences are skipped, and recorded with the reason. One run follows the deferred one."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)
    hourly = [f"r-{number}" for number in range(24)]
    for number, run in enumerate(hourly):
        await source.comes(run, number * HOUR)

    assert source.runs == ["r-0"]
    assert [(each.job.run_id, each.visible_at) for each in source.host.waiting] == [("r-0", NOW + DAY)]
    skipped = await services.runs.record("t", "r-7")
    assert skipped
    assert skipped.error
    assert skipped.error.message == "run r-0 of the same flow and tenant is deferred until 2025-08-24T12:00:00Z"

    await source.host.all()

    follow_up = run_id("once more", "r-23")
    skips = {run: ["skipped_overlap"] for run in hourly[1:]}
    assert await outcomes(world) == {"r-0": ["deferred", "succeeded"], **skips, follow_up: ["succeeded"]}
    assert source.runs == ["r-0", "r-0", follow_up]
    assert source.windows == [(None, NOW), (NOW, NOW + 23 * HOUR)]


async def test_a_flow_that_skips_has_no_follow_up(world: World, wire: Wire, services: Services) -> None:
    """The next occurrence after the deferred run covers the time."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire, overlap="skip")
    await source.comes("r-0", timedelta())
    await source.comes("r-1", HOUR)
    await source.host.all()
    await source.comes("r-2", DAY + HOUR)

    expected = {"r-0": ["deferred", "succeeded"], "r-1": ["skipped_overlap"], "r-2": ["succeeded"]}
    assert await outcomes(world) == expected
    assert source.windows == [(None, NOW), (NOW, NOW + DAY + HOUR)]


@pytest.mark.parametrize("trigger", [Trigger.FORCED, Trigger.MESSAGE, Trigger.REDRIVE])
async def test_a_run_that_a_person_asks_for_runs_at_once(
    world: World, wire: Wire, services: Services, trigger: Trigger
) -> None:
    """If it succeeds, the schedule goes on. The deferred run comes at its time."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)
    await source.comes("r-0", timedelta())
    await source.comes("asked", HOUR, trigger=trigger, redrive=int(trigger is Trigger.REDRIVE))
    await source.comes("r-2", 2 * HOUR)
    await source.host.all()

    runs = ["r-0", "asked", "r-2"]
    assert await outcomes(world) == {run: [*(["deferred"] if run == "r-0" else []), "succeeded"] for run in runs}


@pytest.mark.parametrize("end", [RetryLater(2 * DAY), GiveUp("closed")], ids=repr)
async def test_a_run_that_a_person_asks_for_and_does_not_succeed(
    world: World, wire: Wire, services: Services, end: BaseException
) -> None:
    """The occurrences are still skipped, and one run follows at last."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)
    source.ends.append(end)
    await source.comes("r-0", timedelta())
    await source.comes("asked", HOUR, trigger=Trigger.MESSAGE)
    await source.comes("r-2", 2 * HOUR)

    assert source.runs == ["r-0", "asked"]
    assert (await outcomes(world))["r-2"] == ["skipped_overlap"]
    await source.host.all()
    assert source.windows[-1][1] >= NOW + 2 * HOUR


async def test_one_of_two_deferred_runs_remains(world: World, wire: Wire, services: Services) -> None:
    """A deferred run whose time comes while another one is deferred for longer is skipped."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)
    source.ends.append(RetryLater(2 * DAY))
    await source.comes("r-0", timedelta())
    await source.comes("asked", HOUR, trigger=Trigger.MESSAGE)
    await source.host.all()

    follow_up = run_id("once more", "r-0~0.1")
    expected = {"r-0": ["deferred", "skipped_overlap"], "asked": ["deferred", "succeeded"], follow_up: ["succeeded"]}
    assert await outcomes(world) == expected


async def test_a_run_that_was_skipped_before_waits_for_the_deferred_one(
    world: World, wire: Wire, services: Services
) -> None:
    """It follows at the end of the deferred run, not at the deferral, when the API would be called too early."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        if not source.runs:
            source.host.post(run_id="r-1")
            await source.host.next()
        await source.flow(tenant_id, kv, run)

    source.host.registry = registered(flow)
    source.host.clock.time = NOW
    source.host.post(run_id="r-0")
    source.runs.clear()
    await source.host.next()
    assert [job.run_id for job in source.host.jobs] == ["r-0"]
    await source.host.all()

    assert source.runs == ["r-0", "r-0", run_id("once more", "r-1")]


async def test_a_deferred_run_whose_process_has_a_slow_clock_runs(world: World, wire: Wire, services: Services) -> None:
    """Its own deferral does not keep it from running."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)
    await source.comes("r-0", timedelta())
    (waiting,) = source.host.waiting
    source.host.waiting.clear()
    source.host.post_body(waiting.body)
    await source.host.next()

    assert await outcomes(world) == {"r-0": ["deferred", "succeeded"]}


async def test_a_deferral_for_longer_than_a_week_was_edited(world: World, wire: Wire, services: Services) -> None:
    """It does not count, as no message is hidden for so long. A flow would not run for years."""
    await world.put(document("t", entry("flow")))
    deferral = {"leg": "r-0~0.1", "runId": "r-0", "untilUtc": "2099-01-01T00:00:00Z"}
    state = {"id": "state-flow", "tenantId": "t", "type": "FlowState", "flowName": "flow", "deferral": deferral}
    await world.runs.upsert_item(state)
    source = Source(services, wire)
    source.ends.clear()
    await source.comes("r-1", timedelta())

    assert source.runs == ["r-1"]


async def test_deferrals_without_a_delay_become_longer(world: World, wire: Wire, services: Services) -> None:
    """A second at first, then twice as long each time, up to a minute. A longer delay is as the flow asks for."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)
    source.ends[:] = [*[RetryLater(timedelta())] * 9, RetryLater(HOUR), None]
    source.host.post()
    await source.host.all()

    (record,) = await world.records()
    times = [datetime.fromisoformat(attempt["startedUtc"]) for attempt in record["attempts"]]
    waited = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60, 60, 3600]


async def test_a_number_of_deferrals_that_was_posted_by_hand_ends_the_run(
    world: World, wire: Wire, services: Services
) -> None:
    """No message could have the next number."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)
    source.host.post(deferral=1_000_000)
    await source.host.all()

    (record,) = await world.records()
    assert (record["outcome"], record["attemptCount"]) == ("dead", 1)
    assert "deferred 1000000 times" in record["error"]["message"]


async def test_a_run_that_is_always_deferred_without_a_delay_ends(world: World, wire: Wire, services: Services) -> None:
    """It has made few attempts an hour, and one record."""
    await world.put(document("t", entry("flow")))
    source = Source(services, wire)
    source.ends[:] = [RetryLater(timedelta())] * (MOST_DEFERRALS + 1)
    source.host.post()
    await source.host.all(150)

    (record,) = await world.records()
    assert (record["outcome"], record["attemptCount"]) == ("dead", MOST_DEFERRALS + 1)
    assert source.host.clock.now() - NOW > timedelta(minutes=90)
