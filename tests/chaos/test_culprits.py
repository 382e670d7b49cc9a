"""Flows that harm their process, and the innocent runs beside them."""

import json
import time
from collections import Counter
from math import inf

import pytest

from tests.chaos.arena import MOST_DELIVERIES, QUEUES, Arena
from tests.chaos.evidence import Execution
from tests.chaos.hosts import SECONDS
from tests.waiting import wait_until

INNOCENTS = 12
STUBBORN = 2.5  # seconds: more than a cancelled flow gets
QUICK = {MOST_DELIVERIES: "2"}
ONE_MESSAGE = {f"{QUEUES}batchSize": "1", f"{QUEUES}newBatchThreshold": "0"}
"""The settings of a host that takes no message while it has another."""
LEASES = SECONDS["datasync/model/lease.py"]
REFUSED = "an earlier delivery of the message has the lease"


@pytest.mark.parametrize("flow", ["ends-the-process", "exits-in-a-task", "stops-the-loop"])
async def test_a_flow_ends_the_process(arena: Arena, flow: str) -> None:
    """The innocent runs beside it succeed in the end, and the culprit is on record."""
    innocents = await arena.seed(INNOCENTS * arena.scale, "work-0", seconds=0.4)
    await arena.seed(1, flow, prefix="culprit", after=0.1)
    await arena.enqueue()

    async with arena.host(QUICK):
        await arena.until_quiet(120)
        arena.actions[flow] = sum(each.flow[1] == flow for each in arena.executions())
        verdict = await arena.verdict(must_succeed=[(tenant, "work-0") for tenant in innocents])

    assert arena.injected()[flow] > 0
    assert verdict.problems_beside_interruptions() == {}


async def test_a_flow_blocks_the_loop(arena: Arena) -> None:
    """It blocks for longer than the time limit of the innocent runs, and than a lease. None of them fails."""
    innocents = await arena.seed(INNOCENTS * arena.scale, "hurried", seconds=0.4)
    await arena.seed(1, "blocks-the-loop", prefix="culprit", after=0.1, seconds=5)
    await arena.enqueue()

    async with arena.host() as host:
        await arena.until_quiet()
        arena.actions["seconds of a blocked loop"] += 5
        verdict = await arena.verdict()
        named = host.count("BLOCKED culprit-0/blocks-the-loop blocked ")

    failed = [run for run in await arena.runs() if run.flow[0] in innocents and run.outcomes != ["succeeded"]]
    arena.report(f"found:    innocents that failed: {len(failed)}, log lines that name the culprit: {named}")
    assert verdict.problems() == {}
    assert failed == []
    assert named


async def test_a_lease_outlives_a_block(arena: Arena) -> None:
    """The flow's message is delivered to another process, after the time at which the lease would be over."""
    release = arena.effects.with_name("release")
    await arena.seed(1, "blocks-the-loop", seconds=60, unless=str(release))
    await arena.enqueue()

    async with arena.host(ONE_MESSAGE):
        await wait_until(arena.executions, description="the flow blocks")
        (state,) = await arena.states()
        lease = state["lease"]
        async with arena.host() as beside:
            over = lease["until"] + LEASES["MARGIN"]
            await wait_until(lambda: time.time() > over, description="the lease would be over")
            await arena.send(json.dumps(lease["message"]))
            arena.actions["messages repeated during a block"] += 1
            await wait_until(
                lambda: beside.count(REFUSED) or len(arena.executions()) > 1, description="the message is delivered"
            )
            release.touch()
            await arena.until_quiet()
            verdict = await arena.verdict()
            (run,) = await arena.runs()

    assert beside.count(REFUSED)
    assert verdict.problems() == {}
    assert (verdict.executions, run.outcomes) == (1, ["succeeded"])


@pytest.mark.parametrize(
    "culprits", [("exits", "interrupts", "cancels-itself", "recurses"), ("interrupts-in-a-task",)], ids=" ".join
)
async def test_flows_end_in_unusual_ways(arena: Arena, culprits: tuple[str, ...]) -> None:
    """Each attempt of a culprit fails. The process lives on, so no attempt is interrupted and no effect is repeated."""
    innocents = await arena.seed(6 * arena.scale, "work-0", seconds=0.4)
    await arena.seed(1, *culprits, prefix="culprit", after=0.1)
    await arena.enqueue()

    async with arena.host(QUICK) as host:
        await arena.until_quiet(120)
        arena.actions += Counter(each.flow[1] for each in arena.executions() if each.flow[1] in culprits)
        verdict = await arena.verdict(must_succeed=[(tenant, "work-0") for tenant in innocents])

    assert {*culprits} <= {*arena.injected()}
    assert host.starts == 1, "the process has died"
    assert verdict.problems() == {}
    outcomes = {run.flow[1]: run.outcomes for run in await arena.runs() if run.flow[1] in culprits}
    assert outcomes == {culprit: ["failed", "dead"] for culprit in culprits}


async def test_a_flow_cancels_all_tasks(arena: Arena) -> None:
    """All attempts beside it are interrupted, some of them after their effect. The process lives on."""
    innocents = await arena.seed(6 * arena.scale, "work-0", seconds=0.4)
    await arena.seed(1, "cancels-all-tasks", prefix="culprit", after=0.1)
    await arena.enqueue()

    async with arena.host(QUICK) as host:
        await arena.until_quiet(120)
        arena.actions["all tasks cancelled"] += sum(each.flow[0] not in innocents for each in arena.executions())
        verdict = await arena.verdict(must_succeed=[(tenant, "work-0") for tenant in innocents])

    assert arena.injected()["all tasks cancelled"] > 0
    assert host.starts == 1, "the process has died"
    assert verdict.problems_beside_interruptions() == {}


async def test_a_flow_ignores_its_cancellation(arena: Arena) -> None:
    """It continues after its time limit, until its process is killed. It has one terminal record in the end."""
    innocents = await arena.seed(6 * arena.scale, "work-0", seconds=1)
    await arena.seed(1, "ignores-cancellation", prefix="culprit")
    await arena.enqueue()

    async with arena.host(QUICK) as host:

        async def another_one() -> bool:
            return bool(ignoring(arena)) or await arena.is_quiet()

        for _ in range(8):
            await wait_until(another_one, description="the flow ignores its cancellation")
            if await arena.is_quiet():
                break
            arena.actions["cancellations ignored"] += 1
            await host.kill()
        await arena.until_quiet()
        verdict = await arena.verdict(must_succeed=[(tenant, "work-0") for tenant in innocents])

    assert arena.injected()["cancellations ignored"] > 0
    assert verdict.problems_beside_interruptions() == {}


def ignoring(arena: Arena) -> list[Execution]:
    """Return the executions that have ignored their cancellation for some time, and continue."""
    since = time.monotonic() - STUBBORN
    return [each for each in arena.executions() if each.end == inf and each.notes.get("ignored", inf) < since]
