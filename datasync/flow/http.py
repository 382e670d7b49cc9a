"""The HTTP client of a flow: pooled, with timeouts, and with retries that wait as long as the server asks."""

import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, override

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from httpx_retries import Retry, RetryTransport

from datasync.clock import Clock
from datasync.errors import RetryLater
from datasync.model.times import in_utc

LONGEST_WAIT = timedelta(seconds=60)
"""The longest wait inside a run because of a Retry-After; a longer one puts the job back on the queue."""

_TIMEOUT = httpx.Timeout(30, connect=10)
_CONNECTIONS = 256
_TRANSIENT = (429, 500, 502, 503, 504)
_SECONDS = re.compile(r"[0-9]{1,19}(\.[0-9]*)?")
_LONGEST = RetryLater.LONGEST.total_seconds()
_SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")  # RFC 9110, section 9.2.1: they ask for no change


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
    closed_until: datetime | None = None
    """The latest instant (aware) before which a server asked not to be called. It may be in the past."""

    def totals(self) -> dict[str, float]:
        """Return the numbers for the record: `requests` (retries included), `retries`, and `waited` in seconds."""
        return {
            "requests": self.sent,
            "retries": max(self.sent - self.calls, 0),
            "waited": round(self.waited.total_seconds(), 1),
        }

    def note(self, response: httpx.Response) -> None:
        """Note whether the server asks not to be called for a time."""
        until = closed_until(response, self.clock.now())
        if until:
            self.closed_until = max(until, self.closed_until or until)

    def attributes(self) -> dict[str, object]:
        """Return the numbers that are not zero: `http` (sent), `retried`, and `waited` in seconds."""
        numbers = {"http": self.sent, "retried": self.sent - self.calls}
        waited = {"waited": f"{self.waited.total_seconds():.1f}s"} if self.waited else {}
        return {**{name: number for name, number in numbers.items() if number > 0}, **waited}


def closed_until(response: httpx.Response, now: datetime) -> datetime | None:
    """Return the instant (aware) before which a server asks not to be called, if it asks for that.

    It does with `Retry-After` (RFC 9110, section 10.2.3) in an answer 403, 429 or 503, and with `X-RateLimit-Reset`
    where `X-RateLimit-Remaining` is 0 or the answer is 429. There is no standard for the latter: APIs send seconds
    since 1970 or seconds from now. The instant is at most 7 days ahead. A header that cannot be read is ignored.
    """
    headers, times = response.headers, list[datetime | None]()
    if response.status_code in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        times.append(_retry_after(response, now))
    spent = headers.get("X-RateLimit-Remaining", "").strip() == "0"
    if spent or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        times.append(_reset(headers.get("X-RateLimit-Reset", ""), now))
    until = max(filter(None, times), default=now)
    return min(until, now + RetryLater.LONGEST) if until > now else None


def _retry_after(response: httpx.Response, now: datetime) -> datetime | None:
    """Read Retry-After: seconds from now, or a date."""
    text = response.headers.get("Retry-After", "").strip()
    try:
        return now + timedelta(seconds=float(text)) if _SECONDS.fullmatch(text) else in_utc(parsedate_to_datetime(text))
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
    except ValueError:
        return None


def _reset(text: str, now: datetime) -> datetime | None:
    """Read a number that is small enough for seconds from now as that, and any other as seconds since 1970."""
    if not _SECONDS.fullmatch(text.strip()):
        return None
    seconds = float(text)
    try:
        return now + timedelta(seconds=seconds) if seconds <= _LONGEST else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class _Caller:
    """The run that sends the present request."""

    usage: HttpUsage
    before_unsafe: Callable[[], Awaitable[None]] | None


_caller: ContextVar[_Caller] = ContextVar("_caller")
"""Of the present request. All runs share the connections and their retries."""


class _PatientRetry(Retry):
    """Waits by the clock of the run, and leaves a wait of more than LONGEST_WAIT to the queue."""

    @override
    async def asleep(self, response: httpx.Response | Exception) -> None:
        usage = _caller.get().usage
        wait = _asked(response, usage.clock.now()) or timedelta(seconds=self.backoff_strategy())
        if wait > LONGEST_WAIT and isinstance(response, httpx.Response):
            delay = min(wait, RetryLater.LONGEST)
            raise RetryLater(delay, f"HTTP {response.status_code} asks to wait for {wait}")
        usage.waited += wait
        await usage.clock.sleep(wait)


def _asked(response: httpx.Response | Exception, now: datetime) -> timedelta:
    """Return the wait that an answer asks for; zero where it asks for none, or cannot be read."""
    if not isinstance(response, httpx.Response):
        return timedelta()
    until = closed_until(response, now) or _retry_after(response, now)
    return max((until or now) - now, timedelta())


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


def new_client(
    transport: httpx.AsyncBaseTransport, usage: HttpUsage, before_unsafe: Callable[[], Awaitable[None]] | None = None
) -> httpx.AsyncClient:
    """Make the client of one run. Headers and cookies are its own, the connections are shared.

    Args:
        transport: The connections of the process, with the retries.
        usage: Counts the requests.
        before_unsafe: Called before each request, and each retry of one, that may change data: any method but GET,
            HEAD, OPTIONS and TRACE. If it raises, the request is not sent, and the caller gets the exception.

    """
    return httpx.AsyncClient(transport=_Shared(transport, _Caller(usage, before_unsafe)), timeout=_TIMEOUT)


class _Shared(httpx.AsyncBaseTransport):
    """The shared transport, which the client of one run does not close."""

    def __init__(self, transport: httpx.AsyncBaseTransport, caller: _Caller) -> None:
        self._transport = transport
        self._caller = caller

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._caller.usage.calls += 1
        token = _caller.set(self._caller)
        try:
            return await self._transport.handle_async_request(request)
        finally:
            _caller.reset(token)


class _Counted(httpx.AsyncBaseTransport):
    """Checks and counts the requests that are sent, and reads their answers."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        caller = _caller.get()
        if caller.before_unsafe and request.method not in _SAFE:
            await caller.before_unsafe()
        caller.usage.sent += 1
        response = await self._transport.handle_async_request(request)
        caller.usage.note(response)
        return response

    @override
    async def aclose(self) -> None:
        await self._transport.aclose()


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=httpx.create_ssl_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
