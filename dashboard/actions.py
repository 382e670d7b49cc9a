"""The changes that the page makes, carried out by `datasync.operate`."""

from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from dashboard.access import Visitor
from datasync.flow.registry import FlowRegistry
from datasync.services import Services

type Action = Callable[[Wanted], Awaitable[object]]


class Wanted(msgspec.Struct, frozen=True):
    """A change that somebody asks for."""

    services: Services
    registry: FlowRegistry
    now: datetime
    visitor: Visitor
    body: bytes
    """JSON, not read yet."""


ACTIONS: dict[str, Action] = {}
"""The changes by the last part of their path, `/api/ops/actions/…`."""
