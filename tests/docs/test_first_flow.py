import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.first_flow import follow, pattern, steps, use_ports
from localdev.hosting import ROOT

PAGE = Path("docs", "first-flow.md")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a copy of the repository with the packages of this one. `make` does not install them again."""
    folder = tmp_path / "datasync"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "node_modules", "__pycache__"))
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder / "localdev" / "node_modules").symlink_to(ROOT / "localdev" / "node_modules")
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "make").write_text(
        f'#!/bin/sh\nexec {make} -o .venv/installed -o localdev/node_modules/installed "$@"\n', encoding="utf-8"
    )
    (tools / "make").chmod(0o755)
    return folder


@pytest.mark.usefixtures("storage", "database")  # which skip the test without Node
async def test_a_newcomer_can_follow_the_page(clone: Path) -> None:
    """Each command of the page succeeds and prints the lines of the page. Three edits have their results."""
    use_ports(clone / PAGE, "free")
    path = os.pathsep.join([str(clone.parent / "tools"), os.environ["PATH"]])

    measured = await follow(clone, {**os.environ, "PATH": path}, rounds=1)

    assert [*measured.edits] == ["test", "try", "app"]
    assert "Run it" in measured.sections


def test_the_page_has_commands_their_lines_and_changes() -> None:
    """A block that is none of these would not be followed."""
    found = steps((ROOT / PAGE).read_text(encoding="utf-8"))

    assert {step.language for step in found} == {"sh", "diff"}
    assert sum(bool(step.expected) for step in found) >= 5


@pytest.mark.parametrize(
    ("line", "output", "is_shown"),
    [
        ("2 passed in …", "=== 12 passed in 0.31s ===", True),
        ("DONE acme/a→b items=300", "DONE  acme/a→b   items=305", True),
        ("2 passed in …", "2 failed in 0.31s", False),
        ("`make tick` runs", "make tick runs", False),
    ],
)
def test_lines_are_compared_without_numbers(line: str, output: str, *, is_shown: bool) -> None:
    """Numbers and blanks may differ."""
    assert bool(re.search(pattern(line), output)) is is_shown
