"""The questions that the page asks, answered by `datasync.operate`."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dashboard.access import Visitor
from dashboard.web import Refused
from datasync.flow.registry import FlowRegistry
from datasync.operate.fleet import fleet, fleet_since
from datasync.operate.status import status
from datasync.services import Services

type Question = Callable[[Asked], Awaitable[object]]


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


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameter."""


class _Since(msgspec.Struct, forbid_unknown_fields=True):
    since: Annotated[int, Meta(ge=0, le=2**53)] | None = None


async def _status(asked: Asked) -> object:
    asked.read(_Nothing)
    return await status(asked.services, asked.registry, asked.now)


async def _fleet(asked: Asked) -> object:
    since = asked.read(_Since).since
    if since is None:
        return await fleet(asked.services, asked.registry, asked.now)
    return await fleet_since(asked.services, asked.registry, asked.now, since)


async def _me(asked: Asked) -> Any:
    asked.read(_Nothing)
    return asked.visitor


QUESTIONS: dict[str, Question] = {"status": _status, "fleet": _fleet, "me": _me}
"""The questions by the last part of their path, `/api/ops/data/…`."""
