"""Measures the simulation of a fleet's schedules: python -m benchmarks.simulation [--entries N] [--hours N].

The entries have ten crons, from every ten seconds to once a month, in eight time zones. The CPU time includes that of
decoding and checking the documents.
"""

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from datasync import FlowRegistry, TenantSecretClient
from datasync.operate.load import Conditions, Span, simulate

START = datetime(2026, 3, 28, 12, tzinfo=UTC)
CRONS = (
    "*/10 * * * * *",
    "0 * * * * *",
    "0 */5 * * * *",
    "0 */15 * * * *",
    "0 0 * * * *",
    "0 30 */2 * * *",
    "0 30 6 * * *",
    "0 0 9 * * MON-FRI",
    "0 0 18 LW * *",
    "0 0 6 1 * *",
)
ZONES = (
    "UTC",
    "America/New_York",
    "America/Chicago",
    "America/Los_Angeles",
    "Europe/London",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Australia/Sydney",
)
CONDITIONS = (
    ("hourly ticks", Conditions()),
    ("spread of 10 min", Conditions(spread=timedelta(minutes=10))),
    ("ticks each 5 min", Conditions(schedule="0 */5 * * * *")),
    ("precise mode", Conditions(lookahead=timedelta(hours=1))),
    ("precise, and spread", Conditions(lookahead=timedelta(hours=1), spread=timedelta(minutes=10))),
)


def documents(entries: int) -> Iterator[dict[str, Any]]:
    """Yield documents of tenants with ten entries each, one for each cron, in the time zone of the tenant."""
    for number in range(entries // len(CRONS)):
        flows = [
            {"name": f"flow-{at}", "enabled": True, "cron": cron, "nextRunUtc": None, "timezone": "tenant"}
            for at, cron in enumerate(CRONS)
        ]
        tenant = f"tenant-{number}"
        yield {"id": tenant, "tenantId": tenant, "timezone": ZONES[number % len(ZONES)], "flows": flows}


async def _does_nothing(tenant_id: str, kv: TenantSecretClient) -> None:
    """Do nothing."""


def measure(entries: int, hours: int) -> Iterator[tuple[str, float, int]]:
    """Yield the name, the CPU time in seconds, and the number of jobs for each of the conditions."""
    registry = FlowRegistry()
    for number in range(len(CRONS)):
        registry.flow(f"flow-{number}", provider=f"provider-{number % 3}")(_does_nothing)
    fleet = [*documents(entries)]
    span = Span.of(START, START + timedelta(hours=hours), as_stored=False)
    for name, conditions in CONDITIONS:
        begin = time.process_time()
        found = simulate(fleet, registry, span, conditions, unchanged=conditions)
        yield name, time.process_time() - begin, found.jobs


def main() -> None:
    """Print a row for each of the conditions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--entries", type=int, default=20_000, help="entries, of tenants with ten each")
    parser.add_argument("--hours", type=int, default=24, help="length of the simulated span")
    print(f"{'':<20} {'CPU s':>8} {'jobs':>12}")
    for name, seconds, jobs in measure(**vars(parser.parse_args())):
        print(f"{name:<20} {seconds:8.2f} {jobs:12,}")


if __name__ == "__main__":
    main()
