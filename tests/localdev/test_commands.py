"""The commands of `python -m localdev` that use running services."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from localdev.cli import main as command
from localdev.cosmos import Database
from localdev.keyvault import key_vault
from localdev.ports import Ports
from localdev.tls import Certificates
from tests.documents import document, entry
from tests.localdev.ports import port_of
from tests.world import World


@pytest.fixture(autouse=True)
def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands run in a thread, although only the main thread can set signal handlers."""
    monkeypatch.setattr("signal.signal", lambda *_: None)


async def run(*arguments: str) -> tuple[int, str]:
    """Run a command in a thread, because it starts an event loop."""
    result = await asyncio.to_thread(CliRunner().invoke, command.cli, arguments)
    return result.exit_code, result.output


async def test_a_command_stores_a_secret_in_the_local_vault(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user needs no certificates or tokens. The error for an invalid name shows the name."""
    async with key_vault({}, tls=certificates) as vault:
        monkeypatch.setattr(command, "PORTS", Ports(vault=port_of(vault.uri)))

        stored = await run("secret", "tenants--t--crm--token", "s3cret")
        refused = await run("secret", "tenants--t_1--crm", "s3cret")

    assert stored[0] == 0
    assert "Stored" in stored[1]
    assert refused[0] == 1
    assert "secret 'tenants--t_1--crm': " in refused[1]


def write(folder: Path, content: Any) -> str:
    file = folder / "tenants.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return str(file)


@pytest.fixture
def started(world: World, database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let the commands use the database of this test, as if `start` ran it."""
    monkeypatch.setattr(command, "PORTS", Ports(cosmos=port_of(database.endpoint)))
    monkeypatch.setenv("COSMOS_DATABASE", world.settings.cosmos_database)
    return world


async def stored(world: World) -> list[str]:
    return [item["id"] async for item in world.tenants.query_items("SELECT c.id FROM c ORDER BY c.id")]


async def test_a_command_stores_the_tenants_of_a_file(started: World, tmp_path: Path) -> None:
    """A file holds one document or a list. A document that exists is replaced."""
    one = await run("tenant", write(tmp_path, document("acme", name="Before")))
    more = await run("tenant", write(tmp_path, [document("acme", name="After"), document("bayou")]))

    assert one == (0, "Stored: acme. `make tick` runs the flows that are due.\n")
    assert more == (0, "Stored: acme, bayou. `make tick` runs the flows that are due.\n")
    assert await stored(started) == ["acme", "bayou"]
    assert (await started.document("acme"))["name"] == "After"


async def test_a_file_with_a_problem_is_not_stored(started: World, tmp_path: Path) -> None:
    """The problems are those of `python -m datasync validate`. Valid documents in the same file are not stored."""
    file = write(tmp_path, [document("good"), document("bad", entry(cron="0 * * * *"), entry("wether")), "worse"])

    code, output = await run("tenant", file)

    cron, unknown, kind, nothing = output.splitlines()
    assert code == 1
    assert cron.startswith(f"{file}: bad/weather flows[0].cron: cron '0 * * * *': 5 fields found, 6 needed")
    assert unknown.startswith(f"{file}: bad/wether flows[1].name: no flow is named 'wether'; did you mean 'weather'?")
    assert kind == f'{file}[2]: expected a tenant document, which is a JSON object, got "worse"'
    assert nothing == "Error: nothing is stored. Correct the file first"
    assert await stored(started) == []


async def test_a_warning_does_not_prevent_storing(started: World, tmp_path: Path) -> None:
    """The warning is printed, and the document is stored."""
    code, output = await run("tenant", write(tmp_path, document("acme", entry(setings={}))))

    assert code == 0
    assert "warning: unknown field, ignored; did you mean 'settings'?" in output
    assert await stored(started) == ["acme"]


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        (None, ["Error: {file} cannot be read: No such file or directory"]),
        (
            '{"id": ',
            [
                "{file}: not JSON at line 1, column 8: Expecting value",
                "Error: nothing is stored. Correct the file first",
            ],
        ),
        ("[]", ["Error: {file} contains no tenant document: the list is empty"]),
    ],
    ids=["missing", "not JSON", "empty list"],
)
async def test_a_file_without_a_tenant_is_an_error(tmp_path: Path, content: str | None, errors: list[str]) -> None:
    """The error names the file. No database is needed for it."""
    file = tmp_path / "tenants.json"
    if content is not None:
        file.write_text(content)

    code, output = await run("tenant", str(file))

    assert code == 1
    assert output.splitlines() == [error.format(file=file) for error in errors]


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_document_that_cosmos_db_refuses_is_named(started: World, tmp_path: Path) -> None:
    """A document has at most 2 MB."""
    code, output = await run("tenant", write(tmp_path, document("acme", entry(settings={"map": "x" * 2_200_000}))))

    assert code == 1
    assert output.startswith("Error: tenant 'acme' is not stored: Cosmos DB answered 413: ")
    assert len(output.splitlines()) == 1


async def test_without_a_running_stack_the_error_names_the_remedy(
    tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens on the ports of `start`."""
    monkeypatch.setattr(command, "PORTS", Ports(cosmos=unused_tcp_port, vault=unused_tcp_port))
    monkeypatch.setattr(command, "HOST_URL", f"http://127.0.0.1:{unused_tcp_port}")
    file = write(tmp_path, document("acme"))

    for arguments, part in (
        (["tenant", file], "the Cosmos DB on port"),
        (["secret", "name", "value"], "the Key Vault on port"),
        (["tick"], "the host at"),
    ):
        code, output = await run(*arguments)
        assert code == 1
        assert output.startswith(f"Error: {part}")
        assert output.endswith("Run `make start` first\n")
