"""Ticks with real services: conflicts, crashes, many flows, and failing services."""

import asyncio
import json
import logging
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest

from datasync import FlowRegistry
from datasync.errors import ServiceUnavailable
from datasync.services import Services
from datasync.settings import Settings
from datasync.tick.tick import Tally
from localdev.keyvault import KeyVault
from tests.documents import document, entry
from tests.faults import Killed, Wire, to
from tests.stages import FakeClock, does_nothing, registry_of, tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
DUE = "2025-08-23T12:00:00Z"
NOTE = {"nextRunUtc": DUE, "enqueuedUtc": "2025-08-23T11:00:03Z", "key": "5f"}
"""The note in an entry whose `nextRunUtc` the tick before has set to DUE."""


async def run_ids(world: World) -> list[str]:
    """Remove every message from the queue, and return their run ids."""
    return [json.loads(body)["runId"] for body in await world.take()]


SENT = to("POST", "/messages")


class TestConflicts:
    """The document is edited after the tick has read it, and before the tick writes it."""

    async def test_another_field_is_edited(self, world: World, wire: Wire, services: Services) -> None:
        """The edit is kept, `nextRunUtc` advances, and nothing is enqueued twice."""
        before, edited = (document("tenant-1", entry(nextRunUtc=DUE), name=name) for name in ("Acme", "Renamed"))
        await world.put(before)
        wire.after(SENT, lambda: world.put(edited))

        tally = await tick(services, NOW)

        after = await world.document("tenant-1")
        assert (after["name"], after["flows"][0]["nextRunUtc"]) == ("Renamed", "2025-08-23T13:00:00Z")
        assert (tally.enqueued, tally.advanced, tally.conflicts) == (1, 1, 1)
        assert len(await world.take()) == 1

    async def test_next_run_itself_is_edited(self, world: World, wire: Wire, services: Services) -> None:
        """The edited `nextRunUtc` is kept."""
        await world.put(document("tenant-1", entry(nextRunUtc=DUE)))
        wire.after(SENT, lambda: world.put(document("tenant-1", entry(nextRunUtc="2030-01-01T00:00:00Z"))))

        tally = await tick(services, NOW)

        assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == "2030-01-01T00:00:00Z"
        assert (tally.enqueued, tally.advanced, tally.conflicts) == (1, 0, 1)

    async def test_entries_are_reordered(self, world: World, wire: Wire, services: Services) -> None:
        """The tick finds its entry by name, and does not change the other entry."""
        first, second = entry("first", nextRunUtc=DUE), entry("second", nextRunUtc="2030-01-01T00:00:00Z")
        await world.put(document("tenant-1", first, second))
        wire.after(SENT, lambda: world.put(document("tenant-1", second, first)))

        await tick(services, NOW)

        assert [(flow["name"], flow["nextRunUtc"]) for flow in (await world.document("tenant-1"))["flows"]] == [
            ("second", "2030-01-01T00:00:00Z"),
            ("first", "2025-08-23T13:00:00Z"),
        ]

    async def test_the_tenant_is_deleted(self, world: World, wire: Wire, services: Services) -> None:
        """It is counted as failed, and the other tenants are scheduled."""
        await world.put(document("tenant-1", entry(nextRunUtc=DUE)), document("tenant-2", entry(nextRunUtc=DUE)))
        its_job = to("POST", "/messages", b64encode(b'{"tenantId":"tenant-1').decode())
        wire.after(its_job, lambda: world.tenants.delete_item("tenant-1", partition_key="tenant-1"))

        tally = await tick(services, NOW)

        assert (tally.enqueued, tally.advanced, tally.failed) == (2, 1, 1)

    @pytest.mark.parametrize("planned", [None, NOTE], ids=["without a note", "with a note"])
    async def test_a_document_that_changes_all_the_time_is_left_to_the_next_tick(
        self,
        world: World,
        wire: Wire,
        services: Services,
        caplog: pytest.LogCaptureFixture,
        planned: object,
    ) -> None:
        """The number of tries is limited. The other tenants are scheduled, and the host repeats the tick.

        No job is enqueued before its run id is certain, which depends on the note of the tick before.
        """
        edited = document("tenant-1", entry(nextRunUtc=DUE, planned=planned))
        await world.put(edited, document("tenant-2", entry(nextRunUtc=DUE)))
        wire.before_each(to("PATCH", "/docs/tenant-1"), lambda: world.put(edited))
        caplog.set_level(logging.INFO)

        with pytest.raises(ServiceUnavailable, match="'tenant-1' was changed by others in each of 20 tries"):
            await tick(services, NOW)

        enqueued = 2 if planned else 1
        assert f" enqueued={enqueued} advanced=1 " in caplog.text
        assert " failed=1 " in caplog.text
        assert "'tenant-1' was changed by others in each of 20 tries" in caplog.text
        assert len(await world.messages()) == enqueued


