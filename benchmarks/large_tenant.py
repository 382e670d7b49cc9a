"""Measures how long small tenants wait for a large one: python -m benchmarks.large_tenant [--flows N] [--tenants N].

One tenant has very many due flows, and is the first that the tick reads. The others have one due flow each. "small"
is the time from the start of the tick until the last small tenant has its job, and "large" until the large one has all
of its jobs. "CPU" is the time of this process, without the servers.
"""

import argparse
import asyncio
import base64
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, override
from unittest.mock import patch

from azure.core.pipeline.transport import AioHttpTransport
from azure.keyvault.secrets.aio import SecretClient

from benchmarks.local_services import for_each, local_services
from benchmarks.tick_documents import SetClock
from datasync import FlowRegistry, clients
from datasync.clients import Credential, cosmos_client
from datasync.services import Services
from datasync.settings import Settings
from datasync.tick.tick import tick

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
DUE = "2025-08-23T12:00:00Z"
WRITES_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Result:
    """One tick, in seconds."""

    jobs: int
    small: float
    large: float
    cpu: float


class TimingTransport(AioHttpTransport):  # type: ignore[misc]
    """The transport of one client, which notes when a tenant's job was sent."""

    def __init__(self, sent: list[tuple[bool, float]]) -> None:
        super().__init__(use_env_settings=False)
        self._sent = sent

    @override
    async def send(self, request: Any, **options: Any) -> Any:
        answer = await super().send(request, **options)
        if found := re.search(r"<MessageText>(.*?)<", str(getattr(request, "body", ""))):
            is_large = b'"tenantId":"large"' in base64.b64decode(found[1])
            self._sent.append((is_large, time.perf_counter()))
        return answer


def document(tenant: str, flows: int) -> dict[str, Any]:
    """Return the document of a tenant with this many due flows."""
    note = {"nextRunUtc": DUE, "enqueuedUtc": "2025-08-23T11:00:03Z", "key": "5f"}
    entry = {"enabled": True, "cron": "0 0 * * * *", "nextRunUtc": DUE, "planned": note}
    return {
        "id": tenant,
        "type": "Tenant",
        "tenantId": tenant,
        "flows": [{"name": f"flow-{number}", **entry} for number in range(flows)],
    }


async def _does_nothing(tenant_id: str, kv: SecretClient) -> None:
    """Do nothing."""


async def measure(settings: Settings, *, flows: int, tenants: int) -> Result:
    """Store the tenants in empty containers, and measure a tick."""
    registry = FlowRegistry()
    for number in range(flows):
        registry.flow(f"flow-{number}")(_does_nothing)
    sent: list[tuple[bool, float]] = []
    services = Services(settings, SetClock(NOW))
    async with cosmos_client(settings.cosmos, Credential()) as cosmos:
        container = cosmos.get_database_client(settings.cosmos_database).get_container_client(
            settings.tenants_container
        )
        await container.upsert_item(document("large", flows))
        others = (document(f"tenant-{number}", 1) for number in range(tenants))
        await for_each(others, container.upsert_item, at_once=WRITES_AT_ONCE)
    try:
        with patch.object(clients, "new_transport", lambda: TimingTransport(sent)):
            for client in (services.tenants, services.runs, services.jobs):
                await client.ping()
            start, cpu = time.perf_counter(), time.process_time()
            tally = await tick(services, registry)
            cpu = time.process_time() - cpu
    finally:
        await services.close()
    small, large = (max(at for is_large, at in sent if is_large is wanted) - start for wanted in (False, True))
    return Result(jobs=tally.enqueued, small=small, large=large, cpu=cpu)


def report(result: Result) -> Iterator[str]:
    """Yield the table."""
    yield f"{'jobs':>8}{'small s':>10}{'large s':>10}{'ratio':>8}{'CPU s':>10}"
    ratio = result.small / result.large
    yield f"{result.jobs:>8}{result.small:>10.2f}{result.large:>10.2f}{ratio:>8.2f}{result.cpu:>10.2f}"


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_tenant", description=__doc__)
    parser.add_argument("--flows", type=int, default=2_000, help="due flows of the large tenant")
    parser.add_argument("--tenants", type=int, default=300, help="tenants with one due flow")
    options = parser.parse_args()
    async with local_services() as settings:
        result = await measure(settings, **vars(options))
    print("\n".join(report(result)))


if __name__ == "__main__":
    asyncio.run(main())
