"""Parses cron expressions of six fields, seconds first, and finds their next occurrence. Pure; reads no clock.

The language is that of the Cronos library (github.com/HangfireIO/Cronos): ranges that wrap, `L W # ?`, macros, and
both day fields must match. croniter implements another dialect, and reads some expressions differently without an
error. It therefore receives explicit values only:

    text ─ parse ─→ explicit values ─ per month ─→ date ─ croniter ─→ time of day ─ time zone ─→ UTC

Clock changes: times inside a spring gap become one occurrence at the end of the gap. Times in an autumn overlap occur
in its first pass only, unless the expression is an interval. An expression with `*`, `?`, a range or a step in second,
minute or hour is an interval, and occurs in both passes.
"""

from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from math import fmod
from typing import NamedTuple

from croniter import croniter  # type: ignore[import-untyped]

from datasync.errors import CronInvalid

_SECOND = timedelta(seconds=1)
_SEARCH_YEARS = 50  # the rarest date, 29 February on a given weekday, occurs at least every 40 years
_ANY_DAY = date(2000, 1, 1)  # the day on which croniter searches; near years 1 and 9999 it would overflow
LAST = -1  # counted from the end of a month: its last day, or the last of a weekday
_MAX_LENGTH = 1_000  # characters of an expression; one that lists every value of every field has about 530
_MAX_QUOTED = 80  # characters of quoted text in a message


class _Field(NamedTuple):
    """The allowed values of one of the six fields."""

    name: str
    low: int
    high: int  # also the largest step
    wrap: int  # last value before a range wraps: 6 for weekdays, since 7 is Sunday again
    names: tuple[str, ...] = ()  # names of the values, starting at `low`
    special: str = ""  # allowed forms besides values, *, ranges, lists and steps

    @property
    def span(self) -> str:
        return f"{self.low}-{self.high}" + (f" or {self.names[0]}-{self.names[-1]}" if self.names else "")


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_DAY = _Field("day of month", 1, 31, 31, special=", nW, L, LW, L-n, L-nW (n up to 30)")
_WEEKDAY = _Field("day of week", 0, 7, 6, _WEEKDAYS, special=", nL, n#1 to n#5")
_FIELDS = (
    _Field("second", 0, 59, 59),
    _Field("minute", 0, 59, 59),
    _Field("hour", 0, 23, 23),
    _DAY,
    _Field("month", 1, 12, 12, _MONTHS),
    _WEEKDAY,
)
_MACROS = {
    "@every_second": "* * * * * *",
    "@every_minute": "0 * * * * *",
    "@hourly": "0 0 * * * *",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@weekly": "0 0 0 * * 0",
    "@monthly": "0 0 0 1 * *",
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
}


class Values(NamedTuple):
    """The values of one field, listed explicitly."""

    numbers: frozenset[int]  # days of the month below 0 count from its end; weekdays start at 0, Sunday
    nearest: bool = False  # W: the weekday (Monday to Friday) nearest to the day of the month
    nth: int = 0  # which of these weekdays in the month: 1 to 5, LAST, or 0 for all


class Fields(NamedTuple):
    """The values of the six fields."""

    second: Values
    minute: Values
    hour: Values
    day: Values
    month: Values
    weekday: Values


@dataclass(frozen=True, slots=True)
class CronSchedule:
    """A parsed cron expression. Created by `parse`. Schedules with equal expressions are equal."""

    expression: str
    _times: str = field(repr=False, compare=False)  # seconds, minutes and hours as explicit values, for croniter
    _first: time = field(repr=False, compare=False)  # the earliest of these times of day
    _days: Values = field(repr=False, compare=False)
    _months: frozenset[int] = field(repr=False, compare=False)
    _weekdays: Values = field(repr=False, compare=False)
    _interval: bool = field(repr=False, compare=False)

    @property
    def fields(self) -> Fields:
        """The values of the expression."""
        return Fields(*map(_parse_field, _FIELDS, _split(self.expression)))

    def next(self, after: datetime, tz: tzinfo = UTC, *, inclusive: bool = False) -> datetime | None:
        """Return the first occurrence later than `after`, in UTC, or None if there is none before year 10000.

        The fields refer to the wall clock of `tz`, a zoneinfo zone. `after` must be aware, in any zone. With
        `inclusive`, a match at `after` itself counts if `after` is a whole second. At the end of a gap, times inside
        the gap do not count as such a match.

        Raises:
            ValueError: `after` is naive.

        """
        if after.utcoffset() is None:
            raise ValueError(f"next() needs an aware datetime, but {after!r} has no time zone")
        try:
            return self._next(_local(after, tz), tz, inclusive=inclusive)
        except OverflowError:
            return None

    def _next(self, local: datetime, tz: tzinfo, *, inclusive: bool) -> datetime | None:
        wall = local.replace(tzinfo=None, fold=0, microsecond=0)
        start = wall if inclusive and not local.microsecond else wall + _SECOND
        first, second = _offsets(wall, tz)
        if first > second:  # an overlap: the clock shows this time twice, and local.fold is the pass
            switch = _clock_change(wall, tz)
            passes = [(second, start)] if local.fold else [(first, start), (second, switch + second)]
            for offset, begin in passes:
                found = self._search(begin) if offset == first or self._interval else None
                if found and found < switch + first:
                    return (found - offset).replace(tzinfo=UTC)
            start = switch + first
        found = self._search(start)
        if not found:
            return None
        first, second = _offsets(found, tz)
        return (_clock_change(found, tz) if first < second else found - first).replace(tzinfo=UTC)

    def _search(self, start: datetime) -> datetime | None:
        """Return the first match at or after wall-clock time `start`. Clock changes are ignored."""
        today = start.date()
        for day in self._dates(today):
            moment = self._first if day > today else _time_from(start.time(), self._times)
            if moment is not None:
                return datetime.combine(day, moment)
        return None

    def _dates(self, first: date) -> Iterator[date]:
        """Yield the matching dates from `first` on, until the search limit or the end of the calendar."""
        months = first.year * 12 + first.month - 1
        for number in range(months, min(months + _SEARCH_YEARS * 12, MAXYEAR * 12 + 12)):
            year, month = number // 12, number % 12 + 1
            if month in self._months:
                for day in _days_in(*monthrange(year, month), self._days, self._weekdays):
                    if number > months or day >= first.day:
                        yield date(year, month, day)


