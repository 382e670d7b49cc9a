"""Flows that harm the process that they run in. Each does so in every attempt, after `after` seconds."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from datasync import FlowRun, TenantSecretClient
from flows.registry import flow

from .effects import Execution, execution

type Harm = Callable[[Execution, FlowRun], Awaitable[None]]

_FOREVER = 3600  # seconds


def _culprit(name: str, *, timeout: timedelta = timedelta(minutes=10)) -> Callable[[Harm], Harm]:
    def register(harm: Harm) -> Harm:
        @flow(name, timeout=timeout)
        async def culprit(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
            with execution(tenant_id, run) as started:
                await asyncio.sleep(run.settings.get("after", 0))
                await harm(started, run)

        return harm

    return register


async def _in_a_task(end: Callable[[], object]) -> None:
    async def call() -> None:
        end()

    task = asyncio.create_task(call())
    await asyncio.sleep(_FOREVER)
    await task


def _interrupt() -> None:
    raise KeyboardInterrupt


@_culprit("ends-the-process")
async def ends_the_process(started: Execution, run: FlowRun) -> None:
    os._exit(3)


@_culprit("exits-in-a-task")
async def exits_in_a_task(started: Execution, run: FlowRun) -> None:
    await _in_a_task(sys.exit)


@_culprit("stops-the-loop")
async def stops_the_loop(started: Execution, run: FlowRun) -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(_FOREVER)


@_culprit("exits")
async def exits(started: Execution, run: FlowRun) -> None:
    sys.exit(3)


@_culprit("interrupts")
async def interrupts(started: Execution, run: FlowRun) -> None:
    _interrupt()


@_culprit("interrupts-in-a-task")
async def interrupts_in_a_task(started: Execution, run: FlowRun) -> None:
    await _in_a_task(_interrupt)


@_culprit("cancels-itself")
async def cancels_itself(started: Execution, run: FlowRun) -> None:
    task = asyncio.current_task()
    if task:
        task.cancel()
    await asyncio.sleep(_FOREVER)


@_culprit("cancels-all-tasks")
async def cancels_all_tasks(started: Execution, run: FlowRun) -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(_FOREVER)


@_culprit("recurses")
async def recurses(started: Execution, run: FlowRun) -> None:
    await recurses(started, run)


@_culprit("blocks-the-loop")
async def blocks_the_loop(started: Execution, run: FlowRun) -> None:
    """Block for `seconds`, or until the file `unless` exists."""
    _block(run.settings["seconds"], run.settings.get("unless"))
    started.effect()


def _block(seconds: float, unless: str | None) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not (unless and Path(unless).exists()):
        time.sleep(min(left, 0.1))


@_culprit("ignores-cancellation", timeout=timedelta(seconds=1))
async def ignores_cancellation(started: Execution, run: FlowRun) -> None:
    until = time.monotonic() + _FOREVER
    while time.monotonic() < until:
        try:
            await asyncio.sleep(_FOREVER)
        except asyncio.CancelledError:
            started.note("ignored")
