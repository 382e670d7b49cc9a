"""The questions that the page asks, answered by `datasync.operate`."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from async_lru import alru_cache
from msgspec import Meta

from dashboard.access import Visitor
from dashboard.web import Refused
from datasync.flow.registry import FlowRegistry
from datasync.operate.audit import audit
from datasync.operate.dead import DeadFilter, dead
from datasync.operate.files import flow_files
from datasync.operate.fleet import fleet, fleet_since
from datasync.operate.gates import gates
from datasync.operate.incidents import Incidents, incidents
from datasync.operate.load import load
from datasync.operate.memory import memory
from datasync.operate.queue import queues
from datasync.operate.runs import FAILED, run, runs
from datasync.operate.since import since
from datasync.operate.status import Status, status
from datasync.operate.tenant import tenant
from datasync.operate.ticks import ticks
from datasync.operate.why import why
from datasync.services import Services

type Question = Callable[[Asked], Awaitable[object]]

STATUS_KEPT = 15
INCIDENTS_KEPT = 30
"""Seconds for which a process gives all readers one answer: as often as a page asks. Each reads the whole fleet."""


class Asked(msgspec.Struct, frozen=True):
    """A question with its parameters."""

    services: Services
    registry: FlowRegistry
    now: datetime
    visitor: Visitor
    query: Mapping[str, str]

    def read[T: msgspec.Struct](self, type_: type[T]) -> T:
        """Return the parameters. Raises Refused if one is missing, unknown, or has another form."""
        try:
            return msgspec.convert(dict(self.query), type_, strict=False)
        except (msgspec.ValidationError, UnicodeError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the parameters cannot be used: {error}") from None

    def since(self, text: str) -> datetime:
        """Return the instant that a time span, or a time, stands for. Raises Refused if the text is neither."""
        try:
            return since(text, self.now)
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"since: {error}") from None


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameter."""


class _Status(msgspec.Struct, forbid_unknown_fields=True):
    fresh: bool = False
    """Whether an answer that this process has kept will not do: the reader has just changed something."""


class _Ticks(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 24


class _Changes(msgspec.Struct, forbid_unknown_fields=True):
    since: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class _Incidents(msgspec.Struct, forbid_unknown_fields=True):
    since: str = "24h"
    fresh: bool = False


class _Runs(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str | None = None
    flow: str | None = None
    failed: bool = False
    since: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class _Audit(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str | None = None
    since: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class _Run(msgspec.Struct, forbid_unknown_fields=True):
    run: str
    tenant: str | None = None


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str
    flow: str


class _Dead(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str
    flow: str


class _Tenant(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str


async def _status(asked: Asked) -> object:
    if asked.read(_Status).fresh:
        _kept_status.cache_clear()
    found = await _kept_status(asked.services, asked.registry)
    if found.unavailable:
        _kept_status.cache_clear()
    return found


@alru_cache(maxsize=1, ttl=STATUS_KEPT)
async def _kept_status(services: Services, registry: FlowRegistry) -> Status:
    return await status(services, registry, services.clock.now())


async def _fleet(asked: Asked) -> object:
    start = asked.read(_Changes).since
    if start is None:
        return await fleet(asked.services, asked.registry, asked.now)
    return await fleet_since(asked.services, asked.registry, asked.now, start)


async def _incidents(asked: Asked) -> object:
    wanted = asked.read(_Incidents)
    asked.since(wanted.since)
    if wanted.fresh:
        _kept_incidents.cache_clear()
    return await _kept_incidents(asked.services, asked.registry, wanted.since)


@alru_cache(maxsize=4, ttl=INCIDENTS_KEPT)
async def _kept_incidents(services: Services, registry: FlowRegistry, start: str) -> Incidents:
    now = services.clock.now()
    return await incidents(services, registry, now, since(start, now))


def forget() -> None:
    """Forget the answers that are kept: something was changed."""
    _kept_status.cache_clear()
    _kept_incidents.cache_clear()


async def _runs(asked: Asked) -> object:
    wanted = asked.read(_Runs)
    return await runs(
        asked.services,
        asked.registry,
        tenant_id=wanted.tenant,
        flow=wanted.flow,
        outcomes=FAILED if wanted.failed else (),
        since=asked.since(wanted.since) if wanted.since else None,
        most=wanted.limit,
    )


async def _run(asked: Asked) -> object:
    wanted = asked.read(_Run)
    return await run(asked.services, wanted.run, wanted.tenant)


async def _why(asked: Asked) -> object:
    wanted = asked.read(_Entry)
    return await why(asked.services, asked.registry, wanted.tenant, wanted.flow, asked.now)


async def _memory(asked: Asked) -> object:
    """Answer with the cursor as text: a browser would read some numbers as others."""
    wanted = asked.read(_Entry)
    found = await memory(asked.services, asked.registry, wanted.tenant, wanted.flow)
    text = json.dumps(found.cursor, indent=2, ensure_ascii=False)
    return {"cursorJson": text, "windowEndUtc": found.window_end_utc, "running": found.running}


async def _dead(asked: Asked) -> object:
    wanted = asked.read(_Dead)
    found = await dead(asked.services, asked.registry, DeadFilter(tenant_id=wanted.tenant, flow=wanted.flow), 0)
    return {"count": found.count}


async def _gates(asked: Asked) -> object:
    asked.read(_Nothing)
    return await gates(asked.services, asked.now)


async def _tenant(asked: Asked) -> object:
    return await tenant(asked.services, asked.registry, asked.read(_Tenant).tenant, asked.now)


async def _queue(asked: Asked) -> object:
    asked.read(_Nothing)
    return await queues(asked.services)


async def _ticks(asked: Asked) -> object:
    return await ticks(asked.services, asked.now, asked.read(_Ticks).limit)


async def _audit(asked: Asked) -> object:
    wanted = asked.read(_Audit)
    start = asked.since(wanted.since) if wanted.since else None
    return await audit(asked.services, tenant_id=wanted.tenant, since=start, most=wanted.limit)


async def _files(asked: Asked) -> object:
    asked.read(_Nothing)
    return flow_files(asked.registry)


async def _load(asked: Asked) -> object:
    asked.read(_Nothing)
    return await load(asked.services, asked.registry, asked.now)


async def _me(asked: Asked) -> Any:
    asked.read(_Nothing)
    return asked.visitor


QUESTIONS: dict[str, Question] = {
    "status": _status,
    "fleet": _fleet,
    "incidents": _incidents,
    "runs": _runs,
    "run": _run,
    "why": _why,
    "memory": _memory,
    "dead": _dead,
    "gates": _gates,
    "tenant": _tenant,
    "queue": _queue,
    "ticks": _ticks,
    "audit": _audit,
    "files": _files,
    "load": _load,
    "me": _me,
}
"""The questions by the last part of their path, `/api/ops/data/…`."""
