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


class LastTry:
    """The file in `.local/try/` for a flow and a tenant."""

    def __init__(self, root: Path, tenant_id: str, flow: str) -> None:
        self._folder = root / ".local" / "try"
        self._file = self._folder / f"{_name(tenant_id)}--{_name(flow)}.json"

    def read(self) -> list[Sent] | None:
        """Return its requests; None if there was no `try` before, or if the file cannot be read."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Kept).sent
        except (OSError, ValueError):
            return None

    def replace(self, sent: Sequence[Sent]) -> None:
        """Keep the requests of a `try`. Only the user can read them.

        Raises:
            OSError: the file cannot be written.

        """
        for folder in (self._folder.parent, self._folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._file.write_bytes(msgspec.json.encode(_Kept([*sent])))


def differences(before: Iterable[Sent], sent: Iterable[Sent]) -> tuple[str, ...]:
    """Return the lines of a unified diff, none if nothing has changed."""
    lines = difflib.unified_diff([*_lines(before)][:_MOST_LINES], [*_lines(sent)][:_MOST_LINES], n=1, lineterm="")
    return tuple([*lines][2:])  # without the names of files


def _lines(sent: Iterable[Sent]) -> Iterator[str]:
    for each in sent:
        yield f"{each.method} {each.url}"
        yield from each.body


def _name(text: str) -> str:
    """Return a part of a file's name for a name with any characters."""
    plain = re.sub(r"[^0-9A-Za-z._-]+", "_", text)
    return plain if plain == text else f"{plain}-{sha256(text.encode()).hexdigest()[:8]}"
