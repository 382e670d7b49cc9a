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

    assert set(functions) == {"orchestrator", "run_flow", "bury"}
    assert functions["orchestrator"].items() >= {"type": "timerTrigger", "schedule": "0 0 * * * *"}.items()
    for name, queue in (("run_flow", "flow-jobs"), ("bury", "flow-jobs-poison")):
        expected = {"type": "queueTrigger", "queueName": queue, "connection": "AzureWebJobsStorage"}
        assert functions[name].items() >= expected.items()


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
