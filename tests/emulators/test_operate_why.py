"""`why`: the reason for which a flow of a tenant does not run, with real services."""

from datetime import timedelta

import msgspec
import pytest

from datasync.errors import RetryLater
from datasync.model.job import JobMessage
from datasync.model.lease import Lease
from datasync.model.state import FlowState
from datasync.operate.why import Cause, Why
from datasync.operate.why import why as find_why
from tests.deliveries import NOW, message
from tests.documents import document, entry
from tests.operating import FEED, HOUR, Fleet, command
from tests.world import World

MINUTE = timedelta(minutes=1)


async def why(fleet: Fleet, flow: str = "weather", tenant: str = "t", after: timedelta = MINUTE) -> Why:
    """Ask some time after noon."""
    return await find_why(fleet.services, fleet.registry, tenant, flow, NOW + after)


async def post(world: World, job: JobMessage, *, to_poison: bool = False) -> None:
    await (world.poison if to_poison else world.jobs).send_message(job.encode())


async def test_a_tenant_without_a_document(fleet: Fleet) -> None:
    """Nothing else is looked at."""
    found = await why(fleet)

    assert (found.answer.cause, found.answer.why) == (Cause.NO_TENANT, "there is no document of tenant 't'")
    assert (found.also, found.ruled_out) == ((), ())


async def test_a_tenant_in_other_capitals(fleet: Fleet) -> None:
    """The spelling that is used is named."""
    await fleet.add("Acme")
    await fleet.tick()

    found = await why(fleet, tenant="acme")

    assert found.answer.why == "there is no document of tenant 'acme'; there is one of 'Acme', in other capitals"


async def test_a_document_that_cannot_be_used(world: World, fleet: Fleet) -> None:
    """Before a tick has seen it."""
    await world.put({"id": "t", "tenantId": "t", "type": "Tenant", "flows": "weather"})

    found = await why(fleet)

    assert found.answer.cause is Cause.PROBLEM
    assert 'flows: expected a list of flow entries, got "weather"' in found.answer.why
    assert found.answer.next == "correct the document: python -m datasync tenant get t"


async def test_a_tenant_without_an_entry_for_the_flow(fleet: Fleet) -> None:
    """A similar name is offered."""
    await fleet.add("t")
    await fleet.tick()

    found = await why(fleet, "wether")

    assert (found.answer.cause, found.answer.why) == (
        Cause.NO_ENTRY,
        "the document has no entry for 'wether'; did you mean 'weather'?",
    )


async def test_a_disabled_entry(fleet: Fleet) -> None:
    """It is not wrong. The command that enables it comes next."""
    await fleet.add("t", enabled=False)
    await fleet.tick()

    found = await why(fleet)

    assert (found.answer.cause, found.is_wrong) == (Cause.DISABLED, False)
    assert found.answer.next == "python -m datasync resume t weather"


async def test_an_entry_with_a_problem(fleet: Fleet) -> None:
    """The problem, and the tick that found it first."""
    await fleet.add("t", cron="0 * * * *")
    await fleet.tick()
    await fleet.tick(HOUR)

    found = await why(fleet, after=HOUR)

    assert (found.answer.cause, found.is_wrong) == (Cause.PROBLEM, True)
    assert found.answer.why.startswith("flows[0].cron: cron '0 * * * *': 5 fields found, 6 needed")
    assert found.answer.why.endswith("(found at the tick of 2025-08-23T12:00:00Z)")


async def test_an_entry_that_cannot_be_read(world: World, fleet: Fleet) -> None:
    """Before a tick has seen it, and after."""
    await world.put(document("t", entry(enabled="yes")))
    before = await why(fleet)
    await fleet.tick()
    after = await why(fleet)

    for found in (before, after):
        assert found.answer.cause is Cause.PROBLEM
        assert "enabled: expected true or false, without quotes" in found.answer.why


async def test_a_state_that_cannot_be_read(world: World, fleet: Fleet) -> None:
    """The state is named, with the remedy."""
    await fleet.add("t")
    await fleet.tick()
    await fleet.run("t", "r-1")
    state = await world.runs.read_item("state-weather", partition_key="t")
    await world.runs.upsert_item({**state, "token": "many"})

    found = await why(fleet)

    assert found.answer.cause is Cause.PROBLEM
    assert "flow state id='state-weather' of tenant 't'" in found.answer.why


