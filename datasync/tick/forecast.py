"""The starts of the jobs of many ticks in a row, on a virtual clock. Pure."""

from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import heappop, heappush
from operator import itemgetter
from typing import NamedTuple

import msgspec

from datasync import cron
from datasync.errors import CronInvalid
from datasync.tick.plan import planned

MINUTE = timedelta(minutes=1)

_HOURLY = "0 0 * * * *"
_INSTANT = timedelta(microseconds=1)
_MISSING = datetime.min.replace(tzinfo=UTC)  # in place of a `nextRunUtc`


class Schedule(NamedTuple):
    """The times of an entry."""

    cron: str
    zone: str


class _State(NamedTuple):
    """An entry before the tick that plans it next."""

    tick: datetime
    next_run: datetime


class Timer(msgspec.Struct, frozen=True):
    """The ticks: when they are, and how far each looks ahead."""

    schedule: str
    """The cron of the ticks. A form that only the host reads counts as hourly."""
    lookahead: timedelta

    def first(self, after: datetime) -> datetime | None:
        """Return the first tick later than an instant (aware); None if there is none."""
        try:
            times = cron.parse(self.schedule)
        except CronInvalid:
            times = cron.parse(_HOURLY)
        return times.next(after)

    def last(self, before: datetime) -> datetime | None:
        """Return one of the last ticks earlier than an instant (aware); None if there is none in ten years."""
        span = timedelta(hours=1)
        while span < timedelta(days=3660):
            tick = self.first(before - span - _INSTANT)
            if tick and tick < before:
                return tick
            span *= 2
        return None

    def starts(self, schedule: Schedule, next_run: datetime | None, after: datetime) -> Iterator[datetime]:
        """Yield the starts of the jobs of an entry (aware, ascending), without the spread.

        Args:
            schedule: A cron and a zone that can be read.
            next_run: `nextRunUtc` (aware); None where it is missing.
            after: The first tick is later than this instant (aware).

        """
        state = self.state(next_run, after)
        while state:
            starts, state = self.step(schedule, state)
            yield from starts

    def state(self, next_run: datetime | None, after: datetime) -> _State | None:
        """Return an entry before the first tick that plans it, later than an instant; None if there is no such tick."""
        if next_run and next_run - after > self.lookahead:
            after = next_run - self.lookahead - _INSTANT
        tick = self.first(after)
        return _State(tick, next_run or _MISSING) if tick else None

    def step(self, schedule: Schedule, state: _State) -> tuple[list[datetime], _State | None]:
        """Return the starts of the jobs that a tick plans, and the entry after it."""
        stored = None if state.next_run == _MISSING else state.next_run
        found = _result(planned(*schedule, stored, state.tick, state.tick + self.lookahead))
        if not found:
            return [], None
        *instants, next_run = found
        return [max(each, state.tick) for each in instants], self.state(next_run, state.tick)


class _Path:
    """Entries that have the same future, and their starts since they have."""

    def __init__(self) -> None:
        self.entries: Counter[tuple[str | None, timedelta]] = Counter()
        """Their labels and parts of the spread."""
        self.starts: list[datetime] = []


class Forecast:
    """Counts the starts of many entries, by minute and label.

    Entries with one schedule are planned together, as soon as a tick has brought them to the same `nextRunUtc`.
    """

    def __init__(self, timer: Timer, start: datetime, minutes: int) -> None:
        """Make a forecast for so many minutes from `start` (aware) on."""
        self._timer = timer
        self._start = start
        self._minutes = minutes
        self._paths: defaultdict[Schedule, defaultdict[_State, _Path]] = defaultdict(lambda: defaultdict(_Path))
        self._counts: defaultdict[str | None, list[int]] = defaultdict(lambda: [0] * minutes)
        self._state = cache(timer.state)  # many entries have the same nextRunUtc

    def add(
        self, label: str | None, schedule: Schedule, next_run: datetime | None, after: datetime, late: timedelta
    ) -> None:
        """Add an entry.

        Args:
            label: The name under which its starts are counted.
            schedule: A cron and a zone that can be read.
            next_run: `nextRunUtc` (aware); None where it is missing.
            after: The first tick is later than this instant (aware).
            late: Its part of the spread.

        """
        if state := self._state(next_run, after):
            self._paths[schedule][state].entries[label, late] += 1

    def count(self, until: datetime, most: int) -> Mapping[str | None, list[int]]:
        """Return the number of starts in each minute by label, from the ticks before an instant (aware). Call it once.

        Raises:
            ValueError: the ticks plan more than this number of starts, of entries that differ.

        """
        for schedule, paths in sorted(self._paths.items(), key=itemgetter(0)):
            states = sorted(paths)  # a sorted list is a heap
            while states:
                state = heappop(states)
                path = paths.pop(state)
                if state.tick >= until:
                    self._add(path)
                    continue
                starts, following = self._timer.step(schedule, state)
                path.starts += starts
                most -= len(starts)
                if most < 0:
                    raise ValueError("more starts than can be counted")
                if following is None:
                    self._add(path)
                elif other := paths.get(following):
                    self._add(path)
                    self._add(other)
                    other.entries.update(path.entries)
                else:
                    paths[following] = path
                    heappush(states, following)
        return self._counts

    def _add(self, path: _Path) -> None:
        """Count the starts of a path so far, for each of its entries."""
        minutes_of: defaultdict[timedelta, list[int]] = defaultdict(list)
        for start in path.starts:
            minute, rest = divmod(start - self._start, MINUTE)
            minutes_of[rest].append(minute)
        path.starts.clear()
        rests_of: defaultdict[tuple[int, ...], list[timedelta]] = defaultdict(list)
        for rest, found in minutes_of.items():
            rests_of[tuple(found)].append(rest)
        for minutes, rests in rests_of.items():
            shifts = Counter[tuple[str | None, int]]()
            for (label, late), number in path.entries.items():
                for rest in rests:
                    shifts[label, (rest + late) // MINUTE] += number
            for (label, shift), number in shifts.items():
                counts = self._counts[label]
                for minute in minutes:
                    if 0 <= minute + shift < self._minutes:
                        counts[minute + shift] += number


def _result(steps: Generator[None, None, tuple[datetime, ...]]) -> tuple[datetime, ...]:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: tuple[datetime, ...] = end.value
            return found
