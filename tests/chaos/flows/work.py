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
    """Wait, and write the effect. Settings, all optional:

    * `seconds`: the time of the work.
    * `deferrals`: raise RetryLater in this number of first attempts.
    * `failures`: fail in this number of first attempts.
    * `secret`: read the tenant's secret `api--token`.
    * `url`, `steps`: send each step's effect to this URL, instead of one effect at the end.
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
        await asyncio.sleep(settings.get("seconds", 0))
        if run.attempt <= settings.get("deferrals", 0):
            raise RetryLater(timedelta())
        started.effect()


async def _send_steps(run: FlowRun, started: Execution, url: str) -> None:
    for step in range(run.settings["steps"]):
        about = {"run": run.run_id, "step": step, "pid": os.getpid(), "execution": started.id}
        (await run.http.post(url, json=about)).raise_for_status()
        await asyncio.sleep(run.settings.get("seconds", 0))


for _number in range(SAME):
    flow(f"work-{_number}")(work)


@flow("hurried", timeout=timedelta(seconds=1))
async def hurried(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
    """Do the same with little time."""
    await work(tenant_id, kv, run)
