"""The shapes, in the order of the data: Tenant → FlowConfig → Job → FlowState, Run. No I/O, no clock.

Documents are edited by hand and messages may be posted by hand, so decoding is strict about what it reads,
silent about fields it does not know, and says where the trouble is and what was expected there.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec.structs import replace

from datasync.errors import JobInvalid, StateInvalid, TenantInvalid

FORBIDDEN_IN_IDS = "/\\?#"
"""What the id of a Cosmos DB document cannot hold."""

# --------------------------------------------------------------------------------------------- tenants


class Problem(msgspec.Struct, frozen=True):
    """Something in a tenant document that a person has to mend."""

    tenant_id: str
    path: str
    """Where in the document, such as `flows[2].cron`."""
    why: str
    """What is there, and what is expected."""
    flow: str | None = None
    """The flow's name, where the trouble is in a flow entry that has one."""

    def __str__(self) -> str:
        """Render as `tenant-123/weather flows[2].cron: …`."""
        subject = f"{self.tenant_id}/{self.flow}" if self.flow else self.tenant_id
        return f"{subject} {self.path}: {self.why}"


class FlowConfig(msgspec.Struct, frozen=True):
    """One entry of a tenant document's `flows`: which flow, when, and whether."""

    index: int
    """Its position in the array, which path patches need."""
    name: str
    enabled: bool
    cron: str
    """Six fields, seconds first. Not checked here: see datasync.schedule."""
    timezone: str | None
    """Where the cron is read: an IANA name, `tenant` for the tenant's own, None for UTC."""
    settings: dict[str, Any]
    """Free-form: handed to the flow as `run.settings`."""
    next_run: datetime | None
    """`nextRunUtc` as an instant (aware, UTC); None where it is missing or null."""
    next_run_text: str | None
    """`nextRunUtc` as it stands in the document, to notice when a person changes it."""


class Tenant(msgspec.Struct, frozen=True):
    """One tenant document, as far as it could be read."""

    id: str
    name: str
    timezone: str
    """The IANA name its people live by; `UTC` where the document has none."""
    flows: tuple[FlowConfig, ...]
    problems: tuple[Problem, ...]
    """What is wrong with entries that are not among `flows`."""
    etag: str

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Decode a document of the tenants container; a flow entry that cannot be read becomes a problem.

        Raises:
            TenantInvalid: the document as a whole cannot be used; the message names the field.

        """
        label = _label(document)
        try:
            read = msgspec.convert(document, _TenantDocument)
        except msgspec.ValidationError as error:
            path, why = _explain(error, document)
            raise TenantInvalid(f"tenant document {label}: {path}: {why}") from None
        if read.id != read.tenant_id:
            raise TenantInvalid(
                f"tenant document {label}: tenantId: {read.tenant_id!r} is not the document's id {read.id!r}; "
                "both must be the tenant's id"
            )
        flows: list[FlowConfig] = []
        problems: list[Problem] = []
        for index, entry in enumerate(read.flows):
            flow = _flow_config(read.tenant_id, index, entry)
            if isinstance(flow, FlowConfig) and (first := next((f for f in flows if f.name == flow.name), None)):
                flow = Problem(
                    tenant_id=read.tenant_id,
                    flow=flow.name,
                    path=f"flows[{index}].name",
                    why=f"{flow.name!r} already stands at flows[{first.index}], which is the one used; "
                    "a flow has one entry in a tenant: merge the two",
                )
            if isinstance(flow, Problem):
                problems.append(flow)
            else:
                flows.append(flow)
        return cls(
            id=read.tenant_id,
            name=read.name or read.tenant_id,
            timezone=read.timezone or "UTC",
            flows=tuple(flows),
            problems=tuple(problems),
            etag=str(document.get("_etag", "")),
        )


# Half of a surrogate pair, which JSON can carry, cannot be hashed or logged.
type _Text = Annotated[str, msgspec.Meta(min_length=1, pattern="^[^\ud800-\udfff]*$")]


class _TenantDocument(msgspec.Struct, rename="camel"):
    id: _Text
    tenant_id: _Text
    flows: list[Any]
    type: Literal["Tenant"] = "Tenant"
    name: str | None = None
    timezone: str | None = None


class _FlowEntry(msgspec.Struct, rename="camel"):
    name: _Text
    enabled: bool
    cron: _Text
    next_run_utc: str | None = None
    timezone: str | None = None
    settings: dict[str, Any] | None = None


DOCUMENT_FIELDS = _TenantDocument.__struct_encode_fields__
ENTRY_FIELDS = _FlowEntry.__struct_encode_fields__


def _flow_config(tenant_id: str, index: int, entry: object) -> FlowConfig | Problem:
    try:
        read = msgspec.convert(entry, _FlowEntry)
        next_run = None if read.next_run_utc is None else _instant(read.next_run_utc)
    except msgspec.ValidationError as error:
        path, why = _explain(error, entry)
        name = entry.get("name") if isinstance(entry, dict) else None
        return Problem(
            tenant_id=tenant_id,
            flow=name if isinstance(name, str) else None,
            path=f"flows[{index}]{path and '.'}{path}",
            why=why,
        )
    return FlowConfig(
        index=index,
        name=read.name,
        enabled=read.enabled,
        cron=read.cron,
        timezone=read.timezone,
        settings=read.settings or {},
        next_run=next_run,
        next_run_text=read.next_run_utc,
    )


def _instant(text: str) -> datetime:
    """Read `nextRunUtc`: ISO 8601 in any offset; without one it is UTC, as the field's name says."""
    try:
        return _in_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise msgspec.ValidationError(
            "Expected an ISO 8601 time such as 2025-08-23T01:00:00Z - at `$.nextRunUtc`"
        ) from None


