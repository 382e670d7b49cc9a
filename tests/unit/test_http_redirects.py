"""Redirects of the HTTP client of a run, between servers on different ports."""

import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from datasync.flow.http import new_client, new_transport
from datasync.flow.usage import HttpUsage
from localdev.web import serving
from tests.stages import FakeClock

CREDENTIALS = {
    "Authorization": "Bearer s3cret",
    "Proxy-Authorization": "Basic s3cret",
    "X-Api-Key": "s3cret",
    "api-key": "s3cret",
    "Ocp-Apim-Subscription-Key": "s3cret",
    "X-Anything": "s3cret",
}
HARMLESS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "Idempotency-Key": "r-1",
    "If-Match": '"1"',
    "User-Agent": "flows",
}


class Server:
    """Redirects a request for `/to?<url>` to that URL, and answers any other with its headers."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[dict[str, str]] = []
        """Of the requests, with names in lower case."""

    async def handle(self, request: web.Request) -> web.Response:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if request.path != "/to":
            return web.Response(headers={"Set-Cookie": "own=1"})
        return web.Response(status=307, headers={"Location": request.query["url"], "Set-Cookie": "first=1"})

    @property
    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
        return application

    def to(self, url: str) -> str:
        """Return the address from which this server redirects to a URL."""
        return str(httpx.URL(f"{self.url}/to", params={"url": url}))

    @property
    def secrets(self) -> list[set[str]]:
        """The names of the headers with a secret, of each request."""
        return [{name for name, value in headers.items() if "s3cret" in value} for headers in self.headers]


ALL = {name.lower() for name in CREDENTIALS}


@pytest_asyncio.fixture
async def api() -> AsyncGenerator[Server]:
    """Serve the API that a flow calls."""
    server = Server()
    async with serving("the API", server.application) as server.url:
        yield server


@pytest_asyncio.fixture
async def stranger() -> AsyncGenerator[Server]:
    """Serve another host's API."""
    server = Server()
    async with serving("the other API", server.application) as server.url:
        yield server


@pytest_asyncio.fixture
async def secure_api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncGenerator[Server]:
    """Serve the API over https, with a certificate that the client trusts."""
    authority, context, server = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Server()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    async with serving("the secure API", server.application, context=context) as server.url:
        yield server


@pytest_asyncio.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient]:
    async with new_transport() as transport, new_client(transport, HttpUsage(FakeClock())) as made:
        made.follow_redirects = True
        yield made


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_credentials_do_not_follow_a_redirect_to_another_origin(
    api: Server, stranger: Server, client: httpx.AsyncClient, method: str
) -> None:
    """A port makes another origin. The headers that HTTP defines are kept, those with other names are not."""
    response = await client.request(method, api.to(stranger.url), headers=CREDENTIALS | HARMLESS, json={"a": 1})

    assert response.status_code == 200
    assert (api.secrets, stranger.secrets) == ([ALL], [set()])
    assert HARMLESS.items() <= {name: stranger.headers[0].get(name.lower()) for name in HARMLESS}.items()
    assert stranger.headers[0]["host"] == httpx.URL(stranger.url).netloc.decode()


async def test_credentials_of_the_client_do_not_follow_either(
    api: Server, stranger: Server, client: httpx.AsyncClient
) -> None:
    """Whether the headers are those of the client or those of a request."""
    client.headers.update(CREDENTIALS)
    await client.get(api.to(stranger.url))

    assert (api.secrets, stranger.secrets) == ([ALL], [set()])


async def test_credentials_follow_a_redirect_within_the_origin(api: Server, client: httpx.AsyncClient) -> None:
    """Many APIs redirect from a path to another."""
    await client.get(api.to(f"{api.url}/orders"), headers=CREDENTIALS)
    await client.get(api.to("/orders"), headers=CREDENTIALS)

    assert api.secrets == [ALL] * 4


