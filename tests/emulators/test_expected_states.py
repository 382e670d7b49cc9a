"""Ticks keep the states of flows in step with the entries of documents, so that a flow that never runs becomes late."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry
from datasync.model.lease import Lease
from datasync.model.state import FlowState
from datasync.operate.flows import Health, flows
from datasync.operate.health import app_health
from datasync.services import Services
from datasync.settings import Settings
from datasync.tick import tick as tick_module
from datasync.tick.tick import SCAN_INTERVAL
from datasync.tick.turns import REQUESTS
from tests.deliveries import message
from tests.documents import document, entry
from tests.faults import Request, Wire, to
from tests.stages import FLOWS, FakeClock, does_nothing, registry_of, run_job, tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
NEXT = "2025-08-23T13:00:00Z"


async def states(world: World, tenant: str = "t") -> dict[str, str | None]:
    """Return `staleUtc` of each state of a tenant, by the name of its flow."""
    found = world.runs.query_items("SELECT * FROM c WHERE c.type = 'FlowState'", partition_key=tenant)
    return {item["flowName"]: item.get("staleUtc") async for item in found}


def hourly(name: str = "weather", **fields: Any) -> dict[str, Any]:
    return entry(name, **{"nextRunUtc": NEXT, **fields})


def of_states(request: Request) -> bool:
    """Return whether a request reads or writes states, or the note in a tenant's document that they are in step.

    The question for late flows, which each tick asks once for all tenants, does not count.
    """
    _, url, body = request
    is_of_states = "/docs/state-" in url or "FlowState" in body or "/scheduleRev" in body
    return is_of_states and "c.staleUtc <" not in body


@pytest_asyncio.fixture
async def process(world: World, wire: Wire) -> AsyncGenerator[Services]:
    """Return the services of another process, which has no memory of the ticks before."""
    assert not wire.killed
    made = Services(world.settings, FakeClock())
    yield made
    await made.close()


async def test_an_entry_that_never_ran_becomes_late(world: World, services: Services) -> None:
    """Two occurrences and a tick after the tick that has found it. Before this tick, it has no state."""
    await world.put(document("t", hourly(nextRunUtc="2999-01-01T00:00:00Z")))

    await tick(services, NOW)

    assert await states(world) == {"weather": "2025-08-23T15:00:00Z"}
    (line,) = await flows(services, FLOWS, NOW + 2 * HOUR)
    assert (line.health, line.last_run_utc) == (Health.NEW, None)
    (line,) = await flows(services, FLOWS, NOW + 3 * HOUR)
    assert line.health is Health.LATE


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        pytest.param(hourly(freshness="30m"), "2025-08-23T12:35:03Z", id="freshness"),
        pytest.param(hourly(cron="0 0 9 * * *"), "2025-08-25T10:00:00Z", id="cron"),
        pytest.param(hourly(settings={"a": 1}, nextRunUtc=None), "2025-08-23T15:00:00Z", id="nothing of the schedule"),
        pytest.param(hourly(enabled=False), None, id="disabled"),
        pytest.param(hourly("first"), None, id="removed"),
        pytest.param(hourly(cron="hourly"), "2025-08-23T15:00:00Z", id="a cron to correct"),
        pytest.param(hourly(enabled="yes"), "2025-08-23T15:00:00Z", id="an entry that cannot be read"),
    ],
)
async def test_an_edit_changes_the_state(
    world: World, services: Services, flow: dict[str, Any], expected: str | None
) -> None:
    """Five minutes later, at the next tick. An entry that has to be corrected is still expected to run."""
    await world.put(document("t", hourly()))
    await tick(services, NOW)
    await world.put(document("t", flow))

    await tick(services, NOW + 5 * MINUTE)

    assert (await states(world))["weather"] == expected


async def test_an_entry_that_is_enabled_again_is_expected_from_then_on(world: World, services: Services) -> None:
    """It is not late because of the time for which it was disabled."""
    for enabled, after in ((True, 0), (False, 1), (True, 48)):
        await world.put(document("t", hourly(enabled=enabled, freshness="2h")))
        await tick(services, NOW + after * HOUR)

    assert await states(world) == {"weather": "2025-08-25T14:00:03Z"}


async def test_entries_that_cannot_be_scheduled_get_no_state(world: World, services: Services) -> None:
    """Their problems are listed. A disabled entry needs none."""
    await world.put(
        document("t", hourly("unknown"), hourly(cron="hourly"), hourly("first", enabled=False), hourly("second"))
    )

    await tick(services, NOW)

    assert [*await states(world)] == ["second"]


async def test_a_tick_without_an_edit_makes_no_request_about_states(
    world: World, wire: Wire, services: Services, process: Services
) -> None:
    """Also in a process that has no memory, and for documents that the tick before has written."""
    await world.put(*(document(f"t-{number}", hourly(), hourly("first")) for number in range(5)))
    await tick(services, NOW)
    await tick(services, NOW + HOUR)
    await process.runs.ping()
    wire.requests.clear()

    tally = await tick(process, NOW + 2 * HOUR)

    assert (tally.tenants, tally.enqueued) == (5, 10)
    assert [*filter(of_states, wire.requests)] == []


async def test_an_edit_costs_one_query_and_the_states_that_change(world: World, wire: Wire, services: Services) -> None:
    """And a note in the document. The other states of the tenant are not written."""
    await world.put(document("t", hourly(), hourly("first"), hourly("second")))
    await tick(services, NOW)
    await world.put(document("t", hourly(freshness="2h"), hourly("first"), hourly("flow-1")))
    wire.requests.clear()

    await tick(services, NOW + MINUTE)

    found = Counter(
        "query"
        if "SELECT" in body
        else "create"
        if "operationType" in body
        else f"{method} {url.rstrip('/').rpartition('/')[2]}"
        for method, url, body in filter(of_states, wire.requests)
    )
    assert found == {"query": 1, "create": 1, "PATCH state-weather": 1, "PATCH state-second": 1, "PATCH t": 1}


async def test_a_tick_that_is_killed_at_any_request_is_repeated(world: World, wire: Wire, services: Services) -> None:
    """The next tick leaves the same states, and no state twice."""
    await world.put(document("other", hourly()))
    await tick(services, NOW)
    kills = 0
    for number in count(1):
        tenant = f"t-{number}"
        await world.put(document(tenant, hourly(), hourly("first"), hourly("second")))
        await tick(services, NOW)
        await world.put(document(tenant, hourly(freshness="2h"), hourly("second", enabled=False), hourly("flow-1")))
        before = {"weather": "2025-08-23T15:00:00Z", "first": "2025-08-23T15:00:00Z", "second": "2025-08-23T15:00:00Z"}
        assert await states(world, tenant) == before
        wire.kill_at(number, answered=bool(number % 2))
        with suppress(BaseException):  # the kill, perhaps in a group
            await tick(services, NOW + MINUTE)
        was_killed = wire.killed
        kills += was_killed
        wire.heal()

        await tick(services, NOW + MINUTE)

        assert await states(world, tenant) == {
            "weather": "2025-08-23T14:01:03Z",
            "first": None,
            "second": None,
            "flow-1": "2025-08-23T15:00:00Z",
        }
        if not was_killed:
            break
    assert kills >= 5


class Held:
    """A flow during whose run a document is edited and examined."""

    def __init__(self, world: World, services: Services) -> None:
        self.world = world
        self.services = services
        self.edit: dict[str, Any] = {}
        self.registry = FlowRegistry()
        self.registry.flow("weather")(self._flow)

    async def _flow(self, _tenant_id: str, _kv: SecretClient) -> None:
        if self.edit:
            await self.world.put(document("t", hourly(**self.edit)))
            await tick(self.services, NOW + MINUTE, self.registry)

    async def run(self, run_id: str) -> str | None:
        """Run it once. Returns the outcome."""
        job = message(tenant_id="t", flow_name="weather", run_id=run_id, scheduled_utc=NOW)
        return (await run_job(self.services, self.registry, job, NOW)).outcome


@pytest.mark.parametrize(
    ("edit", "expected"),
    [({"enabled": False}, None), ({"freshness": "2h"}, "2025-08-23T14:01:03Z"), ({}, "2025-08-23T15:00:00Z")],
    ids=["disabled", "another freshness", "no edit"],
)
async def test_an_edit_during_a_run_is_kept(
    world: World, services: Services, edit: dict[str, Any], expected: str | None
) -> None:
    """The tick changes the state although the run holds it, and the run does not change that back."""
    held = Held(world, services)
    await world.put(document("t", hourly()))
    await tick(services, NOW - HOUR, held.registry)
    held.edit = edit

    assert await held.run("r-1") == "succeeded"

    assert await states(world) == {"weather": expected}
    state = await services.runs.state("t", ["weather"])
    assert (state.lease, state.ended, state.last_outcome) == (None, ("r-1",), "succeeded")


async def test_a_state_that_a_run_holds_keeps_the_rest_of_its_fields(world: World, services: Services) -> None:
    """Only the fields of the schedule are written, also those of a later version."""
    lease = Lease(until=(NOW + HOUR).timestamp(), nonce="n", started_utc=NOW)
    before = {
        **FlowState(tenant_id="t", flow_name="weather", lease=lease, cursor={"page": 5}, token=7).document(),
        "later": {"a": 1},
    }
    await world.runs.upsert_item(before)
    await world.put(document("t", hourly()))

    await tick(services, NOW)

    stored = await world.runs.read_item("state-weather", partition_key="t")
    assert {name: stored[name] for name in before} == before
    assert stored["staleUtc"] == "2025-08-23T15:00:00Z"


async def test_the_states_of_a_new_document_are_made_in_few_requests(
    world: World, wire: Wire, services: Services
) -> None:
    """Fifty in one transaction. One that a run has created meanwhile is changed, and the others are created."""
    await tick(services, NOW)
    await world.put(document("t", *(hourly(f"flow-{number}") for number in range(60))))
    wire.requests.clear()

    async def create() -> None:
        await world.runs.upsert_item(FlowState(tenant_id="t", flow_name="flow-55", cursor=5).document())

    wire.before_each(to("POST", "/docs", "state-flow-55"), create)
    await tick(services, NOW + MINUTE)

    assert await states(world) == {f"flow-{number}": "2025-08-23T15:00:00Z" for number in range(60)}
    assert (await services.runs.state("t", ["flow-55"])).cursor == 5
    made = [body.count("operationType") for _, _, body in wire.requests if '"FlowState"' in body]
    assert sorted(made) == [*[1] * 10, 10, 50]


async def test_the_state_under_an_alias_is_used(world: World, services: Services) -> None:
    """A new one under the flow's own name would hide its cursor."""
    registry = FlowRegistry()
    registry.flow("weather", aliases=("forecast",))(does_nothing)
    await world.runs.upsert_item(FlowState(tenant_id="t", flow_name="forecast", cursor=5).document())
    await world.put(document("t", hourly("forecast")))

    await tick(services, NOW, registry)
    assert await states(world) == {"forecast": "2025-08-23T15:00:00Z"}

    job = message(tenant_id="t", flow_name="forecast", run_id="r-1", scheduled_utc=NOW)
    await run_job(services, registry, job, NOW + HOUR)
    state = await services.runs.state("t", ["weather"])
    assert (state.cursor, state.stale_utc) == (5, datetime(2025, 8, 23, 16, tzinfo=UTC))


