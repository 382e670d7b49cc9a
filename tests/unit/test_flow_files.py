"""A flow file that cannot be loaded disables only its own flows."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from datasync import FlowRegistry
from datasync.errors import FlowUnknown

GOOD = """
from {package}.registry import flow

@flow("good")
async def good(tenant_id, kv): ...
"""


class Package:
    """A package of flows in a temporary folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder / name
        self._folder.mkdir()
        self.write("__init__", "")
        self.write("registry", "from datasync import FlowRegistry\nregistry = FlowRegistry()\nflow = registry.flow\n")

    def write(self, module: str, source: str) -> None:
        (self._folder / f"{module}.py").write_text(source.replace("{package}", self.name))

    def load(self) -> FlowRegistry:
        importlib.invalidate_caches()
        package: ModuleType = importlib.import_module(self.name)
        registry: FlowRegistry = importlib.import_module(f"{self.name}.registry").registry
        registry.load(package)
        return registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    name = "flows_under_test"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Package(tmp_path, name)
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("async def broken(:\n", "SyntaxError"),
        ("import a_package_that_is_not_there\n", "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
        ("raise SystemExit('no settings')\n", "SystemExit: no settings"),
        (GOOD, "'good' in .*broken.py is already registered by .*a_good.py"),
        (GOOD.replace('"good"', '"bad"').replace("async def", "def"), "good must be `async def`"),
        (GOOD.replace('"good"', '"bad"').replace("tenant_id, kv", "tenant_id"), r"the signature is good\(tenant_id\)"),
    ],
)
def test_a_broken_file_does_not_disable_the_others(package: Package, source: str, cause: str) -> None:
    """The registry keeps the cause. The error for an unknown flow contains it."""
    package.write("a_good", GOOD)
    package.write("broken", source)

    registry = package.load()

    assert [flow.name for flow in registry] == ["good"]
    assert list(registry.broken) == ["flows_under_test.broken"]
    with pytest.raises(FlowUnknown, match=rf"no flow is named 'lost'.*flows_under_test.broken could not.*{cause}"):
        registry.resolve("lost")


def test_a_file_registers_all_of_its_flows_or_none(package: Package) -> None:
    """A file that fails after its first flow registers none of its flows."""
    package.write("halfway", GOOD + "\nraise RuntimeError('halfway')\n")

    registry = package.load()

    assert list(registry) == []
    assert "RuntimeError: halfway" in registry.broken["flows_under_test.halfway"]


def test_a_broken_file_is_logged_with_its_traceback(package: Package, caplog: pytest.LogCaptureFixture) -> None:
    """The log line names the file, and the traceback shows the line."""
    package.write("broken", "x = 1\nraise RuntimeError('at line 2')\n")

    package.load()

    assert "flow file flows_under_test.broken could not be loaded" in caplog.text
    assert 'broken.py", line 2' in caplog.text
    assert "RuntimeError: at line 2 (broken.py, line 2)" in caplog.text


def test_the_included_flows_load() -> None:
    """Every file in flows/ loads without an error."""
    flows, registry = importlib.import_module("flows"), importlib.import_module("flows.registry").registry
    registry.load(flows)

    assert {flow.name for flow in registry} >= {"weather", "home-depot→builder-prime"}
    assert registry.broken == {}


def test_a_file_that_was_changed_after_the_start_is_named(package: Package) -> None:
    """The process has the files as they were when it started. The error for an unknown flow says so."""
    package.write("a_good", GOOD)
    registry = package.load()

    with pytest.raises(FlowUnknown) as before:
        registry.resolve("lost")
    package.write("later", GOOD.replace('"good"', '"lost"'))
    with pytest.raises(FlowUnknown) as after:
        registry.resolve("lost")

    newer = "; flows_under_test/later.py was changed after this process started: restart it"
    assert str(after.value) == f"{before.value}{newer}"
