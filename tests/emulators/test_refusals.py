"""Requests that Cosmos DB does not accept: a failure of the run, or a dead letter. They are not an outage."""

import json
from typing import Any

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRun
from datasync.services import Services
from tests.deliveries import Deliveries, registered, succeed
from tests.documents import document, entry
from tests.emulators.conftest import Api
from tests.faults import Request, Wire, to
from tests.world import World

STATUSES = (400, 413, 414, 431)


async def letters(world: World) -> list[dict[str, Any]]:
    found = world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'", partition_key="@fleet")
    return [dict(each) async for each in found]


def is_about_the_run(request: Request) -> bool:
    """Return whether a request reads or writes the record or the state of the run, and not its dead letter."""
    method, url, body = request
    return "/colls/runs/docs" in url and (method == "GET" or "operationType" in body)


class TestMessages:
    async def test_a_message_with_a_long_tenant_id_is_a_dead_letter(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """It is complete after one delivery. It does not go round, and Cosmos DB is not away."""
        host = Deliveries(services, wire, registered(succeed))
        host.post_body(json.dumps({"tenantId": "x" * 9_000, "flowName": "flow"}).encode())

        assert (await host.all(), host.errors, str(services.outages)) == (1, [], "")
        (letter,) = await letters(world)
        assert "tenantId: an id has at most 1,023 bytes" in letter["why"]

    async def test_a_message_with_a_long_name_of_a_flow_ends(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """No flow has the name. The run is recorded, and Cosmos DB is not away."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed))
        host.post_body(json.dumps({"tenantId": "t", "flowName": "x" * 20_000}).encode())
        await host.all()

        (record,) = await world.records()
        assert (record["outcome"], str(services.outages)) == ("dead", "")


class TestStatuses:
    @pytest.mark.parametrize("status", STATUSES)
    async def test_a_document_that_cannot_be_read_fails_the_run(
        self, world: World, wire: Wire, services: Services, api: Api, status: int
    ) -> None:
        """Each attempt is recorded with the status, and the last one ends the run."""
        api.status = status
        wire.divert(to("GET", "/colls/tenants/docs"), f"{api.url}/refused")
        host = Deliveries(services, wire, registered(succeed, overlap="allow"))
        host.post()
        for _ in range(services.settings.max_attempts):
            await host.next()

        (record,) = await world.records()
        assert (record["outcome"], record["attemptCount"]) == ("dead", 5)
        assert record["error"]["class"] == "RequestRefused"
        assert f"Cosmos DB answered {status} while reading tenant 't'" in record["error"]["message"]
        assert (host.waiting, str(services.outages)) == ([], "")

    @pytest.mark.parametrize("status", STATUSES)
    async def test_a_message_whose_run_cannot_be_recorded_is_a_dead_letter_at_last(
        self, world: World, wire: Wire, services: Services, api: Api, status: int
    ) -> None:
        """The host delivers it again, and moves it to the poison queue. It does not go round for ever."""
        await world.put(document("t", entry("flow")))
        api.status = status
        wire.divert(is_about_the_run, f"{api.url}/refused")
        host = Deliveries(services, wire, registered(succeed))
        host.post()
        await host.all()

        (letter,) = await letters(world)
        assert f"Cosmos DB answered {status}" in letter["why"]
        assert json.loads(letter["body"])["runId"] == "r-1"
        assert str(services.outages) == ""

    @pytest.mark.parametrize("status", STATUSES)
    async def test_a_checkpoint_that_is_refused_fails_the_attempt(
        self, world: World, wire: Wire, services: Services, api: Api, status: int
    ) -> None:
        """It is not deferred, as it would be while Cosmos DB is away."""
        await world.put(document("t", entry("flow")))
        api.status = status

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            wire.divert(is_about_the_run, f"{api.url}/refused")
            run.cursor = "half"
            try:
                await run.checkpoint()
            finally:
                wire.heal()

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()

        (record,) = await world.records()
        assert (record["outcome"], record["error"]["class"]) == ("failed", "RequestRefused")
        assert str(services.outages) == ""

    @pytest.mark.parametrize("status", STATUSES)
    async def test_an_end_that_is_refused_is_recorded_as_a_failure(
        self, world: World, wire: Wire, services: Services, api: Api, status: int
    ) -> None:
        """The second write has neither the cursor nor the counts."""
        await world.put(document("t", entry("flow")))
        api.status = status

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            run.cursor = "too large"
            wire.divert(to("POST", "/colls/runs/docs", "too large"), f"{api.url}/refused")

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()

        (record,) = await world.records()
        assert (record["outcome"], record["error"]["class"]) == ("failed", "RecordRefused")
