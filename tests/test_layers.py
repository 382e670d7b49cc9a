"""Checks the allowed dependencies between layers against the imports of the code."""

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


def test_the_lists_of_files_are_not_empty() -> None:
    """The file lists of these tests are not empty."""
    assert len(PRODUCT) > 15
    assert all(path.is_file() for path in PURE)


@pytest.mark.parametrize("path", modules("datasync"), ids=lambda path: path.name)
def test_the_framework_does_not_import_flows(path: Path) -> None:
    """`datasync` does not import flows, local tooling, tests, or function_app."""
    forbidden = ("flows", "localdev", "tests", "benchmarks", "function_app")
    assert [name for name in imports(path) if any(in_package(name, package) for package in forbidden)] == []


@pytest.mark.parametrize("path", modules("flows"), ids=lambda path: path.name)
def test_flows_import_only_the_framework(path: Path) -> None:
    """Flows import `datasync` and their registry. They do not import local tooling or azure.functions."""
    forbidden = ("localdev", "tests", "benchmarks", "function_app", "azure.functions")
    assert [name for name in imports(path) if any(in_package(name, package) for package in forbidden)] == []


@pytest.mark.parametrize(
    ("package", "only"),
    [("azure.functions", "function_app.py"), ("croniter", "cron.py")],
)
def test_a_library_is_imported_in_one_file(package: str, only: str) -> None:
    """Only function_app.py imports azure.functions, and only cron.py imports croniter."""
    users = {path.name for path in PRODUCT for name in imports(path) if in_package(name, package)}
    assert users == {only}


def test_only_services_constructs_azure_clients() -> None:
    """All other modules receive their clients, so each client exists once per process."""
    constructors = {
        path.name
        for path in PRODUCT
        for call in calls(path)
        if call.endswith(("CosmosClient", "QueueClient", "SecretClient", "Credential", ".from_connection_string"))
        and "Tenant" not in call
    }
    assert constructors == {"services.py"}


def test_only_the_entry_points_read_the_clock() -> None:
    """All other modules receive the time as an argument."""
    readers = {
        path.name
        for path in PRODUCT
        for call in calls(path)
        if call.endswith(("datetime.now", "datetime.utcnow", "time.time", "date.today"))
    }
    assert readers == {"function_app.py", "__main__.py"}


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_shapes_and_planning_do_no_io(path: Path) -> None:
    """The pure modules import no module that does I/O."""
    impure = ("asyncio", "os", "httpx", "aiohttp", "azure.cosmos", "azure.storage", "azure.identity", "logging")
    assert [name for name in imports(path) if any(in_package(name, package) for package in impure)] == []
