"""The usual duration and counts of a flow of a tenant, and the runs that differ from them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Self

from msgspec import Meta
from msgspec.structs import replace

from datasync.model import times
from datasync.model.display import shown
from datasync.model.stored import Stored

RUNS = 40
"""Runs that the means and deviations remember: later runs weigh as if there had been this many before. Also the runs
in a row in which a count was above zero, after which zero is unusual, and the zeros after which zero is usual."""

MOST = 8
"""Counts of a flow that are remembered: the first ones that it reports."""

SLOW = 5
"""A run is unusual if it takes this many times the usual duration, and at least SLOW_SECONDS."""
SLOW_SECONDS = 10
SLOW_RUNS = 10
"""Runs after which a duration counts as usual."""

_LONGEST_NAME = 80  # characters of the name of a count that is remembered
_DIGITS = 6

type _Number = Annotated[float, Meta(description="a number")]
type _Runs = Annotated[int, Meta(ge=1, le=RUNS, description=f"a whole number from 1 to {RUNS}")]


class Mean(Stored, frozen=True, kw_only=True, rename="camel"):
    """The running mean of a number, and its standard deviation."""

    mean: _Number
    deviation: _Number
    runs: _Runs = 1
    """Runs that it is made of, up to RUNS."""

    @classmethod
    def of(cls, value: float) -> Self:
        """Return the mean of one value."""
        return cls(mean=value, deviation=0)

    def after(self, value: float) -> Self:
        """Return the mean after another value. Up to RUNS values, it is the mean of all."""
        runs = min(self.runs + 1, RUNS)
        off = value - self.mean
        deviation = math.hypot(self.deviation, off / math.sqrt(runs)) * math.sqrt(1 - 1 / runs)
        return replace(self, mean=_rounded(self.mean + off / runs), deviation=_rounded(deviation), runs=runs)


class UsualCount(Mean, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The usual number of a count."""

    name: str
    streak: Annotated[int, Meta(ge=-RUNS, le=RUNS, description=f"a whole number from -{RUNS} to {RUNS}")] = 0
    """The last runs in a row in which it was not zero; below zero, those in which it was. At most RUNS."""

    @classmethod
    def first(cls, name: str, value: int) -> Self:
        """Return a count that was reported for the first time."""
        return cls(name=name, mean=value, deviation=0, streak=1 if value else -1)

    def after(self, value: float) -> Self:
        """Return the count after another run."""
        streak = max(self.streak, 0) + 1 if value else min(self.streak, 0) - 1
        return replace(super().after(value), streak=max(-RUNS, min(streak, RUNS)))


class Unusual(Stored, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A number of a run that differs from the usual ones."""

    since_utc: Annotated[datetime, Meta(tz=True, description=times.EXPECTED)]
    """End of the run that had it first."""
    value: _Number
    usual: _Number
    """The mean before that run."""
    count: str | None = None
    """The name of the count that was zero; None for the seconds that the run took."""

    def __str__(self) -> str:
        """Render as `orders=0, usually 120` or `took 310 s, usually 12 s`."""
        if self.count is None:
            return f"took {self.value:.0f} s, usually {self.usual:.3g} s"
        return f"{shown(self.count)}={self.value:.0f}, usually {self.usual:.3g}"


class Usual(Stored, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The usual duration and counts of the last successful runs of a flow."""

    seconds: Mean
    counts: tuple[UsualCount, ...] = ()

    @classmethod
    def after(cls, before: Self | None, seconds: float, counts: Mapping[str, int]) -> Self:
        """Return the usual numbers after a successful run. A count that the run did not report is zero."""
        known = before.counts if before else ()
        present = [each.after(counts.get(each.name, 0)) for each in known]
        present = [each for each in present if each.streak > -RUNS]
        names = {each.name for each in known}
        new = [name for name in counts if name not in names and len(name) <= _LONGEST_NAME]
        present += [UsualCount.first(name, counts[name]) for name in new[: max(MOST - len(present), 0)]]
        if before is None:
            return cls(seconds=Mean.of(_rounded(seconds)), counts=tuple(present))
        return replace(before, seconds=before.seconds.after(seconds), counts=tuple(present))


def unusual(
    usual: Usual | None, standing: Sequence[Unusual], seconds: float, counts: Mapping[str, int], at: datetime
) -> Iterator[Unusual]:
    """Yield the unusual numbers of a successful run that ended at an instant (aware).

    * A count is zero that was not zero in each of the RUNS runs before. It stays unusual while it is zero, until zero
      is usual.
    * The run took SLOW times as long as usual.

    Args:
        usual: The usual numbers before the run.
        standing: The unusual numbers of the run before.
        seconds: The time that it took.
        counts: Its counts. One that it did not report is zero.
        at: The end of the run.

    """
    if usual is None:
        return
    last = {each.count: each for each in standing}
    for each in usual.counts:
        if counts.get(each.name, 0):
            continue
        if each.streak >= RUNS:
            yield Unusual(since_utc=at, value=0, usual=each.mean, count=each.name)
        elif each.name in last and each.streak - 1 > -RUNS:
            yield last[each.name]
    mean = usual.seconds
    if mean.runs >= SLOW_RUNS and seconds >= max(SLOW * mean.mean, SLOW_SECONDS):
        since = last[None].since_utc if None in last else at
        yield Unusual(since_utc=since, value=_rounded(seconds), usual=mean.mean)


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
