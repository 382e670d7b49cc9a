"""The HTTP client of a run, against a server that fails."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from httpx_retries import Retry

from datasync import IDEMPOTENT, READ, RetryLater, response_limits
from datasync.flow.http import new_client, new_transport
from datasync.flow.retry_after import closed_until
from datasync.flow.usage import HttpUsage
from localdev.web import serving

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
"""The time of a FakeClock."""


class Server:
    """Returns the configured answers in order, then 200."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[web.Response] = []
        self.requests: list[web.BaseRequest] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        return self.answers.pop(0) if self.answers else web.json_response({"ok": True})


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[Server]:
    answering = Server()
    application = web.Application()
    application.router.add_route("*", "/", answering.handle)
    async with serving("the test server", application) as url:
        answering.url = url
        yield answering


@pytest.fixture
def client(transport: httpx.AsyncBaseTransport, usage: HttpUsage) -> httpx.AsyncClient:
    """Return the client of one run."""
    return new_client(transport, usage)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_transient_answer_is_requested_again(server: Server, client: httpx.AsyncClient, status: int) -> None:
    """A GET is repeated until the server recovers."""
    server.answers = [web.Response(status=status)]

    assert (await client.get(server.url)).json() == {"ok": True}
    assert len(server.requests) == 2


async def test_the_client_stops_after_five_requests(server: Server, client: httpx.AsyncClient) -> None:
    """After five requests the caller gets the last answer."""
    server.answers = [web.Response(status=503, headers={"Retry-After": "0"}) for _ in range(9)]

    assert (await client.get(server.url)).status_code == 503
    assert len(server.requests) == 5


async def test_a_permanent_error_is_not_repeated(server: Server, client: httpx.AsyncClient) -> None:
    """A 404 is returned after one request."""
    server.answers = [web.Response(status=404)]

    assert (await client.get(server.url)).status_code == 404
    assert len(server.requests) == 1


async def test_a_post_is_repeated_only_if_the_flow_allows_it(server: Server, client: httpx.AsyncClient) -> None:
    """A POST may have taken effect before it failed. IDEMPOTENT marks a POST that is safe to repeat."""
    server.answers = [web.Response(status=503), web.Response(status=503)]

    assert (await client.post(server.url, json={})).status_code == 503
    assert (await client.post(server.url, json={}, extensions=IDEMPOTENT)).status_code == 200
    assert len(server.requests) == 3


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK"])
@pytest.mark.parametrize("error", [httpx.ConnectTimeout, httpx.ConnectError])
async def test_a_request_without_a_connection_is_repeated_with_any_method(
    usage: HttpUsage, method: str, error: type[httpx.TransportError]
) -> None:
    """Nothing of it was sent, so it cannot have had an effect."""
    answers: list[Exception | httpx.Response] = [error("none"), error("none"), httpx.Response(201)]

    assert (await answered(usage, answers).request(method, "https://api.example.com/", content=b"1")).status_code == 201
    assert usage.totals()["retries"] == 2


@pytest.mark.parametrize(
    "answer", [httpx.ReadTimeout("no answer"), httpx.WriteTimeout("stuck"), httpx.RemoteProtocolError("cut")]
)
async def test_a_post_that_may_have_been_received_is_not_repeated(usage: HttpUsage, answer: Exception) -> None:
    """Also if an earlier try of the same request had no connection."""
    client = answered(usage, [httpx.ConnectTimeout("no connection"), answer, httpx.Response(201)])

    with pytest.raises(type(answer)):
        await client.post("https://api.example.com/", json={})

    assert usage.totals()["retries"] == 1


async def test_the_retries_that_a_flow_gives_replace_all_others(usage: HttpUsage) -> None:
    """Here none: the flow decides itself what to do without a connection."""
    client = answered(usage, [httpx.ConnectError("none"), httpx.Response(201)])

    with pytest.raises(httpx.ConnectError):
        await client.post("https://api.example.com/", extensions={"retry": Retry(total=0)})

    assert usage.totals()["retries"] == 0


