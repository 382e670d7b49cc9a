"""The connections of a process to the APIs of all its runs, with a share for each run and each host."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, override
from weakref import WeakValueDictionary

import aiohttp
import httpx
from aiohttp.http import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from datasync.errors import ResponseTooLarge
from datasync.flow.charsets import charset
from datasync.flow.redirects import Origin, origin
from datasync.flow.responses import Deadline, Limits, decoded, encodings
from datasync.flow.usage import HttpUsage

if TYPE_CHECKING:  # few processes record anything
    from datasync.flow.recording import Recording

OF_A_RUN = 10
"""Connections of one run."""
OF_A_HOST = 256
"""Connections to one host. A tenant has at most 16 runs in a process by default, so it cannot take all of them."""

SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")
"""The methods that ask for no change: RFC 9110, section 9.2.1."""

READS = "reads"
"""The extension of a POST that asks for no change."""

type StandIn = Callable[[httpx.Request], Awaitable[httpx.Response]]
"""Answers a request in place of the API, which does not get it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The run that sends a request."""

    usage: HttpUsage
    before_unsafe: Callable[[], Awaitable[None]] | None = None
    stand_in: StandIn | None = None
    """Answers the requests that may change data; None sends them."""
    recording: "Recording | None" = None
    """Records the exchanges of the run; None records nothing."""
    connections: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OF_A_RUN))
    open: "set[_Body]" = field(default_factory=set)
    """The answers that were not read to their end, nor closed."""

    async def close(self) -> None:
        """Close the answers that the run has left open."""
        for body in list(self.open):
            await body.aclose()


caller: ContextVar[Caller] = ContextVar("caller")
"""The run of the present request. All runs share the connections and their retries."""


def asks_for_no_change(request: httpx.Request) -> bool:
    """Return whether a request only reads: by its method, or because the flow says so of a POST."""
    return request.method in SAFE or (request.method == "POST" and READS in request.extensions)


class Connections(httpx.AsyncBaseTransport):
    """Sends requests when a connection is free, counts them, and limits their answers.

    The process as a whole has no limit, since one run could use it up.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Send by a transport; None is that of the app."""
        self._transport = transport or AiohttpTransport(client=_new_session)
        self._hosts = WeakValueDictionary[Origin, asyncio.Semaphore]()

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        run = caller.get()
        if run.recording is None:
            return await self._send(run, request)
        return await run.recording.exchange(request, partial(self._send, run, request))

    @override
    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _send(self, run: Caller, request: httpx.Request) -> httpx.Response:
        limits = Limits.of(request)
        async with AsyncExitStack() as held:
            await self._acquire(run, request, held)
            if not asks_for_no_change(request):
                if run.before_unsafe:
                    await run.before_unsafe()
                if run.stand_in:
                    made = await run.stand_in(request)
                    stream = httpx.ByteStream(made.content)  # not read yet, as that of an API
                    return httpx.Response(made.status_code, headers=made.headers, stream=stream)
            run.usage.sent += 1
            deadline = Deadline(limits.total, run.usage.clock)
            async with deadline.kept():
                with _errors_of_httpx(), _connecting(request):
                    response = await self._transport.handle_async_request(request)
            held.push_async_callback(response.aclose)
            run.usage.note(response)
            names = [] if request.method == "HEAD" else encodings(response)
            too_large = ResponseTooLarge(request.url.host, response.status_code, limits.max_body)
            body = decoded(deadline.over(_received(response)), names, too_large, run.usage.clock)
            encoding = charset(response)
            answer = httpx.Response(
                response.status_code,
                headers=_headers(response, names),
                stream=_Body(body, run.open, held.pop_all()),
                extensions=response.extensions,
            )
            answer.encoding = encoding
            return answer

    async def _acquire(self, run: Caller, request: httpx.Request, held: AsyncExitStack) -> None:
        """Wait for a connection that the run and the host may have.

        Raises:
            httpx.PoolTimeout: none was free within the timeout for that.

        """
        host = self._hosts.setdefault(origin(request.url), asyncio.Semaphore(OF_A_HOST))
        timeout, clock = request.extensions.get("timeout", {}).get("pool"), run.usage.clock
        waits, before = run.connections.locked() or host.locked(), clock.monotonic()
        try:
            async with asyncio.timeout(timeout):
                for share in (run.connections, host):
                    await share.acquire()
                    held.callback(share.release)
        except TimeoutError:
            raise httpx.PoolTimeout(
                f"no connection to {request.url.host} was free within {timeout} s: a run has {OF_A_RUN} at once, and a "
                f"host {OF_A_HOST}. Close the answers of `stream`, or allow more with timeout=httpx.Timeout(…, pool=…)"
            ) from None
        finally:
            if waits:
                run.usage.waited += timedelta(seconds=clock.monotonic() - before)


def _headers(response: httpx.Response, decoded_from: list[str]) -> httpx.Headers:
    """Return the headers of an answer, without those that do not hold for the decoded body."""
    headers = httpx.Headers(response.headers.raw)
    for name in ("Content-Encoding", "Content-Length") if decoded_from else ():
        headers.pop(name, None)
    return headers


class _Body(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, chunks: AsyncIterator[bytes], others: "set[_Body]", held: AsyncExitStack) -> None:
        self._chunks = chunks
        self._open = others
        self._held = held
        others.add(self)

    @override
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    @override
    async def aclose(self) -> None:
        self._open.discard(self)
        await self._held.aclose()


async def _received(response: httpx.Response) -> AsyncGenerator[bytes]:
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - of an async transport
    with _errors_of_httpx():
        async for chunk in response.stream:
            yield chunk


@contextmanager
def _connecting(request: httpx.Request) -> Generator[None]:
    """Let aiohttp, which takes `pool` for the whole time to get a connection, limit the name's resolution too."""
    given = request.extensions
    timeout = given.get("timeout", {})
    request.extensions = {**given, "timeout": {**timeout, "pool": timeout.get("connect")}}
    try:
        yield
    finally:
        request.extensions = given


