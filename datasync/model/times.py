"""UTC times: the one place that reads and writes them.

Documents hold `2025-08-23T01:00:00Z`. Texts of this form sort like the instants they stand for, which the queries use.
"""

from datetime import UTC, datetime

EXPECTED = "an ISO 8601 time such as 2025-08-23T01:00:00Z"


def utc_text(instant: datetime) -> str:
    """Write an instant (aware) in whole seconds; a fraction is cut off."""
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def read_utc(text: str) -> datetime:
    """Read an ISO 8601 time with any offset, or with none, which means UTC.

    Raises:
        ValueError: the text is not an ISO 8601 time, or lies outside the years 1 to 9999.

    """
    try:
        return in_utc(datetime.fromisoformat(text))
    except OverflowError as error:
        raise ValueError(str(error)) from None


def has_offset(text: str) -> bool:
    """Return whether an ISO 8601 time has an offset. Raises ValueError as `read_utc` does."""
    return datetime.fromisoformat(text).tzinfo is not None


def in_utc(time: datetime) -> datetime:
    """Return a time as an instant in UTC; a time without an offset is UTC already.

    Raises:
        OverflowError: the instant lies outside the years 1 to 9999.

    """
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
