"""Poison messages with real services: a run is sent again or recorded as dead, and nothing is lost."""

from datetime import timedelta
from typing import Any

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, RetryLater
from datasync.errors import ServiceUnavailable
from datasync.model.state import REMEMBERED
from datasync.run.bury import bury
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Request, Wire, to
from tests.stages import run_job
from tests.world import World

OVER = timedelta(minutes=3, seconds=16)


def cosmos(request: Request) -> bool:
    return "/dbs/" in request[1]


async def letters(world: World) -> list[dict[str, Any]]:
    return [dict(item) async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]


async def test_a_run_without_a_record_is_sent_again_twice(world: World, wire: Wire, services: Services) -> None:
    """Its deliveries may have met an outage or the crash of another run. It keeps its run id and its message's id."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(succeed))
    host.post(is_poison=True)
    delays = []
    for rounds in (1, 2):
        await host.next()
        (again,) = host.waiting
        delays.append(again.visible_at - host.clock.now())
        assert (again.is_poison, again.job.rounds, again.job.run_id, again.job.message_id) == (
            False,
            rounds,
            "r-1",
            "m-1",
        )
        host.waiting[:] = []
        host.post(is_poison=True, rounds=rounds, message_id="m-1")
    assert await world.records() == []
    await host.next()

    (record,) = await world.records()
    assert (record["outcome"], host.waiting) == ("dead", [])
    assert "the process died, or nothing could be recorded, in each of 15 deliveries" in record["error"]["message"]
    assert all(timedelta() <= delay <= timedelta(minutes=10, seconds=1) for delay in delays)
    assert delays[0] != delays[1]
    state = await services.runs.state("t", ["flow"])
    assert (state.last_outcome, state.consecutive_failures, state.lease) == ("dead", 1, None)


async def test_a_run_that_is_sent_again_succeeds(world: World, wire: Wire, services: Services) -> None:
    """The run has one record."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(succeed))
    host.post(is_poison=True)
    await host.all()

    assert [record["outcome"] for record in await world.records()] == ["succeeded"]


async def test_the_delay_of_a_run_is_stable_and_differs_between_runs(
    world: World, wire: Wire, services: Services
) -> None:
    """Runs that were interrupted together do not meet again."""
    host = Deliveries(services, wire, registered(succeed))
    for run in ("r-1", "r-2", "r-1"):
        host.post(is_poison=True, run_id=run)
    for _ in range(3):
        await bury_next(host)

    first, second, again = [each.visible_at - NOW for each in host.waiting]
    assert first == again
    assert first != second


async def bury_next(host: Deliveries) -> None:
    """Deliver the first poison message, also if other messages are visible before it."""
    poison = next(each for each in host.waiting if each.is_poison)
    others = [each for each in host.waiting if each is not poison]
    host.waiting[:] = [poison]
    await host.next()
    host.waiting[:0] = others


async def test_a_live_lease_is_waited_for(world: World, wire: Wire, services: Services) -> None:
    """The poison message goes back until the lease is over. Then the killed attempt and the end are recorded."""
    await world.put(document("t", entry("flow")))

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        wire.killed = True

    host = Deliveries(services, wire, registered(flow))
    host.post()
    await host.next()
    host.waiting.clear()
    host.post(is_poison=True, rounds=2, message_id="m-1")
    await host.next()
    (back,) = host.waiting
    assert (back.is_poison, back.visible_at) == (True, NOW + OVER)
    await host.all()

    (record,) = await world.records()
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["interrupted", "dead"]
    assert "in each of 15 deliveries: see docs/runbook.md" in record["error"]["message"]
    assert (await services.runs.state("t", ["flow"])).lease is None


async def test_another_run_with_the_lease_is_waited_for(world: World, wire: Wire, services: Services) -> None:
    """Its attempt is not touched."""
    await world.put(document("t", entry("flow")))

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        host.post(is_poison=True, rounds=2, run_id="r-2")
        await host.next()

    host = Deliveries(services, wire, registered(flow))
    host.post()
    await host.next()
    assert [each.is_poison for each in host.waiting] == [True]
    await host.all()

    assert {record["runId"]: record["outcome"] for record in await world.records()} == {
        "r-1": "succeeded",
        "r-2": "dead",
    }


async def test_a_run_that_has_ended_is_not_changed(world: World, wire: Wire, services: Services) -> None:
    """The message is a duplicate. Its successors are sent, since that may have been impossible before."""
    await world.put(document("t", entry("flow")))

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise RetryLater(timedelta(minutes=1))

    host = Deliveries(services, wire, registered(flow))
    host.post()
    await host.next()
    before = await world.records()
    host.waiting.clear()
    host.post(is_poison=True, rounds=2, message_id="m-1")
    await host.next()

    assert [job.deferral for job in host.jobs] == [1]
    assert await world.records() == before


