"""`bin/datasync`, in a project of its own whose environment has the interpreter of the tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the entry point is a shell script")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a blank in its name, with the entry point, the package and an environment."""
    folder = tmp_path / "my project"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "bin" / "datasync", folder / "bin")
    for part in ("datasync", "flows", "host.json"):
        (folder / part).symlink_to(ROOT / part)
    interpreter = folder / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    interpreter.chmod(0o755)
    return folder


def run(project: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the entry point in another folder."""
    return subprocess.run(  # noqa: S603 - our own script
        [project / "bin" / "datasync", *arguments],
        cwd=project.parent,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_the_command_line_from_any_folder(project: Path) -> None:
    """Under its own name, with the arguments as they are."""
    helped = run(project, "--help")
    ran = run(project, "schedule", "0 0 6 * * *", "--count", "1")

    assert helped.stdout.startswith("Usage: datasync [OPTIONS] COMMAND")
    assert (ran.returncode, "T06:00:00Z" in ran.stdout) == (0, True)


@pytest.mark.parametrize(("words", "completed"), [("datasync dead re", "retry"), ("datasync pause --re", "--reason")])
def test_a_shell_completes_commands_and_options(project: Path, words: str, completed: str) -> None:
    """As the function asks that `_DATASYNC_COMPLETE=bash_source datasync` prints."""
    position = str(len(words.split()) - 1)
    asked = run(project, _DATASYNC_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=position)
    source = run(project, _DATASYNC_COMPLETE="bash_source")

    assert asked.stdout == f"plain,{completed}\n"
    assert "complete -o nosort -F _datasync_completion datasync" in source.stdout


def test_without_an_environment_it_says_how_to_make_one(project: Path) -> None:
    """Exit code 2."""
    shutil.rmtree(project / ".venv")
    ran = run(project, "status")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"datasync: there is no {project}/.venv: run make install in {project}\n"
