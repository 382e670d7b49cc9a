"""The schedules of timer triggers."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from localdev.host.ncrontab import Schedule

START = datetime(2025, 8, 23, 12, 0, 0, tzinfo=UTC)  # a Saturday


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 * * * *", "2025-08-23T13:00:00"),
        ("*/15 * * * * *", "2025-08-23T12:00:15"),
        ("*/5 * * * *", "2025-08-23T12:05:00"),
        ("30 59 23 31 12 *", "2025-12-31T23:59:30"),
        ("0 0 9 * * MON-FRI", "2025-08-25T09:00:00"),
        ("0 0 9 13 * friday", "2026-02-13T09:00:00"),
        ("0 0 0 1 Jan,jul *", "2026-01-01T00:00:00"),
        ("0 10/25 * * * *", "2025-08-23T12:10:00"),
        ("0 0 8-18/4 * * 0,6", "2025-08-23T16:00:00"),
        ("0 0 0 29 2 *", "2028-02-29T00:00:00"),
        ("0 0 0 29 2 1", "2044-02-29T00:00:00"),
    ],
)
def test_the_next_occurrence(text: str, expected: str) -> None:
    """An expression has six fields, or five with second 0. Day and day of week must both match."""
    assert Schedule.parse(text).next_after(START) == datetime.fromisoformat(f"{expected}+00:00")


def test_the_next_occurrence_is_later_than_the_given_instant() -> None:
    """The instant can be an occurrence itself, and can be in any time zone."""
    there = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert Schedule.parse("0 0 12 * * *").next_after(there) == START + timedelta(days=1)


def test_a_date_that_does_not_exist_has_no_occurrence() -> None:
    """The real host accepts such a schedule too, and never runs the function."""
    assert Schedule.parse("0 0 0 31 2 *").next_after(START) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 fields, expected 6"),
        ("* * * *", "4 fields, expected 6"),
        ("0 0 0 * * * *", "7 fields, expected 6"),
        ("@hourly", "1 fields, expected 6"),
        ("01:00:00", "1 fields, expected 6"),
        ("60 * * * * *", "second field '60': '60' is not a value from 0 to 59"),
        ("0 0 24 * * *", "hour field"),
        ("0 0 0 0 * *", "day field '0': '0' is not a value from 1 to 31"),
        ("0 0 0 * * 7", "day of week field '7': '7' is not a value from 0 to 6, or Sun to Sat"),
        ("0 0 0 * Ja *", "month field 'Ja': 'Ja' is not a value from 1 to 12, or Jan to Dec"),
        ("0 0 0 ? * *", "day field"),
        ("0 0 0 L * *", "day field"),
        ("0 0 0 15W * *", "day field"),
        ("0 0 0 * * 1#2", "day of week field"),
        ("0 */0 * * * *", "minute field '*/0': step '0' must be a whole number from 1"),
        ("0 */ * * * *", "minute field"),
        ("0 1,, * * * *", "minute field"),
        ("0 0 22-2 * * *", "hour field '22-2': '22-2' runs backwards. Write 22-23,0-2 instead"),
        ("0 0 ٣ * * *", "hour field"),
    ],
)
def test_an_invalid_expression_is_refused(text: str, message: str) -> None:
    """The message names the field, its text and the mistake."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the texts are compared below
        Schedule.parse(text)
    assert message in str(caught.value)
