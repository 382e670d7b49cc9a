"""Answers the requests of a run from a recording, below the retries. Nothing is sent."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import override

import httpx

from datasync.errors import ResponseTooLarge
from datasync.flow.responses import Limits, TotalTimeout
from datasync.flow.stand_ins import StandIns
from datasync.model.cassette import Cassette, Interaction, Note, Request, Trouble, Unanswered


class PlaybackEnded(BaseException):
    """The run cannot go on. It is not an Exception, so that no flow catches it."""


class NotRecorded(PlaybackEnded):
    """The run needs more than the recording has."""


class NotAnswered(PlaybackEnded):
    """The recorded attempt ended while it waited for this answer."""


@dataclass(frozen=True, slots=True)
class Step:
    """A request and its recorded answer."""

    number: int
    """Of the recorded exchange."""
    request: str
    """`GET https://…`."""
    sent: int
    """Bytes of its body."""
    answer: str
    """`200 OK, 1,234 bytes`, or the error of the connection."""


class Playback(httpx.AsyncBaseTransport):
    """A transport that answers each request by the next recorded one with its method and its URL.

    vcrpy is not used here: it knows neither errors of the connection nor bodies that were cut.
    """

    def __init__(self, cassette: Cassette, on_step: Callable[[Step], None]) -> None:
        """Answer from a cassette. `on_step` is called before each answer."""
        self._cassette = cassette
        self._left = cassette.exchanges
        self._on_step = on_step
        self._hidden = StandIns({})  # in the recording, too, values that look like secrets are hidden

    @property
    def unused(self) -> list[str]:
        """The recorded requests that the run has not made, such as `GET https://…`."""
        return [_named(each.request) for each in self._left]

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url, body = self._hidden.url(str(request.url)), await request.aread()
        found = next((each for each in self._left if _is(each.request, request.method, url)), None)
        if found is None:
            raise NotRecorded(self._why(request.method, url))
        self._left.remove(found)
        number = found.number if isinstance(found, Unanswered) else found.datasync.number
        self._on_step(Step(number, f"{request.method} {url}", len(body), _answer(found)))
        if isinstance(found, Unanswered):
            raise _error(found.trouble, found, request)
        return httpx.Response(
            found.response.status.code,
            headers=[(name, value) for name, values in found.response.headers.items() for value in values],
            stream=_Body(found, request),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": found.response.status.message.encode()},
        )

    def _why(self, method: str, url: str) -> str:
        made = f"not recorded: {method} {url}"
        path = url.partition("?")[0]
        similar = [each.request.uri for each in self._left if each.request.uri.partition("?")[0] == path]
        if similar:
            return (
                f"{made}; the recording has {similar[0]} next: the flow has changed, or makes another query each time"
            )
        if left_out := self._cassette.datasync.left_out:
            return f"{made}; {left_out} exchanges were left out of the recording, so it may be one of them"
        return f"{made}; the flow has changed, or the request depends on the time or on chance"


class _Body(httpx.AsyncByteStream):
    """A recorded body, and the way in which it ended."""

    def __init__(self, recorded: Interaction, request: httpx.Request) -> None:
        self._recorded = recorded
        self._request = request

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        note = self._recorded.datasync
        if content := self._recorded.response.body.string.encode():
            yield content
        if note.left_out:
            raise NotRecorded(f"not recorded: the rest of the answer {note.number}: {note.left_out}")
        if note.trouble:
            raise _error(note.trouble, self._recorded, self._request)


def _is(recorded: Request, method: str, url: str) -> bool:
    return (recorded.method, recorded.uri) == (method, url)


def _named(request: Request) -> str:
    return f"{request.method} {request.uri}"


def _answer(found: Interaction | Unanswered) -> str:
    if isinstance(found, Unanswered):
        return _described(found.trouble)
    status, size = found.response.status, len(found.response.body.string.encode())
    answer = f"{status.code} {status.message}".rstrip()
    return ", ".join([answer, f"{size:,} bytes", *_marks(found.datasync)])


def _marks(note: Note) -> list[str]:
    marks = [note.left_out] if note.left_out else []
    return marks + ([_described(note.trouble)] if note.trouble else [])


def _described(trouble: Trouble) -> str:
    return f"{trouble.kind}: {trouble.message}" if trouble.message else trouble.kind


def _error(trouble: Trouble, found: Interaction | Unanswered, request: httpx.Request) -> BaseException:
    """Return the error that the HTTP client raised."""
    if trouble.kind == "CancelledError":
        return NotAnswered(f"the attempt ended while it waited for the answer to {_named(found.request)}")
    if trouble.kind == "ResponseTooLarge" and isinstance(found, Interaction):
        return ResponseTooLarge(request.url.host, found.response.status.code, Limits.of(request).max_body)
    if trouble.kind == "TotalTimeout":
        return TotalTimeout(trouble.message)
    kind = getattr(httpx, trouble.kind, None)
    if isinstance(kind, type) and issubclass(kind, httpx.RequestError):
        return kind(trouble.message)
    return NotRecorded(f"the recording has an error that this version does not know: {_described(trouble)}")
