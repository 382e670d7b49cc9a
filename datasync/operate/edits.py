"""Changes of tenant documents: pause, resume, next run. A tick that writes at the same time does not disturb them.

Each document names the last action that changed it, in `lastAction`. So an action whose answer was lost recognizes
its own change, also after a tick has changed the document again.
"""

import copy
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from datasync.errors import ActionInvalid, ActionRefused, ChangedMeanwhile, EntryUnknown, ServiceUnavailable
from datasync.flow.registry import FlowRegistry
from datasync.model.audit import Audit, Verb
from datasync.model.decode import has_half_a_pair
from datasync.model.display import shown
from datasync.model.times import EXPECTED, read_utc, utc_text
from datasync.operate.action import Action, Ask, Change, Done, perform
from datasync.operate.told import KEPT_OF_ENTRIES
from datasync.services import Services
from datasync.tries import MOST, tries

LAST_ACTION = "lastAction"

LONGEST_REASON = 500
"""Characters of the reason for a pause."""

type Document = dict[str, Any]
type Edit = Callable[[Document], Change]
"""Changes a document in place, and returns the change. Raises an error if that is not possible."""


async def pause(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    *,
    tenant_id: str,
    flow: str | None,
    reason: str,
    seen: Mapping[str, Any] | None = None,
) -> Done:
    """Disable an entry, or all enabled entries of a tenant, with the reason. Runs in progress continue.

    Args:
        services: The services of the app.
        registry: The flows, for their aliases.
        ask: The operator.
        tenant_id: The tenant.
        flow: The flow; None for the whole tenant.
        reason: Why; empty for none.
        seen: Fields as the operator saw them: of the entry, such as `{"enabled": true}`; without a flow, of the
            document, such as its `_etag`.

    Raises:
        TenantUnknown, EntryUnknown: the document or the entry does not exist.
        ActionInvalid: the reason is too long or cannot be stored.
        ChangedMeanwhile: the entry, or the document, differs from the one that the operator saw, or another action came
            in between.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    if len(reason) > LONGEST_REASON or has_half_a_pair(reason):
        raise ActionInvalid(f"the reason has {len(reason)} characters: expected a text of up to {LONGEST_REASON}")
    action = Action(Verb.PAUSE, tenant_id, flow, {"reason": reason})
    text = reason or f"paused by {ask.who}"

    def of_flow(document: Document) -> Change:
        entry = entry_of(document, registry.names_of(flow or ""), flow or "", seen)
        before = _switch(entry)
        was_off = entry.get("enabled") is False
        was_with_tenant = entry.pop("pausedWithTenant", None)
        if not was_off or was_with_tenant or reason:
            entry.update(enabled=False, pauseReason=text)
        noted = ", and the reason is noted" if reason else ""
        said = f"it was disabled already{noted}" if was_off else "paused"
        return Change(f"{_subject(tenant_id, flow)}: {said}", before, _switch(entry))

    def of_tenant(document: Document) -> Change:
        _must_be(document, seen, _subject(tenant_id, None))
        enabled = [entry for entry in entries_of(document) if entry.get("enabled") is True]
        before = [_named(entry) for entry in enabled]
        for entry in enabled:
            entry.update(enabled=False, pauseReason=text, pausedWithTenant=True)
        said = f"{_entries(len(enabled))} paused" if enabled else "no entry is enabled"
        return Change(f"{_subject(tenant_id, None)}: {said}", before, [_named(entry) for entry in enabled])

    return await edit(services, ask, action, of_flow if flow is not None else of_tenant)


async def resume(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    *,
    tenant_id: str,
    flow: str | None,
    seen: Mapping[str, Any] | None = None,
) -> Done:
    """Enable an entry; without a flow, the entries that were paused with the whole tenant, and no others.

    If the time of an entry has passed, the next tick runs it once, however many occurrences were missed.

    Args and errors are those of `pause`; ActionRefused: no entry was paused with the tenant.
    """

    def of_flow(document: Document) -> Change:
        entry = entry_of(document, registry.names_of(flow or ""), flow or "", seen)
        before = _switch(entry)
        _enable(entry)
        said = "it is enabled already" if before.get("enabled") is True else "resumed"
        return Change(f"{_subject(tenant_id, flow)}: {said}{_following(entry, ask.at)}", before, _switch(entry))

    def of_tenant(document: Document) -> Change:
        _must_be(document, seen, _subject(tenant_id, None))
        paused = [entry for entry in entries_of(document) if entry.get("pausedWithTenant") and not entry.get("enabled")]
        if not paused:
            raise ActionRefused(
                f"no entry of tenant {shown(tenant_id)!r} was paused with the whole tenant: name the flow to resume"
            )
        before = [_named(entry) for entry in paused]
        for entry in paused:
            _enable(entry)
        after = [_named(entry) for entry in paused]
        return Change(f"{_subject(tenant_id, None)}: {_entries(len(paused))} resumed", before, after)

    return await edit(services, ask, Action(Verb.RESUME, tenant_id, flow), of_flow if flow is not None else of_tenant)


async def set_next_run(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    *,
    tenant_id: str,
    flow: str,
    at: datetime | None,
    seen: Mapping[str, Any] | None = None,
) -> Done:
    """Set the next run of an entry: an instant (aware), or None for the next time of its cron.

    An instant in the past is run at the next tick. Args and errors are those of `pause`; `seen` is, for example,
    `{"nextRunUtc": "2025-08-23T13:00:00Z"}`.
    """
    text = at and utc_text(at)

    def change(document: Document) -> Change:
        entry = entry_of(document, registry.names_of(flow), flow, seen)
        before = {"nextRunUtc": entry.get("nextRunUtc")}
        entry["nextRunUtc"] = text
        off = "" if entry.get("enabled") is True else ". The entry is disabled: it runs after it is resumed"
        said = f"the next run is at {text}" if text else "the next tick sets the next time of the cron"
        return Change(f"{_subject(tenant_id, flow)}: {said}{off}", before, {"nextRunUtc": text})

    return await edit(services, ask, Action(Verb.NEXT_RUN, tenant_id, flow, {"at": text}), change)


async def edit(services: Services, ask: Ask, action: Action, change: Edit) -> Done:
    """Change a tenant document once, as an action. Raises as `pause` does, and as `change` does."""
    tenant_id = action.tenant_id or ""

    async def decide() -> Change:
        document = await services.tenants.document(tenant_id)
        found = change(copy.deepcopy(document))
        return msgspec.structs.replace(found, basis={LAST_ACTION: document.get(LAST_ACTION)})

    async def make(intent: Audit, is_repeat: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        known = intent.basis.get(LAST_ACTION) if isinstance(intent.basis, Mapping) else None
        may_be_made, is_lost = is_repeat, False
        async for _ in tries(services.clock.sleep):
            document = await services.tenants.document(tenant_id)
            last = document.get(LAST_ACTION)
            if last == ask.action_id:
                return Change(intent.message, intent.before, intent.after)
            if last != known and may_be_made:
                # Another action came in between, so the document no longer shows whether this one was made.
                raise ChangedMeanwhile(
                    f"tenant {shown(tenant_id)!r} was changed by another action ({shown(str(last))}) meanwhile. This "
                    "one may have been done before it: look at the document, and at the audit (python -m datasync "
                    f"audit --tenant {shown(tenant_id)}), and decide again"
                )
            edited = copy.deepcopy(document)
            found = change(edited)
            if edited == document:
                return found
            known = last
            try:
                if await services.tenants.replace({**edited, LAST_ACTION: ask.action_id}, document["_etag"]):
                    return found
            except ServiceUnavailable:  # perhaps only the answer was lost
                if is_lost:
                    raise
                may_be_made = is_lost = True
        raise ServiceUnavailable(
            f"tenant {tenant_id!r} was changed by others in each of {MOST} tries. Repeat the action with its id"
        )

    return await perform(services, ask, action, decide, make)


def entries_of(document: Mapping[str, Any]) -> list[Document]:
    """Return the entries of a document that are objects, readable or not."""
    flows = document.get("flows")
    return [entry for entry in flows if isinstance(entry, dict)] if isinstance(flows, list) else []


def entry_of(
    document: Mapping[str, Any], names: tuple[str, ...], flow: str, seen: Mapping[str, Any] | None = None
) -> Document:
    """Return the entry of a flow, under the first of its names that the document has.

    Raises:
        EntryUnknown: there is none.
        ChangedMeanwhile: a field differs from the value that the operator saw.

    """
    found = [entry for name in (flow, *names) for entry in entries_of(document) if entry.get("name") == name]
    if not found:
        known = ", ".join(shown(str(entry.get("name"))) for entry in entries_of(document)) or "none"
        raise EntryUnknown(
            f"tenant {shown(str(document.get('id')))!r} has no entry for {shown(flow)!r}. Its entries: {known}"
        )
    _must_be(found[0], seen, _subject(str(document.get("id")), flow))
    return found[0]


def _must_be(present: Mapping[str, Any], seen: Mapping[str, Any] | None, subject: str) -> None:
    """Raise ChangedMeanwhile if a field of an entry, or of a document, differs from the value that the operator saw."""
    for name, value in (seen or {}).items():
        if not _is_same(present.get(name), value):
            is_told = name in KEPT_OF_ENTRIES
            now = f"is {shown(repr(present.get(name)))} now, and was {shown(repr(value))} when you looked"
            what = "it" if name == "_etag" else shown(name)
            raise ChangedMeanwhile(f"{subject}: {what} {now if is_told else 'was changed since you looked'}")


def _is_same(stored: object, seen: object) -> bool:
    """Compare a value with the one an operator saw; times in different forms are the same if they are one instant."""
    if stored == seen or not (isinstance(stored, str) and isinstance(seen, str)):
        return stored == seen
    try:
        return read_utc(stored) == read_utc(seen)
    except ValueError:
        return False


def instant(text: str) -> datetime | None:
    """Read the time of a next run: an ISO 8601 time, or `null`. Raises ActionInvalid."""
    if text == "null":
        return None
    try:
        return read_utc(text)
    except ValueError:
        raise ActionInvalid(f"expected {EXPECTED}, or null, got {shown(text)!r}") from None


def _enable(entry: Document) -> None:
    entry["enabled"] = True
    entry.pop("pauseReason", None)
    entry.pop("pausedWithTenant", None)


def _switch(entry: Mapping[str, Any]) -> Document:
    names = ("enabled", "pauseReason", "pausedWithTenant")
    return {name: entry[name] for name in names if name in entry}


def _named(entry: Mapping[str, Any]) -> Document:
    return {"name": entry.get("name"), **_switch(entry)}


def _following(entry: Mapping[str, Any], now: datetime) -> str:
    text = entry.get("nextRunUtc")
    try:
        at = read_utc(text) if isinstance(text, str) else None
    except ValueError:
        return ""
    if at is None:
        return ". The next tick sets its next run"
    if at <= now:
        return f". It runs once at the next tick, since its run of {utc_text(at)} was due"
    return f". The next run is at {utc_text(at)}"


def _subject(tenant_id: str, flow: str | None) -> str:
    return f"{shown(tenant_id)}/{shown(flow)}" if flow is not None else f"tenant {shown(tenant_id)}"


def _entries(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"
