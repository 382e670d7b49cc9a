"""The Makefile, in a folder of its own. Its interpreters only record their calls."""

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

REQUIREMENTS = ("requirements.txt", "requirements-dev.txt", "constraints.txt", "constraints-dev.txt")

# Answers the question for its version, and creates an environment whose interpreter is a copy of `environment`.
INTERPRETER = """#!/bin/sh
case "$1" in
-c) echo {version} ;;
-m)
    echo "$@" >> {folder}/calls
    [ "$2" = venv ] || exit 1
    for folder in "$@"; do :; done  # the last argument
    [ "$3" = --clear ] && rm -rf "$folder"
    mkdir -p "$folder/bin" && cp {folder}/environment "$folder/bin/python"
    ;;
esac
"""
# pip and uv fail while a file named `offline` exists. uv writes one pin into its output file.
ENVIRONMENT = """#!/bin/sh
case "$1" in
-c) echo {version} ;;
-m)
    echo "$@" >> {folder}/calls
    case "$2" in pip | uv) [ ! -e {folder}/offline ] || exit 1 ;; esac
    while [ $# -gt 0 ]; do
        [ "$1" = --output-file ] && echo "$(basename "$2" .txt)==1.0" > "$2"
        shift
    done
    ;;
esac
"""

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and shutil.which("make") is None, reason="make is not installed"
)


