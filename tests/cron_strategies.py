"""Hypothesis strategies for schedules: valid expressions, zones, and moments, many of them close to a clock change.

`from tests.cron_strategies import expressions` works in any test, since pytest adds the repository root to the path.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MACROS = (
    "@every_second",
    "@every_minute",
    "@hourly",
    "@daily",
    "@midnight",
    "@weekly",
    "@monthly",
    "@yearly",
    "@annually",
)
# Offsets of whole and half hours, spring gaps at 02:00 and at midnight, zones that abolished clock changes, and two
# zones without them.
ZONES = (
    "America/New_York",
    "America/Chicago",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Asia/Amman",
    "America/Santiago",
    "Asia/Kolkata",
    "UTC",
)
# Starts of UTC days on which one of these zones changes its clocks, or of the days next to them.
_CHANGES = tuple(
    datetime.fromisoformat(f"{day}T00:00:00Z")
    for day in (
        "2016-03-13",  # New_York and Chicago
        "2016-11-06",
        "2025-03-09",
        "2025-11-02",
        "2017-03-26",  # Berlin
        "2017-10-29",
        "2025-03-30",
        "2025-10-26",
        "2016-10-01",  # Lord_Howe
        "2017-04-01",
        "2025-04-05",
        "2025-10-04",
        "2017-03-30",  # Amman
        "2017-10-26",
        "2016-08-14",  # Santiago
        "2017-05-14",
        "2025-04-06",
        "2025-09-07",
    )
)


def zones() -> SearchStrategy[ZoneInfo]:
    return st.sampled_from(ZONES).map(ZoneInfo)


@st.composite
def moments(draw: DrawFn) -> datetime:
    """Draw aware UTC datetimes of this century. Half of them are within two days of a clock change."""
    if draw(st.booleans()):
        day = draw(st.sampled_from(_CHANGES))
        minutes = draw(st.integers(-12 * 4, 36 * 4)) * 15
        seconds = draw(st.sampled_from((0, 0, 0, -1, 1, 59)) | st.integers(0, 899))
        return day + timedelta(minutes=minutes, seconds=seconds)
    moment = draw(st.datetimes(datetime(2001, 1, 1), datetime(2090, 1, 1)))  # noqa: DTZ001 - made aware below
    return moment.replace(microsecond=draw(st.sampled_from((0, 0, 1, 999_999))), tzinfo=UTC)


@cache  # Hypothesis needs milliseconds to create a strategy
def expressions() -> SearchStrategy[str]:
    """Return valid expressions of all kinds. Some of them never fire, such as `0 0 0 30 2 *`."""
    fields = (
        _half(("0", "0", "59"), _field(0, 59)),
        _half(("0", "30", "*/30", "*"), _field(0, 59)),
        _half(("*", "0", "1", "2", "1-3", "*/2"), _field(0, 23)),
        _half(("*", "*", "?"), _field(1, 31) | _special_days()),
        _half(("*",), _half(("*",), _field(1, 12, MONTHS))),
        _half(("*", "*", "?"), _field(0, 7, WEEKDAYS) | _special_weekdays()),
    )
    six = [st.tuples(*fields).map(blank.join) for blank in (" ", "\t", "   ")]
    return st.one_of(*six, *six, *six, st.sampled_from(MACROS))


def _half(usual: Sequence[str], other: SearchStrategy[str]) -> SearchStrategy[str]:
    return st.booleans().flatmap(lambda often: st.sampled_from(usual) if often else other)


def _field(low: int, high: int, names: Sequence[str] = ()) -> SearchStrategy[str]:
    step = st.integers(1, high).map("/{}".format)
    star = st.sampled_from(("*", "?"))
    value = _value(low, high, names)
    span = st.tuples(value, value).map("-".join)
    item = value | span | st.tuples(value | span, step).map("".join)
    some = st.lists(item, min_size=1, max_size=4).map(",".join)
    return some | item | span | star | st.tuples(star, step).map("".join)


def _value(low: int, high: int, names: Sequence[str]) -> SearchStrategy[str]:
    numbers = st.integers(low, high)
    spelled = numbers.map(str) | numbers.map("{:02}".format)
    some_case = [name for each in names for name in (each, each.lower(), each.title())]
    return spelled | st.sampled_from(some_case) if names else spelled


def _special_days() -> SearchStrategy[str]:
    nearest = st.integers(1, 31).map("{}W".format)
    before_last = st.integers(0, 30).map("L-{}".format)
    some = nearest | st.sampled_from(("L", "LW")) | before_last | before_last.map("{}W".format)
    return some | some.map(str.lower)


def _special_weekdays() -> SearchStrategy[str]:
    value = _value(0, 7, WEEKDAYS)
    return value.map("{}L".format) | st.tuples(value, st.sampled_from("12345")).map("#".join)
