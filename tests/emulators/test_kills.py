"""A worker that is killed at any request, and answers that are lost at any request."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun, RetryLater
from datasync.errors import Continue
from datasync.model.job import Job, JobMessage, Trigger, run_id
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, Waiting
from tests.documents import document, entry
from tests.faults import Wire
from tests.world import World


@dataclass
class Scenario:
    """A flow, the deliveries that it gets, and the attempts that have to be on record at the end."""

    expected: dict[str, list[str]]
    """Run id → outcomes of its attempts, without interrupted ones."""
    flow: Callable[["Scenario", FlowRun], Awaitable[None]]
    options: dict[str, Any] = field(default_factory=dict)
    posts: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    alternative: dict[str, list[str]] = field(default_factory=dict)
    """Expected as well, after a kill."""
    entry: dict[str, Any] = field(default_factory=dict)
    is_taken_over: bool = False
    """Whether the state has the lease of `r-1`, which is over, and the next message is that of `r-2`."""
    is_repeatable: bool = False
    """Whether a second delivery of the message ends the run again."""
    executions: Counter[str] = field(default_factory=Counter)
    """Run id → calls of the flow."""
    host: Deliveries | None = None

    def registry(self) -> FlowRegistry:
        registry = FlowRegistry()

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            self.executions[run.run_id] += 1
            await self.flow(self, run)

        registry.flow("flow", **self.options)(flow)
        return registry


FOLLOW_UP = run_id("once more", "r-2")


async def keeps_its_cursor(scenario: Scenario, run: FlowRun) -> None:
    run.cursor = "half"
    await run.checkpoint()
    run.cursor = "all"


async def is_deferred_once(scenario: Scenario, run: FlowRun) -> None:
    present = scenario.host and scenario.host.present
    if present and not present.job.deferral:
        raise RetryLater(timedelta(minutes=1))


async def meets_a_deferral(scenario: Scenario, run: FlowRun) -> None:
    """Defer the first run for a day. The second one is delivered before that."""
    present = scenario.host and scenario.host.present
    if present and run.run_id == "r-1" and not present.job.deferral:
        raise RetryLater(timedelta(days=1))


async def continues_twice(scenario: Scenario, run: FlowRun) -> None:
    run.cursor = run.part
    if run.part < 3:
        raise Continue


async def continues_without_cursor(scenario: Scenario, run: FlowRun) -> None:
    if run.part < 3:
        raise Continue


async def fails(scenario: Scenario, run: FlowRun) -> None:
    raise OSError("down")


async def meets_another(scenario: Scenario, run: FlowRun) -> None:
    """Deliver the message of another run while the first one goes on."""
    if run.run_id == "r-1" and scenario.host and any(job.run_id == "r-2" for job in scenario.host.jobs):
        await scenario.host.next()


SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "a success": lambda: Scenario({"r-1": ["succeeded"]}, keeps_its_cursor),
    "two messages of a run": lambda: Scenario({"r-1": ["succeeded"]}, keeps_its_cursor, posts=[{}, {}]),
    "a deferral": lambda: Scenario({"r-1": ["deferred", "succeeded"]}, is_deferred_once),
    "parts": lambda: Scenario({"r-1": ["continued"], "r-1.2": ["continued"], "r-1.3": ["succeeded"]}, continues_twice),
    "a dead run": lambda: Scenario({"r-1": ["failed"] * 4 + ["dead"]}, fails),
    "a failure in the last delivery": lambda: Scenario(
        {"r-1": ["failed"] * 4 + ["dead"]}, fails, posts=[{"deliveries": 4}]
    ),
    "a takeover": lambda: Scenario({"r-1": ["succeeded"], "r-2": ["succeeded"]}, keeps_its_cursor, is_taken_over=True),
    "a follow-up": lambda: Scenario(
        {"r-1": ["succeeded"], "r-2": ["skipped_overlap"], FOLLOW_UP: ["succeeded"]},
        meets_another,
        posts=[{}, {"run_id": "r-2"}],
        alternative={"r-1": ["succeeded"], "r-2": ["succeeded"]},
    ),
    "a run that meets a deferred one": lambda: Scenario(
        {"r-1": ["deferred", "succeeded"], "r-2": ["skipped_overlap"], FOLLOW_UP: ["succeeded"]},
        meets_a_deferral,
        posts=[{}, {"run_id": "r-2"}],
        alternative={"r-1": ["deferred", "succeeded"], "r-2": ["succeeded"]},
    ),
    "a burial": lambda: Scenario({"r-1": ["dead"]}, keeps_its_cursor, posts=[{"is_poison": True, "rounds": 2}]),
    "a poison message that is sent again": lambda: Scenario(
        {"r-1": ["succeeded"]}, keeps_its_cursor, posts=[{"is_poison": True}]
    ),
    "a disabled flow": lambda: Scenario(
        {"r-1": ["skipped_disabled"]}, keeps_its_cursor, entry={"enabled": False}, is_repeatable=True
    ),
    "a deferral of a run that may overlap": lambda: Scenario(
        {"r-1": ["deferred", "succeeded"]}, is_deferred_once, options={"overlap": "allow"}
    ),
    "a dead run that may overlap": lambda: Scenario(
        {"r-1": ["failed"] * 4 + ["dead"]}, fails, options={"overlap": "allow"}
    ),
    "parts that may overlap": lambda: Scenario(
        {"r-1": ["continued"], "r-1.2": ["continued"], "r-1.3": ["succeeded"]},
        continues_without_cursor,
        options={"overlap": "allow"},
    ),
    "overlapping runs that are allowed": lambda: Scenario(
        {"r-1": ["succeeded"], "r-2": ["succeeded"]},
        meets_another,
        options={"overlap": "allow"},
        posts=[{}, {"run_id": "r-2"}],
    ),
}


async def prepare(world: World, host: Deliveries, scenario: Scenario, tenant: str) -> None:
    host.clock.time = NOW
    await world.put(document(tenant, entry("flow", **scenario.entry)))
    if scenario.is_taken_over:
        host.post(tenant_id=tenant, run_id="r-2")
        first = replace(host.post(tenant_id=tenant), visible_at=NOW + timedelta(days=30))
        host.waiting[-1] = first
        lease = {
            "until": (NOW - timedelta(minutes=1)).timestamp(),
            "nonce": "n-1",
            "startedUtc": "2025-08-23T11:56:00Z",
            "message": msgspec.to_builtins(Job.of(complete(first)).copy()),
        }
        state = {"id": "state-flow", "tenantId": tenant, "flowName": "flow", "type": "FlowState", "token": 7}
        await world.runs.upsert_item({**state, "lease": lease})
    else:
        for fields in scenario.posts:
            host.post(tenant_id=tenant, **fields)


def complete(waiting: Waiting) -> JobMessage:
    return msgspec.structs.replace(
        waiting.job, message_id=waiting.id, enqueued_utc=waiting.inserted, trigger=Trigger.SCHEDULE
    )


async def connect(services: Services) -> None:
    await services.runs.state("t", ["flow"])
    await services.tenants.has_entry("t", ["flow"])
    await services.jobs.ping()


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("answered", [False, True], ids=["before a request", "after its answer"])
async def test_a_worker_may_be_killed_at_any_request(
    world: World, wire: Wire, services: Services, name: str, *, answered: bool
) -> None:
    """Each run has one record with the expected attempts. An execution is repeated only if it was interrupted."""
    await connect(services)
    host = Deliveries(services, wire, FlowRegistry())
    for number in count(1):
        scenario, tenant, kills = SCENARIOS[name](), f"t-{number}", host.kills
        scenario.host, host.registry = host, scenario.registry()
        await prepare(world, host, scenario, tenant)
        wire.kill_at(number, answered=answered)
        await host.all()
        wire.heal()
        await check(world, scenario, tenant, most_interrupted=1 + scenario.is_taken_over)
        if host.kills == kills:
            break
    assert host.kills >= 3


@pytest.mark.parametrize("name", SCENARIOS)
async def test_any_answer_may_be_lost(world: World, wire: Wire, services: Services, name: str) -> None:
    """Each run has one record with the expected attempts. Nothing is interrupted, or executed twice."""
    await connect(services)
    host = Deliveries(services, wire, FlowRegistry())
    for number in count(1):
        scenario, tenant = SCENARIOS[name](), f"t-{number}"
        scenario.host, host.registry = host, scenario.registry()
        await prepare(world, host, scenario, tenant)
        lost = nth(number)
        wire.lose_answer(lambda _, lost=lost: next(lost))  # type: ignore[misc]
        await host.all()
        await check(world, scenario, tenant, most_interrupted=0 + scenario.is_taken_over)
        if not wire.stop_losing():
            continue
        break
    assert number >= 4


def nth(number: int) -> Iterator[bool]:
    """Yield False, and True the n-th time."""
    for each in count(1):
        yield each == number


async def check(world: World, scenario: Scenario, tenant: str, most_interrupted: int) -> None:
    records = {record["runId"]: record for record in await world.records(tenant)}
    outcomes = {run: [each["outcome"] for each in record["attempts"]] for run, record in records.items()}
    ended = {run: [each for each in found if each != "interrupted"] for run, found in outcomes.items()}
    if scenario.is_repeatable:
        ended = {run: sorted(set(found)) for run, found in ended.items()}
    expected_runs = scenario.alternative if ended == scenario.alternative else scenario.expected
    assert ended == expected_runs, tenant
    interrupted = {run: found.count("interrupted") for run, found in outcomes.items()}
    assert sum(interrupted.values()) <= most_interrupted, tenant
    for run, expected in expected_runs.items():
        assert records[run]["outcome"] == expected[-1]
        called = sum(outcome not in ("skipped_overlap", "skipped_disabled") for outcome in expected)
        if "is_poison" not in scenario.posts[0]:
            assert 0 <= scenario.executions[run] - called <= interrupted[run], (tenant, run, outcomes)