@lru_cache(maxsize=4096)
def parse(expression: str) -> CronSchedule:
    """Parse an expression. Raises CronInvalid, which names the field, its text and the allowed values."""
    try:
        texts = _split(expression)
        second, minute, hour, day, month, weekday = map(_parse_field, _FIELDS, texts)
    except CronInvalid as error:
        raise CronInvalid(f"cron {_quoted(expression)}: {error}") from None
    return CronSchedule(
        expression,
        _times=" ".join(map(_explicit, _FIELDS, (second, minute, hour))),
        _first=time(min(hour.numbers), min(minute.numbers), min(second.numbers)),
        _days=day,
        _months=month.numbers,
        _weekdays=weekday,
        _interval=not set("*?-/").isdisjoint("".join(texts[:3])),
    )


def _split(expression: str) -> list[str]:
    """Split the text into six fields. Only blanks and tabs are separators; other white space is part of a field."""
    if len(expression) > _MAX_LENGTH:
        raise CronInvalid(f"{len(expression)} characters found, at most {_MAX_LENGTH} allowed")
    text = expression.strip(" \t")
    if text.startswith("@"):
        if not text.isascii() or text.lower() not in _MACROS:
            raise CronInvalid(f"{_quoted(text)} is not a macro: use {', '.join(_MACROS)}")
        text = _MACROS[text.lower()]
    texts = [piece for piece in text.replace("\t", " ").split(" ") if piece]
    if len(texts) == len(_FIELDS):
        return texts
    advice = ", ".join(kind.name for kind in _FIELDS)
    if len(texts) == len(_FIELDS) - 1:
        advice = f"seconds come first, perhaps {_quoted('0 ' + text)}"
    raise CronInvalid(f"{len(texts)} field{'' if len(texts) == 1 else 's'} found, 6 needed: {advice}")


def _parse_field(kind: _Field, text: str) -> Values:
    try:
        text.encode("ascii")  # raises ValueError if not: isdigit, int and upper also accept characters outside ASCII
        if "," in text or not kind.special:
            return Values(_numbers(kind, text))
        return _parse_day(text) if kind is _DAY else _parse_weekday(text)
    except ValueError:
        allowed = f"use {kind.span}, *, ranges, lists, steps{kind.special}"
        raise CronInvalid(f"{kind.name} {_quoted(text)} is not allowed: {allowed}") from None


def _parse_day(text: str) -> Values:
    plain = text.upper().removesuffix("W")
    nearest = len(plain) < len(text)
    if plain.startswith("L"):
        before_last = _number(plain.removeprefix("L-"), 0, 30) if plain != "L" else 0
        return Values(frozenset({LAST - before_last}), nearest=nearest)
    if nearest:
        return Values(frozenset({_number(plain, 1, 31)}), nearest=True)
    return Values(_numbers(_DAY, text))


def _parse_weekday(text: str) -> Values:
    day, hash_sign, which = text.partition("#")
    if hash_sign:
        return Values(frozenset({_value(_WEEKDAY, day) % 7}), nth=_number(which, 1, 5))
    if text.endswith(("L", "l")):
        return Values(frozenset({_value(_WEEKDAY, text[:-1]) % 7}), nth=LAST)
    return Values(_numbers(_WEEKDAY, text))


def _numbers(kind: _Field, text: str) -> frozenset[int]:
    """Return the values of `*`, `?`, a value, a range or a list. Raises ValueError for any other text."""
    numbers: set[int] = set()
    items = text.split(",")
    for item in items:
        try:
            numbers.update(_range(kind, item, star=len(items) == 1))
        except ValueError:
            if len(items) == 1:
                raise
            allowed = f"use {kind.span}, ranges, steps"
            raise CronInvalid(f"{kind.name} {_quoted(item)} is not allowed in a list: {allowed}") from None
    return frozenset(number % (kind.wrap + 1) for number in numbers)