async def test_a_document_with_many_entries_does_not_keep_the_others_waiting(world: World, wire: Wire) -> None:
    """Its states are made in turns. One tenant is handled at once here, and the small one gets its turn between."""
    narrow = Services(Settings.from_environ({**world.environ, "ORCHESTRATOR_CONCURRENCY": "1"}), FakeClock())
    try:
        names = [f"flow-{number}" for number in range(2 * REQUESTS)]
        await world.put(document("large", *map(hourly, names)))
        await tick(narrow, NOW)
        await world.put(document("large", *(hourly(name, freshness="2h") for name in names)))
        await world.put(document("small", hourly(nextRunUtc="2025-08-23T12:00:00Z")))
        wire.requests.clear()

        await tick(narrow, NOW + MINUTE)

        made = [request for request in wire.requests if of_states(request) or to("POST", "/messages")(request)]
        sent = [to("POST", "/messages")(request) for request in made].index(True)
        assert sent <= REQUESTS + 1
        assert set((await states(world, "large")).values()) == {"2025-08-23T14:01:03Z"}
    finally:
        await narrow.close()


async def test_a_complete_scan_compares_all_states(world: World, wire: Wire, services: Services) -> None:
    """In one query. It finds cases without a correct note: an older copy of a document, and a document that is gone."""
    await world.put(document("gone", hourly()), document("t", hourly()), document("same", hourly()))
    await tick(services, NOW)
    older = await world.document("t")
    await world.put(document("t", hourly(freshness="2h")))
    await tick(services, NOW)
    await world.put(older)
    await world.tenants.delete_item("gone", partition_key="gone")
    wire.requests.clear()

    await tick(services, NOW + SCAN_INTERVAL)

    assert await states(world, "gone") == {"weather": None}
    assert await states(world, "t") == {"weather": "2025-08-24T15:00:00Z"}
    assert await states(world, "same") == {"weather": "2025-08-23T15:00:00Z"}
    assert sum("FROM c WHERE c.type = 'FlowState'" in body for _, _, body in filter(of_states, wire.requests)) == 1


