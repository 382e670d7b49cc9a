"""The two stages at a chosen instant, with a clock that never waits."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry
from datasync.model.job import QueueMessage
from datasync.model.run import RunRecord
from datasync.model.tenant import Problem, Tenant
from datasync.run.pipeline import run_message
from datasync.services import Services
from datasync.testing.clock import FakeClock
from datasync.tick.plan import Advance
from datasync.tick.plan import plan as plan_tenant
from datasync.tick.tick import Tally
from datasync.tick.tick import tick as tick_now

__all__ = ["FLOWS", "FakeClock", "Plan", "deliver", "does_nothing", "plan", "registry_of", "run_job", "tick"]


async def does_nothing(tenant_id: str, kv: SecretClient) -> None:
    """Do nothing."""


def registry_of(*names: str) -> FlowRegistry:
    """Return a registry with flows of these names that do nothing."""
    registry = FlowRegistry()
    for name in names:
        registry.flow(name)(does_nothing)
    return registry


FLOWS = registry_of("weather", "first", "second", *(f"flow-{n}" for n in range(500)))
"""The flows that the documents of the tests name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan for one tenant."""

    advances: tuple[Advance, ...]
    problems: tuple[Problem, ...]


def plan(tenant: Tenant, now: datetime, horizon: datetime, spread: timedelta = timedelta()) -> Plan:
    """Plan a tenant with a registry that has all of its flows."""
    registry = registry_of(*(entry.name for entry in tenant.flows))
    steps = [*plan_tenant(tenant, registry, now, horizon, spread)]
    return Plan(
        advances=tuple(step for step in steps if isinstance(step, Advance)),
        problems=tuple(dict.fromkeys(step for step in steps if isinstance(step, Problem))),
    )


async def tick(services: Services, now: datetime, registry: FlowRegistry = FLOWS) -> Tally:
    """Run one tick at an instant."""
    _clock(services).time = now
    return await tick_now(services, registry)


async def deliver(services: Services, registry: FlowRegistry, message: QueueMessage, now: datetime) -> RunRecord | None:
    """Deliver a message at an instant. Returns the record of the run; None if no attempt was made."""
    _clock(services).time = now
    return await run_message(services, registry, message)


async def run_job(services: Services, registry: FlowRegistry, message: QueueMessage, now: datetime) -> RunRecord:
    """Run the job in a message at an instant."""
    record = await deliver(services, registry, message, now)
    assert record is not None
    return record


def _clock(services: Services) -> FakeClock:
    assert isinstance(services.clock, FakeClock)
    return services.clock
