"""The commands that change what the services of `start` hold: tenants and secrets."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import click

from datasync.cli.local_settings import started_settings
from datasync.clients import CosmosAccount, Credential
from datasync.errors import ServiceUnavailable
from datasync.settings import Settings
from localdev.cli.running import run
from localdev.documents import read_documents, store_document
from localdev.identity import issue_token
from localdev.keyvault import AUDIENCE, NAME


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def tenant(file: Path) -> None:
    """Store tenants in the Cosmos DB of `start`: the tenant document, or the list of documents, in a JSON file."""
    run(_tenant(file))


@click.group()
def secret() -> None:
    """Set, list and delete secrets in the Key Vault of `start`. Running flows see a change at once."""


def _value(_: click.Context, __: click.Parameter, value: str) -> str:
    """Return the value of a secret. A terminal does not show it; the last line break of a file is left out."""
    if value != "-":
        return value
    if sys.stdin.isatty():
        return str(click.prompt("Value", hide_input=True, err=True))
    return sys.stdin.read().removesuffix("\n")


@secret.command("set")
@click.argument("name")
@click.argument("value", callback=_value)
def set_secret(name: str, value: str) -> None:
    """Store a secret, or a new value of it. With `-`, the value is read from standard input."""
    if not value:
        raise click.BadParameter("a secret is not empty", param_hint="VALUE")
    run(_set(name, value))


@secret.command("list")
def list_secrets() -> None:
    """List the names of all secrets. Values are not shown."""
    run(_list())


@secret.command("delete")
@click.argument("name")
def delete_secret(name: str) -> None:
    """Delete a secret with all its values."""
    run(_delete(name))


async def _tenant(file: Path) -> None:
    documents = read_documents([file], click.echo)
    values = started_settings()
    settings = Settings.from_environ({**os.environ, **values})
    account = CosmosAccount(settings.cosmos, Credential())
    try:
        container = await account.container(settings.cosmos_database, settings.tenants_container)
        for document in documents:
            await store_document(container, document)
    except ServiceUnavailable:
        raise click.ClickException("the Cosmos DB of `make start` does not answer. Run `make start` again") from None
    finally:
        await account.close()
    names = ", ".join(document["tenantId"] for document in documents)
    click.echo(f"Stored: {names}. `make tick` runs the flows that are due.")


async def _set(name: str, value: str) -> None:
    await _ask("PUT", _address(name), {"value": value})
    click.echo(f"Stored. Flows read the new value of {name} from now on.")


async def _list() -> None:
    names: list[str] = []
    address: str | None = _address()
    while address:
        page = await _ask("GET", address)
        names += [item["id"].rpartition("/")[2] for item in page["value"]]
        address = page["nextLink"]
    for name in sorted(names):
        click.echo(name)
    if not names:
        click.echo("no secret", err=True)


async def _delete(name: str) -> None:
    await _ask("DELETE", _address(name))
    click.echo(f"Deleted. Flows do not find {name} from now on.")


def _address(name: str | None = None) -> str:
    """Return the URL of a secret, or of the list of all secrets. Raises SettingsInvalid if `start` does not run."""
    if name is not None and not NAME.fullmatch(name):
        raise click.ClickException(f"secret {name!r}: Key Vault takes names of 1 to 127 letters, digits and '-'")
    path = "secrets" if name is None else f"secrets/{name}"
    return f"{started_settings()['KEY_VAULT_URI']}{path}?api-version=7.5"


async def _ask(method: str, address: str, body: dict[str, str] | None = None) -> Any:
    """Send a request to the vault, and return its answer."""
    token = issue_token(AUDIENCE, expires=int(time.time()) + 60)
    request = aiohttp.request(
        method,
        address,
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        ssl=False,  # the vault of this machine has a temporary certificate
    )
    try:
        async with request as response:
            answer = await response.json()
    except aiohttp.ClientError as error:
        raise click.ClickException(
            f"the Key Vault of `make start` does not answer ({error}). Run `make start` again"
        ) from None
    if "error" in answer:
        raise click.ClickException(answer["error"]["message"])
    return answer
