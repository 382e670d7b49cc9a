"""The HTTP client of a flow: pooled, with timeouts, and with retries that wait as long as the server asks."""

from datetime import timedelta
from typing import Any, override

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from httpx_retries import Retry, RetryTransport

from datasync.errors import RetryLater

LONGEST_WAIT = timedelta(seconds=60)
"""What a run waits at the most because of a Retry-After; when asked for more, it goes back to the queue."""

_TIMEOUT = httpx.Timeout(30, connect=10)
_CONNECTIONS = 256
_TRANSIENT = (429, 500, 502, 503, 504)


class _PatientRetry(Retry):
    """Leave the waiting to the queue when a server wants to be left alone for longer than LONGEST_WAIT."""

    @override
    async def asleep(self, response: httpx.Response | Exception) -> None:
        if isinstance(response, httpx.Response) and (text := response.headers.get("Retry-After")):
            try:
                asked = timedelta(seconds=self.parse_retry_after(text))
            except (ValueError, OverflowError):
                asked = timedelta()
            if asked > LONGEST_WAIT:
                delay = min(asked, RetryLater.LONGEST)
                raise RetryLater(delay, f"HTTP {response.status_code} asks to be left alone for {asked}")
        await super().asleep(response)


_RETRY = _PatientRetry(
    total=4, backoff_factor=0.5, max_backoff_wait=LONGEST_WAIT.total_seconds(), status_forcelist=_TRANSIENT
)

IDEMPOTENT: dict[str, Any] = {"retry": _RETRY.copy_with(allowed_methods=[*_RETRY.allowed_methods, "POST", "PATCH"])}
"""For a POST or PATCH that may be repeated: `await run.http.post(url, json=…, extensions=IDEMPOTENT)`."""


def new_transport() -> httpx.AsyncBaseTransport:
    """Make the connection pool of a process, with the retries.

    A request with an idempotent method is sent up to five times on timeouts, network errors and answers
    429, 500, 502, 503 or 504, with jittered back-off or as `Retry-After` says; a server that asks for more than
    LONGEST_WAIT raises RetryLater, which puts the job back on the queue for that long.
    """
    return RetryTransport(AiohttpTransport(client=_new_session), _RETRY)


def new_client(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    """Make the client of one run: headers, cookies and closing are its own, the connections are shared."""
    return httpx.AsyncClient(transport=_Shared(transport), timeout=_TIMEOUT)


class _Shared(httpx.AsyncBaseTransport):
    """A transport that a client may close without taking it away from the others."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=httpx.create_ssl_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
