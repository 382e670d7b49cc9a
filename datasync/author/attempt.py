"""The parts that the use cases of an author share: the wish for a run, its window, and a call without a lease."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec

from datasync.errors import ActionInvalid
from datasync.flow.context import Window
from datasync.flow.registry import Flow
from datasync.model.state import FlowState
from datasync.model.times import utc_text
from datasync.run.call import run_flow
from datasync.run.describe import describe
from datasync.run.ending import Ending
from datasync.run.prepare import Prepared
from datasync.services import Services


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A run that an author asks for."""

    tenant_id: str
    flow: str
    """Its name, or an alias."""
    since: datetime | None = None
    """The start of the window (aware); None for the end of the last one."""
    until: datetime | None = None
    """The end of the window (aware); None for the present time."""
    settings: Mapping[str, Any] = {}
    """The fields that replace those of the entry's settings."""


def given_window(wish: Wish, state: FlowState | None, now: datetime) -> Window | None:
    """Return the window that an author asks for; None if that is the next one.

    Raises:
        ActionInvalid: it ends before it starts, or in the future.

    """
    if wish.since is None and wish.until is None:
        return None
    kept = state.window_end_utc if state else None
    start, end = wish.since or kept, wish.until or now
    if end > now:
        raise ActionInvalid(f"the window cannot end in the future, at {utc_text(end)}: give an earlier --until")
    if start and start >= end:
        which = "--since" if wish.since else "the last window ended there: give an earlier --since too"
        raise ActionInvalid(f"the window would start at {utc_text(start)} ({which}) and end at {utc_text(end)}")
    return Window(start=start, end=end)


async def state_of(services: Services, flow: Flow, tenant_id: str) -> FlowState | None:
    """Return the state of a flow; None if it has none. Raises StateInvalid or ServiceUnavailable."""
    return await services.runs.state(tenant_id, flow.names) if flow.has_state else None


async def attempt(services: Services, made: Prepared) -> Ending:
    """Call a flow without a lease. Nothing is recorded."""
    async with aclosing(made.run.http):
        execution = await run_flow(services, made, asyncio.get_running_loop().create_future())
    return await describe(made, execution)
