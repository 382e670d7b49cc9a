"""The shared HTTP client, against a server that misbehaves."""

from collections.abc import AsyncGenerator
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from datasync import IDEMPOTENT, RetryLater
from datasync.flow.http import HttpStory, new_client, new_transport
from localdev.web import serving
from tests.stages import FakeClock


class Server:
    """Answers with what it was told to, in turn, and 200 from then on."""

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


@pytest_asyncio.fixture
async def transport() -> AsyncGenerator[httpx.AsyncBaseTransport]:
    """Give what all runs of a process share."""
    async with new_transport() as shared:
        yield shared


@pytest.fixture
def story() -> HttpStory:
    """Give the story of one run, by a clock that never waits."""
    return HttpStory(FakeClock())


@pytest.fixture
def client(transport: httpx.AsyncBaseTransport, story: HttpStory) -> httpx.AsyncClient:
    """Give the client of one run."""
    return new_client(transport, story)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_transient_answer_is_asked_again(server: Server, client: httpx.AsyncClient, status: int) -> None:
    """A GET is repeated until the server has recovered."""
    server.answers = [web.Response(status=status)]

    assert (await client.get(server.url)).json() == {"ok": True}
    assert len(server.requests) == 2


async def test_a_server_that_stays_down_is_believed(server: Server, client: httpx.AsyncClient) -> None:
    """After five requests the last answer is handed over."""
    server.answers = [web.Response(status=503, headers={"Retry-After": "0"}) for _ in range(9)]

    assert (await client.get(server.url)).status_code == 503
    assert len(server.requests) == 5


async def test_a_definite_answer_is_not_repeated(server: Server, client: httpx.AsyncClient) -> None:
    """A 404 stays a 404."""
    server.answers = [web.Response(status=404)]

    assert (await client.get(server.url)).status_code == 404
    assert len(server.requests) == 1


async def test_a_post_is_repeated_only_where_the_flow_says_it_may(server: Server, client: httpx.AsyncClient) -> None:
    """A POST may have had its effect before it failed; IDEMPOTENT says that does not matter."""
    server.answers = [web.Response(status=503), web.Response(status=503)]

    assert (await client.post(server.url, json={})).status_code == 503
    assert (await client.post(server.url, json={}, extensions=IDEMPOTENT)).status_code == 200
    assert len(server.requests) == 3


async def test_retry_after_is_waited_for(server: Server, client: httpx.AsyncClient, story: HttpStory) -> None:
    """The next request does not come before the server asked for it."""
    server.answers = [web.Response(status=429, headers={"Retry-After": "1"})]

    response = await client.get(server.url)

    assert response.status_code == 200
    assert story.waited == timedelta(seconds=1)
    assert story.attributes() == {"http": 2, "retried": 1, "waited": "1.0s"}


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [
        ("3600", timedelta(hours=1)),
        ("99999999999", timedelta(days=7)),
        ("Fri, 31 Dec 2100 23:59:59 GMT", timedelta(days=7)),
    ],
)
async def test_a_long_retry_after_puts_the_run_back_on_the_queue(
    server: Server, client: httpx.AsyncClient, retry_after: str, delay: timedelta
) -> None:
    """A run does not sit and wait for an hour: RetryLater brings the job back when the server wants it to."""
    server.answers = [web.Response(status=429, headers={"Retry-After": retry_after})]

    with pytest.raises(RetryLater, match="HTTP 429 asks to wait for") as later:
        await client.get(server.url)

    assert later.value.delay == delay
    assert len(server.requests) == 1


async def test_nonsense_in_retry_after_is_ignored(server: Server, client: httpx.AsyncClient) -> None:
    """The usual back-off is used instead."""
    server.answers = [web.Response(status=503, headers={"Retry-After": "soon"})]

    assert (await client.get(server.url)).status_code == 200


async def test_nothing_goes_from_one_tenants_run_to_anothers(
    server: Server, transport: httpx.AsyncBaseTransport
) -> None:
    """Headers and cookies are a run's own, and closing its client closes nobody else's."""
    server.answers = [web.Response(headers={"Set-Cookie": "session=acme; Path=/"})]
    async with new_client(transport, HttpStory()) as first:
        first.headers["Authorization"] = "Bearer acme"
        await first.get(server.url)
        await first.get(server.url)

    await new_client(transport, HttpStory()).get(server.url)

    sent = [(request.headers.get("Authorization"), request.headers.get("Cookie")) for request in server.requests]
    assert sent == [("Bearer acme", None), ("Bearer acme", "session=acme"), (None, None)]


async def test_an_unreachable_server_raises_what_httpx_raises(client: httpx.AsyncClient) -> None:
    """Network errors are httpx's own, after the retries."""
    once = {"retry": IDEMPOTENT["retry"].copy_with(total=1)}
    with pytest.raises(httpx.TransportError):
        await client.get("http://127.0.0.1:1/", extensions=once)
