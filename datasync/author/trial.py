"""A run of a flow that writes nothing to the services of the app, and whose `run.http` writes nothing to APIs.

It takes no lease. The unsafe requests of `run.http` are stopped, and answered by `answers.py`.
"""

import inspect
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from datasync.author.answers import Answers
from datasync.author.attempt import Wish, attempt, given_window, state_of
from datasync.author.last_try import LastTry, differences
from datasync.author.save import save_answers, save_cassette
from datasync.author.stopped import Body, Stopped, StoppedRequests
from datasync.errors import ActionRefused, CursorInvalid, EntryUnknown
from datasync.flow.context import Window
from datasync.flow.ends import NO_CURSOR
from datasync.flow.recording import Recording
from datasync.flow.registry import Flow, FlowRegistry
from datasync.model.cursor import normalized
from datasync.model.display import shown
from datasync.model.job import Job, JobMessage, Trigger, run_id
from datasync.model.run import Outcome
from datasync.model.state import FlowState
from datasync.model.times import utc_text
from datasync.run.admit import with_settings
from datasync.run.ending import Ending
from datasync.run.prepare import Given, Prepared, prepare
from datasync.services import Services


class Trial(msgspec.Struct, frozen=True, rename="camel"):
    """The result of a `try`."""

    tenant_id: str
    flow_name: str
    ending: Ending
    is_guarded: bool
    """Whether the flow takes `run`, so that requests could be stopped. Those of a client of its own are sent."""
    stopped: tuple[Stopped, ...]
    left_out: int
    """The number of stopped requests that are not in `stopped`, since they were too many."""
    kept: tuple[Any, ...]
    """The cursors that `run.checkpoint()` would have kept."""
    changes: tuple[str, ...] | None
    """The stopped requests compared with those of the last `try`, as lines of a diff; None if they are not."""
    answers: Path
    """The file with the answers to the stopped requests. It need not exist."""
    notes: tuple[str, ...]
    saved: tuple[Path, ...]
    """The files that were written for tests."""


async def trial(
    services: Services,
    registry: FlowRegistry,
    wish: Wish,
    now: datetime,
    *,
    cursor: Any | UnsetType = UNSET,
    saves: bool = False,
    unguarded: bool = False,
) -> Trial:
    """Call a flow of a tenant, with its settings, secrets, window and cursor, and stop its unsafe requests.

    A `try` that succeeds is kept, to compare the next one with it.

    Args:
        services: The services of the app. They are only read.
        registry: The flows.
        wish: The run.
        now: The present time (aware).
        cursor: The cursor at the start, in place of the kept one.
        saves: Whether to write a cassette of the HTTP exchanges, and the answers that were made up to their file.
        unguarded: Whether to call also a flow that does not take `run`, whose requests cannot be stopped.

    Raises:
        ActionRefused: the flow does not take `run`.
        FlowUnknown, TenantUnknown, EntryUnknown: the flow, the document or the entry does not exist.
        TenantInvalid, FlowSettingsInvalid, StateInvalid: the document, the settings or the state cannot be used.
        ActionInvalid: the window is not valid.
        AnswersInvalid: the file with the answers has a mistake.
        CursorInvalid: the cursor cannot be kept.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    flow = registry.resolve(wish.flow)
    answers = Answers(answers_file(flow))
    if not (flow.takes_run or unguarded):
        raise ActionRefused(
            f"flow {flow.name!r} does not take `run`, so a try cannot stop the requests with which its own client "
            "changes data: let it take `run` and use `run.http`, or give --unguarded to call it as it is"
        )
    given, notes = await _given(services, flow, wish, now, cursor)
    requests, kept = StoppedRequests(), list[Any]()

    async def stand_in(request: httpx.Request) -> httpx.Response:
        body = await Body.of(request)
        read = httpx.Request(request.method, request.url, content=body.content)
        response, source = answers.to(read)
        requests.add(read, body, response, source)
        return response

    recording = Recording() if saves else None
    made = prepare(services, given, services.claims.present, stand_in=stand_in, recording=recording)
    made.run.keep = _keeping(made, kept)
    ending = await attempt(services, made)
    saved, changes = list[Path](), None
    try:
        if recording:
            saved.append(save_cassette(answers.file.parent, _stem(flow), made, ending, recording))
            if invented := requests.made_up(made.redact, recording.stand_ins()):
                save_answers(answers.file, invented)
                saved.append(answers.file)
            if requests.unsaved:
                notes.append(f"{requests.unsaved} of the made-up answers are too large, and were not saved")
        if ending.outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED):
            last, sent = LastTry(_root(flow), wish.tenant_id, flow.name), requests.sent(made.redact)
            before = last.read()
            last.replace(sent)
            if before == [] and sent:
                notes.append("the last try has stopped no request, so there is nothing to compare with")
            elif before is not None:
                changes = differences(before, sent)
    except OSError as error:
        notes.append(f"not everything could be kept of this try: {error}")
    return Trial(
        tenant_id=wish.tenant_id,
        flow_name=flow.name,
        ending=ending,
        is_guarded=flow.takes_run,
        stopped=requests.shown(made.redact),
        left_out=requests.left_out,
        kept=tuple(kept),
        changes=changes,
        answers=answers.file,
        notes=(*notes, *(f"{each} in {answers.file} has answered no request" for each in answers.unused)),
        saved=tuple(saved),
    )


def answers_file(flow: Flow) -> Path:
    """Return the file with the answers for a flow, which is named after its file."""
    return _root(flow) / "tests" / "flows" / f"{_stem(flow)}.answers.json"


def _stem(flow: Flow) -> str:
    return Path(inspect.unwrap(flow.function).__code__.co_filename).stem


def _root(flow: Flow) -> Path:
    """Return the folder that has the package of the flow's file, from the present folder where it lies in that."""
    package = sys.modules[flow.function.__module__.partition(".")[0]]
    place = [*getattr(package, "__path__", ())]
    root = Path(place[0] if place else package.__file__ or "").absolute().parent
    return root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root