@contextmanager
def _errors_of_httpx() -> Generator[None]:
    """Raise the errors that httpx documents. AiohttpTransport knows only some of aiohttp's, and confuses others.

    https://www.python-httpx.org/exceptions/
    """
    try:
        yield
    except (httpx.RequestError, aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, httpx.RequestError) and error.__cause__ else error
        raise _kind(cause)(_text(cause)) from cause


def _text(error: BaseException) -> str:
    match error:
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection before the end of its answer"
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return f"the answer is not HTTP: {' '.join(error.message.split())[:200]}"
    return str(error) or type(error).__name__


def _kind(error: BaseException) -> type[httpx.RequestError]:  # noqa: PLR0911 - a table
    match error:
        case httpx.RequestError():
            return type(error)
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return httpx.ProxyError
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout
        case TimeoutError():
            return httpx.ReadTimeout
        case aiohttp.ClientConnectorError():
            return httpx.ConnectError
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return httpx.UnsupportedProtocol
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return httpx.RemoteProtocolError
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return httpx.RemoteProtocolError
        case ValueError():
            return httpx.LocalProtocolError
    return httpx.ReadError


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=httpx.create_ssl_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
        response_class=_Response,
    )


class _Response(aiohttp.ClientResponse):
    """An answer whose reason phrase can be encoded, and whose body ends when its connection does."""

    @override
    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        closed = connection.protocol.closed
        started = await super().start(connection)
        # Any bytes from 0x80 to 0xFF may be in it: RFC 9112, section 4.
        self.reason = (self.reason or "").encode(errors="surrogateescape").decode("latin-1")
        if closed is not None and not self.content.is_eof():
            end = partial(_end, self.content)
            closed.add_done_callback(end)
            self.content.on_eof(partial(closed.remove_done_callback, end))
        return started


def _end(body: aiohttp.StreamReader, _: object) -> None:
    """End a body in which aiohttp has found an error without saying so, such as a chunk without a size."""
    if not body.is_eof() and body.exception() is None:
        body.set_exception(aiohttp.ClientPayloadError("the connection was closed in the middle of the body"))
