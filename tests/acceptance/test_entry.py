"""function_app.py, indexed by Microsoft's worker library."""

import json
import os
import subprocess
import sys

import pytest

from localdev.hosting import ROOT

INDEX = """
import asyncio, json, os, socket
from pathlib import Path

def refuse(*_):
    raise RuntimeError("the network was touched at import")

socket.socket.connect = socket.getaddrinfo = refuse

from localdev.host.worker import Worker

worker = Worker(print)
worker.start()
functions = asyncio.run(worker.index(Path.cwd()))
print(json.dumps({one.name: [json.loads(binding) for binding in one.bindings] for one in functions}), flush=True)
os._exit(0)
"""


def indexed(**settings: str) -> dict[str, dict[str, str]]:
    """Index the app in a process that has only these settings. Return the trigger of each function."""
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
    found: dict[str, list[dict[str, str]]] = json.loads(ended.stdout.splitlines()[-1])
    return {name: bindings[0] for name, bindings in found.items()}


def test_it_is_indexed_without_settings_and_without_the_network() -> None:
    """Without settings, the timer is hourly and the queue is `flow-jobs`."""
    functions = indexed()

    assert set(functions) == {"orchestrator", "run_flow"}
    assert functions["orchestrator"].items() >= {"type": "timerTrigger", "schedule": "0 0 * * * *"}.items()
    assert (
        functions["run_flow"].items()
        >= {
            "type": "queueTrigger",
            "queueName": "flow-jobs",
            "connection": "AzureWebJobsStorage",
        }.items()
    )


@pytest.mark.parametrize(
    ("setting", "value", "function", "property_"),
    [
        ("ORCHESTRATOR_SCHEDULE", "0 */5 * * * *", "orchestrator", "schedule"),
        ("QUEUE_NAME", "my-jobs", "run_flow", "queueName"),
    ],
)
def test_its_triggers_use_the_settings(setting: str, value: str, function: str, property_: str) -> None:
    """The schedule of the timer and the name of the queue come from settings."""
    assert indexed(**{setting: value})[function][property_] == f"%{setting}%"
