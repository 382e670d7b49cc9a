"""function_app.py, as Microsoft's worker library sees it."""

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
    """Index the app in a process that has these settings and no others; return each function's trigger."""
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


def test_it_indexes_with_no_setting_at_all_and_without_the_network() -> None:
    """A Function App that is not configured yet still shows its two functions, hourly and on `flow-jobs`."""
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
def test_its_triggers_name_the_settings_that_are_set(setting: str, value: str, function: str, property_: str) -> None:
    """The host and the platform's scale controller resolve `%SETTING%`, whether the app is awake or not."""
    assert indexed(**{setting: value})[function][property_] == f"%{setting}%"
