import json
import re
from calendar import monthrange
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datasync.cron import parse
from datasync.errors import CronInvalid
from tests.cron_strategies import MONTHS, WEEKDAYS, expressions, moments, zones

CASES = Path(__file__).parent.parent / "data" / "cron"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CHICAGO = ZoneInfo("America/Chicago")
NEW_YORK = ZoneInfo("America/New_York")
BERLIN = ZoneInfo("Europe/Berlin")


def cases(name: str) -> list[Any]:
    loaded: list[Any] = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def occurrence(case: dict[str, Any]) -> str | None:
    tz = ZoneInfo(case.get("tz", "UTC"))
    found = parse(case["expr"]).next(at(case["from"]), tz, inclusive=case["inclusive"])
    return found.isoformat() if found else None


# --- The case tables: results of Cronos, the library that defines this language


@pytest.mark.parametrize("case", cases("utc"), ids=lambda case: case["expr"])
def test_next_in_utc_equals_the_result_of_cronos(case: dict[str, Any]) -> None:
    """In UTC, each feature of the language gives the same occurrence as Cronos."""
    assert occurrence(case) == at(case["expected"]).isoformat()


@pytest.mark.parametrize("case", cases("zones"), ids=lambda case: f"{case['tz']} {case['expr']}")
def test_next_in_a_zone_equals_the_result_of_cronos(case: dict[str, Any]) -> None:
    """The fields match the wall clock of the zone, in gaps and overlaps of any length and at midnight too."""
    assert occurrence(case) == at(case["expected"]).isoformat()


@pytest.mark.parametrize("case", cases("unreachable"), ids=lambda case: f"{case['tz']} {case['expr']}")
def test_an_expression_that_never_matches_has_no_next(case: dict[str, Any]) -> None:
    """A date that does not exist in any year is accepted, and `next` returns None."""
    assert occurrence(case) is None


@pytest.mark.parametrize("case", cases("clock_changes"), ids=lambda case: f"{case['tz']} {case['expr']}")
def test_a_clock_change_does_not_lose_or_repeat_an_occurrence(case: dict[str, Any]) -> None:
    """Repeated calls of `next` give the complete sequence of occurrences around a clock change."""
    schedule, tz = parse(case["expr"]), ZoneInfo(case["tz"])
    found = []
    moment = schedule.next(at(case["from"]), tz, inclusive=True)
    while moment and moment <= at(case["until"]):
        found.append(moment)
        moment = schedule.next(moment, tz)
    assert found == [at(text) for text in case["expected"]]


@pytest.mark.parametrize("expression", cases("invalid"))
def test_an_expression_that_cronos_rejects_is_rejected(expression: str) -> None:
    """Text outside the language raises CronInvalid."""
    with pytest.raises(CronInvalid):
        parse(expression)


@pytest.mark.parametrize("expression", cases("macros"))
def test_macros_ignore_case_and_surrounding_blanks(expression: str) -> None:
    """A macro has the same meaning in upper case and with blanks around it."""
    start = at("2025-08-23T10:20:30Z")
    assert parse(expression).next(start) == parse(expression.strip().lower()).next(start)


# --- Rules of the language with few cases in the tables


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        ("0 0 23-3/2 * * *", "2025-08-23T01:30:00Z", "2025-08-23T03:00:00+00:00"),  # 23, 1, 3
        ("0 0 0 * * sat-tue/2", "2025-08-24T00:00:00Z", "2025-08-25T00:00:00+00:00"),  # Saturday, Monday
        ("0 0 0 * * 1/2", "2025-08-23T00:00:00Z", "2025-08-24T00:00:00+00:00"),  # 1, 3, 5 and 7, a Sunday
        ("0 0 0 * * 7-1", "2025-08-23T00:00:00Z", "2025-08-24T00:00:00+00:00"),  # Sunday and Monday
        ("0 0 5-5 * * *", "2025-08-23T00:00:00Z", "2025-08-23T05:00:00+00:00"),  # one value, not all
        ("0 0 0 * JAN-jan *", "2025-08-23T00:00:00Z", "2026-01-01T00:00:00+00:00"),
        ("0 0 0 31W * *", "2025-08-30T00:00:00Z", "2025-10-31T00:00:00+00:00"),  # September has no 31st
        ("0 0 0 1W * *", "2025-10-15T00:00:00Z", "2025-11-03T00:00:00+00:00"),  # the 1st is a Saturday
        ("0 0 0 LW * *", "2025-08-23T00:00:00Z", "2025-08-29T00:00:00+00:00"),  # the 31st is a Sunday
        ("0 0 0 L-3W * *", "2025-09-01T00:00:00Z", "2025-09-26T00:00:00+00:00"),  # the 27th is a Saturday
        ("0 0 0 L-30 * *", "2025-08-23T00:00:00Z", "2025-10-01T00:00:00+00:00"),
        ("0 0 0 * * FRIL", "2025-08-23T00:00:00Z", "2025-08-29T00:00:00+00:00"),
        ("0 0 0 * * 7#5", "2025-08-23T00:00:00Z", "2025-08-31T00:00:00+00:00"),
        ("0 0 0 13 * FRI", "2025-08-23T00:00:00Z", "2026-02-13T00:00:00+00:00"),  # both day fields must match
        ("0 0 0 29 2 SUN", "2088-03-01T00:00:00Z", "2128-02-29T00:00:00+00:00"),  # 40 years: 2100 is not a leap year
    ],
)
def test_a_rule_on_which_cron_dialects_differ(expression: str, start: str, expected: str) -> None:
    """Each rule on which cron dialects differ has an example."""
    assert str(parse(expression).next(at(start))).replace(" ", "T") == expected


