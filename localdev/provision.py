"""Makes what the app expects to find: the database, its two containers, and the two queues."""

from contextlib import suppress

from azure.core.exceptions import ResourceExistsError
from azure.cosmos import PartitionKey

from datasync.clients import Credential, cosmos_client, queue_client
from datasync.settings import Settings

NO_DEFAULT_EXPIRY = -1  # documents expire only where they say so themselves: run records do, flow states do not


async def provision(settings: Settings) -> None:
    """Create whatever of it is missing. It takes a Cosmos DB key: data-plane roles cannot create containers."""
    credential = Credential()
    try:
        async with cosmos_client(settings.cosmos, credential) as cosmos:
            database = await cosmos.create_database_if_not_exists(settings.cosmos_database)
            key = PartitionKey(path="/tenantId")
            await database.create_container_if_not_exists(settings.tenants_container, key)
            await database.create_container_if_not_exists(settings.runs_container, key, default_ttl=NO_DEFAULT_EXPIRY)
        for name in (settings.queue_name, f"{settings.queue_name}-poison"):
            async with queue_client(settings.storage, name, credential) as queue:
                with suppress(ResourceExistsError):
                    await queue.create_queue()
    finally:
        await credential.close()
