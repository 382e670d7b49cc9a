"""Actions: the changes that an operator asks for. Each is done once, however often it is asked for, and has an audit.

An action is first stored as an intent, then made, then stored as done. If the process dies, or an answer is lost, in
between, a repeat with the same action id makes the rest, and nothing a second time. An action that is refused is
stored with the reason.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from datasync.errors import ActionInvalid, ActionRefused, ChangedMeanwhile, DataSyncError, StateInvalid
from datasync.model.audit import MOST_TENANTS, Audit, End, Verb
from datasync.model.decode import shorten
from datasync.services import Services
from datasync.tries import tries

COMMAND_LINE = "command line"
DASHBOARD = "dashboard"

_ACTION_ID = re.compile(r"[0-9A-Za-z_.:-]{1,100}")
_LONGEST_NAME = 200


class Ask(msgspec.Struct, frozen=True):
    """An operator who asks for an action."""

    action_id: str
    """Chosen by the client, another one for each action: up to 100 letters, digits, and any of _ . : -"""
    who: str
    """The principal, where it is known; else `key: ` and the name that the operator has typed."""
    at: datetime
    """The present time (aware)."""
    via: str = DASHBOARD

    def __post_init__(self) -> None:
        if not _ACTION_ID.fullmatch(self.action_id):
            raise ActionInvalid(
                f"action id {shorten(self.action_id)!r}: expected up to 100 letters, digits, and any of _ . : -"
            )
        if not 0 < len(self.who) <= _LONGEST_NAME or not self.who.isprintable():
            raise ActionInvalid(
                f"{shorten(self.who)!r} cannot name an operator: expected 1 to {_LONGEST_NAME} printable characters"
            )


def typed(name: str) -> str:
    """Return the operator's name for the audit, where a key is used: nobody has checked it."""
    return f"key: {name.strip()}"


class Done(msgspec.Struct, frozen=True, rename="camel"):
    """The result of an action."""

    action_id: str
    action: str
    message: str
    """The result, as a sentence."""
    is_repeat: bool
    """Whether an earlier request with this id has done it, or begun it."""
    who: str
    at_utc: datetime
    """When it was asked for first."""
    tenant_id: str | None
    flow_name: str | None
    before: Any
    after: Any
    """The values that it has changed. They are equal if nothing had to be changed."""

    @classmethod
    def of(cls, audit: Audit, *, is_repeat: bool) -> Self:
        """Return the result of an action that was done."""
        return cls(
            action_id=audit.action_id,
            action=audit.action,
            message=audit.message,
            is_repeat=is_repeat,
            who=audit.who,
            at_utc=audit.started_utc,
            tenant_id=audit.tenant,
            flow_name=audit.flow,
            before=audit.before,
            after=audit.after,
        )


class Change(msgspec.Struct, frozen=True):
    """The change that an action makes."""

    message: str
    before: Any = None
    after: Any = None
    basis: Any = None
    """The facts about the state before the action that a repeat needs."""
    tenants: tuple[str, ...] = ()
    """The tenants that it changes, unless the action names its tenant."""


class Action(msgspec.Struct, frozen=True):
    """An action that an operator asks for."""

    verb: Verb
    tenant_id: str | None = None
    flow_name: str | None = None
    arguments: Mapping[str, Any] = {}
    """JSON."""
    varying: frozenset[str] = frozenset()
    """Arguments that a repeat may have with other values, as time has passed: those of the first request count."""