@pytest.mark.parametrize("expression", ["0 0 0 * * 7-1/3", "0 0 0 31 2,4 *", "0 0 0 L-30 11 *", "0 0 0 29 2 WED#4"])
def test_an_expression_without_a_match_never_fires(expression: str) -> None:
    """Empty ranges and impossible dates give None."""
    assert parse(expression).next(at("2025-08-23T00:00:00Z")) is None
    assert parse(expression).next(at("0001-01-01T00:00:00Z"), NEW_YORK) is None
    assert parse(expression).next(at("9999-12-31T00:00:00Z"), BERLIN) is None


# --- Time: fractions of a second, zones, the two passes of an overlap, the ends of the calendar


@pytest.mark.parametrize("start", [datetime(2025, 8, 23), datetime(2025, 8, 23, fold=1)])  # noqa: DTZ001 - naive on purpose
def test_a_naive_start_is_rejected(start: datetime) -> None:
    """A start without a time zone raises ValueError. No zone is assumed."""
    with pytest.raises(ValueError, match=r"aware datetime, but datetime\.datetime\(2025, 8, 23.* has no time zone"):
        parse("@daily").next(start)


def test_next_is_later_unless_inclusive() -> None:
    """A match at the start itself counts only with `inclusive=True`."""
    noon = at("2025-08-23T12:00:00Z")
    assert parse("0 0 12 * * *").next(noon) == noon + timedelta(days=1)
    assert parse("0 0 12 * * *").next(noon, inclusive=True) == noon


@pytest.mark.parametrize("inclusive", [False, True])
def test_a_fraction_of_a_second_counts_as_later_than_the_second(*, inclusive: bool) -> None:
    """Half a second after noon, the match at noon is over and the next full second is still to come."""
    start = at("2025-08-23T12:00:00.500000Z")
    assert parse("0 0 12 * * *").next(start, inclusive=inclusive) == at("2025-08-24T12:00:00Z")
    assert parse("1 0 12 * * *").next(start, inclusive=inclusive) == at("2025-08-23T12:00:01Z")


def test_the_start_may_be_in_any_zone_and_the_result_is_utc() -> None:
    """One instant, written in different zones, has the same next occurrence. The result is in UTC."""
    moment = at("2025-08-23T12:00:00Z")
    same = [moment.astimezone(tz) for tz in (NEW_YORK, ZoneInfo("Asia/Kolkata"), timezone(timedelta(hours=14)))]
    found = [parse("0 30 9 * * *").next(start, CHICAGO) for start in same]
    assert found == [at("2025-08-23T14:30:00Z")] * 3
    assert [moment.tzinfo for moment in found if moment] == [UTC] * 3


def test_times_in_a_gap_occur_once_when_it_ends() -> None:
    """Occurrences skipped in spring become one occurrence at the end of the gap, for fixed times and intervals."""
    before = datetime(2025, 3, 9, 1, 59, 59, tzinfo=CHICAGO)
    for expression in ("0 30 2 * * *", "0 0,10,20 2 * * *", "*/10 * 2 * * *"):
        schedule = parse(expression)
        first = schedule.next(before, CHICAGO)
        assert first == datetime(2025, 3, 9, 3, 0, tzinfo=CHICAGO)
        second = schedule.next(first, CHICAGO)
        assert second
        assert second.astimezone(CHICAGO).date() == date(2025, 3, 10)


