"""Tenant documents: the entries people edit, and the problems in them."""

from collections.abc import Collection, Generator, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import cached_property
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta

from datasync.errors import TenantInvalid
from datasync.model import times
from datasync.model.decode import NAME_LIMIT, NO_SURROGATES, FieldError, Text, decode, is_forbidden_in_ids, shorten
from datasync.model.display import is_legible, quoted, shown
from datasync.model.times import read_span, read_utc

FLEET = "@fleet"
"""The partition of documents about the whole fleet. No tenant's id starts with `@`."""


MOST_EXPLAINED = 500
"""The most entries of one document whose faults are explained. A document has room for a million that are wrong."""

_LONGEST_ID = 1023
"""Bytes: https://learn.microsoft.com/azure/cosmos-db/concepts-limits#per-item-limits"""

_STEP = 100  # entries that are read at once
_MOST_NAMES = 100  # fields of a document without a type that are looked at

type Level = Literal["error", "warning"]


class Problem(msgspec.Struct, frozen=True):
    """A mistake, or a probable mistake, in an entry or a document."""

    tenant_id: str
    path: str
    """The field within the document, such as `flows[2].cron`."""
    why: str
    """The value found, and the value expected."""
    flow: str | None = None
    """The flow's name, where the problem is in an entry that has one."""
    level: Level = "error"
    """`error`: the entry, or the document, does not run until it is corrected. A `warning` stops nothing."""

    @property
    def place(self) -> str:
        """The tenant, the flow and the field: `tenant-123/weather flows[2].cron`."""
        subject = f"{shown(self.tenant_id)}/{shown(self.flow)}" if self.flow else shown(self.tenant_id)
        return f"{subject} {shown(self.path)}".rstrip()

    def __str__(self) -> str:
        """Render as `tenant-123/weather flows[2].cron: …`; with `warning: ` after the place of a warning."""
        return f"{self.place}: {'warning: ' if self.level == 'warning' else ''}{shown(self.why, 2000)}"


class Planned(msgspec.Struct, frozen=True, rename="camel"):
    """The note of a tick in an entry, beside `nextRunUtc`."""

    next_run_utc: str | None
    """The value of `nextRunUtc` that the app has written."""
    enqueued_utc: str
    """The time of the tick that wrote it."""
    key: str
    """Another one in each note. It distinguishes the runs of a person who sets the same time again."""

    @property
    def next_run(self) -> datetime | None:
        """`next_run_utc` as an instant (aware, UTC); None where it is null, or was edited and cannot be read."""
        try:
            return read_utc(self.next_run_utc) if self.next_run_utc else None
        except ValueError:
            return None


class FlowEntry(msgspec.Struct, frozen=True):
    """One entry of a tenant document's `flows`: the flow, its schedule, and its switch."""

    index: int
    """Its position in the array, which path patches need."""
    name: str
    enabled: bool
    cron: str
    """Six fields, seconds first. Not checked here: see datasync.tick.check."""
    timezone: str | None
    """Time zone of the cron: an IANA name, `tenant` for the tenant's own, None for UTC."""
    settings: dict[str, Any]
    """Free-form: the flow gets it as `run.settings`."""
    freshness: timedelta | None
    """How old the last success may get before the flow is late; None to derive that from the cron."""
    next_run: datetime | None
    """`nextRunUtc` as an instant (aware, UTC); None where it is missing or null."""
    next_run_text: str | None
    """`nextRunUtc` as the document holds it, to notice an edit."""
    planned: Planned | None
    """The last plan of the app; None where it has not planned anything, or somebody has removed or edited that."""

    pause_reason: str | None = None
    """Why an operator has disabled the entry; None if it is enabled, or was disabled in another way."""

    @property
    def is_planned(self) -> bool:
        """Whether `nextRunUtc` is the value that the app has written, and not a person's."""
        return self.planned is not None and self.planned.next_run_utc == self.next_run_text

    @property
    def note(self) -> str | None:
        """The key of the last note; None where there is none."""
        return self.planned.key if self.planned else None


