"""The HTTP client of a flow: with limits, and with retries that wait as long as the server asks."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, override

import httpx
from httpx_retries import Retry, RetryTransport

from datasync.errors import RetryLater
from datasync.flow.connections import READS, SAFE, Caller, Connections, StandIn, caller
from datasync.flow.redirects import forget, guard
from datasync.flow.responses import ACCEPTED, TotalTimeout
from datasync.flow.retry_after import closed_until, wait_asked
from datasync.flow.usage import HttpUsage

if TYPE_CHECKING:
    from datasync.flow.recording import Recording

LONGEST_WAIT = timedelta(seconds=60)
"""The longest wait inside a run because of a Retry-After; a longer one puts the job back on the queue."""

_TIMEOUT = httpx.Timeout(30, connect=10, pool=300)
_TRANSIENT = (429, 500, 502, 503, 504)


class _Closed(Exception):
    """An answer 403 asks for a pause. Some APIs send that instead of 429."""


def _check(response: httpx.Response) -> None:
    if response.status_code == HTTPStatus.FORBIDDEN and closed_until(response, caller.get().usage.clock.now()):
        raise _Closed


class _PatientRetry(Retry):
    """Waits by the clock of the run, and leaves a wait of more than LONGEST_WAIT to the queue."""

    @override
    async def asleep(self, response: httpx.Response | Exception) -> None:
        usage = caller.get().usage
        asked = wait_asked(response, usage.clock.now()) if isinstance(response, httpx.Response) else timedelta()
        wait = asked or timedelta(seconds=self.backoff_strategy())
        if wait > LONGEST_WAIT and isinstance(response, httpx.Response):
            raise RetryLater(wait, f"HTTP {response.status_code} asks to wait for {wait}")
        usage.waited += wait
        await usage.clock.sleep(wait)

    @override
    def is_retryable_exception(self, exception: Exception) -> bool:
        return not isinstance(exception, (TotalTimeout, httpx.PoolTimeout)) and super().is_retryable_exception(
            exception
        )


class _UnsentRetry(_PatientRetry):
    """Repeats a request with any method, and because of exceptions only."""

    @override
    def is_retryable_method(self, method: str) -> bool:
        return True

    @override
    def is_retryable_status_code(self, status_code: int) -> bool:
        return False


class _Retries(RetryTransport):
    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        given = request.extensions
        if "retry" in given or self.retry.is_retryable_method(request.method):
            return await super().handle_async_request(request)
        request.extensions = {**given, "retry": _UNSENT}
        try:
            return await super().handle_async_request(request)
        finally:
            request.extensions = given  # a redirect gets them, and may have another method


_BACKOFF: dict[str, Any] = {
    "total": 4,
    "backoff_factor": 0.5,
    "max_backoff_wait": LONGEST_WAIT.total_seconds(),
}
_UNSENT = _UnsentRetry(**_BACKOFF, retry_on_exceptions=(httpx.ConnectTimeout, httpx.ConnectError))
"""Nothing of the request was sent, so it cannot have had an effect."""
_RETRY = _PatientRetry(
    **_BACKOFF,
    status_forcelist=_TRANSIENT,
    retry_on_exceptions=(*Retry.RETRYABLE_EXCEPTIONS, _Closed),
    validate_response=_check,
)

IDEMPOTENT: dict[str, Any] = {"retry": _RETRY.copy_with(allowed_methods=[*_RETRY.allowed_methods, "POST", "PATCH"])}
"""For a POST or PATCH that is safe to repeat: `await run.http.post(url, json=…, extensions=IDEMPOTENT)`."""

READ: dict[str, Any] = {**IDEMPOTENT, READS: True}
"""For a POST that only reads, such as a search or a request for a token: it is repeated like a GET, and `python -m
datasync try` sends it. `extensions=READ`, with other extensions `READ | response_limits(…)`."""


def new_transport(connections: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncBaseTransport:
    """Make the connections of a process, with the retries.

    A request with an idempotent method is sent up to five times on timeouts, network errors and answers
    429, 500, 502, 503 or 504, with jittered back-off or as `Retry-After` or `X-RateLimit-Reset` asks. So is one that
    is answered with 403 and asked to wait. A server that asks for more than LONGEST_WAIT raises RetryLater, which puts
    the job back on the queue for that time. A request with another method is sent again only after ConnectTimeout and
    ConnectError: nothing of it was sent.

    Args:
        connections: Sends each request once, in the place of the network; None is the network.

    """
    return _Retries(Connections(connections), _RETRY)


def new_client(
    transport: httpx.AsyncBaseTransport,
    usage: HttpUsage,
    before_unsafe: Callable[[], Awaitable[None]] | None = None,
    stand_in: StandIn | None = None,
    recording: "Recording | None" = None,
) -> httpx.AsyncClient:
    """Make the client of one run. Headers and cookies are its own, the connections are shared.

    Closing it closes the answers that the flow has left open.

    Args:
        transport: The connections of the process, with the retries.
        usage: Counts the requests.
        before_unsafe: Called before each request, and each retry of one, that may change data: any method but GET,
            HEAD, OPTIONS and TRACE, and not a POST with READ. If it raises, the request is not sent, and the caller
            gets the exception.
        stand_in: Answers each of these requests, in place of the API. None sends them.
        recording: Records each request that is sent, retries included. None records nothing.

    """
    run = _Run(transport, Caller(usage, before_unsafe, stand_in, recording), lambda: client.cookies)
    client = _Client(transport=run, timeout=_TIMEOUT, headers={"Accept-Encoding": ", ".join(ACCEPTED)})
    return client


class _Client(httpx.AsyncClient):
    @override
    def build_request(self, *args: Any, **kwargs: Any) -> httpx.Request:
        request = super().build_request(*args, **kwargs)  # not called for redirects
        forget(request)
        if READS in request.extensions and request.method not in ("POST", *SAFE):
            raise ValueError(
                f"extensions=READ marks a POST that only reads, and this is a {request.method}: leave it out"
            )
        return request


class _Run(httpx.AsyncBaseTransport):
    """The shared transport, as one run sees it."""

    def __init__(self, transport: httpx.AsyncBaseTransport, run: Caller, cookies: Callable[[], httpx.Cookies]) -> None:
        self._transport = transport
        self._run = run
        self._cookies = cookies

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._run.usage.calls += 1
        guard(request, self._cookies())
        token = caller.set(self._run)
        try:
            return await self._transport.handle_async_request(request)
        finally:
            caller.reset(token)

    @override
    async def aclose(self) -> None:
        await self._run.close()