async def test_a_run_that_is_going_on(world: World, fleet: Fleet) -> None:
    """The run, and the start of its attempt. Later, its lease is over."""
    await fleet.add("t")
    await fleet.tick()
    job = JobMessage(
        tenant_id="t", flow_name="weather", scheduled_utc=NOW, run_id="r-1", enqueued_utc=NOW, message_id="m",
        trigger=msgspec.json.decode(message().body, type=JobMessage).trigger,
    )  # fmt: skip
    lease = Lease(until=(NOW + 3 * MINUTE).timestamp(), nonce="n", started_utc=NOW, message=job)
    await world.runs.upsert_item(FlowState(tenant_id="t", flow_name="weather", lease=lease).document())

    running, over = await why(fleet), await why(fleet, after=4 * MINUTE)

    assert running.answer.cause is Cause.RUNNING
    assert running.answer.why.endswith(
        "is going on since 2025-08-23T12:00:00Z, and its lease lasts until 2025-08-23T12:03:00Z. "
        "Its time limit is 0:10:00"
    )
    assert over.answer.cause is Cause.NOT_DUE
    assert "died, or stood still" in next(each.why for each in over.ruled_out if each.cause is Cause.RUNNING)


async def test_a_run_beside_others_is_going_on(world: World, fleet: Fleet) -> None:
    """The flow allows overlapping runs: the lease is in the record of the run."""
    seen: list[Why] = []

    @fleet.registry.flow("side", overlap="allow")
    async def side(tenant_id: str, kv: object) -> None:
        seen.append(await why(fleet, "side"))

    await world.put(document("t", entry("side")))
    await fleet.run("t", "r-1", flow="side")

    (found,) = seen
    assert found.answer.why == "run r-1 is going on since 2025-08-23T12:00:00Z. Its time limit is 0:10:00"
    assert (found.answer.run_id, found.answer.next) == ("r-1", "python -m datasync show r-1 --tenant t")


async def test_a_run_beside_others_that_does_not_end(world: World, fleet: Fleet) -> None:
    """Its process goes on although the time limit of the flow has passed. The answer names the run."""
    found: list[Why] = []

    @fleet.registry.flow("side", overlap="allow")
    async def side(tenant_id: str, kv: object) -> None:
        (record,) = await world.records("t")
        lease = {**record["lease"], "until": (NOW + 14 * MINUTE).timestamp()}
        await world.runs.upsert_item({**record, "lease": lease})
        found.append(await why(fleet, "side", after=12 * MINUTE))

    await world.put(document("t", entry("side")))
    await fleet.run("t", "r-1", flow="side")

    assert [(each.answer.cause, each.is_wrong, each.answer.run_id) for each in found] == [(Cause.STUCK, True, "r-1")]
    assert "although the time limit of the flow, 0:10:00, has passed" in found[0].answer.why
    assert "az functionapp restart" in (found[0].answer.next or "")


async def test_a_run_that_does_not_end(world: World, fleet: Fleet) -> None:
    """Its process renews the lease although the time limit of the flow has passed. A restart ends it."""
    await fleet.add("t")
    await fleet.tick()
    lease = Lease(until=(NOW + 14 * MINUTE).timestamp(), nonce="n", started_utc=NOW)
    await world.runs.upsert_item(FlowState(tenant_id="t", flow_name="weather", lease=lease).document())

    found = await why(fleet, after=12 * MINUTE)

    assert (found.answer.cause, found.is_wrong) == (Cause.STUCK, True)
    assert "although the time limit of the flow, 0:10:00, has passed" in found.answer.why
    assert "az functionapp restart" in (found.answer.next or "")


async def test_a_closed_provider(world: World, fleet: Fleet) -> None:
    """Until when it is closed, with the command that opens it; and for another provider nothing."""
    await world.put(document("t", entry(FEED, nextRunUtc="2025-08-23T13:00:00Z")))
    await fleet.tick()
    await fleet.services.runs.close("t", "another", NOW + HOUR, NOW)
    assert (await why(fleet, FEED)).answer.cause is Cause.NOT_DUE

    await fleet.services.runs.close("t", "homedepot", NOW + HOUR, NOW)
    found = await why(fleet, FEED)

    assert found.answer.cause is Cause.CLOSED
    assert found.answer.why.startswith("homedepot has asked not to be called until 2025-08-23T13:00:0")
    assert found.answer.next == "python -m datasync gate open homedepot t --seen 2025-08-23T13:00:01Z"
    assert not found.is_wrong


