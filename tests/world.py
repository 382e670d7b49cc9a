"""What a test on the real parts looks at."""

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from azure.cosmos.aio import ContainerProxy
from azure.storage.queue.aio import QueueClient

from datasync.settings import Settings


@dataclass(frozen=True, slots=True)
class World:
    """One test's own database and queues, and the means to look at them."""

    environ: dict[str, str]
    """The app's settings."""
    settings: Settings
    tenants: ContainerProxy
    runs: ContainerProxy
    jobs: QueueClient
    poison: QueueClient

    async def put(self, *documents: dict[str, Any]) -> None:
        """Store tenant documents, as a person would in the portal."""
        for document in documents:
            await self.tenants.upsert_item({key: value for key, value in document.items() if key != "_etag"})

    async def document(self, tenant_id: str) -> dict[str, Any]:
        """Return a tenant's document as it stands."""
        return dict(await self.tenants.read_item(tenant_id, partition_key=tenant_id))

    async def records(self, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Return the run records, oldest first."""
        found = [
            dict(item)
            async for item in self.runs.query_items("SELECT * FROM c WHERE c.type = 'Run'")
            if tenant_id in (None, item["tenantId"])
        ]
        return sorted(found, key=lambda run: (run["startedUtc"], run["attempt"]))

    async def messages(self) -> list[str]:
        """Return the bodies of the visible messages, without taking them."""
        return [_decoded(message.content) for message in await self.jobs.peek_messages(max_messages=32)]

    async def take(self) -> list[str]:
        """Take every visible message off the queue; return their bodies."""
        bodies = []
        async for message in self.jobs.receive_messages(messages_per_page=32):
            bodies.append(_decoded(message.content))
            await self.jobs.delete_message(message)
        return bodies

    async def poisoned(self) -> list[str]:
        """Return the bodies of the poisoned messages, decoded where they are base64."""
        return [_decoded(message.content) for message in await self.poison.peek_messages(max_messages=32)]

    async def drained(self) -> bool:
        """Tell whether no message is left, visible or hidden."""
        return not (await self.jobs.get_queue_properties()).approximate_message_count


def _decoded(content: str) -> str:
    try:
        return b64decode(content, validate=True).decode()
    except ValueError:
        return content
