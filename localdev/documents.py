"""Reads tenant documents from files, and stores them in the Cosmos DB of this machine."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosHttpResponseError

from datasync.cli.validate import Report, load
from localdev.errors import InputInvalid, NotStored


def read_documents(files: Iterable[Path], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the tenant documents of files, each of which holds a document or a list of them.

    `say` gets the problems and warnings of `python -m datasync validate`, a line each.

    Raises:
        InputInvalid: a file cannot be read or holds no document, or a document has a problem.

    """
    contents = {file: read_file(file) for file in files}
    try:
        report = Report(load("flows"), datetime.now(UTC))
    except ValueError as why:
        raise InputInvalid(str(why)) from None
    for file, content in contents.items():
        for line in report.documents(str(file), content):
            say(str(line))
    if report.problems:
        raise InputInvalid("nothing is stored. Correct the file first")
    documents: list[dict[str, Any]] = []
    for file, content in contents.items():
        read = json.loads(content.decode("utf-8-sig"))
        found = read if isinstance(read, list) else [read]
        if not found:
            raise InputInvalid(f"{file} contains no tenant document: the list is empty")
        documents += found
    return documents


def read_file(file: Path) -> bytes:
    """Return the content of a file. Raises InputInvalid."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputInvalid(f"{file} cannot be read: {error.strerror}") from None


async def store_document(container: ContainerProxy, document: Mapping[str, Any]) -> None:
    """Store a tenant document in place of the one with its id. Raises NotStored."""
    try:
        await container.upsert_item(dict(document))
    except CosmosHttpResponseError as error:
        reason = str(error.message).splitlines()[0]
        raise NotStored(
            f"tenant {document['tenantId']!r} is not stored: Cosmos DB answered {error.status_code}: {reason}"
        ) from None
