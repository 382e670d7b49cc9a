"""An app over some tenants whose flows do as a test says, and the commands that look into it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from azure.keyvault.secrets.aio import SecretClient
from click.testing import CliRunner, Result

from datasync import FlowRegistry
from datasync.cli.main import cli
from datasync.errors import FlowFailed
from datasync.model.job import QueueMessage
from datasync.services import Services
from tests.deliveries import NOW, message
from tests.documents import document, entry
from tests.stages import deliver, tick
from tests.world import World

HOUR = timedelta(hours=1)
FEED = "home-depot→builder-prime"
NEXT = "2025-08-23T13:00:00Z"


class Fleet:
    """The app: `weather`, and a second flow that has a provider."""

    def __init__(self, world: World, services: Services) -> None:
        self.world = world
        self.services = services
        self.ends: dict[str, BaseException] = {}
        """How the flows of a tenant end, unless they succeed."""
        self.during: dict[str, Callable[[], Awaitable[None]]] = {}
        """The function to call while a flow of a tenant runs."""
        self.registry = FlowRegistry()
        self.registry.flow("weather", aliases=("forecast",))(self._flow)
        self.registry.flow(FEED, provider="homedepot")(self._flow)

    async def _flow(self, tenant_id: str, _kv: SecretClient) -> None:
        if act := self.during.get(tenant_id):
            await act()
        if end := self.ends.get(tenant_id):
            raise end

    async def add(self, *tenants: str, **fields: Any) -> None:
        """Store tenants whose `weather` runs hourly, next at 13:00."""
        await self.world.put(*(document(each, entry(**{"nextRunUtc": NEXT, **fields})) for each in tenants))

    async def tick(self, after: timedelta = timedelta()) -> None:
        """Run a tick, some time after noon."""
        await tick(self.services, NOW + after, self.registry)

    async def run(
        self, tenant: str, run_id: str, after: timedelta = timedelta(), *, attempts: int = 1, flow: str = "weather"
    ) -> None:
        """Deliver the message of a run, some time after noon, up to this number of times."""
        for delivery in range(1, attempts + 1):
            with suppress(FlowFailed):
                job = message(delivery, tenant_id=tenant, flow_name=flow, run_id=run_id, scheduled_utc=NOW + after)
                await deliver(self.services, self.registry, job, NOW + after)

    async def deliver(self, body: str, delivery: int = 1, after: timedelta = timedelta()) -> None:
        """Deliver a message as it was on the queue, some time after noon."""
        with suppress(FlowFailed):
            message = QueueMessage("m-1", body.encode(), delivery, NOW)
            await deliver(self.services, self.registry, message, NOW + after)


def settings_file(folder: Path, world: World) -> str:
    """Write the settings of the services to a local.settings.json, and return its path."""
    file = folder / "local.settings.json"
    file.write_text(json.dumps({"IsEncrypted": False, "Values": world.environ}))
    return str(file)


async def command(world: World, *arguments: str, after: timedelta = timedelta(), **environ: str) -> Result:
    """Run a command some time after noon, in a thread, as it has an event loop of its own."""
    environment = {**world.environ, **environ}
    result = await asyncio.to_thread(CliRunner().invoke, cli, arguments, obj=NOW + after, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
