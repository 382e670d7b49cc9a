"""The load of a span of time as a chart of text, and as rows for a spreadsheet."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from datasync.cli.text import age, table
from datasync.cli.validate import count
from datasync.model.display import quoted
from datasync.model.times import utc_text
from datasync.operate.load import Busiest, Simulated, by_hour
from datasync.tick.forecast import MINUTE

type Step = Literal["minute", "hour"]

_WIDTH = 30  # characters of the longest bar
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_MOST_COLUMNS = 5
_NO_PROVIDER = "no provider"


class _Slot(NamedTuple):
    """A minute or an hour."""

    start: datetime
    jobs: int
    busiest: int
    """The most jobs that start in one of its minutes."""
    providers: tuple[int, ...]
    """The jobs of each provider, in their order."""


def chart(found: Simulated, zone: ZoneInfo, step: Step) -> Iterator[str]:
    """Yield the lines of a chart: a bar for each hour of UTC, or for each minute in which a job starts."""
    yield from _summary(found)
    slots = [slot for slot in _slots(found, step) if slot.jobs or step == "hour"]
    most = max((slot.jobs for slot in slots), default=0)
    if not most:
        return
    names = [each.provider or _NO_PROVIDER for each in found.providers]
    if len(names) > _MOST_COLUMNS:
        names[_MOST_COLUMNS - 1 :] = ["others"]
    header = [zone.key, "jobs", "most in a minute", "", *names]
    rows = [
        [
            f"{slot.start.astimezone(zone):%a %Y-%m-%d %H:%M}",
            f"{slot.jobs:,}",
            f"{slot.busiest:,}",
            _bar(slot.jobs / most),
            *(f"{number:,}" for number in (*slot.providers[: len(names) - 1], sum(slot.providers[len(names) - 1 :]))),
        ]
        for slot in slots
    ]
    yield ""
    yield from table(header, rows)


def rows(found: Simulated, step: Step) -> Iterator[tuple[str, str, int]]:
    """Yield a row for each minute or hour and provider with a job: its start, the provider, the jobs."""
    for slot in _slots(found, step):
        for each, jobs in zip(found.providers, slot.providers, strict=True):
            if jobs:
                yield utc_text(slot.start), each.provider or "", jobs


def _slots(found: Simulated, step: Step) -> Iterator[_Slot]:
    minutes = [*zip(*(each.minutes for each in found.providers), strict=True)]
    singly = ((found.from_utc + at * MINUTE, minutes[at : at + 1]) for at in range(len(minutes)))
    for start, part in by_hour(found.from_utc, minutes) if step == "hour" else singly:
        totals = [sum(minute) for minute in part]
        yield _Slot(start, sum(totals), max(totals), tuple(map(sum, zip(*part, strict=True))))


def _summary(found: Simulated) -> Iterator[str]:
    """Yield the conditions and the numbers."""
    lookahead, spread = (age(timedelta(seconds=each)) for each in (found.lookahead_seconds, found.spread_seconds))
    yield f"{utc_text(found.from_utc)} to {utc_text(found.to_utc)}"
    yield f"timer: {quoted(found.schedule)}, lookahead {lookahead}, spread {spread}"
    for flow, cron in found.crons.items():
        yield f"cron of {flow}: {quoted(cron)}"
    left_out = [f"{found.disabled} disabled"] if found.disabled else []
    left_out += [f"{found.wrong} with a problem"] if found.wrong else []
    left_out += [f"{count(found.unreadable, 'document')} that cannot be used"] if found.unreadable else []
    yield ", ".join([f"entries: {found.entries} run", *left_out])
    most = _most("; most in a minute", found.busiest) + _most("; without the changes", found.unchanged)
    yield f"jobs: {found.jobs:,}{most}"


def _most(words: str, busiest: Busiest | None) -> str:
    return f"{words}: {busiest.jobs:,} at {utc_text(busiest.minute_utc)}" if busiest else ""


def _bar(share: float) -> str:
    whole, rest = divmod(round(share * _WIDTH * 8), 8)
    return "█" * whole + _EIGHTHS[rest]
