"""function_app.py, indexed by Microsoft's worker library."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from localdev.host.backoff import Backoff
from localdev.hosting import ROOT

INDEX = """
import asyncio, json, os, socket
from dataclasses import asdict
from pathlib import Path

def refuse(*_):
    raise RuntimeError("the network was touched at import")

socket.socket.connect = socket.getaddrinfo = refuse

from localdev.host.worker import Worker

worker = Worker(print)
worker.start()
functions = asyncio.run(worker.index(Path.cwd()))
found = {
    one.name: {**json.loads(one.bindings[0]), "retry": one.retry_options and asdict(one.retry_options)}
    for one in functions
}
print(json.dumps(found, default=lambda interval: interval.total_seconds()), flush=True)
os._exit(0)
"""


def indexed(**settings: str) -> dict[str, dict[str, Any]]:
    """Index the app in a process that has only these settings.

    Return the trigger of each function, and its retry policy as `retry`, with intervals in seconds.
    """
    environ = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ}
    ended = subprocess.run(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", INDEX],
        cwd=ROOT,
        env={**environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_it_is_indexed_without_settings_and_without_the_network() -> None:
    """Without settings, the timer is hourly and the queues are `flow-jobs` and `flow-jobs-poison`."""
    functions = indexed()

    assert set(functions) == {"orchestrator", "run_flow", "bury", "ops_health"}
    assert functions["orchestrator"].items() >= {"type": "timerTrigger", "schedule": "0 0 * * * *"}.items()
    for name, queue in (("run_flow", "flow-jobs"), ("bury", "flow-jobs-poison")):
        expected = {"type": "queueTrigger", "queueName": queue, "connection": "AzureWebJobsStorage"}
        assert functions[name].items() >= expected.items()


@pytest.mark.parametrize("mode", ["off", "Key", "entra", "yes"])
def test_the_dashboard_has_routes_only_where_it_is_protected(mode: str) -> None:
    """In mode `key` the platform asks for the function key of data and changes. The health is for monitors."""
    functions = indexed(DASHBOARD=mode)
    routes = {one["route"]: (one["methods"], one["authLevel"]) for one in functions.values() if "route" in one}

    guarded = {"Key": "FUNCTION", "entra": "ANONYMOUS"}.get(mode)
    dashboard = {
        "ops": (["GET"], "ANONYMOUS"),
        "ops/assets/{name}": (["GET"], "ANONYMOUS"),
        "ops/data/{question}": (["GET"], guarded),
        "ops/actions/{name}": (["POST"], guarded),
    }
    assert routes == {"ops/health": (["GET", "HEAD"], "ANONYMOUS"), **(dashboard if guarded else {})}


LAZY = """
import sys
from localdev.host.worker import Worker
before = set(sys.modules)
import function_app
print(sorted(name for name in set(sys.modules) - before if name.startswith(("dashboard", "datasync.operate"))))
"""


def test_timer_and_queue_do_not_import_the_dashboard() -> None:
    """Its modules are imported at the first request, which comes to processes of their own."""
    ended = subprocess.run(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", LAZY],
        cwd=ROOT,
        env={**os.environ, "DASHBOARD": "key"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ended.stdout.strip() == "['dashboard', 'dashboard.blueprint']"


def test_a_failed_tick_is_repeated_within_the_hour() -> None:
    """The pauses grow from 15 seconds to 5 minutes. Together they are shorter than the hour between two ticks."""
    functions = indexed()

    retry = functions["orchestrator"]["retry"]
    assert retry.items() >= {"retry_strategy": "exponential_backoff", "max_retry_count": 15}.items()
    assert (retry["minimum_interval"], retry["maximum_interval"]) == (15, 300)
    backoff = Backoff(timedelta(seconds=15), timedelta(seconds=300))
    pauses = sum((backoff.next() for _ in range(15)), timedelta())
    assert timedelta(minutes=50) < pauses < timedelta(minutes=57)
    assert [functions[name]["retry"] for name in ("run_flow", "bury")] == [None, None], "queues have no retry policy"


@pytest.mark.parametrize(
    ("setting", "value", "function", "property_", "expected"),
    [
        ("ORCHESTRATOR_SCHEDULE", "0 */5 * * * *", "orchestrator", "schedule", "%ORCHESTRATOR_SCHEDULE%"),
        ("QUEUE_NAME", "my-jobs", "run_flow", "queueName", "%QUEUE_NAME%"),
        ("QUEUE_NAME", "my-jobs", "bury", "queueName", "%QUEUE_NAME%-poison"),
    ],
)
def test_its_triggers_use_the_settings(setting: str, value: str, function: str, property_: str, expected: str) -> None:
    """The schedule of the timer and the names of the queues come from settings."""
    assert indexed(**{setting: value})[function][property_] == expected