@pytest.mark.parametrize("others", [0, REMEMBERED])
@pytest.mark.parametrize("overlap", ["once", "allow"])
async def test_a_run_that_ends_meanwhile_is_not_changed(
    world: World, wire: Wire, services: Services, overlap: str, others: int
) -> None:
    """A copy of the message is run in another process, after its record was read. The state forgets old ends."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(succeed, overlap=overlap))

    async def run_meanwhile() -> None:
        await run_job(services, host.registry, message(rounds=2), NOW)
        for number in range(others):
            await run_job(services, host.registry, message(id="m-2", run_id=f"r-2{number}"), NOW)

    wire.after(to("GET", "run-r-1"), run_meanwhile)
    host.post(is_poison=True, rounds=2, message_id="m-1")
    await host.all()

    (record,) = [each for each in await world.records() if each["runId"] == "r-1"]
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["succeeded"]
    assert record.get("lease") is None
    assert (await services.runs.state("t", ["flow"])).lease is None


async def test_a_redriven_run_is_buried_under_its_number(world: World, wire: Wire, services: Services) -> None:
    """The record counts from the redrive on."""
    await world.put(document("t", entry("flow")))
    await run_job(services, registered(succeed), message(), NOW)
    host = Deliveries(services, wire, registered(succeed))
    host.post(is_poison=True, rounds=2, redrive=1)
    await host.all()

    (record,) = await world.records()
    assert (record["outcome"], record["redrive"]) == ("dead", 1)


@pytest.mark.parametrize("rounds", [0, 2])
async def test_a_record_that_cannot_be_read_is_waited_for(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture, rounds: int
) -> None:
    """The poison message goes back until somebody has corrected the record. The log names the document."""
    await world.put(document("t", entry("flow")))
    broken = {"id": "run-r-1", "tenantId": "t", "type": "Run", "outcome": 5}
    await world.runs.upsert_item(broken)
    host = Deliveries(services, wire, registered(succeed))
    host.post(is_poison=True, rounds=rounds)
    await host.next()

    assert [(each.is_poison, each.job.rounds) for each in host.waiting] == [(True, rounds)]
    assert "run record id='run-r-1' of tenant 't'" in caplog.text
    await world.runs.delete_item("run-r-1", partition_key="t")
    await host.all()
    assert [record["outcome"] for record in await world.records()] == ["dead" if rounds else "succeeded"]


async def test_a_state_that_cannot_be_read_is_waited_for(world: World, wire: Wire, services: Services) -> None:
    """The poison message goes back until somebody has corrected the state."""
    await world.put(document("t", entry("flow")))
    state = {"id": "state-flow", "tenantId": "t", "flowName": "flow", "type": "FlowState"}
    await world.runs.upsert_item({**state, "token": "many"})
    host = Deliveries(services, wire, registered(succeed))
    host.post(is_poison=True, rounds=2)
    await host.next()
    assert [each.is_poison for each in host.waiting] == [True]

    await world.runs.upsert_item(state)
    await host.all()
    assert [record["outcome"] for record in await world.records()] == ["dead"]


async def test_an_unknown_flow_and_tenant_are_buried(world: World, wire: Wire, services: Services) -> None:
    """The record needs neither."""
    host = Deliveries(services, wire, FlowRegistry())
    host.post(is_poison=True, rounds=2, tenant_id="nobody", flow_name="gone")
    await host.all()

    assert [(record["tenantId"], record["outcome"]) for record in await world.records()] == [("nobody", "dead")]


@pytest.mark.parametrize("body", [b"", b"{", b'{"tenantId": 5}', b"\xff\xfe", '{"é": 1}'.encode()])
async def test_what_is_not_a_job_is_kept_with_its_body(
    world: World, wire: Wire, services: Services, body: bytes
) -> None:
    """It becomes a dead letter in the partition @fleet."""
    host = Deliveries(services, wire, registered(succeed))
    host.post_body(body, is_poison=True)
    await host.all()

    (letter,) = await letters(world)
    assert (letter["tenantId"], letter["body"]) == ("@fleet", body.decode(errors="backslashreplace"))


@pytest.mark.parametrize(
    "body",
    [message(rounds=2).body, message().body, b"{", b'\xff\xfe{"tenantId": "t"}'],
    ids=["a job", "a first round", "not a job", "not UTF-8"],
)
async def test_a_message_goes_back_while_cosmos_db_is_away(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    """It is hidden for a while, does not expire, and has the same body."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(succeed))
    host.post_body(body, is_poison=True)
    wire.refuse_all(cosmos)
    await host.next()
    wire.heal()

    (back,) = host.waiting
    assert (back.is_poison, back.body, host.errors) == (True, body, [])
    assert back.visible_at > NOW
    assert "Cosmos DB could not be reached" in caplog.text
    await host.all()
    assert len(await world.records()) + len(await letters(world)) == 1


async def test_the_host_delivers_a_message_again_while_cosmos_db_and_the_queue_are_away(
    world: World, wire: Wire, services: Services
) -> None:
    """The error is raised, so the message is not completed."""
    await world.put(document("t", entry("flow")))
    wire.refuse = True
    with pytest.raises(ServiceUnavailable, match="queue .*-poison' could not be reached"):
        await bury(services, registered(succeed), message())
    wire.refuse = False
    assert await world.records() == []


async def test_a_job_that_cannot_be_sent_again_goes_back(world: World, wire: Wire, services: Services) -> None:
    """The job queue is missing, and the poison queue is not."""
    host = Deliveries(services, wire, registered(succeed))
    host.post(is_poison=True)
    jobs = f"/{services.settings.queue_name}/messages"
    wire.refuse_all(to("POST", jobs))
    await host.next()
    wire.heal()

    assert [(each.is_poison, each.job.rounds) for each in host.waiting] == [(True, 0)]


async def test_two_burials_at_once_record_one_end(world: World, wire: Wire, services: Services) -> None:
    """The second one finds the run over."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(succeed))
    poison = message(rounds=2)
    wire.after(to("POST", "/docs", "lease"), lambda: bury(services, host.registry, poison))
    await bury(services, host.registry, poison)
    await host.all()

    (record,) = await world.records()
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["dead"]
