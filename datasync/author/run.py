"""One real run of a flow in this process: with a lease, a record and an audit, as any run, but without a message.

So it has one attempt. A run that fails is dead. A run that its flow defers, or that is stopped, is given up. The next
parts of a run are made in this process, too.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from datasync.author.attempt import Wish, given_window, state_of
from datasync.errors import ActionRefused, JobInvalid, ServiceUnavailable
from datasync.flow.context import Window
from datasync.flow.registry import Flow, FlowRegistry
from datasync.model.audit import Audit, Verb
from datasync.model.display import shown
from datasync.model.failure import Failure
from datasync.model.job import Job, JobMessage, Trigger
from datasync.model.run import Outcome, RunRecord
from datasync.model.state import FlowState
from datasync.model.times import utc_text
from datasync.operate.action import Action, Ask, Change, perform
from datasync.operate.enqueue import run_of, runnable_entry
from datasync.run.admit import Admitted, admit_by_hand
from datasync.run.ending import Ending
from datasync.run.pipeline import run_admitted
from datasync.services import Services

STOPPED = "Stopped"
"""The kind of the error of a run that was stopped."""


class Made(msgspec.Struct, frozen=True):
    """A run that was made."""

    record: RunRecord
    """The record of the last part."""
    keeps_window: bool
    """Whether the next window starts where that of the run has ended, if it succeeded."""


async def run(services: Services, registry: FlowRegistry, ask: Ask, wish: Wish) -> Made:
    """Run a flow of a tenant now, with all of its parts. A cancellation stops the flow, and is recorded.

    The end of a window that the author has given is kept if it continues the last window without a gap.

    Raises:
        FlowUnknown, TenantUnknown, EntryUnknown: the flow, the document or the entry does not exist.
        TenantInvalid, FlowSettingsInvalid, StateInvalid: the document, the settings or the state cannot be used.
        ActionInvalid: the window is not valid, or the id of the action was used for another one.
        ActionRefused: the entry is disabled, another run has the lease, the provider has asked for a pause, or the
            action was done already.
        LeaseLost: the run lost its lease, and is not recorded.
        RequestRefused, ServiceUnavailable: Cosmos DB or Key Vault refused or could not be reached.
        CancelledError: it was stopped before it has begun.

    """
    flow = registry.resolve(wish.flow)
    admitted = await _begin(services, registry, flow, ask, wish)
    window = admitted.window
    while True:
        done = list[Ending]()
        keeps = window is None or _has_no_gap(window, admitted.state)
        record = await _run(services, admitted, done, keeps_window=keeps)
        if record.outcome is not Outcome.CONTINUED:
            return Made(record, keeps)
        if window:
            window = Window(start=done[0].window_end or window.start, end=window.end)
        message = admitted.job.next_part(services.clock.now())
        job = Job.of(replace(message, message_id=message.run_id))
        try:
            admitted = replace(await admit_by_hand(services, flow, job, wish.settings), window=window)
        except ActionRefused as error:
            raise ActionRefused(f"part {job.part} was not run, and the next run goes on there: {error}") from None


async def _begin(services: Services, registry: FlowRegistry, flow: Flow, ask: Ask, wish: Wish) -> Admitted:
    """Take the lease for the first part, as an action with an audit."""
    subject, taken = f"{shown(wish.tenant_id)}/{shown(wish.flow)}", list[Admitted]()

    async def decide() -> Change:
        entry = await runnable_entry(services, registry, wish.tenant_id, wish.flow)
        given_window(wish, await state_of(services, flow, wish.tenant_id), ask.at)
        return Change(
            f"{subject}: run {run_of(ask)} was made by hand",
            after={"runId": run_of(ask)},
            basis={"flowName": entry.name},
        )

    async def make(intent: Audit, _: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        job = _job(ask, wish.tenant_id, intent.basis["flowName"])
        try:
            admitted = await admit_by_hand(services, flow, job, wish.settings)
        except JobInvalid as error:  # a run of another flow has the id
            raise ActionRefused(str(error)) from None
        taken.append(admitted)
        return Change(intent.message, intent.before, intent.after)

    arguments = _arguments(wish)
    try:
        await perform(services, ask, Action(Verb.RUN, wish.tenant_id, wish.flow, arguments), decide, make)
        admitted = [replace(each, window=given_window(wish, each.state, ask.at)) for each in taken]
    except BaseException:  # a cancellation, too
        with suppress(ServiceUnavailable):  # the lease ends by itself then
            for each in taken:
                await services.runs.release(each.lease.document)
        raise
    if not admitted:
        raise ActionRefused(f"{subject}: this action has made run {run_of(ask)} already")
    return admitted[0]


def _arguments(wish: Wish) -> dict[str, Any]:
    given: Mapping[str, Any] = {
        "since": wish.since and utc_text(wish.since),
        "until": wish.until and utc_text(wish.until),
        "settings": dict(wish.settings) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _job(ask: Ask, tenant_id: str, flow: str) -> Job:
    return Job.of(
        JobMessage(
            tenant_id=tenant_id,
            flow_name=flow,
            scheduled_utc=ask.at,
            run_id=run_of(ask),
            trigger=Trigger.HAND,
            enqueued_utc=ask.at,
            message_id=run_of(ask),
        )
    )


def _has_no_gap(window: Window, state: FlowState | None) -> bool:
    """Return whether all data up to the end of a window is transferred after it."""
    if state is None or window.start is None:
        return True
    return state.window_end_utc is not None and window.start <= state.window_end_utc


async def _run(services: Services, admitted: Admitted, done: list[Ending], *, keeps_window: bool) -> RunRecord:
    """Run a part, and note its end."""

    def amend(ending: Ending) -> Ending:
        done.append(ending)
        return _last(ending if keeps_window else replace(ending, window_end=None))

    record = await run_admitted(services, admitted, services.clock.now(), amend)
    if record is None:
        raise AssertionError("no message stands for the run, so that no other one can end it")
    return record


def _last(ending: Ending) -> Ending:
    """Return the ending of a run that is not attempted again."""
    error = ending.error
    if ending.outcome is Outcome.INTERRUPTED:
        why = "it was stopped (Ctrl-C), or its flow has cancelled every task"
        stopped = Failure(kind=STOPPED, message=why, fingerprint="stopped")
        return replace(ending, outcome=Outcome.GAVE_UP, error=stopped, raised=None)
    if ending.outcome is Outcome.DEFERRED and ending.is_outage:
        return replace(ending, outcome=Outcome.DEAD, is_permanent=True)
    if ending.outcome is Outcome.DEFERRED and error:
        why = f"{error.message}. A run by hand is not deferred: run it again later"
        return replace(ending, outcome=Outcome.GAVE_UP, error=replace(error, message=why))
    return ending
