"""The cursor and the window of a flow of a tenant. They are changed only while no run is going on."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from datasync.errors import ActionInvalid, ActionRefused, ChangedMeanwhile, CursorInvalid
from datasync.flow.registry import FlowRegistry
from datasync.model.audit import Audit, Verb
from datasync.model.cursor import normalized
from datasync.model.display import shown
from datasync.model.lease import MARGIN
from datasync.model.state import FlowState
from datasync.model.times import utc_text
from datasync.operate.action import Action, Ask, Change, Done, perform
from datasync.operate.edits import entry_of
from datasync.services import Services


class Memory(msgspec.Struct, frozen=True, rename="camel"):
    """The values that a flow keeps from run to run."""

    tenant_id: str
    flow_name: str
    cursor: Any
    """JSON; None where the flow has kept nothing."""
    window_end_utc: datetime | None
    """The start of the next window; None where no run has succeeded."""
    running: str | None
    """The id of the run that is going on."""


async def memory(services: Services, registry: FlowRegistry, tenant_id: str, flow: str) -> Memory:
    """Return the cursor and the window.

    Raises:
        TenantUnknown, EntryUnknown: the document or the entry does not exist.
        StateInvalid: the state was edited and cannot be read.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    state = await _state(services, registry, tenant_id, flow)
    return Memory(
        tenant_id=tenant_id,
        flow_name=state.flow_name,
        cursor=state.cursor,
        window_end_utc=state.window_end_utc,
        running=_running(state, services.clock.now()),
    )


async def set_cursor(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    *,
    tenant_id: str,
    flow: str,
    cursor: Any,
    seen: Mapping[str, Any] | None = None,
) -> Done:
    """Set the cursor to a JSON value; None resets it, so that the flow starts from the beginning.

    Args:
        services: The services of the app.
        registry: The flows, for their aliases.
        ask: The operator.
        tenant_id: The tenant.
        flow: The flow.
        cursor: The value.
        seen: `{"cursor": …}` as the operator saw it.

    Raises:
        TenantUnknown, EntryUnknown: the document or the entry does not exist.
        ActionInvalid: the cursor cannot be kept.
        ActionRefused: a run is going on.
        ChangedMeanwhile: a run, or somebody else, has changed the state.
        StateInvalid: the state was edited and cannot be read.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    try:
        value = normalized(cursor)
    except CursorInvalid as error:
        raise ActionInvalid(str(error)) from None
    verb, said = (Verb.CURSOR_RESET, "reset") if value is None else (Verb.CURSOR_SET, "set")
    action = Action(verb, tenant_id, flow, {} if value is None else {"cursor": value})
    subject = f"{shown(tenant_id)}/{shown(flow)}"
    message = f"{subject}: the cursor is {said}"

    def change(state: FlowState) -> FlowState:
        return replace(state, cursor=value)

    return await _change(services, registry, ask, action=action, message=message, change=change, seen=seen)


async def set_window(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    *,
    tenant_id: str,
    flow: str,
    end: datetime | None,
    seen: Mapping[str, Any] | None = None,
) -> Done:
    """Set the end of the last window (aware), where the next one starts; None resets it, as if no run had succeeded.

    Args and errors are those of `set_cursor`; `seen` is `{"windowEndUtc": …}`. An end in the future is ActionInvalid.
    """
    if end and end > services.clock.now() + MARGIN:
        raise ActionInvalid(f"a window cannot end in the future, at {utc_text(end)}: the runs would fail")
    verb, said = (Verb.WINDOW_RESET, "is reset") if end is None else (Verb.WINDOW_SET, f"starts at {utc_text(end)}")
    action = Action(verb, tenant_id, flow, {} if end is None else {"windowEndUtc": utc_text(end)})
    message = f"{shown(tenant_id)}/{shown(flow)}: the next window {said}"

    def change(state: FlowState) -> FlowState:
        return replace(state, window_end_utc=end)

    return await _change(services, registry, ask, action=action, message=message, change=change, seen=seen)


async def _change(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    *,
    action: Action,
    message: str,
    change: Callable[[FlowState], FlowState],
    seen: Mapping[str, Any] | None,
) -> Done:
    """Replace the state that was read, under its ETag."""
    tenant_id, flow = action.tenant_id or "", action.flow_name or ""

    async def decide() -> Change:
        state = await _state(services, registry, tenant_id, flow)
        if running := _running(state, services.clock.now()):
            raise ActionRefused(
                f"{shown(tenant_id)}/{shown(flow)}: run {running} is going on, and its end would replace the value. "
                "Pause the flow, wait for the end of the run, and try again"
            )
        before, after = _kept(state, action), _kept(change(state), action)
        for name, value in (seen or {}).items():
            if before.get(name) != value:
                raise ChangedMeanwhile(
                    f"{shown(tenant_id)}/{shown(flow)}: {shown(name)} is {shown(repr(before.get(name)))} now, and was "
                    f"{shown(repr(value))} when you looked"
                )
        return Change(message, before, after, basis={"etag": state.etag})

    async def make(intent: Audit, _: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        done = Change(message, intent.before, intent.after)
        etag = intent.basis.get("etag") if isinstance(intent.basis, Mapping) else None
        state = await _state(services, registry, tenant_id, flow)
        if state.etag == etag and await services.runs.save(change(state)):
            return done
        state = await _state(services, registry, tenant_id, flow)  # perhaps a first try has changed it
        if _kept(state, action) != intent.after:
            raise ChangedMeanwhile(
                f"the state of {shown(tenant_id)}/{shown(flow)} was changed meanwhile, by a run or by somebody else: "
                "look at it, and decide again"
            )
        return done

    return await perform(services, ask, action, decide, make)


async def _state(services: Services, registry: FlowRegistry, tenant_id: str, flow: str) -> FlowState:
    entry_of(await services.tenants.document(tenant_id), registry.names_of(flow), flow)
    return await services.runs.state(tenant_id, registry.names_of(flow))


def _running(state: FlowState, now: datetime) -> str | None:
    if state.lease is None or not state.lease.is_live(now):
        return None
    holder = state.lease.holder(state.tenant_id)
    return holder.run_id if holder else "(of an edited lease)"


def _kept(state: FlowState, action: Action) -> dict[str, Any]:
    """Return the value that an action changes."""
    if action.verb in (Verb.CURSOR_SET, Verb.CURSOR_RESET):
        return {"cursor": state.cursor}
    return {"windowEndUtc": state.window_end_utc and utc_text(state.window_end_utc)}
