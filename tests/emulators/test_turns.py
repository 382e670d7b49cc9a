"""Tenants take turns: one with very much to do keeps neither the other tenants nor the event loop waiting."""

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from datasync import FlowRegistry
from datasync.errors import MessageTooLarge
from datasync.model.job import JobMessage, PlannedJob
from datasync.services import Services
from datasync.settings import Settings
from datasync.stores.tenants import MOST_MOVES
from datasync.tick.tick import MOST_PROBLEMS, Tally
from datasync.tick.turns import REQUESTS
from tests.documents import document, entry
from tests.emulators.conftest import Api
from tests.faults import Request, Wire, to
from tests.stages import FakeClock, does_nothing, tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
DUE, AHEAD = "2025-08-23T12:00:00Z", "2999-01-01T00:00:00Z"
NOTE = {"nextRunUtc": DUE, "enqueuedUtc": "2025-08-23T11:00:03Z", "key": "5f"}
SENT, PROBLEM_SAVED = to("POST", "/messages"), to("POST", "/docs", '"type":"Problem"')


def jobs(wire: Wire) -> list[dict[str, Any]]:
    """Return the jobs that were sent, in their order."""
    texts = [re.search("<MessageText>(.*?)<", body) for _, _, body in filter(SENT, wire.requests)]
    return [json.loads(b64decode(text[1])) for text in texts if text]


def large(flows: int, **fields: object) -> dict[str, Any]:
    """Return the document of a tenant with this many due flows."""
    return document("large", *[entry(f"flow-{n}", nextRunUtc=DUE, planned=NOTE, **fields) for n in range(flows)])


def small(number: int) -> dict[str, Any]:
    return document(f"small-{number}", entry(nextRunUtc=DUE, planned=NOTE))


class Checked(msgspec.Struct):
    """Settings that count how often they are read."""

    limit: int = 0

    def __post_init__(self) -> None:
        checks.append(self.limit)


checks: list[int] = []


@pytest.fixture
def checking() -> Iterator[FlowRegistry]:
    """Return flows whose settings are counted when an entry is planned."""
    registry = FlowRegistry()
    for number in range(2_000):
        registry.flow(f"flow-{number}", settings=Checked)(does_nothing)
    yield registry
    checks.clear()


@pytest_asyncio.fixture
async def narrow(world: World, wire: Wire) -> AsyncGenerator[Services]:
    """Connect the services of a process that handles one tenant at once."""
    assert not wire.requests
    made = Services(Settings.from_environ({**world.environ, "ORCHESTRATOR_CONCURRENCY": "1"}), FakeClock())
    yield made
    await made.close()


async def test_the_tenants_of_later_pages_do_not_wait_for_a_large_one(
    world: World, wire: Wire, services: Services
) -> None:
    """The large tenant is on the first of two pages. All small tenants have their jobs before the large one is done."""
    await world.put(large(120))
    await asyncio.gather(*[world.put(small(number)) for number in range(150)])

    tally = await tick(services, NOW)

    assert tally == Tally(tenants=151, due=270, enqueued=270, advanced=270)
    tenants = [job["tenantId"] for job in jobs(wire)]
    assert set(tenants[-10:]) == {"large"}


async def test_a_large_tenant_goes_to_the_end_of_the_line_after_its_share(
    world: World, wire: Wire, narrow: Services
) -> None:
    """One tenant is handled at once. The others get their turns between those of the large one, which is finished."""
    await world.put(large(300), *map(small, range(3)))

    tally = await tick(narrow, NOW)

    assert (tally.enqueued, tally.advanced, tally.conflicts) == (303, 303, 0)
    line = [(tenant, len([*sent])) for tenant, sent in groupby(job["tenantId"] for job in jobs(wire))]
    assert [tenant for tenant, _ in line] == ["large", "small-0", "large", "small-1", "large", "small-2", "large"]
    assert all(sent <= REQUESTS for tenant, sent in line[:-1] if tenant == "large")


async def test_a_tenant_with_many_problems_goes_to_the_end_of_the_line(
    world: World, wire: Wire, narrow: Services
) -> None:
    """Each problem is stored in a request of its own."""
    await world.put(large(3 * REQUESTS, cron="hourly"), small(0))

    tally = await tick(narrow, NOW)

    assert (tally.problems, tally.enqueued) == (MOST_PROBLEMS + 1, 1)
    line = [request for request in wire.requests if SENT(request) or PROBLEM_SAVED(request)]
    saved_before = [SENT(request) for request in line].index(True)
    assert saved_before in (REQUESTS - 1, REQUESTS), "one request of the turn may be for the states of the flows"


