"""Records the HTTP exchanges of one attempt, for a replay. The flow reads its answers as without it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import override

import httpx
from msgspec.structs import replace

from datasync.errors import ResponseTooLarge
from datasync.flow.stand_ins import StandIns
from datasync.model.cassette import (
    Body,
    Cassette,
    Interaction,
    Note,
    RecordedRun,
    Request,
    Response,
    Status,
    Trouble,
    Unanswered,
)
from datasync.model.failure import Failure

MOST = 200
"""The number of exchanges that are kept from the start of an attempt."""
LAST = 20
"""The number of exchanges after those that are kept, too: the last ones."""
LARGEST_BODY = 512 * 1024
"""Bytes of a body that are kept."""
LARGEST = 4 * 1024 * 1024
"""Bytes of the first bodies, from which on less is kept of each."""
LARGEST_LAST_BODY = 16 * 1024
"""Bytes of a body that are kept of the last exchanges, and of all once LARGEST is reached."""
LARGEST_FIRST = 7 * 1024 * 1024
"""Bytes that are kept of all bodies of the first exchanges. With those of the last ones, they are less than 8 MB."""

_TROUBLES = (httpx.RequestError, ResponseTooLarge, asyncio.CancelledError)


class Recording:
    """The exchanges of one attempt, within bounds."""

    def __init__(self) -> None:
        self._secrets = dict[tuple[str, str], None]()
        self._first = list[_Exchange]()
        self._last = deque[_Exchange](maxlen=LAST)
        self._count = 0
        self._size = 0

    def add_secret(self, name: str, value: str | None) -> None:
        """Note a secret that the attempt has read, to replace it by its stand-in. It may have several values."""
        self._secrets[name, value or ""] = None

    async def exchange(self, request: httpx.Request, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Send a request once, and record it, its answer as the flow reads it, and the errors of both.

        Raises:
            httpx.RequestError, ResponseTooLarge: as `send` does.

        """
        exchange = self._begin(request)
        try:
            response = await send()
        except _TROUBLES as error:
            exchange.trouble = error
            raise
        exchange.answer = _Answer(response.status_code, response.reason_phrase, response.headers)
        if response.is_closed:  # it was made with its body, in place of the API
            exchange.body.add(response.content)
            exchange.body.is_complete = True
            return response
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - of an async transport
        response.stream = _Recorded(response.stream, exchange)
        return response

    def cassette(self, run: RecordedRun) -> Cassette:
        """Return the recording, without secrets. Exchanges that still go on are in it as far as they have come.

        Takes about a second for each megabyte: use a thread.

        Args:
            run: The attempt. Its secrets and its exchanges are added here.

        """
        exchanges, safe = self._exchanges, self.stand_ins()
        return Cassette(
            datasync=replace(
                run,
                tenant=replace(run.tenant, name=safe.text(run.tenant.name)),
                cursor=safe.value(run.cursor),
                settings=safe.value(run.settings),
                secrets=safe.names,
                error=run.error and _without_secrets(run.error, safe),
                unanswered=tuple(found for each in exchanges if (found := each.unanswered(safe))),
                left_out=self._count - len(exchanges),
            ),
            interactions=tuple(answered for each in exchanges if (answered := each.interaction(safe))),
        )

    def stand_ins(self) -> StandIns:
        """Return the stand-ins for the secrets, and for the tokens in the exchanges."""
        safe = StandIns(self._secrets)
        for each in self._exchanges:
            for body in (each.request_body, each.body):
                safe.learn(body.text)
        return safe

    @property
    def _exchanges(self) -> list["_Exchange"]:
        return [*self._first, *self._last]

    def _begin(self, request: httpx.Request) -> "_Exchange":
        self._count += 1
        is_first = len(self._first) < MOST
        exchange = _Exchange(
            number=self._count,
            method=request.method,
            url=str(request.url),
            headers=request.headers,
            request_body=_Kept(self._room if is_first else _small),
            body=_Kept(self._room if is_first else _small),
        )
        try:
            exchange.request_body.add(request.content)
            exchange.request_body.is_complete = True
        except httpx.RequestNotRead:
            exchange.request_body.is_stream = True
        (self._first if is_first else self._last).append(exchange)
        return exchange

    def _room(self, kept: int, wanted: int) -> int:
        limit = LARGEST_BODY if self._size < LARGEST else LARGEST_LAST_BODY
        room = max(min(limit - kept, wanted, LARGEST_FIRST - self._size), 0)
        self._size += room
        return room


