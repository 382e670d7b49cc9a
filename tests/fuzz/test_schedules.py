"""Cron expressions, time zones and times of all kinds: an error that names the fault, or occurrences in order."""

import contextlib
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from zoneinfo import ZoneInfo

from datasync import cron
from datasync.cli.schedule import occurrences, table
from datasync.errors import CronInvalid
from datasync.model.times import read_utc, utc_text
from datasync.schedule import find_zone
from tests.fuzz import grammar
from tests.fuzz.campaign import Campaign

type Case = tuple[str, datetime, str]


def make(choices: Random) -> Case:
    first = choices.choice((1, 2, 1970, 2025, 2025, 2025, 9998, 9999))
    start = datetime(first, choices.randint(1, 12), choices.randint(1, 28), tzinfo=UTC)
    after = start + timedelta(seconds=choices.randrange(86_400), microseconds=choices.choice((0, 0, 1, 999_999)))
    zone = choices.choice(grammar.ZONES)
    return grammar.cron(choices), choices.choice((after, after, datetime.max.replace(tzinfo=UTC))), zone


def check(case: Case) -> None:
    expression, after, name = case
    cron.parse.cache_clear()  # the second look at a slow case is as slow as the first
    zone = ZoneInfo(name)
    try:
        schedule = cron.parse(expression)
    except CronInvalid as error:
        str(error).encode()
        return
    found = [*islice(occurrences(schedule, after, zone), 4)]
    assert found == sorted(set(found))
    assert all(each > after for each in found)
    for line in table(schedule, zone, found):
        line.encode()
    at = schedule.next(after, zone, inclusive=True)
    assert at is None or at >= after


def test_any_expression_is_refused_or_has_its_occurrences(campaign: Campaign) -> None:
    """In each zone, up to the ends of the calendar."""
    campaign.run(1_000, make, check)


def test_any_zone_is_found_or_refused(campaign: Campaign) -> None:
    """The error is a ValueError."""

    def name(choices: Random) -> str:
        known = choices.choice(grammar.ZONES)
        return choices.choice((grammar.text(choices), grammar.noisy(choices, known), f"../{known}", f"/{known}", known))

    def find(case: str) -> None:
        with contextlib.suppress(ValueError):
            find_zone(case)

    campaign.run(1_500, name, find)


def test_any_time_is_read_or_refused(campaign: Campaign) -> None:
    """A time that was read is written in a form that is read as the same time."""

    def read(case: str) -> None:
        try:
            at = read_utc(case)
        except ValueError:
            return
        assert read_utc(utc_text(at)) == at.replace(microsecond=0)

    campaign.run(3_000, grammar.time, read)
