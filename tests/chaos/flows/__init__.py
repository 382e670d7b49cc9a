"""The flows of the chaos tests. They take the place of `flows/` in the app of these tests.

The entry of the app imports this package first. So it also sets the clock of the app, which may be ahead or behind.
"""

import os
from datetime import UTC, datetime, timedelta

from datasync.clock import Clock

_OFFSET = timedelta(seconds=float(os.environ["CHAOS_CLOCK"]))


def _now(self: Clock) -> datetime:
    return datetime.now(UTC) + _OFFSET


Clock.now = _now  # type: ignore[method-assign]
