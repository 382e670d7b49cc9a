"""Access to the database and queues of a test with real services."""

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from azure.cosmos.aio import ContainerProxy
from azure.storage.queue.aio import QueueClient

from datasync.settings import Settings


@dataclass(frozen=True, slots=True)
class World:
    """The database and queues of one test."""

    environ: dict[str, str]
    """The settings of the app, as environment variables."""
    settings: Settings
    tenants: ContainerProxy
    runs: ContainerProxy
    jobs: QueueClient
    poison: QueueClient

    async def put(self, *documents: dict[str, Any]) -> None:
        """Store tenant documents, as a user does in the portal."""
        for document in documents:
            await self.tenants.upsert_item({key: value for key, value in document.items() if key != "_etag"})

    async def document(self, tenant_id: str) -> dict[str, Any]:
        """Return the current document of a tenant."""
        return dict(await self.tenants.read_item(tenant_id, partition_key=tenant_id))

    async def records(self, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Return the run records, oldest first."""
        found = [
            dict(item)
            async for item in self.runs.query_items("SELECT * FROM c WHERE c.type = 'Run'")
            if tenant_id in (None, item["tenantId"])
        ]
        return sorted(found, key=lambda run: (run["startedUtc"], run["runId"]))

    async def messages(self) -> list[str]:
        """Return the bodies of the visible messages. The messages stay on the queue."""
        return [_decoded(message.content) for message in await self.jobs.peek_messages(max_messages=32)]

    async def take(self) -> list[str]:
        """Remove every visible message from the queue, and return their bodies."""
        bodies = []
        async for message in self.jobs.receive_messages(messages_per_page=32):
            bodies.append(_decoded(message.content))
            await self.jobs.delete_message(message)
        return bodies

    async def poisoned(self) -> list[str]:
        """Return the bodies of the messages in the poison queue, decoded if they are base64."""
        return [_decoded(message.content) for message in await self.poison.peek_messages(max_messages=32)]

    async def drained(self) -> bool:
        """Return whether the queue is empty, including hidden messages."""
        return not (await self.jobs.get_queue_properties()).approximate_message_count


def _decoded(content: str) -> str:
    try:
        return b64decode(content, validate=True).decode()
    except ValueError:
        return content
