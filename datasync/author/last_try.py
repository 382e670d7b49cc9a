"""The requests that the last `try` of a flow and a tenant has stopped, to compare the next one with them."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec

_MOST_LINES = 20_000
"""The most lines that are compared: difflib takes a time that grows with their square at worst."""


class Sent(msgspec.Struct, frozen=True):
    """A request without secrets: its JSON in lines, one for each value."""

    method: str
    url: str
    body: list[str]


class _Kept(msgspec.Struct, frozen=True):
    """The content of the file."""

    sent: list[Sent]


def remember(folder: Path, tenant_id: str, flow: str, sent: Sequence[Sent]) -> tuple[str, ...] | None:
    """Keep the requests of a `try`, and return what has changed since the one before.

    Returns:
        The lines of a unified diff, none if nothing has changed; None if there was no `try` before, or if its file
        cannot be read.

    Raises:
        OSError: the file cannot be written.

    """
    file = folder / f"{_name(tenant_id)}--{_name(flow)}.json"
    before = _read(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(_Kept(list(sent))))
    if before is None:
        return None
    lines = difflib.unified_diff([*_lines(before)][:_MOST_LINES], [*_lines(sent)][:_MOST_LINES], n=1, lineterm="")
    return tuple([*lines][2:])  # without the names of files


def _read(file: Path) -> list[Sent] | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Kept).sent
    except (OSError, ValueError):
        return None


def _lines(sent: Iterable[Sent]) -> Iterator[str]:
    for each in sent:
        yield f"{each.method} {each.url}"
        yield from each.body


def _name(text: str) -> str:
    """Return a part of a file's name for a name with any characters."""
    plain = re.sub(r"[^0-9A-Za-z._-]+", "_", text)
    return plain if plain == text else f"{plain}-{sha256(text.encode()).hexdigest()[:8]}"
