"""The files that Core Tools, azd and Azure read agree with the code."""

import ast
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pathspec
import pytest

from datasync import settings
from datasync.flow.registry import DEFAULT_TIMEOUT
from datasync.model.job import HEAD_START
from datasync.settings import Settings
from datasync.version import VERSION

ROOT = Path(__file__).parent.parent.parent
HOST = json.loads((ROOT / "host.json").read_text())
FUNCIGNORE = [line for line in (ROOT / ".funcignore").read_text().splitlines() if line and line[0] != "#"]


def time_span(text: str) -> timedelta:
    hours, minutes, seconds = (int(part) for part in text.split(":"))
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def test_a_failed_message_waits_before_it_comes_back() -> None:
    """The host does not wait by default: all attempts would end within a second."""
    queues = HOST["extensions"]["queues"]

    assert time_span(queues["visibilityTimeout"]) >= timedelta(seconds=30)
    assert queues["messageEncoding"] == "base64"
    assert 1 <= queues["batchSize"] <= 32


def test_the_host_looks_often_enough_for_precise_mode() -> None:
    """The host finds a job, which appears HEAD_START early, in time."""
    assert time_span(HOST["extensions"]["queues"]["maxPollingInterval"]) <= HEAD_START


def test_a_flow_times_out_before_the_host_restarts_the_worker() -> None:
    """The functionTimeout of the host ends all runs of the process; the timeout of a flow ends one run."""
    assert time_span(HOST["functionTimeout"]) > DEFAULT_TIMEOUT


def test_sampling_keeps_exceptions_requests_and_traces() -> None:
    """Operators need each failure and each log line."""
    excluded = HOST["logging"]["applicationInsights"]["samplingSettings"]["excludedTypes"].split(";")

    assert {"Exception", "Request", "Trace"} <= set(excluded)


def test_the_extension_bundle_is_the_one_of_func_init() -> None:
    """It contains the queue trigger and the timer trigger."""
    assert HOST["extensionBundle"] == {
        "id": "Microsoft.Azure.Functions.ExtensionBundle",
        "version": "[4.*, 5.0.0)",
    }


def test_the_example_settings_are_complete_and_valid() -> None:
    """After its placeholders are filled in, the file starts the app. It has every setting, with the default."""
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


def core_tools_publishes(path: str) -> bool:
    """Tell whether `func azure functionapp publish` sends a file, by the rules of Core Tools.

    Source: GitIgnoreParser.cs and FileSystemHelpers.cs in Azure/azure-functions-core-tools.
    """
    *folders, name = path.split("/")
    if {".git", ".vscode"} & set(folders) or name in (".funcignore", ".gitignore", "local.settings.json"):
        return False

    def matches(pattern: str) -> re.Match[str] | None:
        parts = re.split(r"(\*\*|\*)", pattern.removeprefix("/"))
        expression = "".join({"**": ".+", "*": "[^/]+"}.get(part, re.escape(part)) for part in parts)
        return re.match(rf"{expression}\b", path, re.ASCII)

    exceptions = [pattern[1:] for pattern in FUNCIGNORE if pattern[0] == "!"]
    return any(map(matches, exceptions)) or not any(matches(pattern) for pattern in FUNCIGNORE if pattern[0] != "!")


def azd_publishes(path: str) -> bool:
    """Tell whether `azd deploy` sends a file: it reads .funcignore like a .gitignore, as VS Code does."""
    return not pathspec.GitIgnoreSpec.from_lines(FUNCIGNORE).match_file(path)


def files() -> Iterator[str]:
    """Yield the files here, without the folders that have thousands of them; the next test has examples of those."""
    for folder, subfolders, names in ROOT.walk():
        subfolders[:] = set(subfolders) - {".git", ".hypothesis", ".mypy_cache", ".venv", "node_modules"}
        yield from ((folder / name).relative_to(ROOT).as_posix() for name in names)


@pytest.mark.parametrize("publishes", [core_tools_publishes, azd_publishes])
def test_only_the_app_and_its_requirements_are_published(publishes: Callable[[str], bool]) -> None:
    """Nested caches, hidden files and local tools stay here."""
    app = [path for path in files() if re.fullmatch(r"(dashboard|datasync|flows)/.*\.py|dashboard/page/[^/]+", path)]

    published = {path for path in files() if publishes(path)}

    assert published == {"constraints.txt", "function_app.py", "host.json", "requirements.txt", *app}


@pytest.mark.parametrize("publishes", [core_tools_publishes, azd_publishes])
@pytest.mark.parametrize(
    "path",
    [
        ".azure/prod/.env",
        ".coverage",
        ".devcontainer/devcontainer.json",
        ".env",
        ".git/config",
        ".github/workflows/ci.yml",
        ".hypothesis/examples/0a",
        ".mypy_cache/3.13/datasync/cron.data.json",
        ".venv/.lock",
        ".venv/lib/python3.13/site-packages/datasync/x.py",
        "CONTRIBUTING.md",
        "__pycache__/function_app.cpython-313.pyc",
        "azure.yaml",
        "datasync/__pycache__/cron.cpython-313.pyc",
        "datasync/stores/__pycache__/jobs.cpython-313.pyc",
        "infra/main.bicep",
        "local.settings.json",
        "localdev/.npmrc",
        "localdev/node_modules/.package-lock.json",
        "tenant-999.json",
    ],
)
def test_files_of_a_developer_are_not_published(publishes: Callable[[str], bool], path: str) -> None:
    """Also those that are not here now."""
    assert not publishes(path)