def test_the_end_of_a_gap_is_not_a_match_for_times_in_the_gap() -> None:
    """An inclusive start at the end of a gap does not match the times inside the gap, as in Cronos."""
    end = datetime(2025, 3, 9, 3, 0, tzinfo=CHICAGO)
    assert parse("0 30 2 * * *").next(end, CHICAGO, inclusive=True) == datetime(2025, 3, 10, 2, 30, tzinfo=CHICAGO)
    assert parse("0 0 3 * * *").next(end, CHICAGO, inclusive=True) == end


def test_a_start_inside_a_gap_is_read_as_python_reads_it() -> None:
    """2:30 does not exist on that day. Python and the schedule read it as 3:30."""
    start = datetime(2025, 3, 9, 2, 30, tzinfo=CHICAGO)
    assert parse("0 0 * * * *").next(start, CHICAGO) == datetime(2025, 3, 9, 4, 0, tzinfo=CHICAGO)


@pytest.mark.parametrize(
    ("expression", "first_pass", "second_pass"),
    [
        ("0 45 1 * * *", "2025-11-02T06:45:00Z", "2025-11-03T07:45:00Z"),
        ("0 0,45 1 * * *", "2025-11-02T06:45:00Z", "2025-11-03T07:00:00Z"),
        ("0 45 * * * *", "2025-11-02T06:45:00Z", "2025-11-02T07:45:00Z"),
        ("0 45 1-1 * * *", "2025-11-02T06:45:00Z", "2025-11-02T07:45:00Z"),
        ("0 10/59 1 * * *", "2025-11-02T07:10:00Z", "2025-11-03T07:10:00Z"),
    ],
)
def test_fold_selects_the_pass_of_an_overlap(expression: str, first_pass: str, second_pass: str) -> None:
    """The start is 1:30 in either pass. In the second pass, intervals still match and fixed times do not."""
    start = datetime(2025, 11, 2, 1, 30, tzinfo=CHICAGO)
    assert parse(expression).next(start, CHICAGO) == at(first_pass)
    assert parse(expression).next(start.replace(fold=1), CHICAGO) == at(second_pass)


@pytest.mark.parametrize(
    ("expression", "tz", "start", "expected"),
    [
        ("* * * * * *", UTC, "0001-01-01T00:00:00Z", "0001-01-01T00:00:01+00:00"),
        ("0 0 0 * * *", NEW_YORK, "0001-01-01T00:00:00Z", "0001-01-02T04:56:02+00:00"),
        ("0 0 0 * * *", BERLIN, "0001-01-01T00:00:00Z", "0001-01-01T23:06:32+00:00"),
        ("59 59 23 31 12 *", UTC, "9999-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00"),
        ("0 0 0 1 1 *", UTC, "9999-01-01T00:00:00Z", None),
        ("* * * * * *", UTC, "9999-12-31T23:59:59Z", None),
        ("0 0 23 31 12 *", NEW_YORK, "9999-12-31T20:00:00Z", None),  # year 10000 in UTC
        ("* * * * * *", BERLIN, "9999-12-31T23:30:00Z", None),  # year 10000 in Berlin
    ],
)
def test_the_calendar_ends_without_an_error(expression: str, tz: tzinfo, start: str, expected: str | None) -> None:
    """In years 1 and 9999, `next` returns an occurrence or None and does not raise OverflowError."""
    found = parse(expression).next(at(start), tz)
    assert (found and found.isoformat()) == expected


def test_a_start_before_year_1_in_utc_is_read_as_year_1() -> None:
    """A zone east of UTC can have such a start. For a start after year 9999 in UTC, `next` returns None."""
    east = timezone(timedelta(hours=14))
    assert parse("0 0 0 * * *").next(datetime(1, 1, 1, tzinfo=east)) == at("0001-01-02T00:00:00Z")
    west = timezone(timedelta(hours=-12))
    assert parse("0 0 0 * * *").next(datetime(9999, 12, 31, 23, tzinfo=west)) is None


# --- Schedule objects


def test_parsing_is_cached_and_the_cache_is_bounded() -> None:
    """Tenants with the same expression share one schedule, and the cache has a maximum size."""
    assert parse("0 7 */3 * * MON-FRI") is parse("0 7 */3 * * MON-FRI")
    assert parse.cache_info().maxsize is not None


