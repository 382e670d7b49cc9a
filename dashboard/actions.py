"""The changes that the page makes, carried out by `datasync.operate`."""

import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dashboard.access import Visitor
from dashboard.web import Refused
from datasync.flow.registry import FlowRegistry
from datasync.operate.action import Ask, Done, typed
from datasync.operate.dead import DeadFilter, purge, retry
from datasync.operate.documents import document_problems, put_tenant
from datasync.operate.edits import instant, pause, resume, set_next_run
from datasync.operate.enqueue import enqueue
from datasync.operate.gates import open_gate
from datasync.operate.memory import set_cursor, set_window
from datasync.services import Services

type Action = Callable[[Wanted], Awaitable[Done]]
type _Seen = dict[str, Any] | None
"""Fields of the entry, of the document, or of the state, as the operator saw them."""


class Body(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The parts that every change has."""

    action_id: str
    """Made by the page, another one for each change: a repeat has the result of the first."""
    who: str | None = None
    """The typed name. Only in mode `key`."""


class _Entry(Body, kw_only=True):
    tenant: str
    flow: str
    seen: _Seen = None


class _Entries(Body, kw_only=True):
    tenant: str
    flow: str | None = None
    """None for all entries of the tenant."""
    reason: str = ""
    seen: _Seen = None


class _NextRun(_Entry, kw_only=True):
    at: str | None
    """None for the next time of the cron."""


class _Cursor(Body, kw_only=True):
    tenant: str
    flow: str
    cursor_json: str | None
    """JSON; None to forget the cursor."""
    seen_json: str
    """The cursor as the operator saw it."""


class _Document(Body, kw_only=True):
    tenant: str
    etag: str
    """The version that the operator has edited."""
    document: str
    """JSON, as the operator has typed it."""


class _Window(_Entry, kw_only=True):
    window_end_utc: str | None
    """None to forget the windows."""


class _Dead(Body, kw_only=True):
    count: Annotated[int, Meta(ge=0)]
    """How many runs match, as the operator has seen."""
    fingerprint: str | None = None
    tenant: str | None = None
    flow: str | None = None
    since: Annotated[datetime, Meta(tz=True)] | None = None
    """The earliest start of the runs that were counted."""

    @property
    def filter(self) -> DeadFilter:
        """Which dead runs."""
        return DeadFilter(fingerprint=self.fingerprint, tenant_id=self.tenant, flow=self.flow, since=self.since)


class _Retry(_Dead):
    spread_seconds: Annotated[int, Meta(ge=0, le=10**6)] = 0


class _Gate(Body, kw_only=True):
    provider: str
    tenant: str | None = None
    """None to open it for all tenants."""
    until_utc: Annotated[datetime, Meta(tz=True)] | None
    """Until when it is closed, as the operator saw it; None if that could not be read."""


class Wanted(msgspec.Struct, frozen=True):
    """A change that somebody asks for."""

    services: Services
    registry: FlowRegistry
    now: datetime
    visitor: Visitor
    body: bytes
    """JSON, not read yet."""

    def read[T: Body](self, type_: type[T]) -> tuple[T, Ask]:
        """Return the body and its `Ask`. Raises Refused if a part is missing, unknown, or has another form."""
        try:
            body = msgspec.json.decode(self.body, type=type_)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the change cannot be read: {error}") from None
        return body, Ask(action_id=body.action_id, who=self._who(body), at=self.now)

    def _who(self, body: Body) -> str:
        if self.visitor.name is None:
            if not (body.who and body.who.strip()):
                raise Refused(HTTPStatus.BAD_REQUEST, "type your name: the audit names who has made a change")
            return typed(body.who)
        if body.who is not None:
            raise Refused(HTTPStatus.BAD_REQUEST, f"you are signed in as {self.visitor.name}: leave the name out")
        return self.visitor.name


async def _enqueue(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Entry)
    return await enqueue(wanted.services, wanted.registry, ask, tenant_id=body.tenant, flow=body.flow)


async def _pause(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Entries)
    return await pause(
        wanted.services,
        wanted.registry,
        ask,
        tenant_id=body.tenant,
        flow=body.flow,
        reason=body.reason,
        seen=body.seen,
    )


async def _resume(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Entries)
    return await resume(wanted.services, wanted.registry, ask, tenant_id=body.tenant, flow=body.flow, seen=body.seen)


async def _next_run(wanted: Wanted) -> Done:
    body, ask = wanted.read(_NextRun)
    return await set_next_run(
        wanted.services,
        wanted.registry,
        ask,
        tenant_id=body.tenant,
        flow=body.flow,
        at=None if body.at is None else instant(body.at),
        seen=body.seen,
    )


async def _retry(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Retry)
    spread = timedelta(seconds=body.spread_seconds)
    return await retry(wanted.services, wanted.registry, ask, body.filter, count=body.count, spread=spread)


async def _purge(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Dead)
    return await purge(wanted.services, wanted.registry, ask, body.filter, count=body.count)


async def _gate_open(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Gate)
    return await open_gate(
        wanted.services, ask, provider=body.provider, tenant_id=body.tenant, seen_until=body.until_utc
    )


async def _cursor_set(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Cursor)
    return await set_cursor(
        wanted.services,
        wanted.registry,
        ask,
        tenant_id=body.tenant,
        flow=body.flow,
        cursor=None if body.cursor_json is None else _read(body.cursor_json, "the cursor"),
        seen={"cursor": _read(body.seen_json, "the cursor as it was seen")},
    )


async def _window_set(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Window)
    return await set_window(
        wanted.services,
        wanted.registry,
        ask,
        tenant_id=body.tenant,
        flow=body.flow,
        end=None if body.window_end_utc is None else instant(body.window_end_utc),
        seen=body.seen,
    )


async def _tenant_put(wanted: Wanted) -> Done:
    body, ask = wanted.read(_Document)
    document = _read(body.document, "the document")
    if not isinstance(document, dict) or document.get("id") != body.tenant:
        raise Refused(HTTPStatus.BAD_REQUEST, "the document must be a JSON object, and its id must stay as it is")
    content = {name: value for name, value in document.items() if not name.startswith("_")}
    if problems := document_problems(wanted.registry, content, ask):
        raise Refused(HTTPStatus.BAD_REQUEST, "the document was not stored, since it has problems", problems)
    return await put_tenant(wanted.services, wanted.registry, ask, {**content, "_etag": body.etag})


def _read(text: str, what: str) -> Any:
    """Return the value of a JSON text. Raises Refused, also for a name that an object has twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{what} is not JSON: {error}") from None


ACTIONS: dict[str, Action] = {
    "enqueue": _enqueue,
    "pause": _pause,
    "resume": _resume,
    "next-run": _next_run,
    "retry": _retry,
    "purge": _purge,
    "gate-open": _gate_open,
    "cursor-set": _cursor_set,
    "window-set": _window_set,
    "tenant-put": _tenant_put,
}
"""The changes by the last part of their path, `/api/ops/actions/…`."""
