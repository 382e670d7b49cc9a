"""Commands in a shell in which the environment of the project is not active."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from localdev.hosting import ROOT
from localdev.packages import PACKAGES

REMEDY = "Activate the environment (. .venv/bin/activate, Windows: .venv\\Scripts\\activate) or run make install"


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own interpreter and modules
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def imported(folder: str) -> set[str]:
    """Return the top-level names of all modules that a folder imports."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        if "node_modules" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("module", ["localdev", "localdev.host"])
def test_without_packages_a_sentence_names_the_remedy(module: str) -> None:
    """Without site-packages, the first import of a package fails."""
    ended = python("-S", "-m", module)

    assert ended.stderr == f"python -m {module} needs the packages of this project. {REMEDY}\n"
    assert ended.returncode == 1


@pytest.mark.parametrize("module", ["localdev", "localdev.host"])
def test_another_missing_module_has_a_traceback(tmp_path: Path, module: str) -> None:
    """A mistake in an import of the project is not a missing package."""
    (tmp_path / "aiohttp.py").write_text("import no_such_module\n")

    ended = python("-m", module, PYTHONPATH=str(tmp_path))

    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.endswith("ModuleNotFoundError: No module named 'no_such_module'\n")
    assert ended.returncode == 1


def test_all_packages_of_the_commands_are_known() -> None:
    """Any of them may be the first one that is missing."""
    ours = {"localdev", "datasync", "flows", "function_app"}
    of_the_plugin = {"pytest", "pytest_asyncio", "vcr"}  # which pytest imports

    third_party = (imported("localdev") | imported("datasync") | imported("flows")) - sys.stdlib_module_names - ours

    assert third_party - of_the_plugin == PACKAGES