def _small(kept: int, wanted: int) -> int:
    return max(min(LARGEST_LAST_BODY - kept, wanted), 0)


class _Kept:
    """The start of a body."""

    def __init__(self, room: Callable[[int, int], int]) -> None:
        self._room = room
        self._content = bytearray()
        self._size = 0
        self.is_complete = False
        """Whether nothing followed."""
        self.is_stream = False
        """Whether it is that of a request, and was not kept."""

    def add(self, chunk: bytes) -> None:
        if not self._is_cut:
            self._content += chunk[: self._room(len(self._content), len(chunk))]
        self._size += len(chunk)

    @property
    def _is_cut(self) -> bool:
        return len(self._content) < self._size

    @property
    def text(self) -> str:
        """The text; empty if it is not one in UTF-8."""
        content = bytes(self._content)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            is_at_cut = self._is_cut and error.end == len(content) and error.reason == "unexpected end of data"
            return content[: error.start].decode() if is_at_cut else ""

    @property
    def left_out(self) -> str | None:
        """Why the text is not the whole body; None if it is."""
        if self.is_stream:
            return "it was sent as a stream"
        if self._content and not self.text:
            return f"it is not a text in UTF-8, and is left out ({self._size:,} bytes)"
        if self._is_cut:
            more = "" if self.is_complete else " or more"
            return f"the recording has the first {len(self._content):,} of its {self._size:,}{more} bytes"
        if self.is_complete:
            return None
        return f"the run has read {self._size:,} bytes of it, and left the rest" if self._size else "it was not read"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    reason: str
    headers: httpx.Headers


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """A request and its answer. It does not hold their objects of httpx, which keep the whole bodies."""

    number: int
    method: str
    url: str
    headers: httpx.Headers
    request_body: _Kept
    body: _Kept
    answer: _Answer | None = None
    trouble: BaseException | None = None

    def unanswered(self, safe: StandIns) -> Unanswered | None:
        """Return the exchange if it has no answer."""
        if self.answer is not None:
            return None
        trouble = self.trouble or asyncio.CancelledError()
        return Unanswered(self.number, self._request(safe), _trouble(trouble, safe))

    def interaction(self, safe: StandIns) -> Interaction | None:
        """Return the exchange if it has an answer."""
        if self.answer is None:
            return None
        headers, body = safe.headers(self.answer.headers), safe.body(self.body.text)
        for name in [name for name in headers if name.lower() == "content-length"]:
            if headers[name] != [str(len(body.encode()))]:  # of the body before
                del headers[name]
        return Interaction(
            request=self._request(safe),
            response=Response(Status(self.answer.status, safe.text(self.answer.reason)), headers, Body(body)),
            datasync=Note(
                number=self.number,
                request_left_out=self.request_body.left_out,
                left_out=self.body.left_out,
                trouble=_trouble(self.trouble, safe) if self.trouble else None,
            ),
        )

    def _request(self, safe: StandIns) -> Request:
        body = safe.body(self.request_body.text) or None
        return Request(self.method, safe.url(self.url), body, safe.headers(self.headers))


def _without_secrets(failure: Failure, safe: StandIns) -> Failure:
    """Return the error of the attempt, whose texts may have parts of answers in them."""
    return replace(
        failure,
        message=safe.body(failure.message),
        host=failure.host and safe.text(failure.host),
        body=failure.body and safe.body(failure.body),
    )


def _trouble(error: BaseException, safe: StandIns) -> Trouble:
    return Trouble(type(error).__name__, safe.text(str(error)))


class _Recorded(httpx.AsyncByteStream):
    """The body of an answer, which is recorded as far as the flow reads it."""

    def __init__(self, stream: httpx.AsyncByteStream, exchange: _Exchange) -> None:
        self._stream = stream
        self._exchange = exchange
        self._chunks: AsyncIterator[bytes] | None = None

    @override
    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = self._chunks or aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            self._chunks = aiter(self._stream)
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._exchange.body.is_complete = True
            raise
        except _TROUBLES as error:
            self._exchange.trouble = error
            self._exchange.body.is_complete = True  # as far as it came
            raise
        self._exchange.body.add(chunk)
        return chunk

    @override
    async def aclose(self) -> None:
        await self._stream.aclose()
