"""The cool-downs of providers, with real services and a real API: runs wait while an API asks not to be called."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.cosmos.exceptions import CosmosResourceNotFoundError
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun
from datasync.model.job import Trigger, run_id
from datasync.model.times import utc_text
from datasync.services import Services
from tests.deliveries import NOW, Deliveries
from tests.documents import document, entry
from tests.emulators.conftest import Api
from tests.faults import Request, Wire, to
from tests.world import World

PAUSE = timedelta(minutes=10)
UNTIL = NOW + PAUSE + timedelta(seconds=1)
"""The end of a pause of 10 minutes. A fraction of a second is rounded up."""
IN_TEN_MINUTES = str(int((NOW + PAUSE).timestamp()))
SPREAD = timedelta(minutes=1)
"""The time in which the runs start after the pause."""


type Answer = tuple[int, dict[str, str]]
"""Status and headers."""


def calling(api: Api, **options: Any) -> FlowRegistry:
    """Return a registry with flows that send one request: two of `mysource`, one of `another`, and one of neither."""
    registry = FlowRegistry()

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        response = await run.http.get(f"{api.url}/{tenant_id}/{run.flow_name}/{run.run_id}")
        response.raise_for_status()

    registry.flow("flow", provider="mysource", **options)(flow)
    registry.flow("beside", provider="mysource", **options)(flow)
    registry.flow("other", provider="another", **options)(flow)
    registry.flow("free")(flow)
    return registry


@pytest_asyncio.fixture
async def host(world: World, wire: Wire, services: Services, api: Api) -> Deliveries:
    """Return a host with the flows, and two tenants that have them."""
    return await new_host(world, wire, services, api)


async def new_host(world: World, wire: Wire, services: Services, api: Api, **options: Any) -> Deliveries:
    flows = [entry(name) for name in ("flow", "beside", "other", "free")]
    await world.put(document("t", *flows), document("u", *flows))
    return Deliveries(services, wire, calling(api, **options))


async def close(host: Deliveries, api: Api, pause: timedelta = PAUSE) -> None:
    """Let a run close the provider, and heal the API. The message of that run stays in the queue."""
    api.status, api.headers = 429, {"Retry-After": f"{pause.total_seconds():.0f}"}
    host.post(run_id="closing")
    await host.next()
    api.heal()
    api.requests.clear()


async def cooldown(world: World, partition: str = "t", provider: str = "mysource") -> dict[str, Any] | None:
    """Return the stored cool-down of a provider."""
    try:
        return dict(await world.runs.read_item(f"cooldown-{provider}", partition_key=partition))
    except CosmosResourceNotFoundError:
        return None


async def closed_until(world: World) -> datetime | None:
    """Return the time in the stored cool-down of `t` and `mysource`."""
    stored = await cooldown(world)
    return datetime.fromisoformat(stored["untilUtc"]) if stored else None


async def outcomes(world: World, tenant_id: str | None = None) -> dict[str, list[str]]:
    """Return the outcomes of the attempts of each run."""
    return {
        record["runId"]: [attempt["outcome"] for attempt in record["attempts"]]
        for record in await world.records(tenant_id)
    }


def hidden_until(host: Deliveries, run_id: str) -> datetime:
    """Return when the message of a run appears on the queue."""
    (waiting,) = [each for each in host.waiting if each.job.run_id == run_id]
    return waiting.visible_at


class TestClosing:
    @pytest.mark.parametrize(
        ("answer", "outcome"),
        [
            ((429, {"Retry-After": "600"}), "deferred"),
            ((503, {"Retry-After": "600"}), "deferred"),
            ((503, {"Retry-After": "Sat, 23 Aug 2025 12:10:00 GMT"}), "deferred"),
            ((403, {"Retry-After": "600"}), "deferred"),
            ((200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "600"}), "succeeded"),
            ((200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": IN_TEN_MINUTES}), "succeeded"),
        ],
    )
    async def test_an_api_that_asks_for_a_pause_is_closed(
        self, world: World, host: Deliveries, api: Api, answer: Answer, outcome: str
    ) -> None:
        """The run ends as its answer says. The next one is put back: no attempt, no request, no record."""
        api.status, api.headers = answer
        host.post(run_id="r-1")
        await host.next()
        api.heal()
        stored = await cooldown(world)
        assert stored is not None
        assert {name: stored[name] for name in ("type", "provider", "sinceUtc", "untilUtc", "ttl")} == {
            "type": "Cooldown",
            "provider": "mysource",
            "sinceUtc": utc_text(NOW),
            "untilUtc": utc_text(UNTIL),
            "ttl": 601,
        }

        host.waiting.clear()
        host.post(flow_name="beside", run_id="r-2")
        await host.next()

        assert await outcomes(world) == {"r-1": [outcome]}
        assert api.requests == ["/t/flow/r-1"]
        (waiting,) = host.waiting
        assert UNTIL <= waiting.visible_at <= UNTIL + SPREAD

    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            (429, {"Retry-After": "60"}),
            (403, {"Retry-After": "60"}),
            (200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}),
            (200, {"X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "600"}),
            (500, {"Retry-After": "600"}),
        ],
    )
    async def test_another_answer_closes_nothing(
        self, world: World, host: Deliveries, api: Api, status: int, headers: dict[str, str]
    ) -> None:
        """A pause of up to a minute is that of one run. Only 403, 429 and 503 close by Retry-After."""
        api.status, api.headers = status, headers
        host.post(run_id="r-1")
        await host.next()

        assert await cooldown(world) is None
        sent = len(api.requests)
        api.heal()
        host.post(flow_name="beside", run_id="r-2")
        host.waiting = [each for each in host.waiting if each.job.run_id == "r-2"]
        await host.all()
        assert (await outcomes(world))["r-2"] == ["succeeded"]
        assert len(api.requests) == sent + 1

    async def test_a_flow_without_a_provider_closes_nothing(
        self, world: World, wire: Wire, host: Deliveries, api: Api
    ) -> None:
        """Its own run waits. No cool-down is read or written."""
        api.status, api.headers = 429, {"Retry-After": "600"}
        host.post(flow_name="free", run_id="r-1")
        await host.next()

        assert await outcomes(world) == {"r-1": ["deferred"]}
        assert not [url for _, url, body in wire.requests if "cooldown" in url + body.lower()]

    async def test_the_document_deletes_itself_after_the_pause(self, world: World, host: Deliveries, api: Api) -> None:
        """It lives for as long as the provider is closed, a started second included."""
        await close(host, api, timedelta(seconds=61))

        stored = await cooldown(world)
        assert stored is not None
        assert stored["ttl"] == 62

    async def test_a_later_time_is_not_replaced_by_an_earlier_one(self, world: World, services: Services) -> None:
        """Two runs went on when the API asked for a pause. The longer pause counts, even if its run ends first."""
        later, earlier = NOW + timedelta(hours=1), NOW + timedelta(minutes=10)
        for until in (later, earlier):
            await services.runs.close("t", "mysource", until, NOW)

        closed = await services.runs.cooldown("t", "mysource")
        assert closed == later + timedelta(seconds=1)
        stored = await cooldown(world)
        assert stored is not None
        assert stored["ttl"] == 3601

    async def test_an_earlier_time_is_replaced_by_a_later_one(self, services: Services) -> None:
        """The same API may extend its pause."""
        later, earlier = NOW + timedelta(hours=1), NOW + timedelta(minutes=10)
        for until in (earlier, later):
            await services.runs.close("t", "mysource", until, NOW)

        assert await services.runs.cooldown("t", "mysource") == later + timedelta(seconds=1)

    async def test_of_many_runs_that_close_at_once_the_latest_time_counts(self, services: Services) -> None:
        """Their writes meet: none is lost."""
        times = [NOW + timedelta(minutes=10 + number) for number in (3, 7, 1, 9, 5, 8, 2, 6, 4, 0)]
        await asyncio.gather(*[services.runs.close("t", "mysource", until, NOW) for until in times])

        assert await services.runs.cooldown("t", "mysource") == max(times) + timedelta(seconds=1)

    @pytest.mark.parametrize("answer", [(429, "deferred"), (200, "succeeded")])
    async def test_a_run_does_not_fail_if_the_provider_cannot_be_closed(
        self, world: World, wire: Wire, host: Deliveries, api: Api, answer: tuple[int, str]
    ) -> None:
        """Cosmos DB refuses the cool-down. The run ends as before, and the next one closes the provider."""
        pause = {"Retry-After": "600", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "600"}
        (api.status, outcome), api.headers = answer, pause

        def writes(request: Request) -> bool:
            method, url, body = request
            return method != "GET" and "cooldown" in url + body

        wire.refuse_all(writes)
        host.post(run_id="r-1")
        await host.next()
        assert await outcomes(world) == {"r-1": [outcome]}
        assert (host.errors, await cooldown(world)) == ([], None)

        wire.heal()
        host.waiting.clear()
        host.post(run_id="r-2", trigger=Trigger.MESSAGE)  # others wait for the deferred run
        await host.next()
        assert await closed_until(world) == UNTIL

    async def test_a_lost_answer_closes_the_provider(
        self, world: World, wire: Wire, host: Deliveries, api: Api
    ) -> None:
        """The client repeats the write."""
        wire.lose_answer(to("POST", "/docs", "cooldown"))
        await close(host, api)

        assert wire.stop_losing() == 0
        assert await closed_until(world) == UNTIL
        assert host.errors == []


class TestWaiting:
    async def test_the_message_is_put_back_as_it_is(
        self, host: Deliveries, api: Api, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It stands for the first message, and the log has the end of its wait, and the provider."""
        await close(host, api)
        host.waiting.clear()
        posted = host.post(flow_name="beside", run_id="r-2")
        await host.next()

        (job,) = host.jobs
        assert (job.message_id, job.run_id, job.deferral, job.outages) == (posted.id, "r-2", 0, 0)
        assert "WAITING t/beside" in caplog.text
        assert "mysource asked not to be called until 2025-08-23T12:10:01Z" in caplog.text

    async def test_only_the_runs_of_the_tenant_and_the_provider_wait(
        self, world: World, host: Deliveries, api: Api
    ) -> None:
        """Another tenant, another provider, and a flow without a provider go on."""
        await close(host, api)
        host.post(tenant_id="u", flow_name="flow", run_id="another-tenant")
        host.post(flow_name="other", run_id="another-provider")
        host.post(flow_name="free", run_id="no-provider")
        host.post(flow_name="beside", run_id="closed")
        for _ in range(4):
            await host.next()

        assert await outcomes(world) == {
            "closing": ["deferred"],
            "another-tenant": ["succeeded"],
            "another-provider": ["succeeded"],
            "no-provider": ["succeeded"],
        }
        assert sorted(job.run_id or "" for job in host.jobs) == ["closed", "closing"]

    async def test_all_tenants_wait_if_the_flow_says_so(
        self, world: World, wire: Wire, services: Services, api: Api
    ) -> None:
        """The document is in the partition of the fleet. Other providers go on."""
        host = await new_host(world, wire, services, api, cooldown="provider")
        await close(host, api)
        assert await cooldown(world, "@fleet") is not None
        assert await cooldown(world, "t") is None
        host.post(tenant_id="u", flow_name="beside", run_id="closed")
        host.post(tenant_id="u", flow_name="other", run_id="another-provider")
        for _ in range(2):
            await host.next()

        assert await outcomes(world, "u") == {"another-provider": ["succeeded"]}
        assert hidden_until(host, "closed") >= UNTIL

    async def test_one_job_of_a_flow_waits(self, world: World, host: Deliveries, api: Api) -> None:
        """The other occurrences are skipped. One run follows the one that waited. A person's run waits beside it."""
        await close(host, api)
        host.waiting.clear()
        for run in ("r-1", "r-2", "r-3"):
            host.post(flow_name="beside", run_id=run)
            await host.next()
        host.post(flow_name="beside", run_id="forced", trigger=Trigger.FORCED)
        await host.next()
        assert {job.run_id for job in host.jobs} == {"r-1", "forced"}

        await host.all()

        found = await outcomes(world)
        follow_up = run_id("once more", "r-3")
        assert found == {
            "closing": ["deferred"],
            **{run: ["skipped_overlap"] for run in ("r-2", "r-3")},
            **{run: ["succeeded"] for run in ("r-1", "forced", follow_up)},
        }
        assert host.waiting == []

    async def test_a_killed_process_parks_the_same_job_again(
        self, world: World, wire: Wire, host: Deliveries, api: Api
    ) -> None:
        """It died between the note in the state and the copy of the message."""
        await close(host, api)
        host.waiting.clear()
        host.post(flow_name="beside", run_id="r-1")
        wire.kill_before(to("POST", "/messages"))
        await host.next()
        wire.heal()
        await host.all()

        assert await outcomes(world) == {"closing": ["deferred"], "r-1": ["succeeded"]}

    async def test_a_duplicate_does_not_wait(self, host: Deliveries, api: Api) -> None:
        """A run that has ended is dropped at once."""
        host.post(run_id="r-1")
        await host.next()
        await close(host, api)
        host.waiting.clear()
        host.post(run_id="r-1")
        await host.next()

        assert host.waiting == []

    async def test_a_run_waits_while_the_cooldown_cannot_be_read(self, wire: Wire, host: Deliveries, api: Api) -> None:
        """An outage of Cosmos DB does not open a provider."""
        await close(host, api)
        host.waiting.clear()
        wire.refuse_all(to("GET", "/docs/cooldown-"))
        host.post(flow_name="beside", run_id="r-2")
        await host.next()

        (waiting,) = host.waiting
        assert (waiting.visible_at - host.clock.now(), waiting.job.outages) == (timedelta(seconds=15), 1)
        assert api.requests == []


