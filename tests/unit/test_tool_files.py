"""The files for editors, pre-commit and GitHub use files, targets and versions that exist."""

import configparser
import json
import os
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
PYTHON_VERSION = (ROOT / ".python-version").read_text().strip()


def read_json(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def make_targets() -> set[str]:
    """Return the targets that `make` without a target prints."""
    return set(re.findall(r"^(\w+):.*## ", MAKEFILE, re.MULTILINE))


def make_commands(target: str) -> list[str]:
    """Return the commands of a target, as make runs them."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe, f"the Makefile has no target {target}"
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("target", ["test", "quick", "check", "format"])
def test_make_names_folders_that_exist(target: str) -> None:
    """A target does not silently leave out a folder that was moved."""
    named = [word for command in make_commands(target) for word in command.split() if word.startswith("tests")]

    assert [word for word in named if not list(ROOT.glob(word))] == []


def test_every_file_asks_for_the_same_python() -> None:
    """Files that cannot read .python-version repeat the version."""
    files = pyproject()
    compact = "py" + PYTHON_VERSION.replace(".", "")

    assert files["project"]["requires-python"].startswith(f">={PYTHON_VERSION},")
    assert (files["tool"]["ruff"]["target-version"], files["tool"]["mypy"]["python_version"]) == (
        compact,
        PYTHON_VERSION,
    )
    assert f"PYTHON ?= python{PYTHON_VERSION}" in MAKEFILE
    assert read_json(".devcontainer/devcontainer.json")["image"].endswith(f":{PYTHON_VERSION}")


def test_editor_tasks_run_make_targets() -> None:
    """Each task is `make` with one target."""
    tasks = read_json(".vscode/tasks.json")["tasks"]

    assert {task["command"] for task in tasks} == {"make"}
    assert {target for task in tasks for target in task["args"]} <= make_targets()


def test_debug_configurations_start_modules_that_exist() -> None:
    """They debug the tests of the open file, and the local app with its flows."""
    configurations = {one["module"]: one["args"] for one in read_json(".vscode/launch.json")["configurations"]}

    assert configurations == {"pytest": ["${file}"], "localdev": ["start"]}
    assert all(find_spec(module) for module in configurations)


def test_the_container_has_the_extensions_that_the_editor_recommends() -> None:
    """The formatter in the settings is one of these extensions."""
    recommended = read_json(".vscode/extensions.json")["recommendations"]

    assert read_json(".devcontainer/devcontainer.json")["customizations"]["vscode"]["extensions"] == recommended
    assert read_json(".vscode/settings.json")["[python]"]["editor.defaultFormatter"] in recommended


def test_the_container_is_set_up_by_make() -> None:
    """The container is installed by the same command as any other machine."""
    command, target = read_json(".devcontainer/devcontainer.json")["postCreateCommand"].split()

    assert command == "make"
    assert target in make_targets()


def test_a_commit_is_checked_by_the_commands_of_make_check() -> None:
    """The hooks are local, so they need no network and no second list of versions."""
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]

    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == make_commands("check")
    assert {(hook["language"], hook["pass_filenames"]) for hook in repository["hooks"]} == {("system", False)}


@pytest.mark.parametrize(
    ("name", "triggers", "command"),
    [
        ("ci.yml", {"push", "pull_request"}, ".ci/run"),
        ("advisories.yml", {"push", "pull_request", "schedule"}, "make audit"),
    ],
)
def test_github_runs_the_checks(name: str, triggers: set[str], command: str) -> None:
    """Each workflow is one job with one command, and the Python version of the project."""
    workflow = read_yaml(f".github/workflows/{name}")
    (job,) = workflow["jobs"].values()
    actions = {step["uses"]: step.get("with", {}) for step in job["steps"] if "uses" in step}
    commands = [step["run"] for step in job["steps"] if "run" in step]

    assert set(workflow[True]) == triggers  # YAML 1.1 reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    assert [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+", action)] == []
    (setup,) = [with_ for action, with_ in actions.items() if action.startswith("actions/setup-python@")]
    assert (ROOT / setup["python-version-file"]).read_text().strip() == PYTHON_VERSION
    assert len(list(ROOT.glob(setup["cache-dependency-path"]))) == 2
    assert commands == [command]


def test_what_github_runs_exists() -> None:
    """The script can be run, and the target is in the Makefile."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "audit" in make_targets()


def test_ci_runs_make_targets() -> None:
    """A developer can run the same commands."""
    (line,) = re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)

    assert set(line.split()) <= make_targets()


def test_editors_agree_with_the_formatter_and_with_make() -> None:
    """Lines have the length that ruff allows, and recipes start with a tab."""
    config = configparser.ConfigParser()
    config.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())

    assert config["top"]["root"] == "true"
    assert config["*.py"]["max_line_length"] == str(pyproject()["tool"]["ruff"]["line-length"])
    assert config["Makefile"]["indent_style"] == "tab"
