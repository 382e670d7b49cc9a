"""Tenants whose ids differ only in case, which Key Vault does not distinguish: one of them is used."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from datasync import FlowRegistry, TenantSecretClient
from datasync.model.job import JobMessage
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.deliveries import NOW, Deliveries, registered
from tests.documents import document, entry
from tests.emulators.test_examination import problems
from tests.faults import Wire, to
from tests.stages import FakeClock, tick
from tests.world import World

DUE = "2025-08-23T12:00:00Z"


def acme(spelling: str, **fields: Any) -> dict[str, Any]:
    return document(spelling, entry("flow", nextRunUtc=DUE, **fields))


@pytest.fixture
def read() -> list[str]:
    """Return the values that the flow has read."""
    return []


@pytest.fixture
def registry(read: list[str]) -> FlowRegistry:
    """Return a registry with a flow that reads a secret of its tenant."""

    async def flow(tenant_id: str, kv: TenantSecretClient) -> None:
        read.append(await kv.secret("crm", "token"))

    return registered(flow)


@pytest_asyncio.fixture
async def secret(vault: KeyVault) -> AsyncGenerator[None]:
    """Store a secret of tenant `Acme`."""
    vault.set_secret("tenants--Acme--crm--token", "the-token-of-Acme")
    yield
    vault.delete_secret("tenants--Acme--crm--token")


async def scheduled(world: World) -> set[str]:
    """Remove the jobs from the queue, and return their tenants."""
    jobs = [msgspec.json.decode(body, type=JobMessage) for body in await world.take()]
    return {job.tenant_id for job in jobs}


class TestTicks:
    async def test_the_second_spelling_is_a_problem_of_both_and_is_not_scheduled(
        self, world: World, services: Services, registry: FlowRegistry
    ) -> None:
        """The first one runs on. Both problems last until the second document is corrected or deleted."""
        await world.put(acme("Acme"))
        await tick(services, NOW, registry)
        await world.put(acme("ACME"), acme("tenant-1"))
        await world.take()
        ticked = await tick(services, NOW + timedelta(minutes=1), registry)

        assert await scheduled(world) == {"tenant-1"}
        assert ticked.problems == 2
        first, second = [(each["tenant"], each["path"], each["why"]) for each in await problems(world)][::-1]
        assert first[:2] == ("Acme", "tenantId")
        assert "another tenant 'ACME', whose id differs only in case" in first[2]
        assert second[:2] == ("ACME", "id")
        assert "'ACME' and the tenant 'Acme', which was first, differ only in case" in second[2]

        later = await tick(services, NOW + timedelta(hours=1), registry)
        assert later.problems == 2
        assert await scheduled(world) == {"Acme", "tenant-1"}

        await world.tenants.delete_item("ACME", partition_key="ACME")
        assert (await tick(services, NOW + timedelta(days=1), registry)).problems == 0

    async def test_of_two_new_spellings_one_is_scheduled(
        self, world: World, services: Services, another_process: Services, registry: FlowRegistry
    ) -> None:
        """Two processes examine both documents at once, and agree."""
        await world.put(*[acme(spelling) for spelling in ("Acme", "ACME", "acme", "aCme")])
        await asyncio.gather(*[tick(each, NOW, registry) for each in (services, another_process)])

        assert len(await scheduled(world)) == 1
        assert len(await problems(world)) == 6

    async def test_a_renamed_tenant_takes_the_claim_over(
        self, world: World, services: Services, another_process: Services, registry: FlowRegistry
    ) -> None:
        """The document of the first spelling is gone. Other processes, which knew it, notice that."""
        await world.put(acme("Acme"))
        for process in (services, another_process):
            await tick(process, NOW, registry)
        await world.tenants.delete_item("Acme", partition_key="Acme")
        await world.put(acme("acme"))
        await world.take()
        ticked = await tick(services, NOW + timedelta(minutes=1), registry)

        assert (ticked.problems, ticked.enqueued) == (0, 1)
        assert await another_process.claims.holder("acme") == "acme"
        assert await another_process.claims.holder("Acme") == "acme"

    async def test_a_claim_is_read_once_by_a_process(
        self, world: World, wire: Wire, services: Services, another_process: Services, registry: FlowRegistry
    ) -> None:
        """The first tick of the first process creates it. The first tick of another process reads it."""
        await world.put(acme("Acme"))

        async def requests(process: Services, minutes: int) -> list[str]:
            wire.requests.clear()
            await tick(process, NOW + timedelta(minutes=minutes), registry)
            return [method for method, url, body in wire.requests if "claim-" in url + body]

        assert await requests(services, 0) == ["GET", "POST"]
        await world.put(acme("Acme"))
        assert await requests(services, 1) == []
        await world.put(acme("Acme"))
        assert await requests(another_process, 2) == ["GET"]

    async def test_a_process_hears_within_five_minutes_that_a_claim_was_taken_over(
        self, world: World, services: Services, another_process: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The document of its spelling was deleted and created again meanwhile. One spelling is used, not both."""
        await world.put(acme("Acme"))
        assert await services.claims.holder("Acme") == "Acme"
        await world.tenants.delete_item("Acme", partition_key="Acme")
        await world.put(acme("ACME"))
        assert await another_process.claims.holder("ACME") == "ACME"
        await world.put(acme("Acme"))
        loop = asyncio.get_running_loop()
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + timedelta(minutes=5).total_seconds())
        for _ in range(2):  # a timer that is due ends after the task that yields first
            await asyncio.sleep(0)

        assert await services.claims.holder("Acme") == "ACME"

    async def test_an_edited_claim_does_not_stop_a_tenant(self, world: World, services: Services) -> None:
        """A claim that names something else, or that cannot be read, is replaced."""
        await world.put(acme("Acme"), acme("other"))
        await services.claims.holder("Acme")
        found = world.runs.query_items("SELECT * FROM c WHERE c.type = 'Claim'", partition_key="@fleet")
        (claim,) = [dict(each) async for each in found]
        for tenant in ("other", "", 7):
            await world.runs.upsert_item({**claim, "tenant": tenant})
            fresh = Services(world.settings, FakeClock())
            assert await fresh.claims.holder("Acme") == "Acme"
            await fresh.close()


