"""The requests of a run to Cosmos DB and the queue. docs/deploy.md lists them."""

import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import Continue, FlowRegistry, FlowRun, TenantSecretClient
from datasync.model.job import JobMessage, QueueMessage
from datasync.services import Services
from localdev.hosting import ROOT
from localdev.keyvault import KeyVault
from tests.docs.pages import rows
from tests.documents import document, entry
from tests.faults import Request, Wire
from tests.stages import run_job
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)

READ_TENANT, READ_RECORD, READ_COOLDOWN = "GET tenant", "GET run-", "GET cooldown-"
READ_CLAIM, CREATE_CLAIM = "GET claim-", "POST claim-"
TAKE_LEASE, SETTLE = "PATCH state-", "POST batch of 2"
SEND = "POST message"


def named(request: Request) -> str:
    """Name a request by its method and the kind of its document."""
    method, url, body = request
    if "/messages" in url:
        return f"{method} message"
    if "/colls/tenants/docs" in url:
        return f"{method} tenant"
    found = re.search(r"/docs/(\w+-)", url) or re.match(r'{"id": ?"(\w+-)', body)
    return f"{method} {found[1]}" if found else f"{method} batch of {body.count('operationType')}"


@pytest.fixture
def registry() -> FlowRegistry:
    """Return a registry with a flow, the same with a provider, one that continues in parts, and one with a secret."""
    registry = FlowRegistry()

    async def succeed(tenant_id: str, kv: SecretClient) -> None: ...

    async def go_on(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        raise Continue(window_end=run.window.end)

    async def read(tenant_id: str, kv: TenantSecretClient) -> None:
        await kv.secret("crm", "token")

    registry.flow("plain")(succeed)
    registry.flow("provided", provider="mysource")(succeed)
    registry.flow("parted")(go_on)
    registry.flow("secretive")(read)
    return registry


@pytest.fixture
def secret(vault: KeyVault) -> Iterator[None]:
    """Store the secret of the tenant."""
    vault.set_secret("tenants--t--crm--token", "s3cret")
    yield
    vault.delete_secret("tenants--t--crm--token")


type Requests = Callable[[str], Awaitable[list[str]]]


async def run_once(services: Services, registry: FlowRegistry, flow: str, run_id: str) -> None:
    body = JobMessage(tenant_id="t", flow_name=flow, run_id=run_id).encode().encode()
    await run_job(services, registry, QueueMessage(f"m-{run_id}", body, 1, NOW), NOW)


@pytest.fixture
def requests_of(world: World, services: Services, wire: Wire, registry: FlowRegistry) -> Requests:
    """Return a function that runs a flow twice, and returns the requests of its second run.

    The first run opens the containers and creates the state.
    """

    async def run(flow: str) -> list[str]:
        await world.put(document("t", *(entry(each.name) for each in registry)))
        await run_once(services, registry, flow, "r-1")
        return await requests_in(wire, services, registry, flow, "r-2")

    return run


async def requests_in(wire: Wire, services: Services, registry: FlowRegistry, flow: str, run_id: str) -> list[str]:
    """Run a flow, and return the requests of the run, without those to the vault."""
    wire.requests.clear()
    await run_once(services, registry, flow, run_id)
    return [named(request) for request in wire.requests if "/secrets/" not in request[1]]


@pytest.mark.parametrize(
    ("flow", "reads", "sends"),
    [
        pytest.param("plain", [READ_TENANT, READ_RECORD], [], id="normal"),
        pytest.param("provided", [READ_TENANT, READ_RECORD, READ_COOLDOWN], [], id="with a provider"),
        pytest.param("parted", [READ_TENANT, READ_RECORD], [SEND], id="that continues"),
    ],
)
async def test_the_requests_of_a_run(requests_of: Requests, flow: str, reads: list[str], sends: list[str]) -> None:
    """Reads side by side, a conditional patch, and a transactional batch of two writes."""
    requests = await requests_of(flow)

    assert sorted(requests[: len(reads)]) == sorted(reads)
    assert requests[len(reads) :] == [TAKE_LEASE, SETTLE, *sends]


@pytest.mark.usefixtures("secret")
async def test_the_requests_of_a_run_that_reads_a_secret_of_its_tenant(
    world: World, wire: Wire, services: Services, another_process: Services, registry: FlowRegistry
) -> None:
    """The first one in a process reads the claim of the tenant's id, which the first of all has created."""
    await world.put(document("t", entry("plain"), entry("secretive")))
    first_of_all = await requests_in(wire, services, registry, "secretive", "r-1")
    await run_once(another_process, registry, "plain", "r-2")
    first = await requests_in(wire, another_process, registry, "secretive", "r-3")
    second = await requests_in(wire, another_process, registry, "secretive", "r-4")

    assert [request for request in first_of_all if "claim" in request] == [READ_CLAIM, CREATE_CLAIM]
    assert first[2:] == [TAKE_LEASE, READ_CLAIM, SETTLE]
    assert second[2:] == [TAKE_LEASE, SETTLE]
    assert sorted(first[:2]) == sorted(second[:2]) == sorted([READ_TENANT, READ_RECORD])


async def test_the_reads_of_a_run_are_made_side_by_side(
    requests_of: Requests, wire: Wire, services: Services, registry: FlowRegistry
) -> None:
    """All are sent before one of them is answered. So a run makes three round trips before and after the flow."""
    await requests_of("provided")
    sent_at_first_answer: list[int] = []
    wire.requests.clear()

    async def note() -> None:
        sent_at_first_answer.append(len(wire.requests))

    wire.after(lambda _: True, note)
    await run_once(services, registry, "provided", "r-3")

    assert sent_at_first_answer == [3]


async def test_the_documented_requests_of_a_run_are_those_that_it_makes(requests_of: Requests) -> None:
    """The table has a row for each request of a run with a provider, in their order."""
    documented = [cells[0] for cells in rows(ROOT / "docs" / "deploy.md", "Requests of a run")]
    kinds = {
        "tenant's document": READ_TENANT,
        "run's record": READ_RECORD,
        "cool-down": READ_COOLDOWN,
        "conditional patch": TAKE_LEASE,
        "transactional batch": SETTLE,
    }

    found = [kind for text in documented for words, kind in kinds.items() if words in text]
    assert len(found) == len(documented)
    assert sorted(found) == sorted(await requests_of("provided"))
