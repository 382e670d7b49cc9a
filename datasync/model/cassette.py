"""Cassettes: the recorded HTTP exchanges of one attempt, in a file that vcrpy reads too."""

import re
from datetime import datetime
from typing import Any

import msgspec

from datasync.errors import RecordingInvalid
from datasync.model.failure import Failure

FORMAT = 1
"""The format of the part `datasync` of a cassette."""
LARGEST = 64_000_000
"""Bytes of a cassette that are read. A recorded one has a few million at most."""

_VERSION_OF_VCRPY = 1
# YAML allows these characters in a text only with an escape: https://yaml.org/spec/1.1/#id868524
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class Request(msgspec.Struct, frozen=True):
    """A request, with stand-ins for its secrets."""

    method: str
    uri: str
    body: str | None
    headers: dict[str, list[str]]


class Status(msgspec.Struct, frozen=True):
    """The status line of an answer."""

    code: int
    message: str


class Body(msgspec.Struct, frozen=True):
    """The decoded body of an answer."""

    string: str


class Response(msgspec.Struct, frozen=True):
    """An answer, with stand-ins for secrets."""

    status: Status
    headers: dict[str, list[str]]
    body: Body


class Trouble(msgspec.Struct, frozen=True):
    """An error of the connection, as the HTTP client raised it."""

    kind: str
    """Its class: that of httpx, `ResponseTooLarge`, or `CancelledError` if the attempt ended before the answer."""
    message: str


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """What vcrpy does not record of an exchange."""

    number: int
    """1 is the first of the attempt."""
    request_left_out: str | None = None
    """Why the body of the request is not complete."""
    left_out: str | None = None
    """Why the body of the answer is not complete; None if it is."""
    trouble: Trouble | None = None
    """The error that ended the body of the answer."""


class Interaction(msgspec.Struct, frozen=True):
    """A request and its answer, as vcrpy has them."""

    request: Request
    response: Response
    datasync: Note


class Unanswered(msgspec.Struct, frozen=True):
    """A request without an answer."""

    number: int
    request: Request
    trouble: Trouble


class RecordedTenant(msgspec.Struct, frozen=True):
    """The tenant of a run."""

    id: str
    name: str
    timezone: str


class RecordedWindow(msgspec.Struct, frozen=True):
    """The window of a run (aware, UTC)."""

    start: datetime | None
    end: datetime


class RecordedRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The attempt whose exchanges were recorded. Its texts have stand-ins for its secrets."""

    format: int = FORMAT
    run_id: str
    flow_name: str
    tenant: RecordedTenant
    scheduled_utc: datetime
    started_utc: datetime
    attempt: int = 1
    part: int = 1
    window: RecordedWindow
    cursor: Any = None
    """The cursor at the start of the attempt."""
    counts: dict[str, int] = {}
    """The counts at the start of the attempt."""
    settings: dict[str, Any] = {}
    """The settings of the entry, as in the tenant's document."""
    secrets: dict[str, str] = {}
    """The stand-ins of the secrets that the attempt has read, by their names within the tenant."""
    outcome: str | None = None
    error: Failure | None = None
    place: str | None = None
    """The module and the function of the flow in which the error was raised."""
    unanswered: tuple[Unanswered, ...] = ()
    left_out: int = 0
    """The number of exchanges that were not kept."""


class Cassette(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded attempt."""

    version: int = _VERSION_OF_VCRPY
    datasync: RecordedRun
    interactions: tuple[Interaction, ...]

    def encode(self) -> bytes:
        """Return the cassette as JSON that is also YAML, which vcrpy expects."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1).decode()
        return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()

    @property
    def exchanges(self) -> list[Interaction | Unanswered]:
        """The exchanges in their order."""
        return sorted([*self.interactions, *self.datasync.unanswered], key=_number)


def _number(exchange: Interaction | Unanswered) -> int:
    return exchange.number if isinstance(exchange, Unanswered) else exchange.datasync.number


class _Formats(msgspec.Struct):
    format: Any = None


class _Versions(msgspec.Struct):
    version: Any = None
    datasync: _Formats | None = None


def decode_cassette(content: bytes, name: str) -> Cassette:
    """Read a cassette.

    Args:
        content: The cassette.
        name: Its name, for errors.

    Raises:
        RecordingInvalid: it is too large, damaged, of another format, or not a recording of DataSync.

    """
    if len(content) > LARGEST:
        raise RecordingInvalid(
            f"{name} has {len(content):,} bytes, and a recording has {LARGEST:,} at most: it is another file"
        )
    try:
        versions = msgspec.json.decode(content, type=_Versions)
        if versions.datasync is None:
            raise RecordingInvalid(
                f"{name} is a cassette without the facts of a run: replay takes those that `python -m datasync try "
                "--save` or a recorded run has made. Use it in a test, with vcrpy"
            )
        if (versions.version, versions.datasync.format) != (_VERSION_OF_VCRPY, FORMAT):
            raise RecordingInvalid(
                f"{name} is a cassette of version {versions.version}, format {versions.datasync.format}; this "
                f"DataSync reads version {_VERSION_OF_VCRPY}, format {FORMAT}: use the DataSync that has made it, or "
                "record it again"
            )
        return msgspec.json.decode(content, type=Cassette)
    except msgspec.ValidationError as error:
        raise RecordingInvalid(f"{name} is damaged, or was edited: {error}. Record it again") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingInvalid(
            f"{name} is not a recording of DataSync, or is cut: it is not JSON ({error}). Record it again"
        ) from None
