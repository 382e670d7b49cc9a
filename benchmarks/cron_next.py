"""Measures the time of `CronSchedule.next` in microseconds: python -m benchmarks.cron_next [calls per expression].

Each row calls `next` of one schedule with many different starts, as the hourly tick does. "first" is the first call,
which includes `parse` (cached for the second zone). "median" and "worst" are of all later calls.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from statistics import median
from time import perf_counter
from zoneinfo import ZoneInfo

from datasync.cron import parse

TYPICAL = (
    "0 0 * * * *",
    "0 */5 * * * *",
    "0 0 */2 * * *",
    "0 30 6 * * *",
    "0 0 9 * * MON-FRI",
    "0 0 6 1 * *",
    "0 0 18 LW * *",
    "0 0 9 * * MON#1",
    "*/10 * * * * *",
)
RARE = (
    "0 0 0 29 2 *",
    "0 0 0 29 2 SUN",
    "0 0 0 L-28W 2 MON#1",
)
NEVER = (
    "0 0 0 30 2 *",
    "0 0 0 31 2,4 *",
    "0 0 0 1 * SUN#2",
    "0 0 0 L-30W * SUN#3",
    "0 0 0 * * 7-1/3",
)


def starts(tz: tzinfo) -> Iterator[datetime]:
    """Yield times within four years, seven hours apart, across every clock change."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    while True:
        for hours in range(0, 4 * 8766, 7):
            yield (start + timedelta(hours=hours, seconds=hours % 3600)).astimezone(tz)


def measure(expression: str, tz: tzinfo, calls: int) -> list[float]:
    """Return the microseconds of each call. The first call includes parsing."""
    taken = []
    for start in islice(starts(tz), calls + 1):
        begin = perf_counter()
        parse(expression).next(start, tz)
        taken.append((perf_counter() - begin) * 1e6)
    return taken


def main() -> None:
    """Print a row for each expression in each zone."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    print(f"{'expression':<22} {'zone':<20} {'first':>8} {'median':>8} {'worst':>8}  µs, {calls} calls")
    for expression in (*TYPICAL, *RARE, *NEVER):
        for zone in ("UTC", "America/New_York"):
            first, *later = measure(expression, ZoneInfo(zone), calls)
            print(f"{expression:<22} {zone:<20} {first:8.0f} {median(later):8.1f} {max(later):8.0f}")


if __name__ == "__main__":
    main()
