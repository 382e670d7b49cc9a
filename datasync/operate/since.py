"""Reads time spans such as `24h`, and times."""

import re
from datetime import datetime, timedelta

from datasync.model.times import EXPECTED, read_utc

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_LONGEST = timedelta(days=3650)


def span(text: str) -> timedelta | None:
    """Return the time span that a text such as `30m`, `24h` or `7d` stands for; None if it is not one."""
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text, re.ASCII)
    return min(int(found[1]) * _UNITS[found[2]], _LONGEST) if found else None


def since(text: str, now: datetime) -> datetime:
    """Return the instant that a text stands for: `30m`, `24h` or `7d` before `now` (aware), or an ISO 8601 time.

    Raises:
        ValueError: the text has another form; the message states the expected ones.

    """
    if before := span(text):
        return now - before
    try:
        return read_utc(text)
    except ValueError:
        raise ValueError(f"expected a time span such as 30m, 24h or 7d, or {EXPECTED}, got {text!r}") from None