async def test_a_state_that_no_run_finds_stops_nothing(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """Each complete scan names it, with the reason and the remedy. No other tick does, and nothing counts it."""
    await world.put(document("t", hourly(nextRunUtc="2025-08-23T12:00:00Z", freshness="10h")))
    stray = {"type": "FlowState", "flowName": "weather", "scheduleRev": "x", "staleUtc": "2025-08-23T00:00:00Z"}
    await world.runs.upsert_item({**stray, "id": "state-none"})
    for number, tenant in enumerate((None, 5, True, "")):
        await world.runs.upsert_item({**stray, "id": f"state-{number}", "tenantId": tenant})
    await world.runs.upsert_item({**stray, "id": "weather", "tenantId": "t"})

    scan = await tick(services, NOW)
    named = sorted(line for line in caplog.messages if line.startswith("INVALID "))
    caplog.clear()
    other = await tick(services, NOW + MINUTE)

    assert len(await world.messages()) == 1
    assert [(each.failed, each.problems, each.late) for each in (scan, other)] == [(0, 0, 0)] * 2
    remedy, text = "No run finds it. Delete the document", "expected a text that is not empty"
    assert named == [
        f"INVALID flow state id='state-0' in partition None: tenantId: {text}, got null. {remedy}",
        f"INVALID flow state id='state-1' in partition 5: tenantId: {text}, got 5. {remedy}",
        f"INVALID flow state id='state-2' in partition True: tenantId: {text}, got true. {remedy}",
        f"INVALID flow state id='state-3' in partition '': tenantId: {text}, got \"\". {remedy}",
        f"INVALID flow state id='state-none' in partition None: tenantId: missing; {text}. {remedy}",
        "INVALID flow state id='weather' in partition 't': id: expected state- and the name of a flow, "
        f'got "weather". {remedy}',
    ]
    assert "INVALID" not in caplog.text
    (line,) = await flows(services, FLOWS, NOW)
    assert (line.tenant_id, line.problem) == ("t", None)
    assert (await app_health(services, FLOWS, NOW)).is_well


async def test_a_state_with_another_name_than_its_id_is_a_problem_of_the_flow_in_the_id(
    world: World, services: Services
) -> None:
    """Its runs find the state by the id, and fail."""
    await world.put(document("t", hourly("first"), hourly("second")))
    await world.runs.upsert_item({"id": "state-first", "tenantId": "t", "type": "FlowState", "flowName": "second"})

    await tick(services, NOW)

    health = {line.flow_name: line.health for line in await flows(services, FLOWS, NOW)}
    assert health == {"first": Health.PROBLEM, "second": Health.NEW}


async def test_many_states_that_no_run_finds_are_counted(
    world: World, services: Services, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A complete scan names the first ones, and the number of the others."""
    monkeypatch.setattr(tick_module, "MOST_LISTED", 2)
    for number in range(5):
        await world.runs.upsert_item({"id": f"state-{number}", "type": "FlowState"})

    await tick(services, NOW)

    named = [line for line in caplog.messages if line.startswith("INVALID ")]
    assert [line.split()[1] for line in named] == ["flow", "flow", "3"]


async def test_a_next_run_at_the_end_of_the_calendar_hides_no_other_flow(world: World, services: Services) -> None:
    """No tick follows it, and so the flow is never late."""
    await world.put(document("last", hourly(nextRunUtc="9999-12-31T23:59:59Z")), document("t", hourly()))

    tally = await tick(services, NOW)
    lines = await flows(services, FLOWS, NOW)

    assert (tally.failed, [(line.tenant_id, line.health) for line in lines]) == (
        0,
        [("last", Health.NEW), ("t", Health.NEW)],
    )


async def test_a_document_that_is_edited_during_its_tick_is_examined_by_the_next_one(
    world: World, wire: Wire, services: Services
) -> None:
    """The note is not written then."""
    await world.put(document("t", hourly()))
    await tick(services, NOW)
    await world.put(document("t", hourly(freshness="2h")))

    async def edit() -> None:
        await world.put(document("t", hourly(freshness="3h")))

    wire.after(to("PATCH", "/docs/state-"), edit)
    await tick(services, NOW + MINUTE)
    assert await states(world) == {"weather": "2025-08-23T14:01:03Z"}

    await tick(services, NOW + 2 * MINUTE)

    assert await states(world) == {"weather": "2025-08-23T15:02:03Z"}


async def test_a_flow_that_is_published_later_gets_its_state(world: World, services: Services) -> None:
    """Another set of flows is a reason for a complete scan."""
    await world.put(document("t", hourly("new")))
    await tick(services, NOW)
    assert await states(world) == {}

    await tick(services, NOW + MINUTE, registry_of("new"))

    assert await states(world) == {"new": "2025-08-23T15:00:00Z"}
