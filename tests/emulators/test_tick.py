"""Ticks with real services: conflicts, crashes, many flows, and failing services."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datasync.errors import ServiceUnavailable
from datasync.model import Job
from datasync.orchestrate import Tally, tick
from datasync.services import Services
from datasync.settings import Settings
from datasync.stores.jobs import JobQueue
from datasync.stores.tenants import TenantStore
from tests.documents import document, entry
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
DUE = "2025-08-23T12:00:00Z"


async def run_ids(world: World) -> list[str]:
    """Remove every message from the queue, and return their run ids."""
    return [json.loads(body)["runId"] for body in await world.take()]


class TestConflicts:
    """The document is edited after the tick has read it and before the tick writes it."""

    @staticmethod
    def edited_after_enqueueing(
        world: World, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any] | None, flows: list[dict[str, Any]]
    ) -> None:
        """Save the document with other flow entries directly after the first job is enqueued."""
        send = JobQueue.send
        edited = False

        async def send_then_edit(self: JobQueue, job: Job, delay: timedelta = timedelta()) -> None:
            nonlocal edited
            await send(self, job, delay)
            if not edited:
                edited = True
                await world.put({**document("tenant-1", *flows), **(change or {})})

        monkeypatch.setattr(JobQueue, "send", send_then_edit)

    async def test_another_field_is_edited(
        self, world: World, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The edit is kept, the flow is advanced, and nothing is enqueued twice."""
        await world.put(document("tenant-1", entry(nextRunUtc=DUE)))
        self.edited_after_enqueueing(world, monkeypatch, {"name": "Renamed"}, [entry(nextRunUtc=DUE)])

        tally = await tick(services, NOW)

        after = await world.document("tenant-1")
        assert (after["name"], after["flows"][0]["nextRunUtc"]) == ("Renamed", "2025-08-23T13:00:00Z")
        assert (tally.enqueued, tally.advanced, tally.conflicts) == (1, 1, 1)
        assert len(await world.take()) == 1

    async def test_next_run_itself_is_edited(
        self, world: World, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The edited `nextRunUtc` is kept."""
        await world.put(document("tenant-1", entry(nextRunUtc=DUE)))
        self.edited_after_enqueueing(world, monkeypatch, None, [entry(nextRunUtc="2030-01-01T00:00:00Z")])

        tally = await tick(services, NOW)

        assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == "2030-01-01T00:00:00Z"
        assert (tally.enqueued, tally.advanced, tally.conflicts) == (1, 0, 1)

    async def test_entries_are_reordered(
        self, world: World, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each flow is found by its name in the edited document, and only the due flow is advanced."""
        first, second = entry("first", nextRunUtc=DUE), entry("second", nextRunUtc="2030-01-01T00:00:00Z")
        await world.put(document("tenant-1", first, second))
        self.edited_after_enqueueing(world, monkeypatch, None, [second, first])

        await tick(services, NOW)

        assert [(flow["name"], flow["nextRunUtc"]) for flow in (await world.document("tenant-1"))["flows"]] == [
            ("second", "2030-01-01T00:00:00Z"),
            ("first", "2025-08-23T13:00:00Z"),
        ]

    async def test_the_tenant_is_deleted(
        self, world: World, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tenant is counted as failed. The flows of the other tenant are enqueued and advanced."""
        await world.put(document("tenant-1", entry(nextRunUtc=DUE)), document("tenant-2", entry(nextRunUtc=DUE)))
        advance = TenantStore.advance

        async def vanished(self: TenantStore, tenant: Any, advances: Any) -> Any:
            if tenant.id == "tenant-1":
                await world.tenants.delete_item("tenant-1", partition_key="tenant-1")
            return await advance(self, tenant, advances)

        monkeypatch.setattr(TenantStore, "advance", vanished)

        tally = await tick(services, NOW)

        assert (tally.enqueued, tally.advanced, tally.failed) == (2, 1, 1)


class Killed(BaseException):
    """Simulates a killed worker: no code runs after this point."""


async def test_a_tick_killed_before_it_advances_repeats_the_same_decision(
    world: World, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next tick enqueues the same job again, with the same run id."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE)))

    async def killed(*_: object) -> None:
        raise Killed

    advance = TenantStore.advance
    monkeypatch.setattr(TenantStore, "advance", killed)
    with pytest.raises(BaseExceptionGroup):
        await tick(services, NOW)
    monkeypatch.setattr(TenantStore, "advance", advance)
    await tick(services, NOW + timedelta(minutes=5))

    first, second = await run_ids(world)
    assert first == second


async def test_a_killed_tick_repeats_at_most_one_group_of_flows(
    world: World, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill in the third group of ten, every flow has one run id, and only that group has two messages."""
    await world.put(document("tenant-1", *[entry(f"flow-{n}", nextRunUtc=DUE) for n in range(35)]))
    advance = TenantStore.advance
    calls = 0

    async def killed_in_the_third(self: TenantStore, tenant: Any, advances: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        return await advance(self, tenant, advances)

    monkeypatch.setattr(TenantStore, "advance", killed_in_the_third)
    with pytest.raises(BaseExceptionGroup):
        await tick(services, NOW)
    monkeypatch.setattr(TenantStore, "advance", advance)
    await tick(services, NOW + timedelta(minutes=5))

    jobs = [json.loads(body) for body in await world.take()]
    assert len({job["flowName"] for job in jobs}) == len({job["runId"] for job in jobs}) == 35
    assert len(jobs) == 45
    assert set(Counter(job["runId"] for job in jobs).values()) == {1, 2}


async def test_500_flows_of_one_tenant_are_enqueued_in_one_tick(world: World, services: Services) -> None:
    """A tenant can have any number of flows, although a patch has at most ten operations."""
    await world.put(document("tenant-1", *[entry(f"flow-{n}", nextRunUtc=DUE) for n in range(500)]))

    tally = await tick(services, NOW)

    assert tally == Tally(tenants=1, due=500, enqueued=500, advanced=500)
    flows = (await world.document("tenant-1"))["flows"]
    assert {flow["nextRunUtc"] for flow in flows} == {"2025-08-23T13:00:00Z"}
    assert len({json.loads(body)["flowName"] for body in await world.take()}) == 500


async def test_all_tenants_of_several_pages_are_enqueued(world: World, services: Services) -> None:
    """The query is paged, and changes by the tick itself do not cause it to skip a tenant."""
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

    assert (first.invalid, first.enqueued, first.failed) == (len(broken), 1, 0)
    assert (second.invalid, second.tenants) == (len(broken), len(broken))


async def test_documents_of_other_types_are_ignored(world: World, services: Services) -> None:
    """The container may hold documents of other types, such as maps and notes."""
    await world.put(document("a-map", entry(nextRunUtc=DUE), type="Map"), {"id": "note", "tenantId": "note"})

    assert await tick(services, NOW) == Tally()


async def test_a_missing_queue_is_named_with_the_remedy(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The tick fails and does not change the document, so the next tick tries again."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE)))
    services = await Services.connect(Settings.from_environ({**world.environ, "QUEUE_NAME": "not-there"}))
    try:
        with pytest.raises(ServiceUnavailable, match="queue 'not-there' does not exist .*az storage queue create"):
            await tick(services, NOW)
    finally:
        await services.close()

    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == DUE
    assert "tenant 'tenant-1' could not be scheduled" in caplog.text


@pytest.mark.parametrize("setting", ["COSMOS_TENANTS_CONTAINER", "COSMOS_RUNS_CONTAINER"])
async def test_a_missing_container_is_named_with_the_remedy(world: World, setting: str) -> None:
    """A missing container is reported on connecting, before any flow runs."""
    with pytest.raises(ServiceUnavailable, match="answered 404 while looking at container 'misspelt'.*Create the"):
        await Services.connect(Settings.from_environ({**world.environ, setting: "misspelt"}))


async def test_a_wrong_cosmos_key_is_named(world: World) -> None:
    """The error names the setting and contains no key."""
    wrong = world.environ["COSMOS_CONNECTION_STRING"].partition("AccountKey=")[0] + "AccountKey=d3Jvbmc=;"
    with pytest.raises(ServiceUnavailable, match="401.*Check the key in COSMOS_CONNECTION_STRING") as refused:
        await Services.connect(Settings.from_environ({**world.environ, "COSMOS_CONNECTION_STRING": wrong}))

    assert "d3Jvbmc" not in str(refused.value)


async def test_an_unreachable_account_is_named(world: World) -> None:
    """The error names the service and the settings with its address."""
    nowhere = "AccountEndpoint=http://127.0.0.1:1/;AccountKey=d3Jvbmc=;"
    with pytest.raises(ServiceUnavailable, match="Cosmos DB could not be reached.*Check COSMOS_CONNECTION_STRING"):
        await Services.connect(Settings.from_environ({**world.environ, "COSMOS_CONNECTION_STRING": nowhere}))