def _in_utc(time: datetime) -> datetime:
    """Return an instant in UTC; a time without an offset is UTC already, as the fields' names say."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _explain(error: msgspec.ValidationError, value: object) -> tuple[str, str]:
    """Turn msgspec's message into (path, what is expected and what is there)."""
    expected, _, at = str(error).partition(" - at `$")
    steps = re.findall(r"\.([^.\[`]+)|\[(\d+)\]", at)
    expected, _, _ = expected.partition(", got ")
    if missing := re.fullmatch(r"Object missing required field `(.+)`", expected):
        steps.append((missing[1], ""))
        return _path(steps), f"missing; {_EXPECTED.get(missing[1], 'it is required')}"
    for key, index in steps:
        value = value[int(index)] if index else value[key]  # type: ignore[index]
    name = steps[-1][0] if steps else ""
    expected = expected.replace("Expected", "expected").replace("`", "")
    return _path(steps), f"{_EXPECTED.get(name, expected)}, got {shorten(json.dumps(value, ensure_ascii=False))}"


_EXPECTED = {
    "id": "expected a text that is not empty",
    "tenantId": "expected a text that is not empty; in a document, the same as id",
    "name": "expected a text that is not empty",
    "type": 'expected "Tenant"',
    "flows": "expected a list of flow entries",
    "enabled": "expected true or false, without quotes",
    "cron": 'expected a text of six fields, seconds first, such as "0 0 * * * *"',
    "nextRunUtc": "expected an ISO 8601 time such as 2025-08-23T01:00:00Z",
    "priorAttempts": "expected a whole number",
    "scheduledUtc": "expected an ISO 8601 time such as 2025-08-23T01:00:00Z",
    "timezone": "expected an IANA name such as America/Chicago",
    "runId": "expected up to 200 letters, digits, and any of _ . : -",
    "settings": "expected an object",
}


def _path(steps: list[tuple[str, str]]) -> str:
    return "".join(f"[{index}]" if index else f".{key}" for key, index in steps).removeprefix(".")


def _label(document: Mapping[str, Any]) -> str:
    """Name a document that may lack anything."""
    return f"id={shorten(repr(document.get('id')))}"


def shorten(text: str, limit: int = 200) -> str:
    """Cut a text that goes into a message or a record, saying how long it was."""
    text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair cannot be printed
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


# --------------------------------------------------------------------------------------------- jobs


class Message(msgspec.Struct, frozen=True):
    """What the queue trigger hands over."""

    id: str
    body: bytes
    dequeue_count: int
    """1 at the first delivery."""
    inserted: datetime
    """When it was put on the queue (aware)."""