async def test_credentials_do_not_come_back_after_a_detour(
    api: Server, stranger: Server, client: httpx.AsyncClient
) -> None:
    """The other server could choose the requests to the API that have them."""
    await client.get(api.to(stranger.to(f"{api.url}/delete-everything")), headers=CREDENTIALS)

    assert (api.secrets, stranger.secrets) == ([ALL, set()], [set()])


async def test_credentials_do_not_follow_by_hand(api: Server, stranger: Server, client: httpx.AsyncClient) -> None:
    """`next_request` of an answer is such a redirect too."""
    response = await client.get(api.to(stranger.url), headers=CREDENTIALS, follow_redirects=False)
    assert response.next_request is not None
    await client.send(response.next_request)

    assert stranger.secrets == [set()]


async def test_a_new_request_has_its_credentials(api: Server, stranger: Server, client: httpx.AsyncClient) -> None:
    """Only redirects lose them. Extensions that requests share do not matter."""
    extensions = {"timeout": httpx.Timeout(5).as_dict()}
    await client.get(api.url, headers=CREDENTIALS, extensions=extensions)
    await client.get(stranger.url, headers=CREDENTIALS, extensions=extensions)

    assert (api.secrets, stranger.secrets) == ([ALL], [ALL])


async def test_a_new_request_with_the_extensions_of_an_earlier_one_has_its_credentials(
    api: Server, stranger: Server, client: httpx.AsyncClient
) -> None:
    """It follows no redirect, though the extensions of a request know where it was sent."""
    before = await client.get(api.url)
    await client.get(stranger.url, headers=CREDENTIALS, extensions=before.request.extensions)

    assert stranger.secrets == [ALL]


async def test_credentials_do_not_go_from_https_to_http(
    secure_api: Server, api: Server, client: httpx.AsyncClient
) -> None:
    """Everybody on the way could read them."""
    await client.get(secure_api.to(api.url), headers=CREDENTIALS)

    assert (secure_api.secrets, api.secrets) == ([ALL], [set()])


@pytest.mark.parametrize(
    ("start", "target", "kept"),
    [
        ("http://api.example/a", "https://api.example/b", ALL),
        ("http://api.example:80/a", "https://api.example:443/b", ALL),
        ("https://api.example/a", "https://api.example:443/b", ALL),
        ("https://api.example/a", "https://API.example/b", ALL),
        ("https://api.example/a", "http://api.example/b", set()),
        ("https://api.example/a", "http://api.example:443/b", set()),
        ("https://api.example/a", "https://api.example:444/b", set()),
        ("http://api.example/a", "https://api.example:444/b", set()),
        ("http://api.example:8080/a", "https://api.example/b", set()),
        ("https://api.example/a", "https://api.example.evil/b", set()),
        ("https://api.example/a", "https://other.example/b", set()),
        ("https://api.example/a", "//other.example/b", set()),
        ("https://api.example/a", "https://api.example@other.example/b", set()),
    ],
)
async def test_an_origin_is_a_scheme_a_host_and_a_port(start: str, target: str, kept: set[str]) -> None:
    """From http to https of the same host, credentials are kept, as httpx keeps Authorization."""
    headers: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        headers.append(request.headers.copy())
        return httpx.Response(302, headers={"Location": target}) if request.url.path == "/a" else httpx.Response(200)

    async with new_client(httpx.MockTransport(answer), HttpUsage()) as client:
        await client.get(start, headers=CREDENTIALS, follow_redirects=True)

    assert "X-Api-Key" in headers[0]
    assert ALL & set(headers[1]) == kept


async def test_a_cookie_without_a_domain_stays_with_the_server_that_was_called(
    api: Server, client: httpx.AsyncClient
) -> None:
    """A flow that sets a cookie by hand gives no domain. Cookies that a server has set for itself work as always."""
    client.cookies.set("session", "s3cret")
    await client.get(api.to("/orders"))
    await client.get(api.to(api.url.replace("127.0.0.1", "localhost")))

    sent = [set(headers.get("cookie", "").split("; ")) for headers in api.headers]
    assert sent == [{"session=s3cret"}, {"session=s3cret", "first=1"}, {"session=s3cret", "first=1", "own=1"}, {""}]
