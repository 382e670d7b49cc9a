"""Fixtures of the tests of `run.http`."""

from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio

from datasync.flow.http import new_transport
from datasync.flow.usage import HttpUsage
from tests.stages import FakeClock


@pytest_asyncio.fixture
async def transport() -> AsyncGenerator[httpx.AsyncBaseTransport]:
    """Return the transport that all runs of a process share."""
    async with new_transport() as shared:
        yield shared


@pytest.fixture
def usage() -> HttpUsage:
    """Return the usage of one run, with a clock that never waits."""
    return HttpUsage(FakeClock())
