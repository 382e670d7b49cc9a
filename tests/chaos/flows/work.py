"""Flows that do their work. The settings of the entry say how."""

import asyncio
import os
from datetime import timedelta

from datasync import FlowRun, RetryLater, TenantSecretClient
from flows.registry import flow

from .effects import Execution, execution

SAME = 12
"""The number of flows `work-0`, `work-1` …, which are all the same."""


async def work(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
    """Work for some time, with the effect in the middle of it. Settings, all optional:

    * `seconds`: the time of the work, or of each step.
    * `deferrals`: raise RetryLater in this number of first attempts.
    * `failures`: fail in this number of first attempts.
    * `secret`: read the tenant's secret `api--token`.
    * `url`, `steps`: send an effect to this URL in each step, in place of the one effect.
    """
    settings = run.settings
    with execution(tenant_id, run) as started:
        if settings.get("secret"):
            await kv.secret("api", "token")
        if run.attempt <= settings.get("failures", 0):
            raise ConnectionError("the source closed the connection")
        if url := settings.get("url"):
            await _send_steps(run, started, url)
            return
        if run.attempt <= settings.get("deferrals", 0):
            raise RetryLater(timedelta())
        await asyncio.sleep(settings.get("seconds", 0) / 2)
        started.effect()
        await asyncio.sleep(settings.get("seconds", 0) / 2)


async def _send_steps(run: FlowRun, started: Execution, url: str) -> None:
    for step in range(run.settings["steps"]):
        about = {"run": run.run_id, "step": step, "pid": os.getpid(), "execution": started.id}
        started.note(f"step {step}")
        (await run.http.post(url, json=about)).raise_for_status()
        await asyncio.sleep(run.settings.get("seconds", 0))


for _number in range(SAME):
    flow(f"work-{_number}")(work)


@flow("hurried", timeout=timedelta(seconds=3))
async def hurried(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
    """Do the same with little time."""
    await work(tenant_id, kv, run)
