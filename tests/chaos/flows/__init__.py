"""The flows of the chaos tests. They take the place of `flows/` in the app of these tests.

The entry of the app imports this package first. So it also applies the changes that only a test app has: other values
of constants, and a clock that is ahead or behind.
"""

import importlib
import json
import os
import sys
from datetime import UTC, datetime, timedelta

from datasync.clock import Clock


def _replace(module: str, name: str, value: float) -> None:
    """Give a constant of a module another value: seconds where it is a timedelta. A missing one is left out."""
    try:
        found = importlib.import_module(module)
        constant = getattr(found, name)
    except (ImportError, AttributeError):
        return
    setattr(found, name, timedelta(seconds=value) if isinstance(constant, timedelta) else type(constant)(value))


def _set_clock(offset: timedelta) -> None:
    def now(self: Clock) -> datetime:
        return datetime.now(UTC) + offset

    Clock.now = now  # type: ignore[method-assign]


for _path, _value in json.loads(os.environ["CHAOS_CONSTANTS"]).items():
    _module, _, _name = _path.partition(":")
    if _module.startswith("datasync") or _module in sys.modules:
        _replace(_module, _name, _value)
_set_clock(timedelta(seconds=float(os.environ["CHAOS_CLOCK"])))
