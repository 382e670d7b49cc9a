"""The only place that constructs Azure clients."""

import base64
import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, override
from urllib.parse import urlsplit
from urllib.request import getproxies

from async_lru import alru_cache
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.keyvault.secrets.aio import SecretClient
from azure.storage.queue import TextBase64EncodePolicy
from azure.storage.queue.aio import QueueClient

from datasync.errors import ServiceUnavailable, SettingsInvalid
from datasync.settings import Account, Settings
from datasync.stores.cosmos import explained

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient


def new_transport() -> AioHttpTransport:
    """Make the HTTP transport of one client.

    With `use_env_settings`, aiohttp looks for a proxy and for `~/.netrc` in two executor jobs before every request,
    a third to a half of the CPU time of a request (benchmarks/transport.py). It is on only where a proxy is configured.
    """
    return AioHttpTransport(use_env_settings=bool(getproxies().keys() - {"no"}))


class Credential:
    """The app's identity, shared by all clients, and imported at its first use."""

    def __init__(self) -> None:
        self._identity: AsyncTokenCredential | None = None

    def __call__(self) -> AsyncTokenCredential:
        """Return the credential."""
        if self._identity is None:
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - 200 ms that few local runs need

            self._identity = DefaultAzureCredential()
        return self._identity

    async def principal(self, account: str) -> str | None:
        """Return the name of the identity, from the claims of a token for an account; its object id if it has no name.

        The claims: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference

        Args:
            account: The URL of a Cosmos DB account.

        Returns:
            None if the identity gets no token, or one that cannot be read.

        """
        try:
            token = await self().get_token(f"{account.rstrip('/')}/.default")
        except AzureError:
            return None
        try:
            body = token.token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            names = (claims.get(name) for name in ("preferred_username", "upn", "unique_name", "appid", "oid"))
        except (AttributeError, IndexError, ValueError):
            return None
        return next((name for name in names if isinstance(name, str) and name.isprintable()), None)

    async def close(self) -> None:
        """Close the credential, if it was used."""
        if self._identity is not None:
            await self._identity.close()


class CosmosAccount:
    """A Cosmos DB account, connected at its first use."""

    def __init__(self, account: Account, credential: Credential) -> None:
        self._account = account
        self._credential = credential
        self._open = AsyncExitStack()
        # Concurrent callers share one attempt to connect; a failure is not kept.
        self._client = alru_cache(maxsize=1)(self._connect)

    async def container(self, database: str, name: str) -> ContainerProxy:
        """Return a client of one container.

        Raises:
            ServiceUnavailable: the account refused, could not be reached, or has multi-region writes.

        """
        client = await self._client()
        return client.get_database_client(database).get_container_client(name)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        await self._client.cache_close()
        await self._open.aclose()

    async def _connect(self) -> CosmosClient:
        properties = _AccountProperties()
        async with AsyncExitStack() as stack:
            client = cosmos_client(self._account, self._credential, properties.read)
            stack.push_async_callback(client.close)
            with explained("while connecting"):
                await client.__aenter__()
            properties.require_one_write_region()
            self._open.push_async_exit(stack.pop_all())  # a client that failed to connect is closed instead
        return client


type ResponseHook = Callable[[PipelineResponse[Any, Any]], None]


class _AccountProperties:
    """The properties of a Cosmos DB account, from an answer that the client reads anyway when it connects."""

    def __init__(self) -> None:
        self._properties: dict[str, Any] | None = None

    def read(self, response: PipelineResponse[Any, Any]) -> None:
        """Keep the properties if this is the first successful answer with them."""
        if self._properties is not None or response.http_response.status_code != HTTPStatus.OK:
            return
        if urlsplit(response.http_request.url).path in ("", "/"):
            self._properties = json.loads(response.http_response.body())

    def require_one_write_region(self) -> None:
        """Check that the account has no multi-region writes.

        Two regions can both accept a conditional write to one document, and drop one of the writes later.
        https://learn.microsoft.com/azure/cosmos-db/conflict-resolution-policies

        Raises:
            ServiceUnavailable: the account has multi-region writes.

        """
        properties = self._properties or {}
        if properties.get("enableMultipleWriteLocations"):
            account = properties["id"]
            regions = ", ".join(region["name"] for region in properties["writableLocations"])
            raise ServiceUnavailable(
                f"the Cosmos DB account {account} has multi-region writes (write regions: {regions}), with which two "
                f"runs of one flow could hold its lease at once: az cosmosdb update --name {account} "
                "--resource-group <group> --enable-multiple-write-locations false"
            )


def cosmos_client(account: Account, credential: Credential, on_response: ResponseHook | None = None) -> CosmosClient:
    """Return a client of the account, to enter once and keep. `on_response` is called for each answer."""
    options: dict[str, Any] = {"transport": new_transport(), "raw_response_hook": on_response}
    if account.connection_string:
        return CosmosClient.from_connection_string(account.connection_string, **options)
    return CosmosClient(account.url or "", credential(), **options)


class _Base64EncodePolicy(TextBase64EncodePolicy):
    """Encodes messages in base64, as the queue trigger expects. A message in bytes need not be a text."""

    @override
    def encode(self, content: str | bytes) -> str:
        return b64encode(content.encode() if isinstance(content, str) else content).decode()


def queue_client(account: Account, name: str, credential: Credential) -> QueueClient:
    """Return a client of one queue, whose messages are in base64."""
    options: dict[str, Any] = {
        "message_encode_policy": _Base64EncodePolicy(),
        "initial_backoff": 1,  # seconds; by default the first retry waits for 15
        "increment_base": 2,
        "random_jitter_range": 1,
        "transport": new_transport(),
    }
    if account.connection_string:
        return QueueClient.from_connection_string(account.connection_string, name, **options)
    return QueueClient(account.url or "", name, credential=credential(), **options)


def container_client(account: Account, name: str, credential: Credential) -> "ContainerClient":
    """Return a client of one container of blobs.

    Raises:
        SettingsInvalid: the connection string has no endpoint of blobs.

    """
    from azure.storage.blob.aio import ContainerClient  # noqa: PLC0415 - few processes store or read recordings

    options: dict[str, Any] = {"initial_backoff": 1, "increment_base": 2, "transport": new_transport()}
    if account.connection_string:
        try:
            return ContainerClient.from_connection_string(account.connection_string, name, **options)
        except ValueError:
            raise SettingsInvalid(
                f"{account.setting}: no BlobEndpoint= and no AccountName= in it, and the recordings are blobs. Copy "
                "the storage account's connection string again"
            ) from None
    return ContainerClient(account.url or "", name, credential=credential(), **options)


def secret_client(settings: Settings, credential: Credential) -> SecretClient:
    """Return a client of the vault.

    Raises:
        SettingsInvalid: no vault is configured.

    """
    if settings.key_vault_url is None:
        raise SettingsInvalid(
            "KEY_VAULT_URI: missing, and a flow reads a secret. Set it to https://<your-vault>.vault.azure.net/"
        )
    return SecretClient(
        settings.key_vault_url,
        credential(),
        verify_challenge_resource=settings.key_vault_verify_challenge,
        transport=new_transport(),
    )
