"""The fields of log lines that alerts need, from runs with real services."""

import logging
import re
from datetime import timedelta
from typing import Any

import pytest

from datasync.model.state import FlowState
from datasync.operate.health import app_health
from tests.deliveries import NOW, message
from tests.operating import HOUR, Fleet
from tests.stages import deliver
from tests.world import World

WAITED = timedelta(minutes=12)


@pytest.fixture(autouse=True)
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the lines of all levels."""
    caplog.set_level(logging.INFO, logger="datasync")


def line(caplog: pytest.LogCaptureFixture, word: str) -> str:
    (found,) = [each for each in caplog.messages if each.startswith(f"{word} ")]
    return found


async def run(fleet: Fleet, after: timedelta, **fields: Any) -> None:
    """Deliver the message of a run that was due at noon."""
    await fleet.add("acme")
    job = message(tenant_id="acme", flow_name="weather", **fields)
    await deliver(fleet.services, fleet.registry, job, NOW + after)


class TestQueued:
    @pytest.mark.parametrize(
        ("enqueued", "scheduled"),
        [(NOW, NOW), (NOW - HOUR, NOW), (NOW, NOW - HOUR), (None, NOW)],
        ids=["at its time", "ahead of its time", "after its time", "by hand"],
    )
    async def test_a_run_says_how_long_it_was_due(
        self, fleet: Fleet, caplog: pytest.LogCaptureFixture, enqueued: Any, scheduled: Any
    ) -> None:
        """It was due when its message was on the queue and its time had come."""
        await run(fleet, WAITED, enqueued_utc=enqueued, scheduled_utc=scheduled)

        assert " queued=720.0s run=" in line(caplog, "START")

    @pytest.mark.parametrize(
        "fields",
        [{"delivery": 2}, {"message_id": "m-0"}, {"deferral": 1}, {"redrive": 1}],
        ids=["delivered again", "put back", "deferred", "started again"],
    )
    async def test_the_time_for_which_the_app_has_hidden_a_message_is_not_reported(
        self, fleet: Fleet, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
    ) -> None:
        """It would look like a queue that is not worked off."""
        await run(fleet, WAITED, **fields)

        assert "queued=" not in line(caplog, "START")


class TestLate:
    async def stale(self, world: World) -> None:
        state = FlowState(tenant_id="acme", flow_name="weather", stale_utc=NOW)
        await world.runs.upsert_item(state.document())

    async def test_a_failed_run_of_a_late_flow_says_so(
        self, fleet: Fleet, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With the fingerprint of its error."""
        await self.stale(world)
        await fleet.add("acme")
        fleet.ends["acme"] = OSError("down")
        await fleet.run("acme", "r-1", HOUR)

        expected = r"FAIL acme/weather .* fingerprint=[0-9a-f]{16} late_since=2025-08-23T12:00:00Z run=r-1 attempt=1"
        assert re.match(expected, line(caplog, "FAIL"))

    async def test_a_flow_that_succeeds_is_not_late(
        self, fleet: Fleet, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Although it was when the run began."""
        await self.stale(world)
        await run(fleet, HOUR)

        assert "late_since=" not in line(caplog, "DONE")

    async def test_a_monitor_that_learns_of_late_flows_leaves_a_line(
        self, fleet: Fleet, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Also of flows that do not run. There is none while the app is well."""
        await fleet.add("acme")
        await fleet.tick()
        await self.stale(world)
        assert (await app_health(fleet.services, fleet.registry, NOW)).is_well
        assert [each for each in caplog.messages if each.startswith("UNHEALTHY")] == []

        await app_health(fleet.services, fleet.registry, NOW + HOUR)
        assert line(caplog, "UNHEALTHY") == "UNHEALTHY A flow has not succeeded in time."