@pytest.mark.parametrize("publishes", [core_tools_publishes, azd_publishes])
def test_packages_that_were_built_locally_are_published(publishes: Callable[[str], bool]) -> None:
    """Azure loads packages from .python_packages without a remote build."""
    assert publishes(".python_packages/lib/site-packages/httpx/__init__.py")


def requirements() -> set[str]:
    """Return the normalized names in requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {line.split("#")[0].strip().lower().replace("_", "-") for line in lines if line and line[0] not in "#-"}


def test_azure_runs_the_tested_version_of_the_python_worker() -> None:
    """Without this requirement, Azure runs its own default version."""
    assert "azure-functions-runtime" in requirements()


def pins(name: str) -> dict[str, str]:
    """Return the pins of a file of constraints: the normalized name of each package, and the rest of its block."""
    text = (ROOT / name).read_text()
    blocks = re.findall(r"^([\w.-]+)==(.+(?:\n +.+)*)", text, re.MULTILINE)
    rest = re.sub(r"^([\w.-]+)==(.+(?:\n +.+)*)\n|^#.*\n", "", text, flags=re.MULTILINE)
    assert rest == "", f"{name} has lines that are neither a pin nor a comment"
    return dict(blocks)


def test_azure_installs_the_tested_versions() -> None:
    """Each requirement has an exact version, which is the one that these tests run with."""
    versions = {name: rest.split()[0] for name, rest in pins("constraints.txt").items()}

    assert {name: versions.get(name) for name in requirements()} == {
        name: importlib.metadata.version(name) for name in requirements()
    }


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-dev.txt"])
def test_every_version_has_the_hashes_of_its_files(name: str) -> None:
    """A file that differs from the one that was pinned is not installed."""
    without = [package for package, rest in pins(name).items() if not re.search(r"--hash=sha256:[0-9a-f]{64}", rest)]

    assert pins(name)
    assert without == []


def test_a_package_is_pinned_once() -> None:
    """The two files cannot disagree."""
    assert set(pins("constraints.txt")) & set(pins("constraints-dev.txt")) == set()


def test_the_pins_are_included_before_the_names() -> None:
    """With `-c constraints.txt`, or with the names first, pip 24.0 to 26.0 refuse hashes for names without a version.

    https://github.com/pypa/pip/issues/9243
    """
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]

    assert [line for line in lines if line[0] == "-"] == lines[:1] == ["-r constraints.txt"]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
@pytest.mark.parametrize("tampered", [False, True])
def test_pip_installs_only_files_with_a_pinned_hash(tmp_path: Path, name: str, *, tampered: bool) -> None:
    """The includes of our file work with names without a version, as in our file. Azure runs the same command.

    https://github.com/microsoft/Oryx/blob/main/src/BuildScriptGenerator/Python/PythonBashBuildSnippet.sh.tpl
    """
    wheel = tmp_path / "one-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("one.py", "")
        archive.writestr("one-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: one\nVersion: 1.0\n")
        archive.writestr("one-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("one-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if tampered:
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("two.py", "")
    for source in ("requirements.txt", "requirements-dev.txt"):
        includes = [line for line in (ROOT / source).read_text().splitlines() if line.startswith("-")]
        (tmp_path / source).write_text("\n".join([*includes, "one", ""]))
    for source in ("constraints.txt", "constraints-dev.txt"):
        (tmp_path / source).write_text(f"one==1.0 --hash=sha256:{digest}\n")

    options = ["--isolated", "--no-index", f"--find-links={tmp_path}", "--no-cache-dir", f"--target={tmp_path / 'to'}"]
    pip = [sys.executable, "-m", "pip", "install", "--prefer-binary", *options, "-r", str(tmp_path / name)]
    ended = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter

    assert (ended.returncode == 0) == (not tampered), ended.stderr
    assert (tmp_path / "to" / "one.py").exists() == (not tampered)
    assert ("DO NOT MATCH THE HASHES" in ended.stderr) == tampered


def test_everything_the_app_imports_is_in_its_requirements() -> None:
    """Azure installs requirements.txt, and no package that only development needs."""
    required = requirements()
    distributions = importlib.metadata.packages_distributions()
    own = {"dashboard", "datasync", "flows"}
    app = [ROOT / "function_app.py", *(ROOT / "dashboard").glob("*.py"), *(ROOT / "flows").glob("*.py")]
    app += [
        path
        for path in (ROOT / "datasync").rglob("*.py")
        if path.name != "__main__.py" and path.parent.name not in ("cli", "testing")
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


def test_the_version_is_the_same_everywhere() -> None:
    """The app knows its version, since a new one makes the next tick examine all documents."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
