"""The commands of `python -m localdev` that use running services."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import certifi
import pytest
from click.testing import CliRunner

from datasync.cli import local_settings
from datasync.cli.main import cli
from localdev.cosmos import Database
from localdev.keyvault import key_vault
from localdev.tls import Certificates
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.localdev.commands import run
from tests.world import World


@pytest.fixture
def settings_of_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Return a function that writes the settings of the services of `start`, as if it ran them."""
    file = tmp_path / "started.json"
    monkeypatch.setattr(local_settings, "STARTED", file)

    def write_settings(values: Mapping[str, str]) -> None:
        content = {
            "IsEncrypted": False,
            "Values": {"SSL_CERT_FILE": certifi.where(), **values},
            "Host": {"LocalHttpPort": 1},
        }
        file.write_text(json.dumps(content))

    return write_settings


type Announce = Callable[[Mapping[str, str]], None]


async def test_secrets_are_set_listed_and_deleted(certificates: Certificates, settings_of_start: Announce) -> None:
    """The user needs no certificates or tokens. Values are never shown."""
    async with key_vault({}, tls=certificates) as vault:
        settings_of_start(vault.environ)
        none = await run("secret", "list")
        for number in range(30):
            vault.set_secret(f"shared--number--{number}", "s3cret")
        stored = await run("secret", "set", "tenants--t--crm--token", "s3cret")
        value = vault.values()["tenants--t--crm--token"]
        listed = await run("secret", "list")
        deleted = await run("secret", "delete", "tenants--t--crm--token")
        again = await run("secret", "delete", "tenants--t--crm--token")

        assert none == (0, "no secret\n")
        assert stored == (0, "Stored. Flows read the new value of tenants--t--crm--token from now on.\n")
        assert value == "s3cret"
        assert listed == (0, "".join(f"{name}\n" for name in sorted([*vault.values(), "tenants--t--crm--token"])))
        assert deleted == (0, "Deleted. Flows do not find tenants--t--crm--token from now on.\n")
        assert again[0] == 1
        assert "tenants--t--crm--token was not found in this key vault" in again[1]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("set", "tenants--t_1--crm", "s3cret"), 1, "secret 'tenants--t_1--crm': Key Vault takes names of 1 to 127"),
        (("delete", "a/b"), 1, "secret 'a/b': Key Vault takes names of 1 to 127"),
        (("set", "tenants--t--crm", ""), 2, "a secret is not empty"),
        (("set", "tenants--t--crm"), 2, "Missing argument 'VALUE'"),
        (("tenants--t--crm", "s3cret"), 2, "No such command 'tenants--t--crm'"),
    ],
)
async def test_a_secret_that_the_vault_cannot_hold_is_refused(
    settings_of_start: Announce, arguments: tuple[str, ...], code: int, error: str
) -> None:
    """The error shows the name, and not the value."""
    settings_of_start({"KEY_VAULT_URI": "https://127.0.0.1:1/"})

    ended, output = await run("secret", *arguments)

    assert ended == code
    assert error in output
    assert "s3cret" not in output


def write(folder: Path, content: Any) -> str:
    file = folder / "tenants.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return str(file)


@pytest.fixture
def started(world: World, settings_of_start: Announce) -> World:
    """Let the commands use the services of this test, as if `start` ran them."""
    settings_of_start(world.environ)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command looks for the stack of its own checkout."""
    monkeypatch.setattr(local_settings, "STARTED", tmp_path / ".local" / "started.json")
    file = write(tmp_path, document("acme"))

    for arguments in (["tenant", file], ["secret", "set", "name", "value"], ["secret", "list"], ["tick"]):
        code, output = await run(*arguments)
        assert (code, output) == (
            1,
            f"Error: no services run on this machine: run `make start` in {tmp_path} first\n",
        )


async def test_a_stack_that_does_not_answer_is_named(
    tmp_path: Path, database: Database, settings_of_start: Announce
) -> None:
    """The settings are there, and the services are not."""
    settings_of_start(
        {
            "AzureWebJobsStorage": "UseDevelopmentStorage=true",
            "COSMOS_CONNECTION_STRING": f"AccountEndpoint=http://127.0.0.1:1/;AccountKey={database.key};",
            "KEY_VAULT_URI": "https://127.0.0.1:1/",
        }
    )
    file = write(tmp_path, document("acme"))

    for arguments, part in (
        (["tenant", file], "the Cosmos DB of `make start`"),
        (["secret", "list"], "the Key Vault of `make start`"),
        (["tick"], "the Cosmos DB of `make start`"),
    ):
        code, output = await run(*arguments)
        assert code == 1
        assert output.startswith(f"Error: {part} does not answer")
        assert output.endswith("Run `make start` again\n")


async def test_the_command_line_names_a_stack_that_does_not_answer(
    database: Database, settings_of_start: Announce
) -> None:
    """With `--local`, other settings are not the remedy."""
    values = {
        "AzureWebJobsStorage": "UseDevelopmentStorage=true",
        "COSMOS_CONNECTION_STRING": f"AccountEndpoint=http://127.0.0.1:1/;AccountKey={database.key};",
        "SSL_CERT_FILE": certifi.where(),
    }
    settings_of_start(values)

    ended = await asyncio.to_thread(CliRunner().invoke, cli, ["incidents", "--local"], obj=NOW, env=values)

    assert ended.exit_code == 1
    assert ended.stderr == "Error: the Cosmos DB of `make start` does not answer. Run `make start` again\n"


async def test_a_secret_is_read_from_standard_input(certificates: Certificates, settings_of_start: Announce) -> None:
    """Then it is not in the history of the shell. The line break at its end is left out."""
    async with key_vault({}, tls=certificates) as vault:
        settings_of_start(vault.environ)

        stored = await run("secret", "set", "shared--crm--token", "-", stdin="s3cret\n")
        empty = await run("secret", "set", "shared--crm--token", "-", stdin="\n")

        assert stored[0] == 0
        assert vault.values() == {"shared--crm--token": "s3cret"}
        assert (empty[0], "a secret is not empty" in empty[1]) == (2, True)


@pytest.mark.parametrize("ports", ["80", "65529", "x", "-1", "8000.5"])
async def test_ports_that_cannot_be_used_are_refused(ports: str) -> None:
    """`start` needs eight ports in a row."""
    code, output = await run("start", "--ports", ports)

    assert code == 2
    assert f"expected free, or a number from 1024 to 65528, got '{ports}'" in output
