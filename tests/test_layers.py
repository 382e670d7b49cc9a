"""The arrows between the rooms of the code, held against its own imports and calls."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = {
    "errors": set(),
    "version": set(),
    "clock": set(),
    "cron": {"errors"},
    "settings": {"errors"},
    "model": {"errors"},
    "stores": {"errors", "model"},
    "telemetry": {"errors", "model"},
    "clients": {"errors", "settings", "stores"},
    "flow": {"clock", "errors", "model", "telemetry", "version"},
    "services": {"clients", "clock", "flow", "settings", "stores"},
    "health": {"errors", "services"},
    "tick": {"cron", "errors", "flow", "model", "services", "stores", "telemetry"},
    "run": {"errors", "flow", "model", "services", "telemetry"},
    "cli": {"cron", "errors", "flow", "health", "model", "services", "settings", "tick"},
    "__main__": {"cli"},
    "__init__": {"errors", "flow"},
}
"""Each room of `datasync`, and the rooms that it may import."""

PURE = ("errors.py", "cron.py", "model/*.py", "tick/check.py", "tick/plan.py")


def modules(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "node_modules" not in path.parts]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def in_package(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def room(path: Path) -> str:
    return path.relative_to(ROOT / "datasync").parts[0].removesuffix(".py")


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path) if in_package(name, "datasync"))
    return {parts[1] for parts in names if len(parts) > 1}


PRODUCT = [ROOT / "function_app.py", *modules("datasync"), *modules("flows")]
PURE_FILES = [path for pattern in PURE for path in sorted((ROOT / "datasync").glob(pattern))]


def test_there_is_something_to_check() -> None:
    """The lists of these tests are not empty, and every room is in the table."""
    assert len(PRODUCT) > 40
    assert len(PURE_FILES) > 8
    assert {room(path) for path in modules("datasync")} == set(ROOMS)


@pytest.mark.parametrize("path", modules("datasync"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_the_rooms_below_it(path: Path) -> None:
    """Each room of `datasync` imports itself and the rooms that the table allows."""
    assert rooms_imported(path) - {room(path)} <= ROOMS[room(path)]


@pytest.mark.parametrize("path", modules("datasync"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_framework_does_not_import_its_users(path: Path) -> None:
    """`datasync` imports neither flows nor local tooling, tests, or the entry."""
    forbidden = ("flows", "localdev", "tests", "benchmarks", "function_app")
    assert [name for name in imports(path) if any(in_package(name, package) for package in forbidden)] == []


@pytest.mark.parametrize("path", modules("flows"), ids=lambda path: path.name)
def test_flows_import_the_framework_only(path: Path) -> None:
    """Flows import `datasync` and the registry; neither local tooling nor the host."""
    forbidden = ("localdev", "tests", "benchmarks", "function_app", "azure.functions")
    assert [name for name in imports(path) if any(in_package(name, package) for package in forbidden)] == []


@pytest.mark.parametrize(
    ("package", "only"),
    [("azure.functions", {"function_app.py"}), ("croniter", {"cron.py"}), ("click", {"main.py"})],
)
def test_a_library_is_imported_in_one_place(package: str, only: set[str]) -> None:
    """The entry unpacks the objects of the host, croniter stays behind `cron`, and click behind the command line."""
    assert {path.name for path in PRODUCT for name in imports(path) if in_package(name, package)} == only


def test_only_clients_constructs_azure_clients() -> None:
    """Every other module is given its client, so each exists once per process."""
    constructors = {
        path.name
        for path in PRODUCT
        for call in calls(path)
        if call.endswith(("CosmosClient", "QueueClient", "SecretClient", "AzureCredential", ".from_connection_string"))
        and "Tenant" not in call
    }
    assert constructors == {"clients.py"}


def test_only_the_clock_and_the_entries_read_the_time() -> None:
    """Everywhere else time is an argument, or the clock's. This holds for the event loop's time and for sleeping."""
    readers = (
        "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.monotonic",
        "time.perf_counter", "loop.time", "get_running_loop().time", "get_event_loop().time", "asyncio.sleep",
    )  # fmt: skip
    assert {path.name for path in PRODUCT for call in calls(path) if call.endswith(readers)} == {
        "clock.py",
        "__main__.py",
    }


@pytest.mark.parametrize("path", PURE_FILES, ids=lambda path: path.name)
def test_shapes_checks_and_plans_do_no_io(path: Path) -> None:
    """The pure modules import nothing that could wait."""
    impure = ("asyncio", "os", "httpx", "aiohttp", "azure.cosmos", "azure.storage", "azure.identity", "logging")
    assert [name for name in imports(path) if any(in_package(name, package) for package in impure)] == []
