"""Stores tenants and secrets in the services of `make start`: those of the demo, and those of a folder of the user.

A note in the folder of the data says what was stored, so that a later start does not undo changes: the demo is stored
once, and a document or secret of the user again only if the seed has changed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import msgspec
from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosResourceExistsError

from localdev import seeds
from localdev.data import DataFolder
from localdev.demo import open_world
from localdev.documents import read_documents, read_file, store_document
from localdev.errors import DataDamaged, InputInvalid
from localdev.files import replace_file
from localdev.keyvault import NAME
from localdev.stack import Stack


class Note(msgspec.Struct):
    """What earlier starts have stored."""

    demo_url: str = ""
    """The address of the demo APIs in the last start."""
    has_demo: bool = False
    tenants: dict[str, str] = {}
    """Digests of the documents of the user's seed, by tenant id."""
    secrets: dict[str, str] = {}
    """Digests of the secrets of the user's seed, by name."""

    @classmethod
    def load(cls, data: DataFolder) -> Self:
        """Read the note. Raises DataDamaged."""
        try:
            return msgspec.json.decode(data.seeds.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except (msgspec.MsgspecError, UnicodeDecodeError) as why:
            raise DataDamaged(f"{data.seeds.name} cannot be read: {why}") from None

    def save(self, data: DataFolder) -> None:
        """Write the note."""
        replace_file(data.seeds, msgspec.json.encode(self))


@dataclass(frozen=True, slots=True)
class Seed:
    """The tenants and secrets of a folder of the user."""

    folder: Path
    tenants: list[dict[str, Any]]
    secrets: dict[str, str] = field(repr=False)
    """Values by name."""


def read_seed(folder: Path, say: Callable[[str], None]) -> Seed:
    """Read `tenants/*.json` and `secrets.env` of a folder. `say` gets each problem and warning of a document.

    Raises:
        InputInvalid: a file cannot be used, or there is none. The message contains no value of a secret.

    """
    files, secrets = sorted((folder / "tenants").glob("*.json")), folder / "secrets.env"
    if not files and not secrets.exists():
        raise InputInvalid(f"{folder} has neither tenants/*.json nor secrets.env")
    return Seed(
        folder,
        tenants=read_documents(files, say) if files else [],
        secrets=_read_secrets(secrets) if secrets.exists() else {},
    )


def _read_secrets(file: Path) -> dict[str, str]:
    """Return the secrets in lines `NAME=VALUE`. Quotes around a value, empty lines and `# comments` do not count."""
    try:
        lines = read_file(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{file} is not UTF-8 at byte {error.start}: save the file as UTF-8") from None
    found: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if value[:1] in {"'", '"'} and value[-1:] == value[:1] and len(value) > 1:
            value = value[1:-1]
        if problem := _problem(name, equals, value, found):
            raise InputInvalid(f"{file}, line {number}: {problem}")
        found[name.lower()] = value
    return found


def _problem(name: str, equals: str, value: str, found: Mapping[str, str]) -> str | None:
    if not equals:
        return "expected NAME=VALUE"  # without the line, which may be a secret
    if not NAME.fullmatch(name):
        return "the name of a secret has up to 127 letters, digits and '-', such as tenants--acme--crm--token"
    if not value:
        return f"{name} has no value"
    return f"{name} is there twice" if name.lower() in found else None


async def store_demo(running: Stack, data: DataFolder, now: datetime) -> None:
    """Store the tenants and secrets of the demo that are missing, if no earlier start has stored them.

    Raises:
        DataDamaged: the note of earlier starts cannot be read.

    """
    note = Note.load(data)
    if note.has_demo:
        return
    for name, value in seeds.secrets(running.demo.url).items():
        if not running.vault.has_secret(name):
            running.vault.set_secret(name, value)
    async with open_world(running) as world:
        for document in seeds.tenants(now, running.demo.url):
            with suppress(CosmosResourceExistsError):
                await world.tenants.create_item(document)
    note.has_demo = True
    note.save(data)


async def store_seed(running: Stack, data: DataFolder, seed: Seed) -> tuple[int, int]:
    """Store the documents and secrets of a seed that are new, or have changed since they were stored from it.

    Returns the numbers of stored documents and secrets. Raises NotStored or DataDamaged.
    """
    note = Note.load(data)
    documents = {document["tenantId"]: document for document in seed.tenants}
    tenants = _changed(documents, note.tenants)
    secrets = _changed(seed.secrets, note.secrets)
    async with open_world(running) as world:
        for tenant_id in tenants:
            await store_document(world.tenants, documents[tenant_id])
    for name in secrets:
        running.vault.set_secret(name, seed.secrets[name])
    note.tenants |= tenants
    note.secrets |= secrets
    note.save(data)
    return len(tenants), len(secrets)


def _changed(values: Mapping[str, object], digests: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of the values that are new or have changed."""
    now = {name: hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest() for name, each in values.items()}
    return {name: digest for name, digest in now.items() if digests.get(name) != digest}


async def follow_demo_apis(running: Stack, data: DataFolder) -> None:
    """Correct the address of the demo APIs in all tenants and secrets, if an earlier start had them on another port.

    Raises:
        DataDamaged: the note of earlier starts cannot be read.

    """
    note = Note.load(data)
    old, new = note.demo_url, running.demo.url
    if old == new:
        return
    if old:
        for name, value in running.vault.values().items():
            if value != (moved := _moved(value, old, new)):
                running.vault.set_secret(name, moved)
        async with open_world(running) as world:
            async for document in world.tenants.query_items("SELECT * FROM c"):
                if document != (moved := _moved(document, old, new)):
                    await world.tenants.replace_item(
                        document["id"], moved, etag=document["_etag"], match_condition=MatchConditions.IfNotModified
                    )
    note.demo_url = new
    note.save(data)


def _moved(value: Any, old: str, new: str) -> Any:
    """Return a JSON value in which texts that begin with the old address have the new one."""
    match value:
        case str():
            return f"{new}{value.removeprefix(old)}" if value == old or value.startswith(f"{old}/") else value
        case list():
            return [_moved(each, old, new) for each in value]
        case dict():
            return {name: _moved(each, old, new) for name, each in value.items()}
        case _:
            return value
