"""Makes a Failure of the exception that ended an attempt."""

import inspect
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from urllib.parse import urlsplit

import httpx
import msgspec
from azure.core.exceptions import HttpResponseError

from datasync.errors import FlowSignal, ResponseTooLarge
from datasync.flow.charsets import charset
from datasync.flow.redact import LINE, Redaction
from datasync.model.decode import NAME_LIMIT
from datasync.model.display import shown
from datasync.model.failure import Failure, fingerprint
from datasync.model.times import utc_text

BODY = 300
"""Characters of an answer's body that a failure keeps."""

_BODY_READ = 65_536  # bytes of a body that are decoded and redacted
_NAMED = 10  # secrets


def failure_of(
    error: BaseException,
    redact: Redaction,
    function: Callable[..., object] | None = None,
    secrets: Mapping[str, datetime] | None = None,
) -> Failure:
    """Describe an exception: its class, its text, and the HTTP answer that caused it.

    The answer is that of the error itself, or of the error that it was raised from. Of a group, the member with an
    HTTP status counts, then one with a host, then the first that is not a signal.

    Args:
        error: The exception that ended the attempt.
        redact: Removes the secrets of the run.
        function: The function of the flow; None where no flow was called.
        secrets: The secrets that the run had read, with the times (aware) at which the vault was asked. The message
            names them if an API answered 401 or 403.

    """
    chosen, answer = _most_telling(error)
    kind = shown(type(chosen).__name__)
    host = (answer.host and redact.line(answer.host, NAME_LIMIT)) or None
    failure = Failure(
        message=redact.one_line(error),
        kind=kind,
        # Of the host before it is redacted: which secrets the run has read makes no difference.
        fingerprint=fingerprint(kind, answer.status, answer.host, _place(chosen, function)),
        status=answer.status,
        host=host,
        body=(answer.body and redact.line(answer.body, BODY)) or None,
    )
    if not (failure.credentials_refused and secrets):
        return failure
    used = _named(secrets)
    return msgspec.structs.replace(failure, message=redact.one_line(error, LINE - len(used)) + used)


def place_of(error: BaseException, function: Callable[..., object]) -> str:
    """Return the module and the qualified name of the flow's innermost function in the traceback of an error."""
    chosen, _ = _most_telling(error)
    return _place(chosen, function)


def from_flow(error: BaseException, function: Callable[..., object]) -> BaseException:
    """Return an exception whose traceback begins in the file of the flow, without the calls of the app before it."""
    file, entry = inspect.unwrap(function).__code__.co_filename, error.__traceback__
    while entry and entry.tb_frame.f_code.co_filename != file:
        entry = entry.tb_next
    return error.with_traceback(entry or error.__traceback__)


class _Answer(msgspec.Struct, frozen=True):
    """The part of an HTTP exchange that an error knows."""

    status: int | None = None
    host: str | None = None
    body: str | None = None


def _most_telling(error: BaseException) -> tuple[BaseException, _Answer]:
    members = [(member, _answer(member)) for member in _members(error)]
    return max(
        members,
        key=lambda each: (not isinstance(each[0], FlowSignal), each[1].status is not None, each[1].host is not None),
    )


def _members(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or all exceptions of a group and of its groups, in their order."""
    pending = deque([error])
    while pending:
        each = pending.popleft()
        if isinstance(each, BaseExceptionGroup):
            pending.extendleft(reversed(each.exceptions))
        else:
            yield each


def _answer(error: BaseException) -> _Answer:
    answers = (_own_answer(each) for each in _chain(error))
    return next((answer for answer in answers if answer), _Answer())


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that Python prints above it: its cause or context, and the members of groups."""
    pending, seen = deque([error]), set[int]()
    while pending:
        each = pending.popleft()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            pending.extend(each.exceptions)
        before = each.__cause__ if each.__suppress_context__ else each.__context__
        if before is not None:
            pending.append(before)


def _own_answer(error: BaseException) -> _Answer | None:
    match error:
        case httpx.HTTPStatusError():
            return _Answer(error.response.status_code, _host(error), _body(error.response))
        case ResponseTooLarge():
            return _Answer(error.status, error.host)
        case httpx.RequestError():
            return _Answer(host=_host(error))
        case HttpResponseError(response=response) if response is not None:
            return _Answer(error.status_code, urlsplit(str(getattr(response.request, "url", ""))).hostname)
    return None


def _host(error: httpx.HTTPStatusError | httpx.RequestError) -> str | None:
    try:
        return error.request.url.host or None
    except RuntimeError:  # an error that the flow made has no request
        return None


def _body(response: httpx.Response) -> str | None:
    """Return the start of a body that is JSON or text, if the flow has read it."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not media_type.startswith("text/") and not media_type.endswith(("/json", "+json")):
        return None
    try:
        content = response.content[:_BODY_READ]
    except httpx.ResponseNotRead:
        return None
    return content.decode(charset(response), errors="replace")


def _place(error: BaseException, function: Callable[..., object] | None) -> str:
    """Return the innermost function of the flow's package in a traceback; where there is none, the flow's function."""
    if function is None:
        return ""
    package = function.__module__.partition(".")[0]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] == package:
            return f"{module}.{frame.f_code.co_qualname}"
    return f"{function.__module__}.{function.__qualname__}"


def _named(secrets: Mapping[str, datetime]) -> str:
    named = [f"{name} (read from the vault at {utc_text(at)})" for name, at in sorted(secrets.items())]
    more = [f"{len(named) - _NAMED} more"] if len(named) > _NAMED else []
    return f". Secrets used: {', '.join(named[:_NAMED] + more)}"
