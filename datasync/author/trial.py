"""A run of a flow that writes nothing, neither to the services of the app nor to the APIs that the flow calls.

It takes no lease. The unsafe requests are stopped, and answered by `answers.py`.
"""

import inspect
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from datasync.author.answers import MADE_UP, Answers, json_body
from datasync.author.attempt import Wish, attempt, given_window
from datasync.author.last_try import Sent, remember
from datasync.author.save import save_answers, save_cassette
from datasync.errors import CursorInvalid, EntryUnknown
from datasync.flow.context import Window
from datasync.flow.ends import NO_CURSOR
from datasync.flow.options import Overlap
from datasync.flow.recording import Recording
from datasync.flow.redact import Redaction
from datasync.flow.registry import Flow, FlowRegistry
from datasync.model.cursor import normalized
from datasync.model.display import shown
from datasync.model.job import Job, JobMessage, Trigger, run_id
from datasync.model.state import FlowState
from datasync.model.times import utc_text
from datasync.run.admit import with_settings
from datasync.run.ending import Ending
from datasync.run.prepare import Given, Prepared, prepare
from datasync.services import Services

_SAMPLE = 400  # characters
_LARGEST_BODY = 65_536  # characters that are remembered of a request


class Stopped(msgspec.Struct, frozen=True, rename="camel"):
    """An unsafe request that was not sent. It has no secrets."""

    method: str
    url: str
    path: str
    """Of the URL."""
    items: int | None
    """Of the JSON array that it sends, or of the largest array in the JSON; None if it has none."""
    sample: str
    """The start of the first item, or of the body."""
    status: int
    """Of the answer that the flow got."""
    source: str
    """The entry of the file that has the answer, such as `answers[2]`; or MADE_UP."""

    @property
    def is_made_up(self) -> bool:
        """Whether no file has the answer."""
        return self.source == MADE_UP


class Trial(msgspec.Struct, frozen=True, rename="camel"):
    """The result of a `try`."""

    tenant_id: str
    flow_name: str
    ending: Ending
    stopped: tuple[Stopped, ...]
    kept: tuple[Any, ...]
    """The cursors that `run.checkpoint()` would have kept."""
    changes: tuple[str, ...] | None
    """The stopped requests compared with those of the last `try`, as lines of a diff; None if it is the first."""
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
) -> Trial:
    """Call a flow of a tenant, with its settings, secrets, window and cursor, and let it write nothing.

    Args:
        services: The services of the app. They are only read.
        registry: The flows.
        wish: The run.
        now: The present time (aware).
        cursor: The cursor at the start, in place of the kept one.
        saves: Whether to write a cassette of the HTTP exchanges, and the answers that were made up to their file.

    Raises:
        FlowUnknown, TenantUnknown, EntryUnknown: the flow, the document or the entry does not exist.
        TenantInvalid, FlowSettingsInvalid, StateInvalid: the document, the settings or the state cannot be used.
        ActionInvalid: the window is not valid.
        AnswersInvalid: the file with the answers has a mistake.
        CursorInvalid: the cursor cannot be kept.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    flow = registry.resolve(wish.flow)
    answers = Answers(answers_file(flow))
    given, notes = await _given(services, flow, wish, now, cursor)
    requests, kept = list[tuple[httpx.Request, httpx.Response, str]](), list[Any]()

    async def stand_in(request: httpx.Request) -> httpx.Response:
        await request.aread()
        response, source = answers.to(request)
        requests.append((request, response, source))
        return response

    recording = Recording() if saves else None
    made = prepare(services, given, services.claims.present, stand_in=stand_in, recording=recording)
    made.run.keep = _keeping(made, kept)
    ending = await attempt(services, made)
    stopped, saved = tuple(_stopped(*each, made.redact) for each in requests), list[Path]()
    answered = zip(requests, stopped, strict=True)
    invented = [_entry(response, each, made.redact) for (_, response, _), each in answered if each.is_made_up]
    changes = None
    try:
        if recording:
            saved.append(save_cassette(answers.file.parent, _stem(flow), made, ending, recording))
        if recording and invented:
            save_answers(answers.file, invented)
            saved.append(answers.file)
        sent = [_sent(request, made.redact) for request, _, _ in requests]
        changes = remember(_root(flow) / ".local" / "try", wish.tenant_id, flow.name, sent)
    except OSError as error:
        notes.append(f"not everything could be kept of this try: {error}")
    return Trial(
        tenant_id=wish.tenant_id,
        flow_name=flow.name,
        ending=ending,
        stopped=stopped,
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
    state = None if flow.overlap is Overlap.ALLOW else await services.runs.state(tenant.id, flow.names)
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


def _sent(request: httpx.Request, redact: Redaction) -> Sent:
    body = json_body(request)
    text = (
        request.content.decode(errors="replace")
        if body is UNSET
        else msgspec.json.format(msgspec.json.encode(body), indent=1).decode()
    )
    return Sent(request.method, redact(str(request.url)), redact.start(text, _LARGEST_BODY).splitlines())


def _stopped(request: httpx.Request, response: httpx.Response, source: str, redact: Redaction) -> Stopped:
    body = json_body(request)
    array = largest_array(body)
    first = array[0] if array else body
    text = request.content.decode(errors="replace") if first is UNSET else msgspec.json.encode(first).decode()
    return Stopped(
        method=request.method,
        url=redact(str(request.url)),
        path=redact(request.url.path),
        items=None if array is None else len(array),
        sample=redact.line(text, _SAMPLE),
        status=response.status_code,
        source=source,
    )


def _entry(response: httpx.Response, stopped: Stopped, redact: Redaction) -> dict[str, Any]:
    """Return the entry of the file that gives an answer again."""
    entry: dict[str, Any] = {"method": stopped.method, "url": stopped.path, "status": response.status_code}
    return {**entry, "json": json.loads(redact(response.text))} if response.content else entry


def largest_array(body: Any) -> list[Any] | None:
    """Return the largest array in a JSON value, also within the objects in it; None if it has none.

    An array that is an item of another one does not count.
    """
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        return None
    arrays = [array for value in body.values() if (array := largest_array(value)) is not None]
    return max(arrays, key=len, default=None)


def made_up(found: Trial) -> list[Stopped]:
    """Return the requests whose answers were made up, one for each method and URL."""
    return [*{(each.method, each.url): each for each in found.stopped if each.is_made_up}.values()]
