from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from localdev.azurite import Storage
from tests.localdev.host.running import App, Queues, new_queues


@pytest_asyncio.fixture
async def queues(storage: Storage) -> AsyncGenerator[Queues]:
    """Make a queue for one test."""
    async with new_queues(storage) as made:
        yield made


@pytest.fixture
def app(tmp_path: Path, storage: Storage, queues: Queues) -> App:
    """Make the folder of an app with the test's queue in its settings."""
    return App.with_storage(tmp_path, storage, QUEUE=queues.name)
