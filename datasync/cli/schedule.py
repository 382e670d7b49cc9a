"""Lists the occurrences of a cron expression, with notes about clock changes."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

import msgspec

from datasync.cron import CronSchedule
from datasync.model.times import utc_text

_SECOND = timedelta(seconds=1)
_LISTED = 3  # times skipped by a clock change that a note lists


class Occurrence(msgspec.Struct, frozen=True):
    """One occurrence."""

    utc: datetime
    local: datetime
    notes: list[str]
    """Sentences about clock changes."""


class Occurrences(msgspec.Struct, frozen=True, rename="camel"):
    """The next occurrences of a cron expression."""

    cron: str
    timezone: str
    after_utc: datetime
    occurrences: list[Occurrence]

    @classmethod
    def of(cls, schedule: CronSchedule, zone: ZoneInfo, after: datetime, found: Sequence[datetime]) -> Self:
        """Return the occurrences that were found after an instant (aware)."""
        return cls(
            cron=schedule.expression,
            timezone=zone.key,
            after_utc=after.replace(microsecond=0),
            occurrences=[
                Occurrence(at, at.astimezone(zone), [*_notes(schedule, zone, at, previous)])
                for previous, at in zip((None, *found), found, strict=False)
            ],
        )


def occurrences(schedule: CronSchedule, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the occurrences later than `after` (aware), in UTC, in ascending order."""
    found = schedule.next(after, zone)
    while found:
        yield found
        found = schedule.next(found, zone)


def table(schedule: CronSchedule, zone: ZoneInfo, found: Sequence[datetime]) -> Iterator[str]:
    """Yield the lines of a table of occurrences. The first line is the header."""
    rows = [("UTC", "" if zone.key == "UTC" else zone.key, "")]
    for previous, at in zip((None, *found), found, strict=False):
        local = at.astimezone(zone)
        clock = f"{local:%a} {local.isoformat(' ', 'seconds')}" if rows[0][1] else ""
        rows.append((f"{at:%a} {utc_text(at)}", clock, "; ".join(_notes(schedule, zone, at, previous))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True) if width]
        yield "   ".join([f"{number or '#':>{len(str(len(found)))}}", *cells]).rstrip()


def _notes(schedule: CronSchedule, zone: ZoneInfo, at: datetime, previous: datetime | None) -> Iterator[str]:
    """Yield notes on the effect of a clock change, and on an offset that differs from the previous occurrence."""
    offset, just_before = _offset(at, zone), _offset(at - _SECOND, zone)
    if just_before < offset:
        yield from _gap(schedule, at + just_before, at + offset)
    local = at.astimezone(zone)
    other = local.replace(fold=1 - local.fold).utcoffset()
    if other is not None and other != offset:
        yield f"clocks go back: {_clock(local)} happens twice{_which(schedule, zone, local, at + (offset - other))}"
    if previous and _offset(previous, zone) != offset:
        yield f"offset changes from {previous.astimezone(zone):%:z} to {local:%:z}"


def _gap(schedule: CronSchedule, start: datetime, end: datetime) -> Iterator[str]:
    """Yield a note on occurrences skipped by a gap. `start` and `end` are wall-clock times, written as UTC."""
    skipped: list[datetime] = []
    following = schedule.next(start, inclusive=True)
    while following and following < end and len(skipped) <= _LISTED:
        skipped.append(following)
        following = schedule.next(following)
    if not skipped:
        return
    format_ = "%Y-%m-%d %H:%M" if start.date() != end.date() else "%H:%M"
    clocks = [_clock(each, format_) for each in skipped[:_LISTED]]
    if len(skipped) > _LISTED:
        clocks.append("…")
    verb = "does" if len(skipped) == 1 else "do"
    own = schedule.next(end, inclusive=True) == end
    runs = "" if own else f", runs{'' if len(skipped) == 1 else ' once,'} at {_clock(end, format_)}"
    yield f"clocks go forward: {', '.join(clocks)} {verb} not exist{runs}"


def _which(schedule: CronSchedule, zone: ZoneInfo, local: datetime, again: datetime) -> str:
    if local.fold:
        return ", second pass"
    return ", first pass" if schedule.next(again - _SECOND, zone) == again else "; runs the first time only"


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


def _clock(wall: datetime, format_: str = "%H:%M") -> str:
    return wall.strftime(f"{format_}:%S" if wall.second else format_)
