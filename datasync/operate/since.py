"""Reads the start of a time span: `24h`, or a time."""

import re
from datetime import datetime, timedelta

from datasync.model.times import EXPECTED, read_utc

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_LONGEST = timedelta(days=3650)


def since(text: str, now: datetime) -> datetime:
    """Return the instant that a text stands for: `30m`, `24h` or `7d` before `now` (aware), or an ISO 8601 time.

    Raises:
        ValueError: the text has another form; the message states the expected ones.

    """
    if span := re.fullmatch(r"([0-9]{1,6})([mhd])", text, re.ASCII):
        return now - min(int(span[1]) * _UNITS[span[2]], _LONGEST)
    try:
        return read_utc(text)
    except ValueError:
        raise ValueError(f"expected a time span such as 30m, 24h or 7d, or {EXPECTED}, got {text!r}") from None
