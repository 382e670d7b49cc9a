"""A flow that suddenly reads zero records is found, although its runs succeed: with real services."""

from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.keyvault.secrets.aio import SecretClient
from msgspec.structs import replace

from datasync import FlowRegistry, FlowRun
from datasync.model.state import FlowState
from datasync.model.usual import RUNS, Usual
from datasync.operate.flows import Health, flows
from datasync.operate.why import Cause
from datasync.operate.why import why as find_why
from datasync.services import Services
from tests.deliveries import NOW, message
from tests.documents import document, entry
from tests.operating import HOUR, command
from tests.stages import deliver
from tests.world import World

NEXT = "2025-08-30T12:00:00Z"
LATER = RUNS * HOUR


class Reader:
    """A flow that counts the orders that it has read."""

    def __init__(self, services: Services, **options: Any) -> None:
        self.services = services
        self.orders = 120
        self.registry = FlowRegistry()
        self.registry.flow("weather", **options)(self._read)

    async def _read(self, _tenant_id: str, _kv: SecretClient, run: FlowRun) -> None:
        run.count(orders=self.orders)

    async def run(self, number: int, orders: int = 120) -> None:
        """Run it once, some hours after noon."""
        self.orders = orders
        job = message(tenant_id="acme", flow_name="weather", run_id=f"r-{number}", scheduled_utc=NOW + number * HOUR)
        await deliver(self.services, self.registry, job, NOW + number * HOUR)


@pytest_asyncio.fixture(params=["once", "allow"])
async def reader(world: World, services: Services, request: pytest.FixtureRequest) -> Reader:
    """Return a flow that has run for a tenant as often as needed to know its usual numbers."""
    await world.put(document("acme", entry(nextRunUtc=NEXT)), document("other", entry(nextRunUtc=NEXT)))
    reader = Reader(services, overlap=request.param)
    state = FlowState(tenant_id="acme", flow_name="weather", last_success_utc=NOW + LATER - HOUR)
    for _ in range(RUNS):
        state = replace(state, usual=Usual.after(state.usual, 0, {"orders": 120}))
    await world.runs.upsert_item(state.document())
    return reader


async def test_a_flow_that_suddenly_reads_zero_is_found(
    world: World, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    """By `flows --unusual`, `status`, `why` and `show`, and by one line in the log."""
    assert (await command(world, "status", after=LATER)).stdout.count("unusual      0") == 1

    await reader.run(RUNS, orders=0)
    await reader.run(RUNS + 1, orders=0)

    after = LATER + HOUR + timedelta(minutes=1)
    found = await command(world, "flows", "--unusual", after=after)
    assert found.exit_code == 1
    assert "unusual: acme/weather orders=0, usually 120 (since 2025-08-25T04:00:00Z)" in found.stdout
    assert "other" not in found.stdout
    status = await command(world, "status", after=after)
    assert status.exit_code == 1
    assert "unusual      1: python -m datasync flows --unusual" in status.stdout
    why = await find_why(reader.services, reader.registry, "acme", "weather", NOW + after)
    assert (why.answer.cause, why.is_wrong) == (Cause.UNUSUAL, True)
    assert "orders=0, usually 120" in why.answer.why
    assert why.answer.run_id == f"r-{RUNS}", "the first run that read zero"
    shown = await command(world, "show", f"r-{RUNS}", "--tenant", "acme")
    assert "unusual      orders=0, usually 120" in shown.stdout
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("UNUSUAL ")]
    assert lines == [f"UNUSUAL acme/weather: orders=0, usually 120 count=orders run=r-{RUNS}"]


async def test_it_is_well_again_after_a_usual_run(reader: Reader) -> None:
    """The line has the outcomes of its last runs, and the usual numbers."""
    await reader.run(RUNS, orders=0)
    await reader.run(RUNS + 1)

    (line,) = await flows(reader.services, reader.registry, NOW + LATER + HOUR, tenant_id="acme")
    assert (line.health, line.unusual) == (Health.WELL, ())
    assert line.outcomes == ("succeeded",) * 2
    assert line.usual_counts["orders"] == pytest.approx(117, rel=0.01)
    assert line.usual_seconds == 0


async def test_a_disabled_flow_is_not_unusual(world: World, reader: Reader) -> None:
    """Nobody has to look into it."""
    await reader.run(RUNS, orders=0)
    await world.put(document("acme", entry(nextRunUtc=NEXT, enabled=False)))

    (line,) = await flows(reader.services, reader.registry, NOW + LATER, tenant_id="acme")
    assert (line.health, line.is_wrong) == (Health.DISABLED, False)
