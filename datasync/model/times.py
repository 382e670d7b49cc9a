"""UTC times: the one place that reads and writes them.

Documents hold `2025-08-23T01:00:00Z`. Texts of this form sort like the instants they stand for, which the queries use.
"""

import re
from datetime import UTC, datetime, timedelta

EXPECTED = "an ISO 8601 time such as 2025-08-23T01:00:00Z"

SPAN = "a time span from 1m to 3650d, such as 30m, 2h or 7d"

_FORM = re.compile(r"[\dW-]{8,10}([Tt ].+)?", re.ASCII)
"""A date, and perhaps a time after a T. Without this check, milliseconds such as 1712102400000 are the year 1712."""

_SPAN = re.compile(r"([0-9]{1,7})([mhd])", re.ASCII)
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=3650)


def utc_text(instant: datetime) -> str:
    """Write an instant (aware) in whole seconds; a fraction is cut off."""
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def read_utc(text: str) -> datetime:
    """Read an ISO 8601 time with any offset, or with none, which means UTC.

    Raises:
        ValueError: the text is not an ISO 8601 time, or lies outside the years 1 to 9999.

    """
    if not _FORM.fullmatch(text):
        raise ValueError(f"{text!r} is not a date with a time after a T")
    try:
        return in_utc(datetime.fromisoformat(text))
    except OverflowError as error:
        raise ValueError(str(error)) from None


def read_span(text: str) -> timedelta:
    """Read a time span in minutes, hours or days: `30m`, `2h`, `7d`.

    Raises:
        ValueError: the text is not such a span, or is not from a minute to 3,650 days.

    """
    found = _SPAN.fullmatch(text)
    span = int(found[1]) * _UNITS[found[2]] if found else timedelta()
    if not _SHORTEST <= span <= _LONGEST:
        raise ValueError(f"{text!r} is not {SPAN}")
    return span


def has_offset(text: str) -> bool:
    """Return whether an ISO 8601 time has an offset. Raises ValueError as `read_utc` does."""
    return datetime.fromisoformat(text).tzinfo is not None


def in_utc(time: datetime) -> datetime:
    """Return a time as an instant in UTC; a time without an offset is UTC already.

    Raises:
        OverflowError: the instant lies outside the years 1 to 9999.

    """
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
