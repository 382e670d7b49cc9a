"""The complete pipeline over https, with the app's identity instead of keys."""

import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest_asyncio

from datasync import FlowRegistry
from datasync.clients import Credential, cosmos_client, queue_client
from datasync.model.job import QueueMessage
from datasync.services import Services
from datasync.settings import Account, Settings
from localdev.azurite import azurite
from localdev.cosmos import cosmos
from localdev.errors import NodeMissing
from localdev.identity import PRINCIPAL
from localdev.keyvault import KeyVault
from localdev.provision import provision
from localdev.tls import Certificates
from tests.conftest import missing
from tests.documents import document, entry
from tests.stages import FakeClock, run_job, tick

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)


@pytest_asyncio.fixture
async def settings(certificates: Certificates, vault: KeyVault) -> AsyncGenerator[Settings]:
    """Run storage and Cosmos DB over https. Return settings without keys."""
    try:
        async with azurite(tls=certificates) as storage, cosmos(tls=certificates) as database:
            await provision(
                Settings.from_environ(
                    {
                        "AzureWebJobsStorage": storage.connection_string,
                        "COSMOS_CONNECTION_STRING": database.connection_string,
                    }
                )
            )
            yield Settings.from_environ(
                {
                    "AzureWebJobsStorage__queueServiceUri": storage.queue_endpoint,
                    "COSMOS_ENDPOINT": database.endpoint,
                    **vault.environ,
                }
            )
    except NodeMissing as why:
        missing(why)


async def test_the_whole_pipeline_runs_without_a_key(settings: Settings, vault: KeyVault) -> None:
    """Cosmos DB, the queue and Key Vault accept tokens of one DefaultAzureCredential."""
    vault.set_secret("tenants--tenant-1--crm--token", "s3cret")
    registry = FlowRegistry()
    tokens = []

    @registry.flow("reads-a-secret")
    async def reads_a_secret(tenant_id, kv) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        tokens.append(await kv.secret("crm", "token"))

    assert (settings.storage, settings.cosmos) == (
        Account(setting="AzureWebJobsStorage__queueServiceUri", url=settings.storage.url),
        Account(setting="COSMOS_ENDPOINT", url=settings.cosmos.url),
    )
    credential = Credential()
    services = Services(settings, FakeClock())
    try:
        async with (
            cosmos_client(settings.cosmos, credential) as client,
            queue_client(settings.storage, settings.queue_name, credential) as queue,
        ):
            tenants = client.get_database_client("flowsync").get_container_client("tenants")
            await tenants.upsert_item(document("tenant-1", entry("reads-a-secret")))
            await tick(services, NOW, registry)
            (message,) = [message async for message in queue.receive_messages()]
            body = json.dumps({"tenantId": "tenant-1", "flowName": "reads-a-secret"}).encode()
            run = await run_job(services, registry, QueueMessage(message.id, body, 1, NOW), NOW)
            principal = await services.principal()
    finally:
        await services.close()
        await credential.close()

    assert (run.outcome, tokens) == ("succeeded", ["s3cret"])
    assert principal == PRINCIPAL  # an audit names it
