"""The npm packages under localdev/."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from localdev.node import PACKAGES, node_path

LOCALDEV = PACKAGES.parent
MANIFEST = json.loads((LOCALDEV / "package.json").read_text(encoding="utf-8"))
LOCKED: dict[str, Any] = json.loads((LOCALDEV / "package-lock.json").read_text(encoding="utf-8"))["packages"]
LEFT_OUT = sorted(MANIFEST["overrides"])


def test_few_packages_come_from_a_registry() -> None:
    """Each has the hash of its file, and none has the address of a registry."""
    fetched = {path: package for path, package in LOCKED.items() if "version" in package and "node_modules/" in path}

    assert len(fetched) <= 120
    assert [path for path, package in fetched.items() if not package["integrity"].startswith("sha512-")] == []
    assert {package.get("resolved", "left-out") for package in LOCKED.values()} == {"left-out"}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_package_is_left_out_wherever_it_is_required(name: str) -> None:
    """One entry, which is a link to the package that takes its place."""
    entries = [package for path, package in LOCKED.items() if path.endswith(f"node_modules/{name}")]

    assert entries == [{"resolved": "left-out", "link": True}]
    assert MANIFEST["dependencies"][name] == "file:left-out"


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_use_of_a_package_that_is_left_out_fails(tmp_path: Path, name: str) -> None:
    """It can be loaded, and a class of it extended. The message says why it does not work."""
    script = tmp_path / "use.cjs"
    script.write_text(
        f"const loaded = require({json.dumps(str(PACKAGES / name))}); class Own extends loaded.Model {{}}\n"
        "try { new Own(); } catch (error) { console.log(error.message); }\n"
        "try { loaded.get(); } catch (error) { console.log(error.message); }\n"
        "try { loaded(); } catch (error) { console.log(error.message); }\n"
    )
    ended = subprocess.run([node_path(), script], capture_output=True, text=True, check=True)  # noqa: S603 - our own Node

    assert ended.stdout.splitlines() == [
        "Model() is part of an npm package that localdev/package.json leaves out.",
        "get() is part of an npm package that localdev/package.json leaves out.",
        "This function is part of an npm package that localdev/package.json leaves out.",
    ]
