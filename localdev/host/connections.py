"""Finds the storage account of a trigger's `connection`.

For `connection="X"` the app setting `AzureWebJobsX` is read first, then `X`. A setting of that name is a connection
string. Without one, `X__queueServiceUri` or `X__accountName` mean access by identity: the developer's own, or a managed
one with `X__credential` = `managedidentity` (and `X__clientId`).
Source: https://learn.microsoft.com/azure/azure-functions/functions-reference#connections
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.request import getproxies

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.queue.aio import QueueServiceClient

from localdev.host.config import setting
from localdev.host.errors import HostError

# The SDK's default waits 15 s before the first retry.
_RETRIES: dict[str, Any] = {"initial_backoff": 1, "increment_base": 2, "random_jitter_range": 1, "retry_total": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A storage account, reached by connection string, or by URL and identity."""

    setting: str
    """Name of the app setting, or the common prefix of the app settings."""
    connection_string: str | None = field(default=None, repr=False)
    url: str | None = None
    managed_identity: bool = False
    client_id: str | None = None


def resolve(name: str, environ: Mapping[str, str]) -> Connection:
    """Find the app settings of a trigger's `connection`. An empty name means `Storage`.

    Raises:
        ValueError: there are none; the message names the app settings to set.

    """
    name = name or "Storage"
    for candidate in (f"AzureWebJobs{name}", name):
        if text := setting(environ, candidate):
            if text.strip("; ").lower() == "usedevelopmentstorage=true":
                text = "UseDevelopmentStorage=true"  # .NET accepts any case, the SDK only this one
            return Connection(setting=candidate, connection_string=text)
        url = setting(environ, f"{candidate}__queueServiceUri")
        if account := setting(environ, f"{candidate}__accountName"):
            url = url or f"https://{account}.queue.core.windows.net"
        if url:
            return Connection(
                setting=candidate,
                url=url,
                managed_identity=(setting(environ, f"{candidate}__credential") or "").lower() == "managedidentity",
                client_id=setting(environ, f"{candidate}__clientId"),
            )
    raise ValueError(
        f"connection {name!r} is not configured: set the app setting {name} to a connection string "
        f"(UseDevelopmentStorage=true for a local Azurite), or {name}__queueServiceUri or {name}__accountName "
        "to use an identity"
    )


async def queue_service(connection: Connection, stack: AsyncExitStack) -> QueueServiceClient:
    """Open a client for the account. `stack` closes it.

    Raises:
        HostError: the connection string is not valid. The message does not show it, as it has a key.

    """
    options = {"transport": new_transport(), **_RETRIES}
    if connection.connection_string is None:
        service = QueueServiceClient(connection.url or "", await _credential(connection, stack), **options)
    else:
        try:
            service = QueueServiceClient.from_connection_string(connection.connection_string, **options)
        except ValueError as why:
            raise HostError(
                f"app setting {connection.setting} is not a storage connection string: {why} Copy it from the storage "
                "account's Access keys, or write UseDevelopmentStorage=true for a local Azurite"
            ) from None
    return await stack.enter_async_context(service)


def new_transport() -> AioHttpTransport:
    """Make an HTTP transport for one client.

    With `use_env_settings`, aiohttp reads the proxy settings and `~/.netrc` in a thread pool before every request. It
    is on only where a proxy is configured. The app has the same function, which the host of any app cannot import.
    """
    return AioHttpTransport(use_env_settings=bool(getproxies().keys() - {"no"}))


async def _credential(connection: Connection, stack: AsyncExitStack) -> AsyncTokenCredential:
    # Imported here because it takes 0.2 s, and most local runs use a connection string.
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential  # noqa: PLC0415

    if connection.managed_identity:
        return await stack.enter_async_context(ManagedIdentityCredential(client_id=connection.client_id))
    return await stack.enter_async_context(
        DefaultAzureCredential(managed_identity_client_id=connection.client_id)
        if connection.client_id
        else DefaultAzureCredential()
    )
