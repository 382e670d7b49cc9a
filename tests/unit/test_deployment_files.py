"""The files that `func` and Azure read, held against the code."""

import ast
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from datasync import settings
from datasync.flow.registry import DEFAULT_TIMEOUT
from datasync.model.job import HEAD_START
from datasync.settings import Settings

ROOT = Path(__file__).parent.parent.parent
HOST = json.loads((ROOT / "host.json").read_text())


def time_span(text: str) -> timedelta:
    hours, minutes, seconds = (int(part) for part in text.split(":"))
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def test_a_failed_message_waits_before_it_comes_back() -> None:
    """With the host's default of no delay, all attempts would be over within a second."""
    queues = HOST["extensions"]["queues"]

    assert time_span(queues["visibilityTimeout"]) >= timedelta(seconds=30)
    assert queues["messageEncoding"] == "base64"
    assert 1 <= queues["batchSize"] <= 32


def test_the_host_looks_often_enough_for_precise_mode() -> None:
    """A job that appears LEAD early is found in time."""
    assert time_span(HOST["extensions"]["queues"]["maxPollingInterval"]) <= HEAD_START


def test_a_flow_times_out_before_the_host_restarts_the_worker() -> None:
    """The host's functionTimeout takes every run of the process down, a flow's own timeout only itself."""
    assert time_span(HOST["functionTimeout"]) > DEFAULT_TIMEOUT


def test_sampling_never_drops_an_exception() -> None:
    """Nor the lines that say what ran."""
    excluded = HOST["logging"]["applicationInsights"]["samplingSettings"]["excludedTypes"].split(";")

    assert {"Exception", "Request", "Trace"} <= set(excluded)


def test_the_bundle_is_the_one_the_tools_expect() -> None:
    """Queue and timer triggers come from the extension bundle."""
    assert HOST["extensionBundle"] == {
        "id": "Microsoft.Azure.Functions.ExtensionBundle",
        "version": "[4.*, 5.0.0)",
    }


def test_the_example_settings_are_complete_and_valid() -> None:
    """Copied and filled in, they start the app; every setting the app reads is there, with its default."""
    example = json.loads((ROOT / "local.settings.json.example").read_text())
    values = {name: re.sub(r"<[^>]+>", "acme", value) for name, value in example["Values"].items()}
    read = Settings.from_environ(values)

    assert example["IsEncrypted"] is False
    assert all(isinstance(value, str) for value in example["Values"].values())
    source = Path(settings.__file__).read_text()
    in_code = set(re.findall(r'"((?:COSMOS|QUEUE|KEY_VAULT|ORCHESTRATOR|RUN)_[A-Z_]+)"', source))
    assert in_code - set(values) == {"COSMOS_ENDPOINT"}, "the other form of COSMOS_CONNECTION_STRING"
    defaults = {name: values[name] for name in ("AzureWebJobsStorage", "COSMOS_CONNECTION_STRING", "KEY_VAULT_URI")}
    assert read == Settings.from_environ(defaults)


def ignored(name: str) -> bool:
    patterns = [line for line in (ROOT / ".funcignore").read_text().splitlines() if line and line[0] != "#"]
    return any(re.fullmatch(pattern.rstrip("/").replace(".", r"\.").replace("*", ".*"), name) for pattern in patterns)


def test_what_runs_in_azure_is_published_and_nothing_else() -> None:
    """Local tooling, tests and secrets stay here."""
    here = {path.name for path in ROOT.iterdir()} | {"local.settings.json", ".python_packages"}
    published = {name for name in here if not ignored(name)}

    assert published & {path.name for path in ROOT.iterdir() if path.is_dir()} >= {"datasync", "flows"}
    assert published - {".python_packages", "__pycache__"} == {
        "constraints.txt",
        "datasync",
        "flows",
        "function_app.py",
        "host.json",
        "requirements.txt",
    }


def test_everything_the_app_imports_is_in_its_requirements() -> None:
    """Azure installs requirements.txt, and nothing that only development needs."""
    required = {
        re.match(r"[\w-]+", line)[0].lower().replace("_", "-")  # type: ignore[index]
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and line[0] not in "#-"
    }
    distributions = importlib.metadata.packages_distributions()
    own = {"datasync", "flows"}
    app = [ROOT / "function_app.py", *(ROOT / "flows").glob("*.py")]
    app += [
        path for path in (ROOT / "datasync").rglob("*.py") if path.name != "__main__.py" and path.parent.name != "cli"
    ]
    for path in app:
        for name in imports(path):
            top = name.partition(".")[0]
            if top in own or top in sys.stdlib_module_names:
                continue
            if top == "azure":  # one namespace, many distributions: azure.cosmos.aio is azure-cosmos
                parts = name.split(".")
                candidates = {"-".join(parts[:length]) for length in (2, 3)}
            else:
                candidates = {one.lower().replace("_", "-") for one in distributions[top]}
            assert candidates & required, f"{path.name} imports {name}"


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