async def _given(
    services: Services, flow: Flow, wish: Wish, now: datetime, cursor: Any | UnsetType
) -> tuple[Given, list[str]]:
    """Read the tenant and the state, and decode the settings. Returns the facts, and notes about them."""
    tenant, notes = await services.tenants.get(wish.tenant_id), list[str]()
    entry = tenant.entry((wish.flow, *flow.names))
    if entry is None:
        raise EntryUnknown(f"tenant {shown(wish.tenant_id)!r} has no entry for {shown(wish.flow)!r}: add it first")
    state = await state_of(services, flow, tenant.id)
    if not entry.enabled:
        notes.append("the entry is disabled, so the app would skip a run")
    if state and state.lease and state.lease.is_live(now):
        notes.append("another run of the flow is going on: its end may change the window and the cursor")
    if cursor is not UNSET:
        if state is None:
            raise CursorInvalid(NO_CURSOR)
        state = replace(state, cursor=normalized(cursor))
    if flow.provider:
        until = await services.runs.cooldown(flow.cooldown_partition(tenant.id), flow.provider)
        if until and until > now:
            notes.append(f"{flow.provider} has asked not to be called until {utc_text(until)}")
    window = given_window(wish, state, now) or _next_window(state, now)
    entry = with_settings(entry, wish.settings)
    given = Given(
        job=_job(flow, tenant.id, now),
        flow=flow,
        tenant=tenant,
        entry=entry,
        settings=flow.decode_settings(tenant.id, entry),
        attempt=1,
        state=state,
        window=window,
    )
    return given, notes


def _next_window(state: FlowState | None, now: datetime) -> Window:
    start = state.window_end_utc if state else None
    return Window(start=start, end=max(now, start or now))


def _job(flow: Flow, tenant_id: str, now: datetime) -> Job:
    """Return the job of a run whose id is the same in each `try`, so that the requests are."""
    run = run_id("try", tenant_id, flow.name)
    return Job.of(
        JobMessage(
            tenant_id=tenant_id,
            flow_name=flow.name,
            scheduled_utc=now,
            run_id=run,
            trigger=Trigger.HAND,
            enqueued_utc=now,
            message_id=run,
        )
    )


def _keeping(made: Prepared, kept: list[Any]) -> Callable[[Any], Awaitable[None]]:
    """Return a function that checks a cursor and keeps nothing, as `run.checkpoint()`."""

    async def keep(cursor: Any) -> None:
        if made.given.state is None:
            raise CursorInvalid(NO_CURSOR)
        kept.append(normalized(cursor))
        made.run.log.info("checkpoint %d: in a try, the cursor is not kept", len(kept))

    return keep