async def test_a_get_that_a_post_is_redirected_to_is_repeated(server: Server, client: httpx.AsyncClient) -> None:
    """The method of each request decides."""
    server.answers = [web.Response(status=303, headers={"Location": "/"}), web.Response(status=503)]

    assert (await client.post(server.url, json={}, follow_redirects=True)).status_code == 200
    assert [request.method for request in server.requests] == ["POST", "GET", "GET"]


def answered(usage: HttpUsage, answers: list[Exception | httpx.Response]) -> httpx.AsyncClient:
    """Return the client of a run whose requests get these answers."""

    def answer(_: httpx.Request) -> httpx.Response:
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    return new_client(new_transport(httpx.MockTransport(answer)), usage)


async def test_the_client_waits_for_retry_after(server: Server, client: httpx.AsyncClient, usage: HttpUsage) -> None:
    """The next request is sent after the delay that the server asked for."""
    server.answers = [web.Response(status=429, headers={"Retry-After": "1"})]

    response = await client.get(server.url)

    assert response.status_code == 200
    assert usage.waited == timedelta(seconds=1)
    assert usage.totals() == {"requests": 2, "retries": 1, "waited": 1.0}


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [
        ("3600", timedelta(hours=1)),
        ("99999999999", timedelta(days=7)),
        ("9" * 30, timedelta(days=7)),
        ("Fri, 31 Dec 2100 23:59:59 GMT", timedelta(days=7)),
    ],
)
async def test_a_long_retry_after_raises_retry_later(
    server: Server, client: httpx.AsyncClient, retry_after: str, delay: timedelta
) -> None:
    """The client does not wait for an hour. The job is delivered again after the delay that the server asked for."""
    server.answers = [web.Response(status=429, headers={"Retry-After": retry_after})]

    with pytest.raises(RetryLater, match="HTTP 429 asks to wait for") as later:
        await client.get(server.url)

    assert later.value.delay == delay
    assert len(server.requests) == 1


async def test_an_invalid_retry_after_is_ignored(server: Server, client: httpx.AsyncClient) -> None:
    """The default back-off is used instead."""
    server.answers = [web.Response(status=503, headers={"Retry-After": "soon"})]

    assert (await client.get(server.url)).status_code == 200


async def test_runs_of_different_tenants_do_not_share_headers_or_cookies(
    server: Server, transport: httpx.AsyncBaseTransport
) -> None:
    """Each run has its own headers and cookies. Closing its client does not close the client of another run."""
    server.answers = [web.Response(headers={"Set-Cookie": "session=acme; Path=/"})]
    async with new_client(transport, HttpUsage()) as first:
        first.headers["Authorization"] = "Bearer acme"
        await first.get(server.url)
        await first.get(server.url)

    await new_client(transport, HttpUsage()).get(server.url)

    sent = [(request.headers.get("Authorization"), request.headers.get("Cookie")) for request in server.requests]
    assert sent == [("Bearer acme", None), ("Bearer acme", "session=acme"), (None, None)]


async def test_an_unreachable_server_raises_a_transport_error(client: httpx.AsyncClient) -> None:
    """After the retries, the caller gets the error of httpx."""
    once = {"retry": IDEMPOTENT["retry"].copy_with(total=1)}
    with pytest.raises(httpx.TransportError):
        await client.get("http://127.0.0.1:1/", extensions=once)


async def test_a_request_that_changes_data_is_checked_before_it_is_sent(
    server: Server, transport: httpx.AsyncBaseTransport, usage: HttpUsage
) -> None:
    """The check runs before every unsafe method, and again before each retry."""
    checked_after: list[int] = []

    async def check() -> None:
        checked_after.append(len(server.requests))

    client = new_client(transport, usage, check)
    for method in ("GET", "HEAD", "OPTIONS"):
        await client.request(method, server.url)
    assert checked_after == []

    for method in ("POST", "PUT", "PATCH", "DELETE"):
        await client.request(method, server.url)
    assert checked_after == [3, 4, 5, 6]

    server.answers = [web.Response(status=503)]
    await client.put(server.url)
    assert checked_after[4:] == [7, 8]