async def test_a_deferred_run(fleet: Fleet) -> None:
    """Until when it waits, and the reason that the flow gave."""
    await fleet.add("t")
    await fleet.tick()
    fleet.ends["t"] = RetryLater(HOUR, "the export is not ready")
    await fleet.run("t", "r-1")

    found = await why(fleet)

    assert found.answer.cause is Cause.DEFERRED
    assert found.answer.why.startswith("run r-1 waits until 2025-08-23T13:00:00Z: ")
    assert "the export is not ready" in found.answer.why
    assert found.answer.next == "python -m datasync show r-1 --tenant t"


@pytest.mark.parametrize(("to_poison", "cause"), [(False, Cause.QUEUED), (True, Cause.POISONED)])
async def test_a_message_that_waits(world: World, fleet: Fleet, *, to_poison: bool, cause: Cause) -> None:
    """In the queue, which is in order, or in the poison queue, which is not."""
    await fleet.add("t")
    await fleet.tick()
    await post(world, JobMessage(tenant_id="u", flow_name="weather", run_id="r-0"), to_poison=to_poison)
    await post(world, JobMessage(tenant_id="t", flow_name="weather", run_id="r-1"), to_poison=to_poison)

    found = await why(fleet)

    assert (found.answer.cause, found.is_wrong) == (cause, to_poison)
    assert found.answer.why.startswith("run r-1 waits in the ")


async def test_messages_that_cannot_be_seen_are_counted(world: World, fleet: Fleet) -> None:
    """A hidden message may be of the flow, so its absence is not claimed."""
    await fleet.add("t")
    await fleet.tick()
    await world.jobs.send_message(JobMessage(tenant_id="t", flow_name="weather").encode(), visibility_timeout=600)

    (queued,) = [each for each in (await why(fleet)).ruled_out if each.cause is Cause.QUEUED]

    assert queued.why == ("none of the 0 messages at the front of the queue is of this flow; 1 more cannot be seen")


async def test_a_tick_that_does_not_come(fleet: Fleet) -> None:
    """Since when, and since when the flow is due."""
    await fleet.add("t")
    await fleet.tick()

    found = await why(fleet, after=3 * HOUR)

    assert (found.answer.cause, found.is_wrong) == (Cause.NO_TICK, True)
    assert found.answer.why == (
        "no tick has started since 2025-08-23T12:00:00Z, and it is due since 2025-08-23T13:00:00Z"
    )
    assert found.answer.next == "python -m datasync ticks"


async def test_a_run_that_died(fleet: Fleet) -> None:
    """Its error, and the command that shows its attempts."""
    await fleet.add("t")
    await fleet.tick()
    fleet.ends["t"] = KeyError("city")
    await fleet.run("t", "r-1", attempts=5)

    found = await why(fleet)

    assert (found.answer.cause, found.is_wrong) == (Cause.FAILING, True)
    assert found.answer.why == "5 failed attempts in a row; run r-1 is dead: KeyError: 'city'"
    assert found.answer.next == "python -m datasync show r-1 --tenant t"
    (schedule,) = found.also
    assert (schedule.cause, schedule.why) == (Cause.NOT_DUE, "the next run is at 2025-08-23T13:00:00Z")


async def test_an_attempt_that_will_be_repeated(fleet: Fleet) -> None:
    """The run is not over."""
    await fleet.add("t")
    await fleet.tick()
    fleet.ends["t"] = KeyError("city")
    await fleet.run("t", "r-1")

    assert (await why(fleet)).answer.why == (
        "1 failed attempt in a row; run r-1 is failed: KeyError: 'city'. It will be attempted again"
    )


async def test_a_failure_before_a_skipped_run(fleet: Fleet) -> None:
    """The error is that of the run that failed."""
    await fleet.add("t")
    await fleet.tick()
    fleet.ends["t"] = KeyError("city")
    await fleet.run("t", "r-1", attempts=5)
    await fleet.add("t", enabled=False)
    await fleet.run("t", "r-2", MINUTE)
    await fleet.add("t")

    found = await why(fleet)

    assert found.answer.why == "5 failed attempts in a row; run r-1 is dead: KeyError: 'city'"
    assert [each.cause for each in found.also] == [Cause.SKIPPED, Cause.NOT_DUE]


