"""The containers of Cosmos DB, and the sentences for its errors."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from async_lru import alru_cache
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

from datasync.errors import RequestRefused, ServiceUnavailable, ServiceUnreachable
from datasync.model.decode import shorten
from datasync.model.display import shown

RETRY_WRITE = 3
"""How often the client may repeat a write whose answer was lost. Every write of the app is safe to repeat."""

_REMEDIES = {
    401: "Check the key in COSMOS_CONNECTION_STRING",
    403: "Give the app's identity the role Cosmos DB Built-in Data Contributor, and allow the network",
    404: "Create the database and its containers: docs/deploy.md, Provisioning",
    429: "The account is out of request units: raise them, or spread the schedules",
}

# 400 and 413: https://learn.microsoft.com/rest/api/cosmos-db/http-status-codes-for-cosmosdb
# 414 and 431 are answers of web servers to names that are too long.
_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
)
_LONGEST_ACTION = 500  # characters: it names a document and a tenant


class Container:
    """One container, opened and checked at its first use."""

    def __init__(
        self, name: str, connect: Callable[[], Awaitable[ContainerProxy]], sleep: Callable[[timedelta], Awaitable[None]]
    ) -> None:
        self.name = name
        self.sleep = sleep
        """Waits between two tries of a write."""
        self._connect = connect
        # Concurrent callers share one check; a failure is not kept.
        self._open = alru_cache(maxsize=1)(self._opened)

    async def open(self) -> ContainerProxy:
        """Return the client of the container.

        Checks the container first. A missing container would otherwise be reported as an unknown tenant.

        Raises:
            ServiceUnavailable: the container is missing or has another partition key, or Cosmos DB refused the request
                or could not be reached.

        """
        return await self._open()

    async def properties(self) -> dict[str, Any]:
        """Read the properties of the container; raises as `open` does."""
        return await self._checked(await self._connect())

    async def _opened(self) -> ContainerProxy:
        container = await self._connect()
        await self._checked(container)
        return container

    async def _checked(self, container: ContainerProxy) -> dict[str, Any]:
        with explained(f"while reading the properties of container {self.name!r}"):
            found = await container.read()
        if (paths := found["partitionKey"]["paths"]) != ["/tenantId"]:
            raise ServiceUnavailable(
                f"container {self.name!r} is partitioned by {', '.join(paths)}, which cannot be changed: "
                "delete it, and create it again with the partition key /tenantId"
            )
        return found


class OperationRefused(CosmosHttpResponseError):
    """An operation of a transaction was refused, with the status of that operation. Nothing was written."""


async def transact(
    container: ContainerProxy, partition: str, operations: Sequence[tuple[Any, ...]]
) -> list[dict[str, Any]]:
    """Write documents of a partition in one transaction; return the results of the operations.

    Raises:
        OperationRefused: see there.
        AzureError: Cosmos DB refused or could not be reached.

    """
    try:
        results = await container.execute_item_batch([*operations], partition_key=partition, retry_write=RETRY_WRITE)
    except CosmosBatchOperationError as error:
        status = error.operation_responses[error.error_index]["statusCode"]
        raise OperationRefused(status_code=status, message=str(error)) from None  # type: ignore[no-untyped-call]
    return [*results]


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an unexpected answer of Cosmos DB into a sentence.

    Raises:
        RequestRefused: the same request would be refused again.
        ServiceUnavailable: states the action, the reason of the failure, and the remedy.

    """
    doing = shown(doing, _LONGEST_ACTION)
    try:
        yield
    except CosmosHttpResponseError as error:
        why = shorten(" ".join(str(error.message).split()))
        is_refusal = error.status_code in _REFUSALS
        remedy = "The same request would be refused again" if is_refusal else "It will be tried again"
        remedy = _REMEDIES.get(error.status_code or 0, remedy)
        raise (RequestRefused if is_refusal else ServiceUnavailable)(
            f"Cosmos DB answered {error.status_code} {doing}: {why}. {remedy}",
            status=error.status_code,
        ) from None
    except ClientAuthenticationError as error:
        raise ServiceUnavailable(
            f"the app's identity got no token for Cosmos DB {doing}: "
            f"{str(error).partition(chr(10))[0]} Sign in (az login), or give the Function App a managed identity",
            status=HTTPStatus.UNAUTHORIZED,
        ) from None
    except AzureError as error:
        raise ServiceUnreachable(
            f"Cosmos DB could not be reached {doing}: {shorten(str(error))}. "
            "Check COSMOS_CONNECTION_STRING or COSMOS_ENDPOINT, and the network"
        ) from None