async def test_a_tenant_is_planned_once(world: World, services: Services, checking: FlowRegistry) -> None:
    """Twelve groups are patched twice each, since no entry has a note yet."""
    flows = [entry(f"flow-{n}", nextRunUtc=DUE, settings={"limit": n}) for n in range(60)]
    await world.put(document("tenant-1", *flows))

    tally = await tick(services, NOW, checking)

    assert (tally.enqueued, tally.advanced, tally.conflicts) == (60, 60, 0)
    assert sorted(checks) == [*range(60)]


async def test_a_tenant_that_is_edited_meanwhile_is_planned_again(
    world: World, wire: Wire, services: Services, checking: FlowRegistry
) -> None:
    """The entries that were served are not enqueued again, and the edited ones are planned as they are now."""
    before, after = large(20), large(20, cron="0 0 12 * * *")
    await world.put(before)
    wire.after(SENT, lambda: world.put(after))

    tally = await tick(services, NOW, checking)

    assert (tally.enqueued, tally.advanced, tally.conflicts) == (20, 20, 1)
    assert len(jobs(wire)) == 20
    assert MOST_MOVES + 20 <= len(checks) <= 2 * 20
    moved = [flow["nextRunUtc"] for flow in (await world.document("large"))["flows"]]
    assert moved == ["2025-08-23T13:00:00Z"] * MOST_MOVES + ["2025-08-24T12:00:00Z"] * (20 - MOST_MOVES)


async def test_jobs_are_sent_before_the_whole_tenant_is_planned(
    world: World, wire: Wire, services: Services, checking: FlowRegistry
) -> None:
    """A tenant with very many runs ahead is planned group by group."""
    await world.put(large(100))
    planned: list[int] = []

    async def note() -> None:
        planned.append(len(checks))

    wire.before_each(SENT, note)

    await tick(services, NOW, checking)

    assert planned[0] == MOST_MOVES
    assert planned[-1] == 100


async def test_the_event_loop_is_free_while_a_large_tenant_is_checked(
    world: World, services: Services, checking: FlowRegistry
) -> None:
    """Runs in the same process go on in between."""
    await world.put(document("large", *[entry(f"flow-{n}", nextRunUtc=AHEAD) for n in range(2_000)]))
    seen: set[int] = set()

    async def watch() -> None:
        while True:
            seen.add(len(checks))
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    await tick(services, NOW, checking)
    watching.cancel()

    assert seen - {0, 2_000}, "some, but not all, of the entries were checked when another task had its turn"


def job(flow: str) -> PlannedJob:
    return PlannedJob(message=JobMessage(tenant_id="tenant-1", flow_name=flow), visible_at=NOW - timedelta(hours=1))


async def test_a_message_that_is_too_large_does_not_keep_the_others_from_the_queue(
    world: World, services: Services
) -> None:
    """The error names the jobs that were not sent. A message has at most 64 KB in base64."""
    flows = [*(f"flow-{number}" for number in range(100)), "x" * 70_000, "x" * 49_000]

    with pytest.raises(MessageTooLarge, match=r"refused the job of tenant-1/xxx.* \(413\): .* 64 KB") as refused:
        await services.jobs.send_all(map(job, flows))

    assert refused.value.flows == {"x" * 70_000}
    assert {json.loads(body)["flowName"] for body in await world.take()} == {*flows} - {"x" * 70_000}


async def test_a_job_that_is_too_large_is_a_problem_and_its_neighbours_advance(
    world: World, wire: Wire, services: Services, api: Api
) -> None:
    """The neighbours run once. The entry stays due, and runs when its job can be sent."""
    await world.put(document("tenant-1", *[entry(name, nextRunUtc=DUE) for name in ("weather", "first", "second")]))
    api.status, api.headers = 413, {"x-ms-error-code": "RequestBodyTooLarge"}

    def is_first(request: Request) -> bool:
        texts = re.findall("<MessageText>(.*?)<", request[2])
        return any(b'"flowName":"first"' in b64decode(text) for text in texts)

    wire.divert(is_first, f"{api.url}/messages")

    tallies = [await tick(services, NOW + timedelta(minutes=number)) for number in range(3)]
    sent = [json.loads(body)["flowName"] for body in await world.take()]
    wire.heal()
    corrected = await tick(services, NOW + timedelta(minutes=5))

    assert sorted(sent) == ["second", "weather"]
    assert [(tally.enqueued, tally.advanced, tally.problems, tally.failed) for tally in tallies] == [
        (2, 2, 1, 0),
        (0, 0, 1, 0),
        (0, 0, 1, 0),
    ]
    assert (corrected.enqueued, corrected.problems) == (1, 0)
    assert [json.loads(body)["flowName"] for body in await world.take()] == ["first"]
    moved = [flow["nextRunUtc"] for flow in (await world.document("tenant-1"))["flows"]]
    assert moved == ["2025-08-23T13:00:00Z"] * 3
