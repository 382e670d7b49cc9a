"""The local services of a benchmark, and many calls at once."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from datasync.settings import Settings
from localdev.azurite import azurite
from localdev.cosmos import cosmos
from localdev.provision import provision


@asynccontextmanager
async def local_services() -> AsyncGenerator[Settings]:
    """Run Azurite and a Cosmos DB server with empty containers and queues; yield the settings of an app on them.

    Raises:
        NodeMissing, StartFailed: a service could not be started.

    """
    async with azurite() as storage, cosmos() as database:
        settings = Settings.from_environ(
            {"AzureWebJobsStorage": storage.connection_string, "COSMOS_CONNECTION_STRING": database.connection_string}
        )
        await provision(settings)
        yield settings


async def for_each[T](items: Iterable[T], act: Callable[[T], Awaitable[object]], *, at_once: int) -> None:
    """Call `act` with each item, with up to `at_once` calls open at a time."""
    shared = iter(items)

    async def work() -> None:
        for item in shared:
            await act(item)

    async with asyncio.TaskGroup() as workers:
        for _ in range(at_once):
            workers.create_task(work())