@dataclass(frozen=True)
class Checkout:
    """A folder with the Makefile and the files that its targets depend on."""

    folder: Path
    tools: Path

    def interpreter(self, version: str = "3.13") -> str:
        """Create an interpreter that reports this version. Return its path."""
        path = executable(self.tools / f"python{version}", INTERPRETER.format(version=version, folder=self.tools))
        executable(self.tools / "environment", ENVIRONMENT.format(version=version, folder=self.tools))
        return str(path)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own Makefile
            ["make", *arguments],  # noqa: S607
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", "")},  # without the MAKEFLAGS of a `make test` around this test
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """Return the modules that were run since the last call, such as `venv` and `pip`."""
        return [line.split()[1] for line in self.lines()]

    def lines(self) -> list[str]:
        """Return the arguments of each call since the last one."""
        log = self.tools / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a new checkout in which nothing is installed."""
    made = Checkout(tmp_path / "checkout", tmp_path / "tools")
    made.folder.mkdir()
    made.tools.mkdir()
    for name in ("Makefile", ".python-version", *REQUIREMENTS):
        shutil.copy(ROOT / name, made.folder)
    return made


INSTALLED = ["venv", "pip"]
CHECKED = ["ruff", "ruff", "mypy"]


def test_without_a_target_it_prints_the_targets_and_changes_nothing(checkout: Checkout) -> None:
    """Every phony target has a line."""
    makefile = (ROOT / "Makefile").read_text()
    targets = next(line for line in makefile.splitlines() if line.startswith(".PHONY: help")).split()[1:]

    ended = checkout.make()

    assert ended.returncode == 0
    listed = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines()[1:]}
    assert set(listed) == set(targets)
    assert all(listed.values()), "a target has no description"
    assert not (checkout.folder / ".venv").exists()


def test_it_installs_once(checkout: Checkout) -> None:
    """The second run uses the environment of the first."""
    python = checkout.interpreter()

    assert checkout.make(f"PYTHON={python}", "check").returncode == 0
    assert checkout.calls() == [*INSTALLED, *CHECKED]
    assert checkout.make(f"PYTHON={python}", "check").returncode == 0
    assert checkout.calls() == CHECKED


def test_an_interpreter_of_another_version_is_refused(checkout: Checkout) -> None:
    """The message names the version that is needed, the one that was found, and the way to name another."""
    python = checkout.interpreter("3.12")

    ended = checkout.make(f"PYTHON={python}", "check")

    assert ended.returncode != 0
    assert f"DataSync needs Python 3.13, but {python} is Python 3.12." in ended.stderr
    assert "make PYTHON=/path/to/python3.13 check" in ended.stderr
    assert not (checkout.folder / ".venv").exists()
    assert checkout.calls() == []


@pytest.mark.parametrize("target", ["check", "lock"])
def test_a_missing_interpreter_is_named(checkout: Checkout, target: str) -> None:
    """The message has the same remedy. The pinned versions are not changed."""
    pinned = (checkout.folder / "constraints.txt").read_text()

    ended = checkout.make("PYTHON=/nowhere/python3.13", target)

    assert ended.returncode != 0
    assert "DataSync needs Python 3.13, but /nowhere/python3.13 does not run." in ended.stderr
    assert f"make PYTHON=/path/to/python3.13 {target}" in ended.stderr
    assert not (checkout.folder / ".venv").exists()
    assert (checkout.folder / "constraints.txt").read_text() == pinned


def test_an_installation_that_failed_is_repeated(checkout: Checkout) -> None:
    """The next run does not use the environment of the failed installation. It starts with an empty one."""
    python = checkout.interpreter()
    (checkout.tools / "offline").touch()
    assert checkout.make(f"PYTHON={python}", "check").returncode != 0
    assert checkout.calls() == INSTALLED
    remains = checkout.folder / ".venv" / "remains"
    remains.touch()

    (checkout.tools / "offline").unlink()
    assert checkout.make(f"PYTHON={python}", "check").returncode == 0

    assert checkout.calls() == [*INSTALLED, *CHECKED]
    assert not remains.exists()


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_changed_requirements_are_installed(checkout: Checkout, name: str) -> None:
    """They are installed into an empty environment, so that packages that are not required any more are removed."""
    python = checkout.interpreter()
    checkout.make(f"PYTHON={python}", "check")
    checkout.calls()

    later = (checkout.folder / ".venv" / "installed").stat().st_mtime + 60
    os.utime(checkout.folder / name, (later, later))
    assert checkout.make(f"PYTHON={python}", "check").returncode == 0

    assert checkout.calls() == [*INSTALLED, *CHECKED]


def test_an_environment_without_its_interpreter_is_created_again(checkout: Checkout) -> None:
    """An upgrade of the system removes the interpreter. A container with the folder mounted does not have it."""
    python = checkout.interpreter()
    checkout.make(f"PYTHON={python}", "check")
    checkout.calls()

    (checkout.folder / ".venv" / "bin" / "python").unlink()
    assert checkout.make(f"PYTHON={python}", "check").returncode == 0

    assert checkout.calls() == [*INSTALLED, *CHECKED]


def test_an_environment_of_another_version_is_created_again(checkout: Checkout) -> None:
    """It was created by hand, or before the project changed its Python version."""
    python = checkout.interpreter()
    checkout.make(f"PYTHON={python}", "check")
    checkout.calls()

    executable(checkout.folder / ".venv" / "bin" / "python", ENVIRONMENT.format(version="3.12", folder=checkout.tools))
    assert checkout.make(f"PYTHON={python}", "check").returncode == 0

    assert checkout.calls() == [*INSTALLED, *CHECKED]


def test_an_environment_of_another_version_is_kept_if_it_cannot_be_replaced(checkout: Checkout) -> None:
    """The interpreter is checked first. Without Python 3.13, nothing is removed or run."""
    python = checkout.interpreter()
    checkout.make(f"PYTHON={python}", "check")
    checkout.calls()
    inside = checkout.folder / ".venv" / "bin" / "python"
    executable(inside, ENVIRONMENT.format(version="3.12", folder=checkout.tools))

    ended = checkout.make("PYTHON=/nowhere/python3.13", "check")

    assert ended.returncode != 0
    assert "does not run" in ended.stderr
    assert inside.exists()
    assert checkout.calls() == []


@pytest.mark.parametrize(("arguments", "option"), [([], ""), (["TRACE=1"], "--trace")])
def test_start_prints_spans_if_it_is_asked_to(checkout: Checkout, arguments: list[str], option: str) -> None:
    """An option of make cannot have two hyphens."""
    (checkout.folder / "localdev").mkdir()
    for name in ("package.json", "package-lock.json"):
        (checkout.folder / "localdev" / name).touch()

    ended = checkout.make("--dry-run", "start", *arguments, f"PYTHON={checkout.interpreter()}")

    last = ended.stdout.splitlines()[-1]
    assert last.rstrip() == f".venv/bin/python -m localdev start {option}".rstrip()


def test_lock_pins_the_packages_of_each_requirements_file(checkout: Checkout) -> None:
    """The packages of the app come first, with hashes. Packages pinned there are not pinned again for development."""
    python = checkout.interpreter()

    assert checkout.make(f"PYTHON={python}", "lock").returncode == 0

    venv, pip, app, development = checkout.lines()
    assert [call.split()[1] for call in (venv, pip)] == INSTALLED
    assert all("--universal" in call and "--generate-hashes" in call for call in (app, development))
    assert "--constraint .lock/constraints.txt --no-emit-package=constraints" in development
    pinned = {name: (checkout.folder / name).read_text() for name in ("constraints.txt", "constraints-dev.txt")}
    assert pinned == {"constraints.txt": "constraints==1.0\n", "constraints-dev.txt": "constraints-dev==1.0\n"}
    assert not (checkout.folder / ".lock").exists()


def test_lock_without_a_network_changes_no_pins(checkout: Checkout) -> None:
    """The files are replaced only after the new lists are complete."""
    python = checkout.interpreter()
    checkout.make(f"PYTHON={python}", "check")
    checkout.calls()
    pinned = [(checkout.folder / name).read_text() for name in REQUIREMENTS]
    (checkout.tools / "offline").touch()

    assert checkout.make(f"PYTHON={python}", "lock").returncode != 0

    assert checkout.calls() == ["uv"]
    assert [(checkout.folder / name).read_text() for name in REQUIREMENTS] == pinned
