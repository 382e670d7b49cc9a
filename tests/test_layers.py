"""The imports and calls that each part of the code may have, checked against the imports and calls in its files."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PARTS = {
    "errors": set(),
    "version": set(),
    "clock": set(),
    "slices": set(),
    "tries": set(),
    "cron": {"errors"},
    "settings": {"errors", "model"},
    "model": {"errors"},
    "stores": {"errors", "model", "slices", "tries"},
    "telemetry": {"errors", "model"},
    "clients": {"errors", "settings", "stores"},
    "flow": {"clock", "errors", "model", "telemetry", "version"},
    "http": {"errors", "flow"},
    "services": {"clients", "clock", "errors", "flow", "model", "settings", "stores", "telemetry"},
    "health": {"errors", "services"},
    "schedule": {"cron", "errors", "model"},
    "tick": {
        "clock",
        "cron",
        "errors",
        "flow",
        "model",
        "schedule",
        "services",
        "slices",
        "stores",
        "telemetry",
        "tries",
    },
    "run": {"clock", "errors", "flow", "model", "schedule", "services", "telemetry", "tries"},
    "operate": {
        "clock",
        "cron",
        "errors",
        "flow",
        "model",
        "schedule",
        "services",
        "settings",
        "stores",
        "telemetry",
        "tick",
        "tries",
    },
    "author": {"errors", "flow", "model", "operate", "run", "services", "testing"},
    "cli": {
        "author",
        "cron",
        "errors",
        "flow",
        "health",
        "model",
        "operate",
        "schedule",
        "services",
        "settings",
        "telemetry",
        "tick",
    },
    "testing": {"clock", "errors", "flow", "model", "telemetry"},
    "__main__": {"cli"},
    "__init__": {"errors", "flow"},
}
"""Each part of `datasync`, a module or a package, and the parts that it may import."""

PURE = ("errors.py", "cron.py", "schedule.py", "model/*.py", "tick/check.py", "tick/plan.py", "tick/forecast.py")


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


def part(path: Path) -> str:
    return path.relative_to(ROOT / "datasync").parts[0].removesuffix(".py")


def parts_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path) if in_package(name, "datasync"))
    return {parts[1] for parts in names if len(parts) > 1}


PRODUCT = [ROOT / "function_app.py", *modules("dashboard"), *modules("datasync"), *modules("flows")]
PURE_FILES = [path for pattern in PURE for path in sorted((ROOT / "datasync").glob(pattern))]


def test_every_module_is_checked() -> None:
    """The lists of these tests are not empty, and every part of `datasync` is in the table."""
    assert len(PRODUCT) > 40
    assert len(PURE_FILES) > 8
    assert {part(path) for path in modules("datasync")} == set(PARTS)


@pytest.mark.parametrize("path", modules("datasync"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_part_imports_only_the_parts_that_the_table_allows(path: Path) -> None:
    """A part may also import its own modules."""
    assert parts_imported(path) - {part(path)} <= PARTS[part(path)]


@pytest.mark.parametrize("path", modules("datasync"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_framework_does_not_import_its_users(path: Path) -> None:
    """`datasync` does not import flows, local tooling, tests, benchmarks or the entry."""
    forbidden = ("dashboard", "flows", "localdev", "tests", "benchmarks", "function_app")
    assert [name for name in imports(path) if any(in_package(name, package) for package in forbidden)] == []


@pytest.mark.parametrize("path", modules("dashboard"), ids=lambda path: path.name)
def test_the_dashboard_shows_what_operate_answers(path: Path) -> None:
    """It imports the use cases, and the modules that their arguments and errors need; never stores, runs or ticks."""
    allowed = {"errors", "flow", "operate", "services", "settings"}
    assert parts_imported(path) <= allowed
    assert [name for name in imports(path) if in_package(name, "datasync.flow")] in (
        [],
        ["datasync.flow.registry", "datasync.flow.registry.FlowRegistry"],
    )


@pytest.mark.parametrize("path", modules("flows"), ids=lambda path: path.name)
def test_flows_import_the_framework_only(path: Path) -> None:
    """Flows import `datasync` and the registry. They do not import local tooling or the host."""
    forbidden = ("localdev", "tests", "benchmarks", "function_app", "azure.functions")
    assert [name for name in imports(path) if any(in_package(name, package) for package in forbidden)] == []


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("azure.functions", {"function_app.py", "blueprint.py"}),
        ("croniter", {"cron.py"}),
        (
            "click",
            {
                "main.py",
                "common.py",
                "operate.py",
                "act.py",
                "author.py",
                "dead.py",
                "documents.py",
                "checks.py",
                "new.py",
                "replay.py",
                "simulate.py",
            },
        ),
        ("opentelemetry", {"opentelemetry_spans.py"}),
        ("respx", {"mock_api.py", "__init__.py"}),
        ("pytest", {"plugin.py"}),
        ("threading", {"watchdog.py", "redact.py", "execute.py"}),
    ],
)
def test_a_library_is_imported_in_one_place(package: str, only: set[str]) -> None:
    """Only the entry and the routes use the host's objects. Only the watchdog starts threads.

    A redaction has a lock, since long secrets are added in a thread of asyncio, and `execute` reports the
    exceptions of the threads of flows. `testing` needs packages that are not deployed.
    """
    assert {path.name for path in PRODUCT for name in imports(path) if in_package(name, package)} == only


def test_only_clients_constructs_azure_clients() -> None:
    """Every other module receives its client, so each client exists once per process."""
    constructors = {
        path.name
        for path in PRODUCT
        for call in calls(path)
        if call.endswith(
            (
                "CosmosClient",
                "QueueClient",
                "ContainerClient",
                "SecretClient",
                "AzureCredential",
                ".from_connection_string",
            )
        )
        and "Tenant" not in call
    }
    assert constructors == {"clients.py"}


def test_only_the_clock_and_the_entries_read_the_time() -> None:
    """All other code receives the time as an argument or uses a Clock, also to sleep."""
    readers = (
        "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.monotonic",
        "time.perf_counter", "time.sleep", "loop.time", "get_running_loop().time", "get_event_loop().time",
        "asyncio.sleep",
    )  # fmt: skip
    assert {path.name for path in PRODUCT for call in calls(path) if call.endswith(readers)} == {
        "clock.py",
        "__main__.py",
    }


@pytest.mark.parametrize("path", PURE_FILES, ids=lambda path: path.name)
def test_shapes_checks_and_plans_do_no_io(path: Path) -> None:
    """These modules import no library that does input, output or waiting."""
    impure = ("asyncio", "os", "httpx", "aiohttp", "azure.cosmos", "azure.storage", "azure.identity", "logging")
    assert [name for name in imports(path) if any(in_package(name, package) for package in impure)] == []
