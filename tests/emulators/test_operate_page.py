"""The answers that only the page shows: changes of the fleet, one tenant, the load of the next 24 hours."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.cosmos.aio import ContainerProxy

from datasync.errors import FlowFailed, TenantUnknown
from datasync.model.job import HEAD_START
from datasync.model.tenant import Tenant
from datasync.model.times import utc_text
from datasync.operate import fleet as fleet_module
from datasync.operate.fleet import OVERLAP, fleet_since
from datasync.operate.fleet import fleet as find_fleet
from datasync.operate.flows import Health
from datasync.operate.load import MINUTES, load
from datasync.operate.tenant import tenant
from datasync.services import Services
from datasync.settings import Settings
from datasync.tick.plan import Advance, plan
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.faults import Wire
from tests.operating import FEED, NEXT, Fleet
from tests.waiting import wait_until
from tests.world import World

HOUR = timedelta(hours=1)


async def next_second(world: World) -> int:
    """Wait until the clock of the database shows a later second than that of any document. Return it."""
    before = max(await newest(world.tenants), await newest(world.runs))
    clock = {"id": "clock", "tenantId": "@clock"}

    async def has_passed() -> bool:
        return bool((await world.runs.upsert_item(clock))["_ts"] > before)

    await wait_until(has_passed, description="the clock of the database shows a later second")
    await world.runs.delete_item("clock", partition_key="@clock")
    return before + 1


async def newest(container: ContainerProxy) -> int:
    return max([int(item["_ts"]) async for item in container.query_items("SELECT c._ts FROM c")], default=0)


async def test_the_whole_fleet_comes_with_the_time_of_its_newest_change(fleet: Fleet, services: Services) -> None:
    """A reader asks for the changes since this time."""
    await fleet.add("acme", "zenith")

    found = await find_fleet(services, fleet.registry, NOW)

    assert found.complete
    assert [line.tenant_id for line in found.lines] == ["acme", "zenith"]
    assert found.at_ts == await newest(fleet.world.tenants)


async def test_only_changed_tenants_come_again(
    fleet: Fleet, services: Services, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant has changed if its document, a state of its flows, or a problem has. All its lines come."""
    monkeypatch.setattr(fleet_module, "OVERLAP", 0)

    async def changed(since: int) -> list[tuple[str, str | None]]:
        found = await fleet_since(services, fleet.registry, NOW, since)
        assert not found.complete
        assert found.at_ts >= since
        return [(line.tenant_id, line.flow_name) for line in found.lines]

    await fleet.add("edited", "ran", "same")
    await fleet.tick()  # makes their states
    await world.put(document("broken", entry(cron="61 * * * * *")))
    before_run = await next_second(world)
    await fleet.run("ran", "r-1")
    before_tick = await next_second(world)
    await fleet.tick()
    before_edit = await next_second(world)
    await world.put(document("edited", entry(enabled=False), entry(FEED)))
    after = await next_second(world)

    edited, ran, broken = [("edited", FEED), ("edited", "weather")], [("ran", "weather")], [("broken", "weather")]
    assert sorted(await changed(before_run)) == sorted([*broken, *edited, *ran])
    assert sorted(await changed(before_tick)) == sorted([*broken, *edited])
    assert sorted(await changed(before_edit)) == sorted(edited)
    assert await changed(after) == []


async def test_changes_that_are_over_come_once(fleet: Fleet, services: Services, world: World) -> None:
    """However many they were. While others of the same time may be on their way, they are read again."""
    await fleet.add("acme", "bravo")
    newest_ts = max(await newest(world.tenants), await newest(world.runs))

    async def changed(seconds: int, since: int) -> tuple[int, list[str]]:
        now = datetime.fromtimestamp(newest_ts + seconds, UTC)
        found = await fleet_since(services, fleet.registry, now, since)
        return found.at_ts, [line.tenant_id for line in found.lines]

    soon, early = await changed(2 * OVERLAP, 0)
    assert (await changed(2 * OVERLAP, soon))[1] == early == ["acme", "bravo"]
    later, _ = await changed(2 * OVERLAP + 1, soon)
    assert (await changed(2 * OVERLAP + 20, later))[1] == []
    whole = await find_fleet(services, fleet.registry, datetime.fromtimestamp(newest_ts + 2 * OVERLAP + 1, UTC))
    assert whole.at_ts == later
    await next_second(world)
    await world.put(document("bravo", entry(enabled=False)))
    assert (await changed(2 * OVERLAP + 40, later))[1] == ["bravo"]