async def test_a_flow_that_is_late_for_a_reason_that_cannot_be_seen(fleet: Fleet) -> None:
    """Its messages are not on the queue, say, because run_flow is disabled."""
    await fleet.add("t")
    await fleet.run("t", "r-1")
    for hours in (1, 2, 3):
        await fleet.tick(HOUR * hours)
    await fleet.world.take()

    found = await why(fleet, after=3 * HOUR + MINUTE)

    assert (found.answer.cause, found.is_wrong) == (Cause.LATE, True)
    assert found.answer.why == (
        "it should succeed by 2025-08-23T15:00:00Z; its last success was at 2025-08-23T12:00:00Z"
    )


@pytest.mark.parametrize(("zone", "cause"), [("tenant", Cause.PROBLEM), (None, Cause.NOT_DUE)])
async def test_a_problem_of_the_document_stops_the_entries_that_it_concerns(
    world: World, fleet: Fleet, zone: str | None, cause: Cause
) -> None:
    """A wrong time zone of a tenant concerns the entries that use it."""
    flow = entry(nextRunUtc="2025-08-23T13:00:00Z", timezone=zone)
    await world.put(document("t", flow, timezone="Chicago"))
    await fleet.tick()

    assert (await why(fleet)).answer.cause is cause


async def test_a_run_that_was_skipped(fleet: Fleet) -> None:
    """While its entry was disabled, which it no longer is."""
    await fleet.add("t", enabled=False)
    await fleet.run("t", "r-1")
    await fleet.add("t")
    await fleet.tick()

    found = await why(fleet)

    assert found.answer.cause is Cause.SKIPPED
    assert found.answer.why.startswith("run r-1 was skipped_disabled: the flow is disabled")


async def test_an_entry_that_is_not_due(fleet: Fleet) -> None:
    """All other causes are ruled out, each with a sentence."""
    await fleet.add("t")
    await fleet.tick()
    await fleet.run("t", "r-1")

    found = await why(fleet)

    assert (found.answer.cause, found.answer.why) == (Cause.NOT_DUE, "the next run is at 2025-08-23T13:00:00Z")
    assert found.answer.next == "python -m datasync runs t weather"
    of_the_past = {Cause.RAN, Cause.EDITED, Cause.EXPIRED, Cause.UNKNOWN}
    of_a_run = {Cause.STUCK}  # it is not stuck, because it is not running
    assert {each.cause for each in found.ruled_out} == {*Cause} - {Cause.DUE, Cause.NOT_DUE} - of_a_run - of_the_past
    assert found.last_success_utc == NOW


async def test_an_entry_that_the_next_tick_enqueues(fleet: Fleet) -> None:
    """It has become due since the last tick."""
    await fleet.add("t")
    await fleet.tick()
    due = await why(fleet, after=HOUR + MINUTE)
    await fleet.add("t", nextRunUtc=None)
    empty = await why(fleet)

    assert (due.answer.cause, due.answer.why) == (
        Cause.DUE,
        "it is due since 2025-08-23T13:00:00Z: the next tick is at 2025-08-23T14:00:00Z",
    )
    assert empty.answer.why == "nextRunUtc is null: the next tick, at 2025-08-23T13:00:00Z, fills it in"


async def test_the_command_prints_the_answer_and_what_was_ruled_out(world: World, fleet: Fleet) -> None:
    """Exit code 0 if nothing is wrong, 1 if somebody has to do something, 3 if the entry does not exist."""
    await fleet.add("t")
    await fleet.tick()

    lines = (fine := await command(world, "why", "t", "weather", after=MINUTE)).stdout.splitlines()
    assert lines[:4] == [
        "t/weather: the next run is at 2025-08-23T13:00:00Z",
        "next: python -m datasync runs t weather",
        "",
        "ruled out:",
    ]
    assert "  queued: no message of it is in the queue" in lines
    assert "  no tick: the last tick was at 2025-08-23T12:00:00Z" in lines
    assert fine.exit_code == 0

    assert (await command(world, "why", "t", "weather", after=3 * HOUR)).exit_code == 1
    assert (await command(world, "why", "t", "other")).exit_code == 3
    unknown = await command(world, "why", "nobody", "weather", "--json")
    assert (unknown.exit_code, msgspec.json.decode(unknown.stdout)["answer"]["cause"]) == (3, "no_tenant")