class Tenant(msgspec.Struct, frozen=True, dict=True):
    """One tenant document, as far as it can be read."""

    id: str
    name: str
    timezone: str
    """The tenant's IANA time zone; `UTC` where the document has none."""
    has_zone: bool
    """Whether the document has a time zone."""
    flows: tuple[FlowEntry, ...]
    problems: tuple[Problem, ...]
    """Problems of entries that are not among `flows`: of MOST_EXPLAINED, and one that counts the others."""
    etag: str
    schedule_rev: str | None = None
    """The note of a tick: the entries that the states of the flows are in step with. See datasync.tick.states."""
    unlisted: int = 0
    """The number of the others."""
    unexplained: Mapping[str, int] = {}
    """The names and positions of the others."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Decode a document of the tenants container; an entry that cannot be read becomes a problem.

        Raises:
            TenantInvalid: the document as a whole cannot be used; the message names the field.

        """
        reading = cls.reading(document)
        while True:
            try:
                next(reading)
            except StopIteration as end:
                tenant: Self = end.value
                return tenant

    @classmethod
    def reading(cls, document: Mapping[str, Any]) -> Generator[None, None, Self]:
        """Decode a document in steps of a few milliseconds. Returns and raises as `from_document` does.

        A document of 2 MB, the most that Cosmos DB stores, takes up to some seconds.
        """
        read = _read_document(document)
        flows: dict[str, FlowEntry] = {}
        problems: list[Problem] = []
        unexplained: dict[str, int] = {}
        unreadable = 0
        for index, content in enumerate(read.flows):
            if index % _STEP == _STEP - 1:
                yield
            try:
                entry = _read_entry(index, content, explains=unreadable < MOST_EXPLAINED)
            except FieldError as error:
                unreadable += 1
                if unreadable <= MOST_EXPLAINED:
                    problems.append(_unreadable(read.tenant_id, index, content, error))
                elif label := entry_label(content):
                    unexplained.setdefault(label, index)
                continue
            first = flows.setdefault(entry.name, entry)
            if first is not entry:
                problems.append(_duplicate(read.tenant_id, entry, first))
        if unlisted := max(unreadable - MOST_EXPLAINED, 0):
            problems.append(_others(read.tenant_id, unlisted))
        return cls(
            id=read.tenant_id,
            name=read.name or read.tenant_id,
            timezone=read.timezone or "UTC",
            has_zone=bool(read.timezone),
            flows=tuple(flows.values()),
            problems=tuple(problems),
            schedule_rev=read.schedule_rev if isinstance(read.schedule_rev, str) else None,
            etag=str(document.get("_etag", "")),
            unlisted=unlisted,
            unexplained=unexplained,
        )

    @cached_property
    def entries(self) -> Mapping[str, FlowEntry]:
        """The entries by name."""
        return {entry.name: entry for entry in self.flows}

    def zone_of(self, entry: FlowEntry) -> str:
        """Return the time zone of an entry's cron: its own, the tenant's where it says `tenant`, else UTC."""
        return self.timezone if entry.timezone == "tenant" else entry.timezone or "UTC"

    def revision_of(self, entry: FlowEntry) -> str:
        """Hash the schedule of an entry, so that a delayed job notices a change of it."""
        return sha256(f"{entry.cron}\n{self.zone_of(entry)}".encode(errors="backslashreplace")).hexdigest()[:16]

    def entry(self, names: Collection[str]) -> FlowEntry | None:
        """Return the entry under the first of these names that the document has.

        Raises:
            TenantInvalid: the only entry under these names cannot be read.

        """
        for name in names:
            if name in self.entries:
                return self.entries[name]
        for problem in self.problems:
            if problem.flow in names:
                raise TenantInvalid(self.id, problem.path, problem.why, problem.flow)
        for name in names:
            if name in self.unexplained:
                why = f"the entry cannot be read, like {MOST_EXPLAINED} before it: correct those first"
                raise TenantInvalid(self.id, f"flows[{self.unexplained[name]}]", why, name)
        return None


class _TenantDocument(msgspec.Struct, rename="camel"):
    id: Text
    tenant_id: Annotated[Text, Meta(description="a text that is not empty, the same as id")]
    flows: Annotated[list[Any], Meta(description="a list of flow entries")]
    type: Annotated[Literal["Tenant"], Meta(description='"Tenant"')] = "Tenant"
    name: Annotated[str | None, Meta(description="a text")] = None
    timezone: Annotated[str | None, Meta(description="an IANA name such as America/Chicago")] = None
    last_action: Any = None
    """The id of the last action of an operator that changed the document."""
    schedule_rev: Any = None


class _EntryDocument(msgspec.Struct, rename="camel"):
    name: Text
    enabled: Annotated[bool, Meta(description="true or false, without quotes")]
    cron: Annotated[
        str,
        Meta(
            min_length=1,
            pattern=NO_SURROGATES,
            description='a text of six fields, seconds first, such as "0 0 * * * *"',
        ),
    ]
    next_run_utc: Annotated[str | None, Meta(description=times.EXPECTED)] = None
    timezone: Annotated[str | None, Meta(description="an IANA name such as America/Chicago")] = None
    settings: Annotated[dict[str, Any] | None, Meta(description="an object")] = None
    freshness: Annotated[str | None, Meta(description=times.SPAN)] = None
    planned: Any = None
    pause_reason: Any = None
    paused_with_tenant: Any = None
    """true if the entry was enabled when an operator has paused the whole tenant."""


DOCUMENT_FIELDS = _TenantDocument.__struct_encode_fields__
ENTRY_FIELDS = _EntryDocument.__struct_encode_fields__


def is_tenant_document(document: Mapping[str, Any]) -> bool:
    """Return whether a document of the tenants container is, or is meant to be, a tenant's.

    Documents of other types may be stored beside them. A misspelt or missing type does not hide a tenant, and neither
    does a misspelt `flows` in a document without a type.
    """
    kind = document.get("type")
    if isinstance(kind, str) and kind.strip():
        return kind == "Tenant" or _resembles("tenant", kind)
    return "flows" in document or any(_resembles("flows", name) for name in islice(document, _MOST_NAMES))


