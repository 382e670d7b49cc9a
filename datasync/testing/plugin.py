"""The pytest plugin with the fixtures `mock_api` and `fake_run`: `pytest_plugins = ("datasync.testing.plugin",)`."""

from collections.abc import AsyncGenerator, Generator

import pytest
import pytest_asyncio

from datasync.testing import FakeRuns, MockRouter, answered_by


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