class Job(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A request to run one flow of one tenant once. `{tenantId, flowName}` alone is a complete one."""

    tenant_id: _Text
    flow_name: _Text
    scheduled_utc: datetime | None = None
    """The occurrence it stands for (aware, UTC); None in a message posted by hand."""
    run_id: Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z_.:-]{1,200}$")] | None = None
    """The same for every message that stands for the same decision; None in a message posted by hand."""
    rev: str | None = None
    """`revision()` of the entry it was planned from."""
    prior_attempts: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many attempts were made before this message was put on the queue (by RetryLater)."""

    def encode(self) -> str:
        """Return the message body: JSON, before the queue's base64."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, message: Message) -> Self:
        """Read a message, and give one that was posted by hand a run id and a time of its own.

        Raises:
            JobInvalid: the body is not a job; the message carries what was received.

        """
        try:
            content = json.loads(message.body)
        except (ValueError, RecursionError) as error:
            raise JobInvalid(_not_a_job(message, f"not JSON in UTF-8: {error}")) from None
        try:
            job = msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            path, why = _explain(error, content)
            raise JobInvalid(_not_a_job(message, f"{path}: {why}" if path else why)) from None
        if reserved := sorted(RESERVED_KEYS & {key.lower() for key in content}):
            raise JobInvalid(
                _not_a_job(
                    message, f"the Functions host keeps the keys {', '.join(reserved)} for itself; leave them out"
                )
            )
        try:
            scheduled = _in_utc(job.scheduled_utc or message.inserted)
        except OverflowError as error:
            raise JobInvalid(_not_a_job(message, f"scheduledUtc: {error}")) from None
        return replace(job, run_id=job.run_id or run_id(message.id), scheduled_utc=scheduled)


RESERVED_KEYS = frozenset(
    ("id", "dequeuecount", "insertiontime", "expirationtime", "nextvisibletime", "popreceipt", "queuetrigger")
)
"""Top-level keys (in lower case) with which a JSON body would overwrite the trigger's own metadata."""


def _not_a_job(message: Message, why: str) -> str:
    return (
        f"message {message.id} is not a job: {why}. Expected JSON such as "
        f'{{"tenantId": "tenant-123", "flowName": "weather"}}, received {shorten(repr(message.body))}'
    )


def run_id(*parts: str) -> str:
    """Hash what identifies a decision to run: the same decision, taken twice, gives the same id."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def revision(cron: str, timezone: str) -> str:
    """Hash what a planned occurrence depends on, so that a delayed job can tell it was rescheduled."""
    return hashlib.sha256(f"{cron}\n{timezone}".encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------- runs


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It will be attempted again."""
    DEAD = "dead"
    """It failed for the last time; the job is in the poison queue."""
    GAVE_UP = "gave_up"
    """The flow raised GiveUp."""
    DEFERRED = "deferred"
    """The flow raised RetryLater."""
    SKIPPED_DISABLED = "skipped_disabled"
    """The tenant's document has no such flow any more, or has it off."""
    SKIPPED_RESCHEDULED = "skipped_rescheduled"
    """It was planned ahead, and the flow's schedule was changed before its time came."""


class Run(msgspec.Struct, frozen=True, rename="camel"):
    """The record of one attempt that ended."""

    tenant_id: str
    flow_name: str
    run_id: str
    attempt: int
    """1 at the first."""
    outcome: Outcome
    scheduled_utc: datetime
    started_utc: datetime
    finished_utc: datetime
    error: str | None = None
    """In one line, with every secret the run read taken out."""
    counts: dict[str, int] = {}
    """What the flow reported with `run.count()`."""

    @property
    def id(self) -> str:
        """The record's id: writing the same attempt twice writes one record."""
        return f"run-{self.run_id}-{self.attempt}"

    def document(self, retention: timedelta) -> dict[str, Any]:
        """Return the record as it is kept, until `retention` is over."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {"id": self.id, "type": "Run", "ttl": int(retention.total_seconds()), **fields}


class FlowState(msgspec.Struct, frozen=True, rename="camel"):
    """What is remembered of one flow of one tenant from run to run."""

    tenant_id: str
    flow_name: str
    window_end_utc: datetime | None = None
    """Where the last successful run's window ended: where the next one starts."""
    last_run_utc: datetime | None = None
    last_outcome: Outcome | None = None
    last_success_utc: datetime | None = None
    consecutive_failures: int = 0
    etag: str | None = None
    """None as long as nothing is stored."""

    @property
    def id(self) -> str:
        """The document's id within its tenant's partition."""
        return f"state-{self.flow_name}"

    def after(self, run: Run, window_end: datetime) -> Self:
        """Return the state that a run leaves behind. Only success moves the window, and never back."""
        state = replace(self, last_run_utc=run.finished_utc, last_outcome=run.outcome)
        match run.outcome:
            case Outcome.SUCCEEDED:
                return replace(
                    state,
                    window_end_utc=max(window_end, self.window_end_utc or window_end),
                    last_success_utc=run.finished_utc,
                    consecutive_failures=0,
                )
            case Outcome.FAILED | Outcome.DEAD:
                return replace(state, consecutive_failures=self.consecutive_failures + 1)
            case _:
                return state

    def document(self) -> dict[str, Any]:
        """Return the state as it is kept."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        del fields["etag"]
        return {"id": self.id, "type": "FlowState", **fields}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a stored state.

        Raises:
            StateInvalid: somebody has edited it, and it cannot be read any more; the message names it and the field.

        """
        try:
            state = msgspec.convert({**document, "etag": document.get("_etag")}, cls)
        except msgspec.ValidationError as error:
            path, why = _explain(error, document)
            raise StateInvalid(
                f"flow state id={document.get('id')!r} of tenant {document.get('tenantId')!r}: {path}: {why}. Correct "
                "it, or delete the document: the flow then starts as if it had never run"
            ) from None
        return replace(state, window_end_utc=state.window_end_utc and _in_utc(state.window_end_utc))