class TestSecrets:
    @pytest.mark.usefixtures("secret")
    async def test_a_tenant_does_not_read_the_secrets_of_another_spelling(
        self, world: World, wire: Wire, services: Services, registry: FlowRegistry, read: list[str]
    ) -> None:
        """The run of a posted message is dead at once, and its record names both tenants."""
        await world.put(acme("Acme"), acme("ACME"))
        host = Deliveries(services, wire, registry)
        host.post(tenant_id="Acme", run_id="r-1")
        await host.next()
        host.post(tenant_id="ACME", run_id="r-2")
        await host.next()

        assert read == ["the-token-of-Acme"]
        (record,) = await world.records("ACME")
        assert record["outcome"] == "dead"
        assert "the tenant ids 'ACME' and 'Acme' differ only in case" in record["error"]["message"]

    @pytest.mark.usefixtures("secret")
    async def test_the_cached_secret_of_another_spelling_is_refused(
        self, world: World, wire: Wire, services: Services, another_process: Services, registry: FlowRegistry
    ) -> None:
        """No process gives it, after any earlier reads."""
        await world.put(acme("Acme"), acme("ACME"))
        for number, process in enumerate((services, another_process)):
            host = Deliveries(process, wire, registry)
            for tenant in ("Acme", "ACME"):
                host.waiting.clear()
                host.post(tenant_id=tenant, run_id=f"r-{number}")
                await host.next()

        assert [each["outcome"] for each in await world.records("Acme")] == ["succeeded"] * 2
        assert [each["outcome"] for each in await world.records("ACME")] == ["dead"] * 2

    @pytest.mark.usefixtures("secret")
    async def test_the_claim_is_read_in_the_first_run_of_a_process(
        self, world: World, wire: Wire, services: Services, another_process: Services, registry: FlowRegistry
    ) -> None:
        """Further runs of the tenant make no further request. A claim that no tick has made is made."""
        await world.put(acme("Acme"))
        requests: list[list[str]] = []
        for number, process in enumerate((services, services, another_process)):
            wire.requests.clear()
            host = Deliveries(process, wire, registry)
            host.post(tenant_id="Acme", run_id=f"r-{number}")
            await host.next()
            requests.append([method for method, url, body in wire.requests if "claim-" in url + body])

        assert requests == [["GET", "POST"], [], ["GET"]]

    async def test_shared_secrets_need_no_claim(
        self, world: World, wire: Wire, services: Services, vault: KeyVault
    ) -> None:
        """They belong to all tenants."""
        await world.put(acme("Acme"))
        vault.set_secret("shared--key", "for-all")

        async def flow(tenant_id: str, kv: TenantSecretClient) -> None:
            await kv.get_secret("shared--key")

        host = Deliveries(services, wire, registered(flow))
        host.post(tenant_id="Acme")
        await host.next()
        vault.delete_secret("shared--key")

        assert [each["outcome"] for each in await world.records()] == ["succeeded"]
        assert not [url for _, url, body in wire.requests if "claim-" in url + body]

    @pytest.mark.usefixtures("secret")
    async def test_a_run_waits_while_claims_cannot_be_read(
        self, world: World, wire: Wire, services: Services, registry: FlowRegistry, read: list[str]
    ) -> None:
        """It is an outage of Cosmos DB, which costs no attempt."""
        await world.put(acme("Acme"))
        host = Deliveries(services, wire, registry)
        wire.refuse_all(to("GET", "claim-"))
        host.post(tenant_id="Acme")
        await host.next()
        assert read == []
        wire.heal()
        await host.all()

        (record,) = await world.records()
        assert [each["outcome"] for each in record["attempts"]] == ["deferred", "succeeded"]
        assert read == ["the-token-of-Acme"]
