"""What the stores on Cosmos DB share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosHttpResponseError

from datasync.errors import ServiceUnavailable
from datasync.model import shorten

RETRY_WRITE = 3
"""How often the client may repeat a write whose answer got lost: each of ours is safe to repeat."""

_REMEDIES = {
    401: "Check the key in COSMOS_CONNECTION_STRING",
    403: "Give the app's identity the role Cosmos DB Built-in Data Contributor, and allow the network",
    404: "Create the database and its containers: docs/operating.md, Provisioning",
    429: "The account is out of request units: raise them, or spread the schedules",
}


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what Cosmos DB answers, and the caller did not expect, into a sentence.

    Raises:
        ServiceUnavailable: saying what was being done, why it failed, and the remedy.

    """
    try:
        yield
    except CosmosHttpResponseError as error:
        remedy = _REMEDIES.get(error.status_code or 0, "It will be tried again")
        raise ServiceUnavailable(
            f"Cosmos DB answered {error.status_code} {doing}: {shorten(' '.join(str(error.message).split()))}. {remedy}"
        ) from None
    except ClientAuthenticationError as error:
        raise ServiceUnavailable(
            f"Cosmos DB was not asked, because the app's identity got no token {doing}: "
            f"{str(error).partition(chr(10))[0]} Sign in (az login), or give the Function App a managed identity"
        ) from None
    except AzureError as error:
        raise ServiceUnavailable(
            f"Cosmos DB could not be reached {doing}: {shorten(str(error))}. "
            "Check COSMOS_CONNECTION_STRING or COSMOS_ENDPOINT, and the network"
        ) from None


async def properties(container: ContainerProxy) -> dict[str, Any]:
    """Return the properties of a container, which has to be partitioned by tenant.

    Raises:
        ServiceUnavailable: it is missing or partitioned otherwise, or Cosmos DB refused or could not be reached.

    """
    with explained(f"while looking at container {container.id!r}"):
        found = await container.read()
    if (paths := found["partitionKey"]["paths"]) != ["/tenantId"]:
        raise ServiceUnavailable(
            f"container {container.id!r} is partitioned by {', '.join(paths)}, which cannot be changed: "
            "create it anew with the partition key /tenantId"
        )
    return found