class Rule(msgspec.Struct):
    sku: str


class Rules(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    min_total: float = 0
    rules: list[Rule] = []


def declaring(**options: Any) -> FlowRegistry:
    """Return a registry with the flow `mapped` that has these options, and the flow `weather`."""
    registry = registry_of("weather")
    registry.flow("mapped", **options)(does_nothing)
    return registry


async def test_settings_that_do_not_fit_are_a_problem_before_anything_is_enqueued(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The other entry runs. The entry stays due, and runs once when it is corrected."""
    registry = declaring(settings=Rules)

    def tenant(settings: object) -> dict[str, Any]:
        return document("acme", entry(nextRunUtc=DUE), entry("mapped", nextRunUtc=DUE, settings=settings))

    await world.put(tenant({"rules": [{"sku": "a"}, {"sku": 5}]}))
    wrong = await tick(services, NOW, registry)
    assert [json.loads(body)["flowName"] for body in await world.take()] == ["weather"]
    await world.put(tenant({"rules": [{"sku": "a"}, {"sku": "b"}]}))
    corrected = await tick(services, NOW, registry)

    assert (wrong.enqueued, wrong.problems, wrong.failed) == (1, 1, 0)
    assert "INVALID acme/mapped flows[1].settings.rules[1].sku: expected a text, got 5" in caplog.text
    assert corrected.problems == 0
    assert [json.loads(body)["flowName"] for body in await world.take() if "mapped" in body] == ["mapped"]


async def test_a_declared_secret_that_the_tenant_cannot_have_is_a_problem(
    world: World, vault: KeyVault, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is enqueued for the entry. The vault is not read."""
    vault.reads.clear()
    await world.put(document("acme_1", entry("mapped", nextRunUtc=DUE)))

    tally = await tick(services, NOW, declaring(secrets=("mysource--api-token",)))

    assert (tally.enqueued, tally.problems) == (0, 1)
    assert (
        "INVALID acme_1/mapped flows[0]: secret 'tenants--acme_1--mysource--api-token': Key Vault takes" in caplog.text
    )
    assert not vault.reads


async def test_a_tick_killed_at_any_request_is_repeated_with_the_same_run_ids(
    world: World, wire: Wire, services: Services
) -> None:
    """Every flow is enqueued, and all messages of a flow have the same run id. Its next run is in the future."""
    killed = 0
    for answered in (False, True):
        for number in count(1):
            flows = [entry(f"flow-{n}", nextRunUtc=DUE) for n in range(12)]
            await world.put(document("tenant-1", *flows))
            wire.kill_at(number, answered=answered)
            try:
                await tick(services, NOW)
            except (Killed, BaseExceptionGroup):
                killed += 1
            else:
                break
            wire.heal()
            await tick(services, NOW + timedelta(minutes=5))

            jobs = [json.loads(body) for body in await world.take()]
            run_ids = {job["runId"] for job in jobs}
            assert len({job["flowName"] for job in jobs}) == len(run_ids) == 12
            after = (await world.document("tenant-1"))["flows"]
            assert {flow["nextRunUtc"] for flow in after} == {"2025-08-23T13:00:00Z"}
        wire.heal()
        await world.take()
    assert killed > 30


async def test_500_flows_of_one_tenant_are_enqueued_in_one_tick(world: World, services: Services) -> None:
    """A tenant can have any number of flows, although a patch has at most ten operations."""
    await world.put(document("tenant-1", *[entry(f"flow-{n}", nextRunUtc=DUE) for n in range(500)]))

    tally = await tick(services, NOW)

    assert tally == Tally(tenants=1, due=500, enqueued=500, advanced=500)
    flows = (await world.document("tenant-1"))["flows"]
    assert {flow["nextRunUtc"] for flow in flows} == {"2025-08-23T13:00:00Z"}
    assert len({json.loads(body)["flowName"] for body in await world.take()}) == 500


async def test_all_tenants_of_several_pages_are_enqueued(world: World, services: Services) -> None:
    """The query returns pages. The tick's own writes do not cause it to skip a tenant."""
    await asyncio.gather(*[world.put(document(f"tenant-{n}", entry(nextRunUtc=DUE))) for n in range(250)])

    assert await tick(services, NOW) == Tally(tenants=250, due=250, enqueued=250, advanced=250)
    assert await tick(services, NOW) == Tally()


@pytest.mark.parametrize(
    ("next_run", "jobs"),
    [
        ("2025-08-23T12:00:03Z", 1),
        ("2025-08-23T12:00:04Z", 0),
        ("2025-08-23T14:00:00+02:00", 1),
        ("2025-08-23T14:00:04+02:00", 0),
        ("2025-08-23T12:00:00.0000000Z", 1),
        ("2025-08-23T12:00:00", 1),
        ("2025-08-23t12:00:00Z", 1),
        ("2025-W34-5T12:00:00Z", 1),
        ("2025-08-23", 1),
        (None, 0),
        ("9999-12-31T23:59:59Z", 0),
    ],
)
async def test_next_run_is_found_in_every_form(
    world: World, services: Services, next_run: str | None, jobs: int
) -> None:
    """The tick finds a due flow in any ISO 8601 form of `nextRunUtc`."""
    await world.put(document("tenant-1", entry(nextRunUtc=next_run)))

    tally = await tick(services, NOW)

    assert tally.enqueued == jobs
    assert (await tick(services, NOW)).enqueued == 0


async def test_every_invalid_document_is_reported(world: World, services: Services) -> None:
    """Each tick counts every invalid document, even if its flows are not due."""
    sound = document("sound", entry(nextRunUtc=DUE))
    broken = [
        document("type-misspelt", entry(nextRunUtc=DUE), type="tenant"),
        document("type-null", entry(nextRunUtc=DUE), type=None),
        document("type-a-list", entry(nextRunUtc=DUE), type=["Tenant"]),
        document("flows-missing", flows=None),
        document("flows-an-object", flows={"name": "weather"}),
        document("flows-a-text", flows="weather"),
        document("entry-a-text", flows=["weather"]),
        document("enabled-a-text", entry(enabled="true", nextRunUtc="2999-01-01T00:00:00Z")),
        document("enabled-missing", {"name": "weather", "cron": "0 0 * * * *", "nextRunUtc": "2999-01-01T00:00:00Z"}),
        document("next-run-nonsense", entry(nextRunUtc="soon")),
        document("next-run-a-number", entry(nextRunUtc=4102444800)),
        document("cron-nonsense", entry(cron="hourly", nextRunUtc=DUE)),
        {**document("id-differs", entry(nextRunUtc=DUE)), "id": "another-id"},
    ]
    await world.put(sound, *broken)

    first = await tick(services, NOW)
    second = await tick(services, NOW)

    assert (first.problems, first.enqueued, first.failed) == (len(broken), 1, 0)
    assert (second.problems, second.enqueued) == (len(broken), 0)


async def test_documents_of_other_types_are_ignored(world: World, services: Services) -> None:
    """The container may hold documents of other types, such as maps and notes."""
    await world.put(document("a-map", entry(nextRunUtc=DUE), type="Map"), {"id": "note", "tenantId": "note"})

    assert await tick(services, NOW) == Tally()


async def test_a_missing_queue_is_named_with_the_remedy(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The tick fails and does not change the document, so the next tick tries again."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE)))
    services = Services(Settings.from_environ({**world.environ, "QUEUE_NAME": "not-there"}), FakeClock())
    try:
        with pytest.raises(ServiceUnavailable, match="queue 'not-there' does not exist .*az storage queue create"):
            await tick(services, NOW)
    finally:
        await services.close()

    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == DUE
    assert "tenant 'tenant-1' could not be scheduled" in caplog.text


async def fails(world: World, **settings: str) -> str:
    """Run a tick with changed settings, which must fail. Return the error."""
    services = Services(Settings.from_environ({**world.environ, **settings}), FakeClock())
    try:
        with pytest.raises(ServiceUnavailable) as refused:
            await tick(services, NOW)
    finally:
        await services.close()
    return str(refused.value)


@pytest.mark.parametrize("setting", ["COSMOS_TENANTS_CONTAINER", "COSMOS_RUNS_CONTAINER"])
async def test_a_missing_container_is_named_with_the_remedy(world: World, setting: str) -> None:
    """The tick enqueues nothing, because the state of a run could not be stored."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE)))

    error = await fails(world, **{setting: "misspelt"})

    assert "answered 404 while reading the properties of container 'misspelt'" in error
    assert "Create the database and its containers" in error
    assert await world.messages() == []


async def test_a_wrong_cosmos_key_is_named(world: World) -> None:
    """The error names the setting and contains no key."""
    wrong = world.environ["COSMOS_CONNECTION_STRING"].partition("AccountKey=")[0] + "AccountKey=d3Jvbmc=;"

    error = await fails(world, COSMOS_CONNECTION_STRING=wrong)

    assert "401" in error
    assert "Check the key in COSMOS_CONNECTION_STRING" in error
    assert "d3Jvbmc" not in error


async def test_an_unreachable_account_is_named(world: World) -> None:
    """The error names the service and the settings with its address."""
    nowhere = "AccountEndpoint=http://127.0.0.1:1/;AccountKey=d3Jvbmc=;"

    error = await fails(world, COSMOS_CONNECTION_STRING=nowhere)

    assert "Cosmos DB could not be reached" in error
    assert "Check COSMOS_CONNECTION_STRING or COSMOS_ENDPOINT" in error
