"""The pytest plugin with the fixtures `mock_api` and `fake_run`: `pytest_plugins = ("datasync.testing.plugin",)`."""

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from datasync.flow.stand_ins import StandIns
from datasync.testing import FakeRuns, MockRouter, answered_by

if TYPE_CHECKING:  # pytest-recording imports it, after pytest has rewritten its plugins
    from vcr import VCR
    from vcr.request import Request


@pytest.fixture
def mock_api(request: pytest.FixtureRequest) -> Generator[MockRouter]:
    """Return the routes that answer the requests of flows. A route that is not called fails the test.

    `@pytest.mark.respx(assert_all_called=False)` allows that, as for the fixture of respx.
    """
    marker = request.node.get_closest_marker("respx")
    with MockRouter(using=None, **(marker.kwargs if marker else {})) as routes:
        yield routes


@pytest_asyncio.fixture
async def fake_run(request: pytest.FixtureRequest) -> AsyncGenerator[FakeRuns]:
    """Return the function that makes a run. Its requests are answered by `mock_api`.

    In a test with `@pytest.mark.vcr`, they are answered by its cassette.
    """
    network = None
    if not request.node.get_closest_marker("vcr"):
        network = answered_by(request.getfixturevalue("mock_api"))
    elif "mock_api" in request.fixturenames:
        pytest.fail("a test has mock_api or a cassette (@pytest.mark.vcr), not both", pytrace=False)
    async with FakeRuns(network) as runs:
        yield runs


@pytest.hookimpl(optionalhook=True)  # of pytest-recording
def pytest_recording_configure(vcr: "VCR") -> None:
    """Hide what looks like a secret in the URL of a request, as in the recording of a run, so that they match."""
    vcr.before_record_request = _hidden


def _hidden(request: "Request") -> "Request":
    request.uri = StandIns().url(request.uri)
    return request
