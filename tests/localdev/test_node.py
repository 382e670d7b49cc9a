import os
import sys
from pathlib import Path

import pytest

from localdev import node
from localdev.errors import NodeMissing, StartFailed

pytestmark = pytest.mark.usefixtures("node")

SILENT = "setInterval(() => {}, 1000);"
DEAF = "console.log(JSON.stringify({ ready: { pid: process.pid } }));" + SILENT


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(node, "SERVERS", tmp_path)
    return tmp_path


async def test_a_child_that_breaks_is_reported_with_its_last_lines(scripts: Path) -> None:
    """The error names the part and the exit code, and shows what the child said last."""
    (scripts / "broken.mjs").write_text('console.log("loading"); throw new Error("no such table");')
    with pytest.raises(StartFailed) as caught:
        async with node.node_server("The part", "broken.mjs", {}):
            pytest.fail("it never said it was ready")
    message = str(caught.value)
    assert message.startswith("The part ended with exit code 1 before it was ready. Its last lines:")
    assert "loading" in message
    assert "no such table" in message


async def test_a_child_that_says_nothing_is_given_up(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is not waited for forever."""
    monkeypatch.setattr(node, "START_SECONDS", 0.5)
    monkeypatch.setattr(node, "STOP_SECONDS", 0.1)
    (scripts / "silent.mjs").write_text(SILENT)
    with pytest.raises(StartFailed, match=r"The part was not ready within 0.5 s. It printed nothing."):
        async with node.node_server("The part", "silent.mjs", {}):
            pytest.fail("it never said it was ready")


@pytest.mark.skipif(sys.platform == "win32", reason="asks for a process the POSIX way")
async def test_a_child_that_does_not_end_is_killed(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that stays when its standard input ends is ended all the same."""
    monkeypatch.setattr(node, "STOP_SECONDS", 0.1)
    (scripts / "deaf.mjs").write_text(DEAF)
    async with node.node_server("The part", "deaf.mjs", {}) as ready:
        pid = ready["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_missing_packages_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started, the error says what to run."""
    monkeypatch.setattr(node, "PACKAGES", tmp_path / "node_modules")
    with pytest.raises(NodeMissing, match=r"npm packages are missing from .*node_modules. Run `make install`."):
        node.node_path()