def is_tenant_id(text: str) -> bool:
    """Return whether a text can be a tenant's id."""
    return bool(text) and id_mistake(text) is None


def document_key(document: Mapping[str, Any]) -> str:
    """Identify a document of the tenants container: by its id, or by tenantId and id where they differ."""
    own, tenant = document.get("id"), document.get("tenantId")
    return shorten(str(own) if own == tenant else f"{tenant!r}/{own!r}", 2000)


def tenant_label(document: Mapping[str, Any]) -> str:
    """Name a document that may lack anything: by its id, else by its tenantId."""
    names = (document.get("id"), document.get("tenantId"))
    return _label(next((name for name in names if isinstance(name, str) and name), repr(names[0])))


def entry_label(content: object) -> str | None:
    """Name an entry that may lack anything: by its `name`; None where it has none."""
    name = content.get("name") if isinstance(content, dict) else None
    return _label(name) if name and isinstance(name, str) else None


def _label(name: str) -> str:
    return shorten(name if is_legible(name) else shown(repr(name)[1:-1]))


def _resembles(word: str, text: str) -> bool:
    """Return whether a text is a word in other capitals or with a mistyped letter."""
    if len(text) > len(word) + 3:
        return False
    return bool(get_close_matches(text.strip().lower(), [word], cutoff=0.8))


def id_mistake(tenant_id: str) -> str | None:
    """Return the reason why a text that is not empty cannot be a tenant's id; None if it can."""
    if (size := len(tenant_id.encode(errors="replace"))) > _LONGEST_ID:
        return f"an id has at most {_LONGEST_ID:,} bytes, as in Cosmos DB, got {size:,}"
    if tenant_id.startswith("@"):
        return "a tenant's id does not start with '@', which the app uses itself"
    if is_forbidden_in_ids(tenant_id) or tenant_id.endswith(" "):  # as `_validate_resource` of azure-cosmos
        return "an id has none of / \\ ? #, and no space at its end, which Cosmos DB does not accept"
    if tenant_id in (".", ".."):
        return "an id is not '.' or '..', which stand for a folder in the address of a document"
    if not is_legible(tenant_id):
        return f"an id has only printable characters, got {quoted(tenant_id)}"
    return None


def _read_document(document: Mapping[str, Any]) -> _TenantDocument:
    """Read a document without its entries. Raises TenantInvalid."""
    try:
        read = decode(_TenantDocument, document)
    except FieldError as error:
        raise TenantInvalid(tenant_label(document), error.path, error.why) from None
    if read.id != read.tenant_id:
        raise TenantInvalid(
            read.id,
            "tenantId",
            f"{read.tenant_id!r} is not the document's id {read.id!r}; both must be the tenant's id",
        )
    if why := id_mistake(read.id):
        raise TenantInvalid(tenant_label(document), "id", why)
    return read


def _read_entry(index: int, content: object, *, explains: bool) -> FlowEntry:
    read = decode(_EntryDocument, content, explains=explains)
    if len(read.name) > NAME_LIMIT:
        raise FieldError("name", why=f"a name has at most {NAME_LIMIT} characters, got {shorten(read.name)!r}")
    if not is_legible(read.name):
        raise FieldError("name", why=f"a name has only printable characters, got {quoted(read.name)}")
    try:
        next_run = None if read.next_run_utc is None else read_utc(read.next_run_utc)
    except ValueError:
        raise FieldError("nextRunUtc", times.EXPECTED, read.next_run_utc) from None
    try:
        freshness = None if read.freshness is None else read_span(read.freshness)
    except ValueError:
        raise FieldError("freshness", times.SPAN, read.freshness) from None
    return FlowEntry(
        index=index,
        name=read.name,
        enabled=read.enabled,
        cron=read.cron,
        timezone=read.timezone,
        settings=read.settings or {},
        freshness=freshness,
        next_run=next_run,
        next_run_text=read.next_run_utc,
        planned=_read_planned(read.planned),
        pause_reason=read.pause_reason if isinstance(read.pause_reason, str) and not read.enabled else None,
    )


def _read_planned(value: object) -> Planned | None:
    try:
        return decode(Planned, value) if value else None
    except FieldError:  # only the app writes it, and writes it again
        return None


def _unreadable(tenant_id: str, index: int, content: object, error: FieldError) -> Problem:
    return Problem(
        tenant_id=tenant_id,
        flow=entry_label(content),
        path=f"flows[{index}]{error.path and '.'}{error.path}",
        why=error.why,
    )


def _others(tenant_id: str, number: int) -> Problem:
    why = f"{number:,} more entries cannot be read, which are not listed: correct the others first"
    return Problem(tenant_id=tenant_id, path="flows", why=why)


def _duplicate(tenant_id: str, entry: FlowEntry, first: FlowEntry) -> Problem:
    return Problem(
        tenant_id=tenant_id,
        flow=entry.name,
        path=f"flows[{entry.index}].name",
        why=f"{entry.name!r} is already at flows[{first.index}], which is the one used: merge the two entries",
    )
