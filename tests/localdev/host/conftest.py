import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue.aio import QueueServiceClient

from localdev.azurite import Storage
from tests.localdev.host.running import App, Queues


@pytest_asyncio.fixture
async def queues(storage: Storage) -> AsyncGenerator[Queues]:
    """Make a queue that no other test sees, in Azurite. Its poison queue is left to the host."""
    name = f"jobs-{uuid.uuid4().hex[:12]}"
    async with QueueServiceClient.from_connection_string(storage.connection_string) as service:
        jobs, poison = service.get_queue_client(name), service.get_queue_client(f"{name}-poison")
        await jobs.create_queue()
        yield Queues(storage.connection_string, name, jobs, poison)
        for queue in (jobs, poison):
            try:
                await queue.delete_queue()
            except ResourceNotFoundError:
                continue


@pytest.fixture
def app(tmp_path: Path, queues: Queues) -> App:
    """Make an app whose settings name the test's queue; it polls fast, as `Development` would not let it."""
    queue_options = "AzureFunctionsJobHost__extensions__queues__"
    return App(
        tmp_path,
        {
            "AzureWebJobsStorage": queues.connection_string,
            "QUEUE": queues.name,
            "AZURE_FUNCTIONS_ENVIRONMENT": "Production",
            f"{queue_options}maxPollingInterval": "00:00:00.100",
        },
    )