class TestOpening:
    async def test_it_opens_by_itself_and_the_runs_start_apart(
        self, world: World, wire: Wire, services: Services, api: Api
    ) -> None:
        """Each run starts once, at a time of its own that is the same at each delivery."""
        host = await new_host(world, wire, services, api, cooldown="provider")
        await close(host, api)
        runs = [f"r-{number}" for number in range(20)]
        await world.put(*(document(f"of-{run}", entry("flow")) for run in runs))
        for run in runs:
            host.post(tenant_id=f"of-{run}", run_id=run)
        for _ in runs:
            await host.next()
        first = {run_id: hidden_until(host, run_id) for run_id in runs}
        assert all(UNTIL <= at <= UNTIL + SPREAD for at in first.values())
        assert len(set(first.values())) > 10
        assert max(first.values()) - min(first.values()) > SPREAD / 2

        host.waiting = [each for each in host.waiting if each.job.run_id == "closing"]
        for run in runs:
            host.post(tenant_id=f"of-{run}", run_id=run)
        for _ in runs:
            await host.next()
        assert {run_id: hidden_until(host, run_id) for run_id in runs} == first
        assert (api.requests, host.clock.now()) == ([], NOW)

        await host.all()
        assert await outcomes(world) == {"closing": ["deferred", "succeeded"], **{run: ["succeeded"] for run in runs}}
        assert sorted(api.requests) == sorted(["/t/flow/closing", *(f"/of-{run}/flow/{run}" for run in runs)])
        assert UNTIL < host.clock.now() <= UNTIL + SPREAD

    async def test_a_person_opens_it(self, world: World, host: Deliveries, api: Api) -> None:
        """The document is deleted: new runs call the API at once."""
        await close(host, api)
        await world.runs.delete_item("cooldown-mysource", partition_key="t")
        host.post(flow_name="beside", run_id="r-2")
        await host.next()

        assert (await outcomes(world))["r-2"] == ["succeeded"]
        assert host.clock.now() == NOW

    async def test_a_person_closes_it(self, world: World, host: Deliveries, api: Api) -> None:
        """`untilUtc` is enough, with any offset."""
        until = "2025-08-23T15:00:00+02:00"
        await world.runs.create_item({"id": "cooldown-mysource", "tenantId": "t", "untilUtc": until})
        host.post(run_id="r-1")
        await host.next()

        assert api.requests == []
        assert NOW + timedelta(hours=1) <= hidden_until(host, "r-1") <= NOW + timedelta(hours=1) + SPREAD
        await host.all()
        assert await outcomes(world) == {"r-1": ["succeeded"]}

    async def test_a_time_that_is_far_ahead_is_looked_at_again_each_week(self, world: World, host: Deliveries) -> None:
        """A queue hides a message for at most 7 days. The run waits for as long as the provider is closed."""
        await world.runs.create_item({"id": "cooldown-mysource", "tenantId": "t", "untilUtc": "2025-09-08T12:00:00Z"})
        host.post(run_id="r-1")

        assert await host.all() == 4
        assert await outcomes(world) == {"r-1": ["succeeded"]}
        assert (await world.records())[0]["attemptCount"] == 1

    async def test_one_job_waits_for_a_time_that_is_far_ahead(self, world: World, host: Deliveries) -> None:
        """The others are skipped from the first second on."""
        await world.runs.create_item({"id": "cooldown-mysource", "tenantId": "t", "untilUtc": "2025-09-08T12:00:00Z"})
        for run in ("r-1", "r-2", "r-3"):
            host.post(run_id=run)
            await host.next()

        assert [job.run_id for job in host.jobs] == ["r-1"]

    @pytest.mark.parametrize("until", ["tomorrow", 5, None, "9999-12-31T23:59:59-14:00"])
    async def test_a_document_that_cannot_be_read_is_reported_and_ignored(
        self, world: World, host: Deliveries, api: Api, until: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The run calls the API. If that asks for a pause, the document is replaced."""
        await world.runs.create_item({"id": "cooldown-mysource", "tenantId": "t", "untilUtc": until})
        host.post(run_id="r-1")
        await host.next()

        assert await outcomes(world) == {"r-1": ["succeeded"]}
        (line,) = [line for line in caplog.messages if line.startswith("INVALID")]
        assert line.startswith(
            "INVALID document cooldown-mysource in partition t: untilUtc: expected an ISO 8601 time such as "
            f"2025-08-23T01:00:00Z, got {until!r}. Correct it, or delete the document"
        )

        await close(host, api)
        assert await closed_until(world) == UNTIL
