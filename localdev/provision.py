"""Creates the resources that the app expects: the database, its two containers, and the two queues."""

from contextlib import suppress
from typing import Any

from azure.core.exceptions import ResourceExistsError
from azure.cosmos import PartitionKey

from datasync.clients import Credential, cosmos_client, queue_client
from datasync.settings import Settings

NO_DEFAULT_EXPIRY = -1
"""`defaultTtl` of the runs container: only documents with a `ttl` of their own expire. Run records have one."""


def _only(*paths: str) -> dict[str, Any]:
    """Return an indexing policy that indexes these paths. `id` and `_ts` are indexed under every policy."""
    return {
        "indexingMode": "consistent",
        "automatic": True,
        "includedPaths": [{"path": path} for path in paths],
        "excludedPaths": [{"path": "/*"}],
    }


# Each indexed path adds to the cost of every write, so each container indexes only the paths that queries use.
# https://learn.microsoft.com/azure/cosmos-db/index-policy
TENANTS_INDEX = _only("/type/?", "/tenantId/?", "/flows/[]/{enabled, nextRunUtc}/?")
"""The last path is a tuple index: one entry for each flow, with both values. It serves the tick's query."""

RUNS_INDEX = _only(
    "/type/?",
    "/tenantId/?",
    "/flowName/?",
    "/runId/?",
    "/outcome/?",
    "/startedUtc/?",
    "/lastSuccessUtc/?",
    "/staleUtc/?",
    "/consecutiveFailures/?",
    "/lease/until/?",
    "/tenant/?",
    "/tenants/[]/?",
)
"""The paths in `WHERE` and `ORDER BY` of the app's queries and of those in docs/queries.md."""


async def provision(settings: Settings) -> None:
    """Create the resources that are missing. This needs a Cosmos DB key: data-plane roles cannot create containers."""
    credential = Credential()
    try:
        async with cosmos_client(settings.cosmos, credential) as cosmos:
            database = await cosmos.create_database_if_not_exists(settings.cosmos_database)
            key = PartitionKey(path="/tenantId")
            await database.create_container_if_not_exists(
                settings.tenants_container, key, indexing_policy=TENANTS_INDEX
            )
            await database.create_container_if_not_exists(
                settings.runs_container, key, indexing_policy=RUNS_INDEX, default_ttl=NO_DEFAULT_EXPIRY
            )
        for name in (settings.queue_name, f"{settings.queue_name}-poison"):
            async with queue_client(settings.storage, name, credential) as queue:
                with suppress(ResourceExistsError):
                    await queue.create_queue()
    finally:
        await credential.close()