async def is_known(services: Services, ask: Ask) -> bool:
    """Return whether an earlier request with this id has begun an action, or was refused.

    Raises:
        StateInvalid: its audit was edited and cannot be read.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    return await services.audits.get(ask.action_id) is not None


async def perform(
    services: Services,
    ask: Ask,
    action: Action,
    decide: Callable[[], Awaitable[Change]],
    make: Callable[[Audit, bool], Awaitable[Change]],
) -> Done:
    """Perform an action once.

    Args:
        services: The services of the app.
        ask: The operator, and the id of the action.
        action: The action that the operator asks for.
        decide: Returns the change to make, or raises an error if the action is not possible. Changes nothing.
        make: Makes the change, for the stored intent. Its second argument is whether an earlier request may have made
            it already, in full or in part. Returns the change that was made.

    Raises:
        ActionInvalid: the id was used for another action.
        ChangedMeanwhile, ActionRefused: nothing was done, or the message says that it may have been. That has an audit.
            A repeat raises the same.
        ServiceUnavailable: a service refused or could not be reached. The action may have been done. A repeat completes
            it.

    """
    stored = await services.audits.get(ask.action_id)
    is_repeat = stored is not None
    if stored is None:
        stored = await services.audits.begin(await _decided(services, ask, action, decide))
        if stored is None:  # a second request came at the same time, or the answer of a first try was lost
            stored, is_repeat = await _present(services, ask), True
    _check_same(stored, action)
    if stored.end is None:
        stored = await _complete(services, stored, make, is_repeat=is_repeat)
    return _result(stored, is_repeat=is_repeat)


async def _decided(services: Services, ask: Ask, action: Action, decide: Callable[[], Awaitable[Change]]) -> Audit:
    """Return the intent of an action; with its end, if it is refused."""
    intent = Audit(
        action_id=ask.action_id,
        action=action.verb,
        who=ask.who,
        via=ask.via,
        started_utc=ask.at,
        tenant=action.tenant_id,
        flow=action.flow_name,
        arguments=dict(action.arguments),
    )
    try:
        change = await decide()
    except (ChangedMeanwhile, ActionRefused) as error:
        return _not_done(services, intent, error)
    return replace(
        intent,
        before=change.before,
        after=change.after,
        basis=change.basis,
        message=change.message,
        tenants=change.tenants[:MOST_TENANTS],
    )


def _not_done(services: Services, intent: Audit, error: ChangedMeanwhile | ActionRefused) -> Audit:
    end = End.CHANGED if isinstance(error, ChangedMeanwhile) else End.REFUSED
    return replace(intent, end=end, message=str(error), ended_utc=services.clock.now(), basis=None)


async def _complete(
    services: Services, intent: Audit, make: Callable[[Audit, bool], Awaitable[Change]], *, is_repeat: bool
) -> Audit:
    """Make the change of an intent, and store how it ended."""
    try:
        change = await make(intent, is_repeat)
    except (ChangedMeanwhile, ActionRefused) as error:
        ended = _not_done(services, intent, error)
    else:
        ended = replace(
            intent,
            end=End.DONE,
            message=change.message,
            before=change.before,
            after=change.after,
            ended_utc=services.clock.now(),
            basis=None,
        )
    if saved := await services.audits.save(ended):
        return saved
    present = await services.audits.get(intent.action_id)  # of another request with this id, or of our own first try
    return present if present and present.end else ended


async def _present(services: Services, ask: Ask) -> Audit:
    async for _ in tries(services.clock.sleep):  # a read can miss a write that another process has just made
        if stored := await services.audits.get(ask.action_id):
            return stored
    raise StateInvalid(f"the audit of action {ask.action_id} was deleted meanwhile. Use another action id")


def _check_same(stored: Audit, action: Action) -> None:
    """Check that an id was not used for another action."""
    given, first = (
        {name: name if name in action.varying else value for name, value in each.items()}
        for each in (action.arguments, stored.arguments)
    )
    of_action = (str(action.verb), action.tenant_id, action.flow_name, given)
    if (stored.action, stored.tenant, stored.flow, first) != of_action:
        subject = "/".join(each for each in (stored.tenant, stored.flow) if each)
        raise ActionInvalid(
            f"action id {stored.action_id!r} was used for another action ({stored.action} {shorten(subject)}): "
            "use another id"
        )


def _result(stored: Audit, *, is_repeat: bool) -> Done:
    failures: dict[str, type[DataSyncError]] = {End.CHANGED: ChangedMeanwhile, End.REFUSED: ActionRefused}
    if failure := failures.get(stored.end or ""):
        raise failure(stored.message)
    return Done.of(stored, is_repeat=is_repeat)