def test_a_schedule_is_an_immutable_value() -> None:
    """Schedules compare by their expression, are hashable, and are immutable."""
    schedule = parse("0 0 9 * * MON")
    parse.cache_clear()
    assert parse("0 0 9 * * MON") == schedule
    assert parse("0 0 9 * * 1") != schedule
    assert {schedule: 1}[parse("0 0 9 * * MON")] == 1
    assert schedule.expression == "0 0 9 * * MON"
    assert repr(schedule) == "CronSchedule(expression='0 0 9 * * MON')"
    with pytest.raises(FrozenInstanceError):
        schedule.expression = "@daily"  # type: ignore[misc]


def test_threads_may_share_a_schedule() -> None:
    """Concurrent searches on one schedule do not affect each other."""
    schedule = parse("*/7 */11 * * * *")
    starts = [at("2025-08-23T00:00:00Z") + timedelta(minutes=13 * n) for n in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(schedule.next, starts))
    assert found == [schedule.next(start) for start in starts]


# --- Messages


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("0 0 25 * * *", "cron '0 0 25 * * *': hour '25' is not allowed: use 0-23, *, ranges, lists, steps"),
        ("60 0 0 * * *", "cron '60 0 0 * * *': second '60' is not allowed: use 0-59, *, ranges, lists, steps"),
        ("0 x 0 * * *", "cron '0 x 0 * * *': minute 'x' is not allowed: use 0-59, *, ranges, lists, steps"),
        (
            "0 0 0 L-31 * *",
            (
                "cron '0 0 0 L-31 * *': day of month 'L-31' is not allowed: "
                "use 1-31, *, ranges, lists, steps, nW, L, LW, L-n, L-nW (n up to 30)"
            ),
        ),
        (
            "0 0 0 1 January *",
            "cron '0 0 0 1 January *': month 'January' is not allowed: use 1-12 or JAN-DEC, *, ranges, lists, steps",
        ),
        (
            "0 0 0 * * MON#6",
            (
                "cron '0 0 0 * * MON#6': day of week 'MON#6' is not allowed: "
                "use 0-7 or SUN-SAT, *, ranges, lists, steps, nL, n#1 to n#5"
            ),
        ),
        ("0 */60 * * * *", "cron '0 */60 * * * *': minute '*/60' is not allowed: a step must be 1-59"),
        ("0 0 0 * 2-8/13 *", "cron '0 0 0 * 2-8/13 *': month '2-8/13' is not allowed: a step must be 1-12"),
        ("0 0 *,5 * * *", "cron '0 0 *,5 * * *': hour '*' is not allowed in a list: use 0-23, ranges, steps"),
        (
            "0 0 0 L,15 * *",
            "cron '0 0 0 L,15 * *': day of month 'L' is not allowed in a list: use 1-31, ranges, steps",
        ),
        ("*/5 * * * *", "cron '*/5 * * * *': 5 fields found, 6 needed: seconds come first, perhaps '0 */5 * * * *'"),
        (
            "0 0 0 1 1 * 2025",
            "cron '0 0 0 1 1 * 2025': 7 fields found, 6 needed: second, minute, hour, day of month, month, day of week",
        ),
        ("", "cron '': 0 fields found, 6 needed: second, minute, hour, day of month, month, day of week"),
        ("hourly", "cron 'hourly': 1 field found, 6 needed: second, minute, hour, day of month, month, day of week"),
        (
            "@dayly",
            (
                "cron '@dayly': '@dayly' is not a macro: use @every_second, @every_minute, @hourly, @daily, @midnight, "
                "@weekly, @monthly, @yearly, @annually"
            ),
        ),
    ],
)
def test_an_error_names_the_field_the_text_and_the_allowed_values(expression: str, message: str) -> None:
    """The message alone is enough to correct the expression."""
    with pytest.raises(CronInvalid) as caught:
        parse(expression)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("0 0 ٣ * * *", r"hour '\u0663'"),  # ARABIC-INDIC DIGIT THREE, which int() accepts
        ("0 0 ３ * * *", r"hour '\uff13'"),  # FULLWIDTH DIGIT THREE
        ("0 0 009 * * *", "hour '009'"),
        ("0 0 ² * * *", r"hour '\xb2'"),
        ("0 0 0 * * ſun", r"day of week '\u017fun'"),  # LONG S; its upper case is S
        ("@wee\u212aly", r"'@wee\u212aly' is not a macro"),  # KELVIN SIGN; its lower case is k
        ("0 0 0 *\u00a0* * *", r"day of month '*\xa0*'"),
        ("0 0 0 * * *\n", r"day of week '*\n'"),
        ("0 0 0 * * *\0", r"day of week '*\x00'"),
        ("0 0 0 * * \ud800", r"day of week '\ud800'"),
        ("0 0 \x1b[31m0 * * *", r"hour '\x1b[31m0'"),
    ],
)
def test_text_that_only_looks_valid_is_rejected_and_escaped(expression: str, shown: str) -> None:
    """Long numbers, characters outside ASCII, and control characters are rejected and shown escaped."""
    with pytest.raises(CronInvalid) as caught:
        parse(expression)
    assert shown in str(caught.value)
    assert str(caught.value).isascii()


