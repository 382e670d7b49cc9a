"""Jobs that are planned ahead, on a real queue."""

from datetime import UTC, datetime, timedelta

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun
from datasync.model.job import QueueMessage
from datasync.model.run import RunRecord
from datasync.model.tenant import Tenant
from datasync.services import Services
from datasync.settings import Settings
from tests.documents import document, entry
from tests.stages import FakeClock, deliver, plan, run_job, tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
AT = datetime(2025, 8, 23, 12, 30, tzinfo=UTC)
FLOW = entry(cron="0 30 * * * *", nextRunUtc="2025-08-23T12:30:00Z")


def planned(now: datetime = NOW, message_id: str = "m-1", **edited: object) -> QueueMessage:
    """Return the message of FLOW's next run, planned at `now`."""
    (advance,) = plan(Tenant.from_document(document("tenant-1", {**FLOW, **edited})), now, AT).advances
    return QueueMessage(message_id, next(advance.jobs()).message.encode().encode(), 1, now)


async def run(services: Services, message: QueueMessage, now: datetime = AT) -> RunRecord:
    return await run_job(services, counting(), message, now)


def counting() -> FlowRegistry:
    registry = FlowRegistry()

    @registry.flow("weather")
    async def weather(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        run.count(ran=1)

    return registry


async def test_a_planned_job_is_hidden_until_its_time(world: World) -> None:
    """Jobs up to the horizon are on the queue, but not visible. `nextRunUtc` is after the horizon."""
    services = Services(Settings.from_environ({**world.environ, "ORCHESTRATOR_LOOKAHEAD": "3600"}), FakeClock())
    await world.put(document("tenant-1", entry(cron="0 */15 * * * *", nextRunUtc="2025-08-23T12:15:00Z")))

    tally = await tick(services, NOW)
    again = await tick(services, NOW + timedelta(minutes=1))
    await services.close()

    assert (tally.enqueued, tally.advanced, again.enqueued) == (4, 1, 0)
    assert await world.messages() == []
    assert (await world.jobs.get_queue_properties()).approximate_message_count == 4
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == "2025-08-23T13:15:00Z"


async def test_a_flow_that_exceeds_the_limit_is_planned_once_per_tick(world: World) -> None:
    """The limit of jobs per flow applies to the whole tick, and a problem is reported."""
    services = Services(Settings.from_environ({**world.environ, "ORCHESTRATOR_LOOKAHEAD": "1200"}), FakeClock())
    await world.put(document("tenant-1", entry(cron="* * * * * *", nextRunUtc="2025-08-23T12:00:04Z")))

    tally = await tick(services, NOW)
    await services.close()

    assert (tally.enqueued, tally.advanced, tally.problems) == (1000, 1, 1)


@pytest.mark.parametrize(
    ("edited", "outcome"),
    [
        ({}, "succeeded"),
        ({"settings": {"new": True}}, "succeeded"),
        ({"cron": "0 0 * * * *"}, "skipped_rescheduled"),
        ({"timezone": "Europe/Berlin"}, "skipped_rescheduled"),
        ({"enabled": False}, "skipped_disabled"),
        ({"name": "another"}, "skipped_disabled"),
    ],
)
async def test_a_planned_run_checks_its_entry_first(
    world: World, services: Services, edited: dict[str, object], outcome: str
) -> None:
    """A planned run is recorded as skipped if its flow has since been disabled, removed or rescheduled."""
    await world.put(document("tenant-1", {**FLOW, **edited}))

    ended = await run(services, planned())

    assert ended.outcome == outcome
    assert [record["outcome"] for record in await world.records()] == [outcome]


@pytest.mark.parametrize("is_first", [True, False], ids=["before the new job", "after the new job"])
async def test_a_run_that_was_planned_again_runs_once(world: World, services: Services, is_first: bool) -> None:  # noqa: FBT001
    """Both schedules have an occurrence at this instant. It is one run: the job of the former schedule does not run."""
    zone = "Europe/Berlin"
    former, new = planned(), planned(message_id="m-2", timezone=zone)
    await world.put(document("tenant-1", {**FLOW, "timezone": zone}))

    for message in (former, new) if is_first else (new, former):
        await deliver(services, counting(), message, AT)

    (record,) = await world.records()
    outcomes = [attempt["outcome"] for attempt in record["attempts"]]
    assert outcomes == (["skipped_rescheduled", "succeeded"] if is_first else ["succeeded"])
    assert (record["outcome"], record["counts"]) == ("succeeded", {"ran": 1})


async def test_a_due_run_is_not_skipped_if_its_schedule_changes(world: World, services: Services) -> None:
    """An edit of the cron cancels only runs that were planned ahead."""
    await world.put(document("tenant-1", {**FLOW, "cron": "0 0 * * * *"}))

    assert (await run(services, planned(now=AT))).outcome == "succeeded"


async def test_a_run_that_arrives_early_starts_at_its_scheduled_time(world: World, services: Services) -> None:
    """A job becomes visible shortly before its time, because the host polls. The run waits for its time."""
    await world.put(document("tenant-1", FLOW))
    ended = await run(services, planned(), now=AT - timedelta(milliseconds=300))

    assert services.clock.now() == AT
    assert ended.started_utc == AT


async def test_a_message_far_ahead_of_its_time_does_not_block_a_worker(world: World, services: Services) -> None:
    """The wait is limited. A message that was posted by hand with a far later time runs at once."""
    await world.put(document("tenant-1", FLOW))

    ended = await run(services, planned(), now=AT - timedelta(minutes=20))

    assert (ended.outcome, ended.started_utc) == ("succeeded", AT - timedelta(minutes=20))
    assert (await services.runs.state("tenant-1", ["weather"])).window_end_utc == AT - timedelta(minutes=20)