def _range(kind: _Field, text: str, *, star: bool) -> list[int]:
    body, slash, by = text.partition("/")
    try:
        step = _number(by, 1, kind.high) if slash else 1
    except ValueError:
        raise CronInvalid(f"{kind.name} {_quoted(text)} is not allowed: a step must be 1-{kind.high}") from None
    if star and body in {"*", "?"}:
        return list(range(kind.low, kind.high + 1, step))
    first, dash, last = body.partition("-")
    start = _value(kind, first)
    end = _value(kind, last) if dash else kind.high if slash else start
    if start <= end:
        return list(range(start, end + 1, step))
    # The step continues across the wrap. The remainder has the sign of its left operand, as in Cronos: a range that
    # starts with 7 starts after the wrap, so `7-1/3` is empty.
    resumed = kind.low + step - int(fmod(kind.wrap - start, step)) - 1
    return [*range(start, kind.wrap + 1, step), *range(resumed, end + 1, step)]


def _value(kind: _Field, text: str) -> int:
    name = text.upper()
    return kind.low + kind.names.index(name) if name in kind.names else _number(text, kind.low, kind.high)


def _number(text: str, low: int, high: int) -> int:
    if text.isdigit() and len(text) <= 2 and low <= int(text) <= high:  # noqa: PLR2004 - digits
        return int(text)
    raise ValueError(text)


def _quoted(text: str) -> str:
    """Quote a text in one short line of ASCII, so that characters that look alike can be told apart."""
    return f"{text!a}" if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]!a}…"


def _explicit(kind: _Field, values: Values) -> str:
    full = len(values.numbers) > kind.high - kind.low
    return "*" if full else ",".join(map(str, sorted(values.numbers)))


@lru_cache(maxsize=16_384)  # the times of a day in one zone are those in another, and on another day
def _time_from(moment: time, times: str) -> time | None:
    """Return the first of `times` (cron fields for croniter) at or after `moment` on the same day."""
    cursor = copy(_croniter(times))  # get_next moves it, and the cached object is shared
    found: datetime = cursor.get_next(datetime, start_time=datetime.combine(_ANY_DAY, moment) - _SECOND)
    return found.time() if found.date() == _ANY_DAY else None


@lru_cache(maxsize=4096)
def _croniter(times: str) -> croniter:
    return croniter(f"{times} * * *", datetime.combine(_ANY_DAY, time.min), second_at_beginning=True)


@lru_cache(maxsize=8192)
def _days_in(eve: int, length: int, days: Values, weekdays: Values) -> tuple[int, ...]:
    """Return the days of a month on which both day fields match.

    `eve` is the weekday of the day before the first, counted from Sunday. It equals the weekday of the first, counted
    from Monday, as `monthrange` returns it. `length` is the number of days.
    """
    numbers = (day if day > 0 else length + 1 + day for day in days.numbers)
    matching = (day for day in numbers if 1 <= day <= length)
    if days.nearest:
        matching = (_nearest_weekday(day, (eve + day) % 7, length) for day in matching)
    matching = (day for day in matching if (eve + day) % 7 in weekdays.numbers)
    nth = weekdays.nth
    if nth:
        matching = (day for day in matching if nth == (day + 6) // 7 or (nth == LAST and day + 7 > length))
    return tuple(sorted(matching))


def _nearest_weekday(day: int, weekday: int, length: int) -> int:
    """Move a Saturday to Friday and a Sunday to Monday, or in the other direction to stay in the month."""
    if _WEEKDAYS[weekday] == "SAT":
        return day - 1 if day > 1 else day + 2
    if _WEEKDAYS[weekday] == "SUN":
        return day + 1 if day < length else day - 2
    return day


def _local(moment: datetime, tz: tzinfo) -> datetime:
    """Convert a moment to local time in `tz`. Before year 1 it becomes year 1; after 9999 it raises OverflowError."""
    for clock in (UTC, tz):  # through UTC, since a moment in tz itself would stay unchanged, even inside a gap
        try:
            moment = moment.astimezone(clock)
        except OverflowError:
            if moment.year > 1:
                raise
            moment = datetime.min.replace(tzinfo=clock)
    return moment


def _offsets(wall: datetime, tz: tzinfo) -> tuple[timedelta, timedelta]:
    """Return both UTC offsets of a wall-clock time (PEP 495): equal, or falling in an overlap, or rising in a gap."""
    first, second = (wall.replace(tzinfo=tz, fold=fold).utcoffset() or timedelta() for fold in (0, 1))
    return first, second


def _clock_change(wall: datetime, tz: tzinfo) -> datetime:
    """Return the time of the clock change, in naive UTC, that puts a wall-clock time in a gap or an overlap."""
    first, second = _offsets(wall, tz)
    early, late = sorted((wall - first, wall - second))

    def switched(seconds: int) -> bool:
        return (early + seconds * _SECOND).replace(tzinfo=UTC).astimezone(tz).utcoffset() != first

    return early + bisect_left(range((late - early) // _SECOND), x=True, key=switched) * _SECOND
