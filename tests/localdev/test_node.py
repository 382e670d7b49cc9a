import os
import sys
from pathlib import Path

import pytest

from localdev import node
from localdev.errors import NodeMissing, StartFailed

pytestmark = pytest.mark.usefixtures("node")

SILENT = "setInterval(() => {}, 1000);"
IGNORES_STDIN = "console.log(JSON.stringify({ ready: { pid: process.pid } }));" + SILENT


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(node, "SERVERS", tmp_path)
    return tmp_path


async def test_a_child_that_fails_is_reported_with_its_last_lines(scripts: Path) -> None:
    """The error names the part and the exit code, and shows the child's last lines."""
    (scripts / "broken.mjs").write_text('console.log("loading"); throw new Error("no such table");')
    with pytest.raises(StartFailed) as caught:
        async with node.node_server("The part", "broken.mjs", {}):
            pytest.fail("the child was not ready")
    message = str(caught.value)
    assert message.startswith("The part ended with exit code 1 before it was ready. Its last lines:")
    assert "loading" in message
    assert "no such table" in message


async def test_a_child_that_is_not_ready_in_time_is_ended(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error shows the time limit."""
    monkeypatch.setattr(node, "START_SECONDS", 0.5)
    monkeypatch.setattr(node, "STOP_SECONDS", 0.1)
    (scripts / "silent.mjs").write_text(SILENT)
    with pytest.raises(StartFailed, match=r"not ready within 0\.5 s\. .* It printed nothing\."):
        async with node.node_server("The part", "silent.mjs", {}):
            pytest.fail("the child was not ready")


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill works in another way")
async def test_a_child_that_does_not_exit_is_killed(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that continues after the end of its standard input is killed."""
    monkeypatch.setattr(node, "STOP_SECONDS", 0.1)
    (scripts / "ignores_stdin.mjs").write_text(IGNORES_STDIN)
    async with node.node_server("The part", "ignores_stdin.mjs", {}) as ready:
        pid = ready["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_missing_npm_packages_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the folder and the remedy."""
    monkeypatch.setattr(node, "PACKAGES", tmp_path / "node_modules")
    with pytest.raises(NodeMissing, match=r"npm packages are missing from .*node_modules. Run `make install`."):
        node.node_path()