async def test_the_start_of_an_overlapping_run_is_a_change(
    fleet: Fleet, services: Services, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is in its record, and the state of its flow stays as it is."""
    monkeypatch.setattr(fleet_module, "OVERLAP", 0)
    seen: list[tuple[str, Health]] = []

    @fleet.registry.flow("side", overlap="allow")
    async def side(tenant_id: str, kv: object) -> None:
        found = await fleet_since(services, fleet.registry, NOW, before)
        seen.extend((line.tenant_id, line.health) for line in found.lines)

    await world.put(*(document(each, entry("side", nextRunUtc=NEXT)) for each in ("t", "u")))
    before = await next_second(world)
    await fleet.run("t", "r-1", flow="side")

    assert seen == [("t", Health.RUNNING)]


async def test_the_standing_problems_are_read_once_for_all_changed_tenants(
    fleet: Fleet, services: Services, wire: Wire
) -> None:
    """However many have changed."""
    await fleet.add("a", "b", "c", cron="x")
    await fleet.tick()
    wire.requests.clear()

    found = await fleet_since(services, fleet.registry, NOW, 0)

    assert [line.health for line in found.lines] == [Health.PROBLEM] * 3
    assert len([body for _, _, body in wire.requests if "SELECT * FROM c WHERE c.type = 'Problem'" in body]) == 1


async def test_a_corrected_problem_is_a_change(
    fleet: Fleet, services: Services, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tick that finds it corrected writes neither a document nor a state."""
    monkeypatch.setattr(fleet_module, "OVERLAP", 0)
    await world.put(document("acme", entry(nextRunUtc=NEXT), {"name": 7}))
    await fleet.tick()
    await world.put({**await world.document("acme"), "flows": [entry(nextRunUtc=NEXT)]})
    before = await next_second(world)

    await fleet.tick(timedelta(minutes=1))

    found = await fleet_since(services, fleet.registry, NOW, before)
    assert [(line.flow_name, line.problem) for line in found.lines] == [("weather", None)]
    assert await services.fleet.problems() == []


async def test_a_line_says_when_it_becomes_late_and_where_its_tenant_is(
    fleet: Fleet, services: Services, world: World
) -> None:
    """A page that holds the lines needs no change of a document to see that time has passed."""
    await world.put(document("acme", entry(nextRunUtc=NEXT), entry(FEED, enabled=False), timezone="Europe/Berlin"))

    on, off = sorted((await find_fleet(services, fleet.registry, NOW)).lines, key=lambda line: not line.enabled)

    assert (on.overdue_utc, off.overdue_utc) == (NOW + timedelta(hours=3, minutes=5), None)
    assert on.overdue_utc
    for after, late in ((timedelta(), None), (timedelta(seconds=1), NOW + HOUR)):
        later = (await find_fleet(services, fleet.registry, on.overdue_utc + after)).lines
        assert [line.late_since_utc for line in later if line.enabled] == [late]
    assert (on.timezone, off.timezone) == ("Europe/Berlin", "Europe/Berlin")


async def test_many_changes_bring_the_whole_fleet(
    fleet: Fleet, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading each of them alone would cost more."""
    monkeypatch.setattr(fleet_module, "MOST_CHANGED", 2)
    await fleet.add("a", "b", "c")

    found = await fleet_since(services, fleet.registry, NOW, 0)

    assert found.complete
    assert len(found.lines) == 3


async def test_a_tenant_whose_document_is_gone_is_named(fleet: Fleet, services: Services, world: World) -> None:
    """Its states are left, and one of them has changed."""
    await fleet.add("gone")
    await fleet.run("gone", "r-1")
    await world.tenants.delete_item("gone", partition_key="gone")

    found = await fleet_since(services, fleet.registry, NOW, 0)

    assert (found.removed, found.lines) == (("gone",), ())


async def test_a_tenant_has_its_document_and_its_next_times(fleet: Fleet, services: Services, world: World) -> None:
    """Times are in UTC and in the tenant's zone; a nextRunUtc that somebody has set is the first."""
    set_back = entry("weather", cron="0 0 6 * * *", timezone="tenant", nextRunUtc="2025-08-23T15:30:00Z")
    await world.put(document("acme", set_back, entry(FEED, enabled=False, cron="x")))

    found = await tenant(services, fleet.registry, "acme", NOW)

    assert found.zone == "America/Chicago"
    assert found.document["name"] == "Acme Cabinets"
    assert not [name for name in found.document if name.startswith("_")]
    assert found.etag == (await world.document("acme"))["_etag"]
    weather, feed = found.entries
    assert [each.local for each in weather.next_times] == [
        "2025-08-23T10:30:00-05:00",
        "2025-08-24T06:00:00-05:00",
        "2025-08-25T06:00:00-05:00",
        "2025-08-26T06:00:00-05:00",
        "2025-08-27T06:00:00-05:00",
    ]
    assert (weather.problems, weather.timezone) == ((), "America/Chicago")
    assert weather.next_times[1].utc.hour == 11
    assert (feed.enabled, feed.timezone) == (False, "UTC")
    assert [problem.partition(":")[0] for problem in feed.problems] == ["flows[1].cron"]


async def test_a_tenant_whose_document_cannot_be_read_is_shown(fleet: Fleet, services: Services, world: World) -> None:
    """The document is there as it is stored, with the reason."""
    await world.put(document("acme", timezone=7))

    found = await tenant(services, fleet.registry, "acme", NOW)

    assert (found.entries, found.zone, found.document["timezone"]) == ((), None, 7)
    assert found.problems[0].startswith("timezone: ")


async def test_an_unknown_zone_has_no_local_times(fleet: Fleet, services: Services, world: World) -> None:
    """The times in UTC are there all the same."""
    await world.put(document("acme", entry(nextRunUtc=None), timezone="Mars/Olympus"))

    found = await tenant(services, fleet.registry, "acme", NOW)

    assert [each.local for each in found.entries[0].next_times] == [None] * 5
    with pytest.raises(TenantUnknown):
        await tenant(services, fleet.registry, "nobody", NOW)


async def test_the_load_is_counted_by_minute_and_provider(fleet: Fleet, services: Services, world: World) -> None:
    """Hourly ticks enqueue hourly flows; occurrences between two ticks are one job."""
    await world.put(
        document("a", entry(cron="0 0 * * * *", nextRunUtc="2025-08-23T13:00:00Z")),
        document("b", entry(FEED, cron="0 */10 * * * *", nextRunUtc="2025-08-23T12:10:00Z")),
        document("off", entry(enabled=False)),
        document("wrong", entry(cron="x")),
        document("unreadable", timezone=7),
    )

    found = await load(services, fleet.registry, NOW + timedelta(seconds=20))

    assert found.from_utc == NOW
    jobs = {each.provider: each for each in found.providers}
    assert (jobs[None].jobs, jobs["homedepot"].jobs) == (23, 23)
    assert [at for at, number in enumerate(jobs[None].minutes) if number] == [60 * hour for hour in range(1, 24)]
    assert len(jobs[None].minutes) == MINUTES
    assert jobs["homedepot"].flows == (FEED,)


@pytest.mark.parametrize(("lookahead", "spread"), [("0", "0"), ("1800", "0"), ("3600", "600"), ("7200", "90")])
async def test_the_load_is_what_the_ticks_plan(fleet: Fleet, world: World, lookahead: str, spread: str) -> None:
    """Also with a lookahead, with a spread, and where a nextRunUtc is missing or has passed."""
    crons = ("0 0 * * * *", "0 */7 * * * *", "30 59 23 * * *", "0 15 8 * * 1-5", "*/20 0-2 6 * * *")
    times = ("2025-08-23T13:00:00Z", None, "2025-08-20T00:00:00Z")
    documents = [
        document(f"t-{at}-{index}", entry(cron=each, timezone="Europe/Berlin", nextRunUtc=time))
        for at, each in enumerate(crons)
        for index, time in enumerate(times)
    ]
    await world.put(*documents)
    settings = {**world.environ, "ORCHESTRATOR_LOOKAHEAD": lookahead, "ORCHESTRATOR_SPREAD": spread}
    services = Services(Settings.from_environ(settings))
    try:
        found = await load(services, fleet.registry, NOW)
    finally:
        await services.close()

    planned = Counter(minute for each in documents for minute in planned_minutes(fleet, each, services.settings))
    assert dict(enumerate(found.providers[0].minutes)) == {minute: planned[minute] for minute in range(MINUTES)}
    assert planned.total() > 100


def planned_minutes(fleet: Fleet, stored: dict[str, Any], settings: Settings) -> Iterator[int]:
    """Yield the minutes from noon on in which the jobs of hourly ticks start."""
    tenant = Tenant.from_document(stored)
    for hour in range(1, 24):
        now = NOW + HOUR * hour
        for advance in plan(tenant, fleet.registry, now, now + settings.lookahead, settings.spread):
            assert isinstance(advance, Advance | None)
            if advance:
                yield from ((job.visible_at + HEAD_START - NOW) // timedelta(minutes=1) for job in advance.jobs())
                moved = {"nextRunUtc": utc_text(advance.next_run), "planned": None}
                stored = {**stored, "flows": [{**stored["flows"][0], **moved}]}
        tenant = Tenant.from_document(stored)


async def test_a_failing_flow_stays_in_the_lines(fleet: Fleet, services: Services) -> None:
    """The lines of a change are those of the list of flows."""
    await fleet.add("acme")
    fleet.ends["acme"] = FlowFailed("no")
    await fleet.run("acme", "r-1", attempts=2)

    found = await fleet_since(services, fleet.registry, NOW, 0)

    assert [(line.tenant_id, line.consecutive_failures) for line in found.lines] == [("acme", 2)]
