"""Every client of the process: made late, once, and shared. The only place that constructs one."""

import asyncio
import os
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

import httpx
from async_lru import alru_cache
from azure.core.credentials_async import AsyncTokenCredential
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.keyvault.secrets.aio import SecretClient
from azure.storage.queue import TextBase64EncodePolicy
from azure.storage.queue.aio import QueueClient

from datasync import http
from datasync.errors import DataSyncError, SecretNotFound, SettingsInvalid
from datasync.secrets import Vault
from datasync.settings import Service, Settings
from datasync.stores.cosmos import explained, properties
from datasync.stores.jobs import JobQueue
from datasync.stores.runs import RunStore
from datasync.stores.tenants import TenantStore

_PATIENCE = 60  # seconds for an answer: the clients' own retries end before


class Services:
    """What the two stages work with. `connect()` makes it, `close()` ends it."""

    def __init__(self, settings: Settings, cosmos: CosmosClient, queue: QueueClient, vault: Vault) -> None:
        database = cosmos.get_database_client(settings.cosmos_database)
        self.settings = settings
        self.tenants = TenantStore(database.get_container_client(settings.tenants_container))
        self.runs = RunStore(database.get_container_client(settings.runs_container), settings.run_retention)
        self.jobs = JobQueue(queue)
        self.vault = vault
        self.http_transport: httpx.AsyncBaseTransport = http.new_transport()
        self._open = AsyncExitStack()

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """Connect to Cosmos DB, and prepare the other clients, which connect at their first use.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached, or a container is missing.

        """
        async with AsyncExitStack() as stack:
            credential = Credential()
            stack.push_async_callback(credential.close)
            cosmos = await _connect_cosmos(settings.cosmos, credential, stack)
            # No flow is to run, and no tenant to be called unknown, where it is the container that is missing.
            database = cosmos.get_database_client(settings.cosmos_database)
            names = (settings.tenants_container, settings.runs_container)
            await asyncio.gather(*(properties(database.get_container_client(name)) for name in names))
            queue = await stack.enter_async_context(queue_client(settings.storage, settings.queue_name, credential))
            vault = Vault(lambda: _secret_client(settings, credential))
            stack.push_async_callback(vault.close)
            services = cls(settings, cosmos, queue, vault)
            stack.push_async_callback(services.http_transport.aclose)
            services._open = stack.pop_all()
            return services

    async def close(self) -> None:
        """Close every client."""
        await self._open.aclose()


@alru_cache(maxsize=1)
async def services() -> Services:
    """Return the services of this process, connecting at the first call that succeeds.

    Raises:
        SettingsInvalid: an app setting is missing or malformed.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    return await Services.connect(Settings.from_environ(os.environ))


async def ping(settings: Settings) -> dict[str, str]:
    """Try every service that the settings name once, each by itself.

    Returns what it is, and `ok`, or in one line what is wrong and what to do about it.
    """
    async with AsyncExitStack() as stack:
        credential = Credential()
        stack.push_async_callback(credential.close)

        async def container(name: str) -> ContainerProxy:
            client = await _connect_cosmos(settings.cosmos, credential, stack)
            return client.get_database_client(settings.cosmos_database).get_container_client(name)

        async def tenants() -> None:
            await TenantStore(await container(settings.tenants_container)).ping()

        async def runs() -> None:
            await RunStore(await container(settings.runs_container), settings.run_retention).ping()

        async def queue(name: str) -> None:
            await JobQueue(await stack.enter_async_context(queue_client(settings.storage, name, credential))).ping()

        async def vault() -> None:
            asked = Vault(lambda: _secret_client(settings, credential))
            stack.push_async_callback(asked.close)
            with suppress(SecretNotFound):
                await asked.get("shared--datasync-check")

        cosmos = "COSMOS_CONNECTION_STRING" if settings.cosmos.connection_string else "COSMOS_ENDPOINT"
        probes = [
            (f"Cosmos DB {settings.cosmos_database}/{settings.tenants_container}", cosmos, tenants()),
            (f"Cosmos DB {settings.cosmos_database}/{settings.runs_container}", cosmos, runs()),
            (f"queue {settings.queue_name}", "AzureWebJobsStorage", queue(settings.queue_name)),
            (f"queue {settings.queue_name}-poison", "AzureWebJobsStorage", queue(f"{settings.queue_name}-poison")),
        ]
        if settings.key_vault_url:
            probes.append((f"Key Vault {settings.key_vault_url}", "KEY_VAULT_URI", vault()))
        answers = await asyncio.gather(*(_tried(setting, probe) for _, setting, probe in probes))
        return {service: answer for (service, _, _), answer in zip(probes, answers, strict=True)}


async def _tried(setting: str, probe: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await probe
    except TimeoutError:
        return f"no answer in {_PATIENCE} seconds. Check {setting}, and the network"
    except DataSyncError as error:
        return " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001 - a key that is no base64, say: each client has errors of its own
        return f"{setting} cannot be used ({type(error).__name__}: {error}). Copy it anew"
    return "ok"


class Credential:
    """The app's identity, shared by all clients, and only imported where one needs it."""

    def __init__(self) -> None:
        self._identity: AsyncTokenCredential | None = None

    def __call__(self) -> AsyncTokenCredential:
        """Return the credential."""
        if self._identity is None:
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - 200 ms that few local runs need

            self._identity = DefaultAzureCredential()
        return self._identity

    async def close(self) -> None:
        """Close it, if it was ever used."""
        if self._identity is not None:
            await self._identity.close()


async def _connect_cosmos(account: Service, credential: Credential, stack: AsyncExitStack) -> CosmosClient:
    """Return a client that is connected, and closed when the stack ends."""
    cosmos = cosmos_client(account, credential)
    stack.push_async_callback(cosmos.close)
    with explained("on connecting"):
        await cosmos.__aenter__()
    return cosmos


def cosmos_client(account: Service, credential: Credential) -> CosmosClient:
    """Return a client of the account, to be entered once and kept."""
    if account.connection_string:
        return CosmosClient.from_connection_string(account.connection_string)
    return CosmosClient(account.url or "", credential())


def queue_client(account: Service, name: str, credential: Credential) -> QueueClient:
    """Return a client of one queue, whose messages are in base64."""
    options: dict[str, Any] = {
        "message_encode_policy": TextBase64EncodePolicy(),  # what the queue trigger expects
        "initial_backoff": 1,  # seconds; left alone, the first retry waits for 15
        "increment_base": 2,
        "random_jitter_range": 1,
    }
    if account.connection_string:
        return QueueClient.from_connection_string(account.connection_string, name, **options)
    return QueueClient(account.url or "", name, credential=credential(), **options)


def _secret_client(settings: Settings, credential: Credential) -> SecretClient:
    if settings.key_vault_url is None:
        raise SettingsInvalid(
            "KEY_VAULT_URI: missing, and a flow reads a secret. Set it to https://<your-vault>.vault.azure.net/"
        )
    return SecretClient(
        settings.key_vault_url, credential(), verify_challenge_resource=settings.key_vault_verify_challenge
    )