@settings(deadline=None)
@given(st.text() | st.text("0159*?-/,#LW@ \t", max_size=30))
def test_any_text_is_accepted_or_rejected_in_one_short_line(text: str) -> None:
    """`parse` accepts a text or raises CronInvalid with a short message of one line."""
    try:
        refusal = "" if parse(text).expression == text else "misread"
    except CronInvalid as error:
        refusal = str(error)
        assert refusal.startswith("cron ")
    assert refusal != "misread"
    assert "\n" not in refusal
    assert len(refusal) < 1_000


@pytest.mark.parametrize("piece", ["9", "0 ", "1,", "/", "-", "*", "@", " ", "\t", "１", "\n"])
def test_a_very_long_text_is_rejected_in_a_short_line(piece: str) -> None:
    """A cron field of one megabyte is rejected, and the message does not repeat it."""
    with pytest.raises(CronInvalid, match=r"…: 1\d{6} characters found, at most 1000 allowed") as caught:
        parse("0 0 0 * * " + piece * (1_000_000 // len(piece)))
    assert len(str(caught.value)) < 1_000


def test_the_longest_useful_expression_is_accepted() -> None:
    """An expression may list every value of every field."""
    spans = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    spelled_out = " ".join(",".join(f"{value:02}" for value in range(low, high + 1)) for low, high in spans)
    start = at("2025-08-23T12:00:00Z")
    assert parse(spelled_out).next(start) == start + timedelta(seconds=1)


# --- Properties: comparison with a second implementation of the rules, which is simple and slow


def spell(text: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    """Expand each range step by step, including a range that wraps."""
    weekday = high == 7
    values: set[int] = set()
    for item in text.upper().split(","):
        match = re.fullmatch(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/(\d+))?", item)
        assert match
        first, last = (
            (names.index(part) + low if part in names else int(part)) if part else None for part in match.group(1, 2)
        )
        step = int(match[3] or 1)
        begin = low if first is None else first
        end = last if last is not None else begin if first is not None and not match[3] else high
        if begin <= end:
            values.update([*range(begin, end + 1)][::step])
        elif (
            weekday and begin == 7
        ):  # Cronos starts after the week: multiples of the step match, and 0 only if the step is 1
            values.update(day for day in range(end + 1) if day % step == 0 and (day or step == 1))
        else:
            values.update([*range(begin, 7 if weekday else high + 1), *range(low, end + 1)][::step])
    return {value % 7 for value in values} if weekday else values


class ByHand:
    """Decides whether an expression matches a given second of the wall clock."""

    def __init__(self, expression: str) -> None:
        macros = {
            "@every_second": "* * * * * *",
            "@every_minute": "0 * * * * *",
            "@hourly": "0 0 * * * *",
            "@weekly": "0 0 0 * * 0",
            "@monthly": "0 0 0 1 * *",
            "@yearly": "0 0 0 1 1 *",
            "@annually": "0 0 0 1 1 *",
        }
        expression = macros.get(expression, "0 0 0 * * *" if expression[0] == "@" else expression)
        second, minute, hour, self.day, month, self.weekday = expression.upper().split()
        self.seconds, self.minutes, self.hours = spell(second, 0, 59), spell(minute, 0, 59), spell(hour, 0, 23)
        self.months = spell(month, 1, 12, MONTHS)
        self.interval = any(sign in second + minute + hour for sign in "*?-/")
        self.is_on = cache(self.is_on)  # type: ignore[method-assign]

    def is_on(self, day: date) -> bool:
        """Return whether the month and both day fields match."""
        return day.month in self.months and self._matches_weekday(day) and self._matches_day(day)

    def _matches_day(self, day: date) -> bool:
        length = monthrange(day.year, day.month)[1]
        if not re.search("[LW]", self.day):
            return day.day in spell(self.day, 1, 31)
        wanted = length - int(self.day.strip("LW-") or 0) if "L" in self.day else int(self.day[:-1])
        if not 1 <= wanted <= length:
            return False
        if "W" in self.day:
            workdays = (d for d in range(1, length + 1) if day.replace(day=d).isoweekday() < 6)
            wanted = min(workdays, key=lambda d: abs(d - wanted))
        return day.day == wanted

    def _matches_weekday(self, day: date) -> bool:
        week = timedelta(days=7)
        value, which, nth = self.weekday.partition("#")
        if which:
            same = [day - week * n for n in range(5) if (day - week * n).month == day.month]
            return self._is_one_of(day, value) and len(same) == int(nth)
        if value.endswith("L"):
            return self._is_one_of(day, value[:-1]) and (day + week).month != day.month
        return self._is_one_of(day, value)

    def _is_one_of(self, day: date, weekdays: str) -> bool:
        return day.isoweekday() % 7 in spell(weekdays, 0, 7, WEEKDAYS)

    def _matches(self, wall: datetime) -> bool:
        return (
            wall.second in self.seconds
            and wall.minute in self.minutes
            and wall.hour in self.hours
            and self.is_on(wall.date())
        )

    def next(self, after: datetime, tz: tzinfo, *, inclusive: bool, until: datetime) -> datetime | None:
        """Try each second in turn. Minutes and half hours without a possible match are skipped."""
        second, half_hour = timedelta(seconds=1), timedelta(minutes=30)
        moment = after.replace(microsecond=0)
        moment = moment if inclusive and moment == after else moment + second
        before = (moment - second).astimezone(tz).utcoffset()
        while moment <= until:
            wall = moment.astimezone(tz)
            now = wall.utcoffset()
            if now != before and now and before and moment > after and self._fell_into_a_gap(wall, now - before):
                return moment
            before = now
            if self._matches(wall) and (self.interval or not wall.fold):
                return moment
            if not self.is_on(wall.date()):
                moment += half_hour - (moment - _EPOCH) % half_hour  # clocks change at full and half hours only
            elif wall.minute not in self.minutes or wall.hour not in self.hours:
                moment += timedelta(seconds=60 - moment.second)
            else:
                moment += second
        return None

    def _fell_into_a_gap(self, wall: datetime, gap: timedelta) -> bool:
        end = wall.replace(tzinfo=None)
        return any(self._matches(end - timedelta(seconds=n)) for n in range(1, int(gap.total_seconds()) + 1))


@settings(max_examples=300, deadline=None)
@given(expressions(), zones(), moments(), st.booleans())
@example("0 30 2 * * *", CHICAGO, at("2025-03-09T08:00:00Z"), True)  # noqa: FBT003 - inclusive, at the end of a gap
@example("0 0 0 * * *", ZoneInfo("America/Santiago"), at("2025-09-06T12:00:00Z"), False)  # noqa: FBT003
@example("0 45 1 * * *", ZoneInfo("Australia/Lord_Howe"), at("2025-04-05T14:50:00Z"), False)  # noqa: FBT003
def test_next_is_the_first_second_that_matches(expression: str, tz: ZoneInfo, after: datetime, inclusive: bool) -> None:  # noqa: FBT001
    """For any expression, zone and start, `next` returns the first second that matches."""
    until = after + timedelta(days=14)
    found = parse(expression).next(after, tz, inclusive=inclusive)
    expected = ByHand(expression).next(after, tz, inclusive=inclusive, until=until)
    if expected or (found and found <= until):
        assert found == expected
    assert found is None or found.tzinfo is UTC


@settings(max_examples=60, deadline=None)
@given(expressions(), moments())
@example("0 0 0 L-28W 2 MON#1", at("2025-01-01T00:00:00Z"))
@example("0 0 0 29 2 FRIL", at("2025-01-01T00:00:00Z"))
def test_the_date_is_the_first_that_matches(expression: str, after: datetime) -> None:
    """`next` returns the first matching date of the next eight years, or a later one if there is none."""
    hand = ByHand(expression)
    found = parse(expression).next(after.replace(hour=23, minute=59, second=59, microsecond=0))
    dates = (after.date() + timedelta(days=n) for n in range(1, 8 * 365))
    expected = next((day for day in dates if hand.is_on(day)), None)
    if expected:
        assert found
        assert found.date() == expected
    else:
        assert found is None or found > after + timedelta(days=8 * 365 - 1)
