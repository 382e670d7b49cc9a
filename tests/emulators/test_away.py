"""Services that are away, as the line of a tick shows them: which, and since when, as far as its process knows."""

import logging
from collections.abc import Callable
from datetime import timedelta

import pytest

from datasync import TenantSecretClient
from datasync.errors import ServiceUnavailable
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.deliveries import NOW, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Request, Wire, to
from tests.stages import FLOWS, deliver, run_job, tick
from tests.world import World

DUE = "2025-08-23T12:00:00Z"
NEXT = "2025-08-23T13:00:00Z"
COSMOS = to("", "/dbs/")
QUEUE = to("", "/devstoreaccount1/")


type Outage = tuple[Callable[[Request], bool], str]
"""The requests that are refused, and the service that is away."""


type Lines = Callable[[], list[str]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Return a function that returns the lines of the ticks."""
    caplog.set_level(logging.INFO, "datasync")
    return lambda: [line for line in caplog.messages if line.startswith("TICK")]


@pytest.mark.parametrize(
    "outage",
    [
        pytest.param((COSMOS, "Cosmos DB"), id="Cosmos DB"),
        pytest.param((QUEUE, "the queue"), id="the queue"),
        pytest.param((to("POST", "/messages"), "the queue"), id="sends"),
        pytest.param((to("GET", "-poison/messages"), "the queue"), id="the poison queue"),
    ],
)
async def test_a_service_is_away_since_the_first_tick_that_failed(
    world: World, wire: Wire, services: Services, lines: Lines, outage: Outage
) -> None:
    """Each tick raises, so that the host repeats it. Once the service is back, the line no longer names it."""
    refused, away = outage
    await world.put(document("t", entry(nextRunUtc=DUE)))
    wire.refuse_all(refused)
    for minutes in (0, 5):
        with pytest.raises(ServiceUnavailable):
            await tick(services, NOW + timedelta(minutes=minutes))
    wire.heal()
    await tick(services, NOW + timedelta(minutes=10))

    failed, again, recovered = lines()
    assert f"away=[{away} since 2025-08-23T12:00:00Z]" in failed
    assert f"away=[{away} since 2025-08-23T12:00:00Z]" in again
    assert "away=" not in recovered
    assert (await world.document("t"))["flows"][0]["nextRunUtc"] == NEXT


async def test_a_run_that_was_recorded_ends_an_outage(
    world: World, wire: Wire, services: Services, lines: Lines
) -> None:
    """The next outage begins at a time of its own."""
    await world.put(document("t", entry("flow")))
    wire.refuse_all(COSMOS)
    with pytest.raises(ServiceUnavailable):
        await tick(services, NOW)
    wire.heal()
    await run_job(services, registered(succeed), message(), NOW + timedelta(minutes=1))
    wire.refuse_all(COSMOS)
    with pytest.raises(ServiceUnavailable):
        await tick(services, NOW + timedelta(hours=1))

    assert "away=[Cosmos DB since 2025-08-23T13:00:00Z]" in lines()[-1]


async def test_a_job_that_waits_for_a_service_begins_an_outage(
    world: World, wire: Wire, services: Services, lines: Lines
) -> None:
    """The tick after it names both services with the times at which they were found away."""
    await world.put(document("t", entry(nextRunUtc=DUE)))
    wire.refuse_all(COSMOS)
    assert await deliver(services, registered(succeed), message(), NOW) is None
    wire.heal()
    wire.refuse_all(QUEUE)
    with pytest.raises(ServiceUnavailable):
        await tick(services, NOW + timedelta(minutes=5))

    (line,) = lines()
    assert "away=[Cosmos DB since 2025-08-23T12:00:00Z, the queue since 2025-08-23T12:05:00Z]" in line


async def test_a_tenant_that_fails_does_not_stop_the_others(
    world: World, wire: Wire, services: Services, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    """They are served, and then the tick raises its error. The repeated tick serves it, too."""
    tenants = [f"tenant-{number}" for number in range(5)]
    await world.put(*(document(tenant, entry(nextRunUtc=DUE)) for tenant in tenants))
    wire.refuse_all(to("PATCH", "/docs/tenant-2"))
    with pytest.raises(ServiceUnavailable):
        await tick(services, NOW)

    async def next_runs() -> dict[str, str]:
        return {tenant: (await world.document(tenant))["flows"][0]["nextRunUtc"] for tenant in tenants}

    assert await next_runs() == {**dict.fromkeys(tenants, NEXT), "tenant-2": DUE}
    assert "UNAVAILABLE tenant 'tenant-2' could not be scheduled" in caplog.text
    assert "failed=1" in lines()[-1]

    wire.heal()
    await tick(services, NOW + timedelta(minutes=1))
    assert await next_runs() == dict.fromkeys(tenants, NEXT)
    assert "failed=0" in lines()[-1]


class TestVault:
    """A tick does not use the vault, and learns of its outage from the runs of the process."""

    @pytest.fixture
    def secrets(self, vault: KeyVault) -> tuple[str, str]:
        """Store two secrets; return their names."""
        names = ("tenants--t--crm--key", "tenants--t--crm--token")
        for name in names:
            vault.set_secret(name, "value")
        return names

    async def test_the_vault_is_away_until_a_run_reads_from_it(
        self,
        world: World,
        services: Services,
        vault: KeyVault,
        secrets: tuple[str, str],
        lines: Lines,
    ) -> None:
        """A run that uses no secret, or a cached one, says nothing about the vault."""
        key, token = secrets
        wanted: list[str] = []

        async def flow(tenant_id: str, kv: TenantSecretClient) -> None:
            for name in wanted:
                await kv.get_secret(name)

        async def run(number: int, *names: str) -> str | None:
            wanted[:] = names
            at = NOW + timedelta(minutes=number)
            record = await run_job(services, registered(flow), message(id=f"m-{number}", run_id=f"r-{number}"), at)
            await tick(services, at, FLOWS)
            return record.outcome

        await world.put(document("t", entry("flow", nextRunUtc=NEXT)))
        vault.fail_next(403)
        outcomes = [await run(0, key), await run(1), await run(2, key)]
        vault.fail_next(403)
        outcomes += [await run(3, key, token), await run(4, key), await run(5, token)]

        assert outcomes == ["deferred", "succeeded", "succeeded", "deferred", "succeeded", "succeeded"]
        assert [line.partition("away=")[2] for line in lines()] == [
            "[Key Vault since 2025-08-23T12:00:00Z]",
            "[Key Vault since 2025-08-23T12:00:00Z]",
            "",
            "[Key Vault since 2025-08-23T12:03:00Z]",
            "[Key Vault since 2025-08-23T12:03:00Z]",
            "",
        ]
