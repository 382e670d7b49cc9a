"""The public API for tests of flows. docs/testing.md shows how to use it. The app does not import it.

`datasync.testing.plugin` has the fixtures, for pytest.
"""

from respx import MockRouter

from datasync.testing.clock import FakeClock
from datasync.testing.fake_run import FakeRun, FakeRuns
from datasync.testing.mock_api import answered_by

__all__ = ["FakeClock", "FakeRun", "FakeRuns", "MockRouter", "answered_by"]