async def test_a_post_that_reads_is_treated_like_a_get(
    server: Server, transport: httpx.AsyncBaseTransport, usage: HttpUsage
) -> None:
    """It is repeated, and not checked before. READ can be combined with other extensions."""

    async def check() -> None:
        raise AssertionError("a POST that reads is not checked")

    client = new_client(transport, usage, check)
    server.answers = [web.Response(status=503)]

    answer = await client.post(server.url, json={}, extensions=READ | response_limits(max_body=100))

    assert answer.json() == {"ok": True}
    assert len(server.requests) == 2


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_only_a_post_can_be_marked_as_reading(client: httpx.AsyncClient, server: Server, method: str) -> None:
    """The other methods change data. The request is not sent."""
    with pytest.raises(ValueError, match=f"extensions=READ marks a POST that only reads, and this is a {method}"):
        await client.request(method, server.url, extensions=READ)

    assert server.requests == []


async def test_a_request_that_changes_data_can_be_answered_without_the_api(
    server: Server, transport: httpx.AsyncBaseTransport, usage: HttpUsage
) -> None:
    """Below the retries: a transient answer is asked for again. A GET is sent."""
    answers = [httpx.Response(503), httpx.Response(201, json={"id": 7})]

    async def stand_in(_: httpx.Request) -> httpx.Response:
        return answers.pop(0)

    client = new_client(transport, usage, stand_in=stand_in)

    await client.get(server.url)
    answer = await client.put(server.url, json={})

    assert (answer.status_code, answer.json()) == (201, {"id": 7})
    assert [request.method for request in server.requests] == ["GET"]


@pytest.mark.parametrize("sent_before", [0, 1])
async def test_a_request_is_not_sent_if_the_check_raises(
    server: Server, transport: httpx.AsyncBaseTransport, usage: HttpUsage, sent_before: int
) -> None:
    """The caller gets the exception of the check, at the first request or at a retry. A GET is still sent."""

    async def check() -> None:
        if len(server.requests) >= sent_before:
            raise PermissionError("the lease is over")

    client = new_client(transport, usage, check)
    server.answers = [web.Response(status=503)] * sent_before

    with pytest.raises(PermissionError, match="the lease is over"):
        await client.put(server.url)
    assert len(server.requests) == usage.sent == sent_before

    await client.get(server.url)
    assert len(server.requests) == sent_before + 1


RESET = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW.timestamp()) + 90)}


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"Retry-After": "90"}, 90),
        (503, {"Retry-After": "90"}, 90),
        (403, {"Retry-After": "90"}, 90),
        (429, {"Retry-After": "Sat, 23 Aug 2025 12:01:30 GMT"}, 90),
        (429, {"Retry-After": "Sat, 23 Aug 2025 12:01:30"}, 90),
        (429, {"X-RateLimit-Reset": RESET["X-RateLimit-Reset"]}, 90),
        (429, {"X-RateLimit-Reset": "90"}, 90),
        (429, {"X-RateLimit-Reset": "90.5"}, 90.5),
        (403, RESET, 90),
        (200, RESET, 90),
        (429, {"Retry-After": "30", **RESET}, 90),
        (429, {"Retry-After": "120", **RESET}, 120),
        (429, {"Retry-After": "99999999999"}, 7 * 24 * 3600),
        (429, {"Retry-After": "9" * 30}, 7 * 24 * 3600),
        (503, {"Retry-After": "9" * 8000}, 7 * 24 * 3600),
        (429, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, 7 * 24 * 3600),
        (403, {**RESET, "X-RateLimit-Reset": str(int(NOW.timestamp()) + 30 * 24 * 3600)}, 7 * 24 * 3600),
    ],
)
def test_a_server_can_ask_not_to_be_called_until_an_instant(
    status: int, headers: dict[str, str], seconds: float
) -> None:
    """The instant is that of Retry-After or of X-RateLimit-Reset, the later of the two, at most 7 days ahead."""
    assert closed_until(httpx.Response(status, headers=headers), NOW) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {}),
        (403, {}),
        (200, {"Retry-After": "90"}),
        (404, {"Retry-After": "90"}),
        (429, {"Retry-After": "0"}),
        (429, {"Retry-After": "-5"}),
        (429, {"Retry-After": "soon"}),
        (429, {"Retry-After": "Sat, 23 Aug 2025 11:00:00 GMT"}),
        (200, {**RESET, "X-RateLimit-Remaining": "1"}),
        (403, {"X-RateLimit-Reset": RESET["X-RateLimit-Reset"]}),
        (403, {**RESET, "X-RateLimit-Reset": str(int(NOW.timestamp()) - 1)}),
        (403, {**RESET, "X-RateLimit-Reset": str(int(NOW.timestamp()) * 1000)}),
        (403, {**RESET, "X-RateLimit-Reset": "nan"}),
        (403, {**RESET, "X-RateLimit-Reset": "9" * 300}),
        (403, {**RESET, "X-RateLimit-Reset": ""}),
    ],
)
def test_an_answer_that_does_not_ask_for_a_pause_closes_nothing(status: int, headers: dict[str, str]) -> None:
    """Other statuses, times that are over, and headers that cannot be read are ignored."""
    assert closed_until(httpx.Response(status, headers=headers), NOW) is None


