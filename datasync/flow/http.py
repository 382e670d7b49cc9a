"""The HTTP client of a flow: pooled, with timeouts, and with retries that wait as long as the server asks."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, override

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from httpx_retries import Retry, RetryTransport

from datasync.clock import Clock
from datasync.errors import RetryLater

LONGEST_WAIT = timedelta(seconds=60)
"""The longest wait inside a run because of a Retry-After; a longer one puts the job back on the queue."""

_TIMEOUT = httpx.Timeout(30, connect=10)
_CONNECTIONS = 256
_TRANSIENT = (429, 500, 502, 503, 504)


@dataclass(slots=True)
class HttpUsage:
    """Counts the HTTP requests of one attempt."""

    clock: Clock = field(default_factory=Clock)
    calls: int = 0
    """Requests that the flow made."""
    sent: int = 0
    """Requests that were sent, retries included."""
    waited: timedelta = timedelta()
    """Time spent between retries, added up over all requests, also over those that waited at the same time."""

    def attributes(self) -> dict[str, object]:
        """Return the numbers that are not zero: `http` (sent), `retried`, and `waited` in seconds."""
        numbers = {"http": self.sent, "retried": self.sent - self.calls}
        waited = {"waited": f"{self.waited.total_seconds():.1f}s"} if self.waited else {}
        return {**{name: number for name, number in numbers.items() if number > 0}, **waited}


_current: ContextVar[HttpUsage] = ContextVar("_current")
"""The counter for the present request. All runs share the connections and their retries."""


class _PatientRetry(Retry):
    """Waits by the clock of the run, and leaves a wait of more than LONGEST_WAIT to the queue."""

    @override
    async def asleep(self, response: httpx.Response | Exception) -> None:
        wait = self._asked(response) or timedelta(seconds=self.backoff_strategy())
        if wait > LONGEST_WAIT and isinstance(response, httpx.Response):
            delay = min(wait, RetryLater.LONGEST)
            raise RetryLater(delay, f"HTTP {response.status_code} asks to wait for {wait}")
        usage = _current.get()
        usage.waited += wait
        await usage.clock.sleep(wait)

    def _asked(self, response: httpx.Response | Exception) -> timedelta:
        """Return the wait that a Retry-After asks for; zero where it asks for none, or cannot be read."""
        text = response.headers.get("Retry-After") if isinstance(response, httpx.Response) else None
        try:
            return timedelta(seconds=self.parse_retry_after(text)) if text else timedelta()
        except (ValueError, OverflowError):
            return timedelta()


_RETRY = _PatientRetry(
    total=4, backoff_factor=0.5, max_backoff_wait=LONGEST_WAIT.total_seconds(), status_forcelist=_TRANSIENT
)

IDEMPOTENT: dict[str, Any] = {"retry": _RETRY.copy_with(allowed_methods=[*_RETRY.allowed_methods, "POST", "PATCH"])}
"""For a POST or PATCH that is safe to repeat: `await run.http.post(url, json=…, extensions=IDEMPOTENT)`."""


def new_transport() -> httpx.AsyncBaseTransport:
    """Make the connection pool of a process, with the retries.

    A request with an idempotent method is sent up to five times on timeouts, network errors and answers
    429, 500, 502, 503 or 504, with jittered back-off or as `Retry-After` asks. A server that asks for more than
    LONGEST_WAIT raises RetryLater, which puts the job back on the queue for that time.
    """
    return RetryTransport(_Counted(AiohttpTransport(client=_new_session)), _RETRY)


def new_client(transport: httpx.AsyncBaseTransport, usage: HttpUsage) -> httpx.AsyncClient:
    """Make the client of one run. Headers and cookies are its own, the connections are shared."""
    return httpx.AsyncClient(transport=_Shared(transport, usage), timeout=_TIMEOUT)


class _Shared(httpx.AsyncBaseTransport):
    """The shared transport, which the client of one run does not close."""

    def __init__(self, transport: httpx.AsyncBaseTransport, usage: HttpUsage) -> None:
        self._transport = transport
        self._usage = usage

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._usage.calls += 1
        token = _current.set(self._usage)
        try:
            return await self._transport.handle_async_request(request)
        finally:
            _current.reset(token)


class _Counted(httpx.AsyncBaseTransport):
    """Counts the requests that are sent."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _current.get().sent += 1
        return await self._transport.handle_async_request(request)

    @override
    async def aclose(self) -> None:
        await self._transport.aclose()


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=httpx.create_ssl_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
