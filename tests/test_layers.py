"""The arrows between the layers, held against the code's own imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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


PRODUCT = [ROOT / "function_app.py", *modules("datasync"), *modules("flows")]
PURE = [ROOT / "datasync" / name for name in ("model.py", "cron.py", "schedule.py", "errors.py")]


def test_there_is_something_to_check() -> None:
    """The lists these tests go through are not empty."""
    assert len(PRODUCT) > 15
    assert all(path.is_file() for path in PURE)


@pytest.mark.parametrize("path", modules("datasync"), ids=lambda path: path.name)
def test_the_framework_knows_no_flows(path: Path) -> None:
    """`datasync` imports neither flows nor local tooling, tests, or the entry."""
    forbidden = ("flows", "localdev", "tests", "benchmarks", "function_app")
    assert [name for name in imports(path) if any(in_package(name, package) for package in forbidden)] == []


@pytest.mark.parametrize("path", modules("flows"), ids=lambda path: path.name)
def test_flows_know_the_framework_only(path: Path) -> None:
    """Flows import `datasync` and each other's registry; nothing local, nothing of the host."""
    forbidden = ("localdev", "tests", "benchmarks", "function_app", "azure.functions")
    assert [name for name in imports(path) if any(in_package(name, package) for package in forbidden)] == []


@pytest.mark.parametrize(
    ("package", "only"),
    [("azure.functions", "function_app.py"), ("croniter", "cron.py")],
)
def test_a_library_is_known_in_one_place(package: str, only: str) -> None:
    """What the host hands over is unpacked at the entry; croniter never sees what a person wrote."""
    users = {path.name for path in PRODUCT for name in imports(path) if in_package(name, package)}
    assert users == {only}


def test_only_services_constructs_azure_clients() -> None:
    """Everything else is handed its client, so each exists once per process."""
    constructors = {
        path.name
        for path in PRODUCT
        for call in calls(path)
        if call.endswith(("CosmosClient", "QueueClient", "SecretClient", "Credential", ".from_connection_string"))
        and "Tenant" not in call
    }
    assert constructors == {"services.py"}


def test_only_the_edge_reads_the_clock() -> None:
    """Time is an argument everywhere else."""
    readers = {
        path.name
        for path in PRODUCT
        for call in calls(path)
        if call.endswith(("datetime.now", "datetime.utcnow", "time.time", "date.today"))
    }
    assert readers == {"function_app.py", "__main__.py"}


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_shapes_and_planning_do_no_io(path: Path) -> None:
    """The pure modules import nothing that could wait."""
    impure = ("asyncio", "os", "httpx", "aiohttp", "azure.cosmos", "azure.storage", "azure.identity", "logging")
    assert [name for name in imports(path) if any(in_package(name, package) for package in impure)] == []