ASKS = [
    {"Retry-After": "{seconds}"},
    {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "{seconds}"},
    {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "{at}"},
]


def asking(headers: dict[str, str], seconds: int) -> dict[str, str]:
    at = int(NOW.timestamp()) + seconds
    return {name: text.format(seconds=seconds, at=at) for name, text in headers.items()}


@pytest.mark.parametrize("headers", ASKS)
@pytest.mark.parametrize("status", [403, 429])
async def test_a_request_waits_for_the_end_of_a_rate_limit(
    server: Server, client: httpx.AsyncClient, usage: HttpUsage, status: int, headers: dict[str, str]
) -> None:
    """Some APIs send 403 for it, and some name the end in `X-RateLimit-Reset`."""
    server.answers = [web.Response(status=status, headers=asking(headers, 40))]

    assert (await client.get(server.url)).json() == {"ok": True}
    assert usage.waited == timedelta(seconds=40)


@pytest.mark.parametrize("headers", ASKS)
async def test_a_long_rate_limit_with_403_raises_retry_later(
    server: Server, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """As with 429."""
    server.answers = [web.Response(status=403, headers=asking(headers, 900))]

    with pytest.raises(RetryLater, match="HTTP 403 asks to wait for 0:15:00") as later:
        await client.get(server.url)

    assert later.value.delay == timedelta(minutes=15)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("method", "headers"),
    [("GET", {}), ("GET", {"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "40"}), ("POST", {"Retry-After": "40"})],
)
async def test_another_403_is_an_answer(
    server: Server, client: httpx.AsyncClient, method: str, headers: dict[str, str]
) -> None:
    """The credentials are refused, or the request must not be repeated."""
    server.answers = [web.Response(status=403, headers=headers)]

    assert (await client.request(method, server.url)).status_code == 403
    assert len(server.requests) == 1


async def test_a_403_that_always_asks_for_a_pause_is_returned_after_five_requests(
    server: Server, client: httpx.AsyncClient
) -> None:
    """As with 429."""
    server.answers = [web.Response(status=403, headers={"Retry-After": "1"}) for _ in range(9)]

    assert (await client.get(server.url)).status_code == 403
    assert len(server.requests) == 5


async def test_the_usage_notes_the_latest_instant_before_which_a_server_must_not_be_called(
    server: Server, client: httpx.AsyncClient, usage: HttpUsage
) -> None:
    """That of any answer counts, also of one that is returned to the flow."""
    await client.get(server.url)
    assert usage.closed_until is None

    server.answers = [web.Response(status=403, headers={"Retry-After": "900"})]
    assert (await client.post(server.url)).status_code == 403
    assert usage.closed_until == NOW + timedelta(minutes=15)

    server.answers = [web.Response(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(RetryLater):
        await client.get(server.url)
    assert usage.closed_until == NOW + timedelta(hours=1)

    server.answers = [web.Response(status=403, headers={"Retry-After": "900"})]
    await client.post(server.url)
    assert usage.closed_until == NOW + timedelta(hours=1)
