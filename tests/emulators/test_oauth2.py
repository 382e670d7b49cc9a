"""OAuth 2.0 with a token endpoint, an API, a Key Vault and the transport of the app."""

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from datasync import FlowRun, RetryLater, TenantSecretClient, Window
from datasync.errors import SecretNotFound
from datasync.flow.failures import failure_of
from datasync.flow.http import new_client, new_transport
from datasync.flow.log import RunLog
from datasync.flow.oauth2 import EARLY
from datasync.flow.redact import Redaction
from datasync.flow.secrets import Vault
from datasync.flow.tail import Tail
from datasync.flow.usage import HttpUsage
from datasync.http import ClientCredentials, RefreshToken, TokenRefused
from localdev.keyvault import KeyVault
from localdev.web import serving
from tests.emulators.conftest import MakeVault
from tests.stages import FakeClock
from tests.waiting import wait_until

SECRETS = {"client-id": "flows app", "client-secret": "cl1ent/s3cret", "refresh-token": "r3fresh-0"}


class Server:
    """A token endpoint, `/token`, and an API that accepts the tokens that are valid, everywhere else."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[web.Response] = []
        """The next answers of the token endpoint. Then it issues tokens."""
        self.issued: dict[str, Any] = {"token_type": "Bearer", "expires_in": 3600}
        """The fields of its answers, beside the token."""
        self.forms: list[dict[str, str]] = []
        self.basic: list[str | None] = []
        """The header `Authorization` of each request for a token."""
        self.valid: set[str] = set()
        self.used: list[str] = []
        """The tokens that the API has had."""
        self.gate: asyncio.Event | None = None
        """The token endpoint does not answer before it is set."""

    async def token(self, request: web.Request) -> web.Response:
        self.forms.append({name: str(value) for name, value in (await request.post()).items()})
        self.basic.append(request.headers.get("Authorization"))
        if self.gate:
            await self.gate.wait()
        if self.answers:
            return self.answers.pop(0)
        token = f"acc3ss-{len(self.forms)}"
        self.valid.add(token)
        return web.json_response({"access_token": token, **self.issued})

    async def api(self, request: web.Request) -> web.Response:
        await request.read()
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.used.append(token)
        return web.json_response([1, 2], status=200 if token in self.valid else 401)


@pytest_asyncio.fixture
async def server(vault: KeyVault) -> AsyncGenerator[Server]:
    """Serve the endpoint and the API, with the secrets of the tenant `acme` in the vault."""
    server = Server()
    application = web.Application()
    application.router.add_post("/token", server.token)
    application.router.add_route("*", "/{path:.*}", server.api)
    for name, value in SECRETS.items():
        vault.set_secret(f"tenants--acme--mysource--{name}", value)
    async with serving("the API", application) as server.url:
        yield server


class Process:
    """What the runs of a process share."""

    def __init__(self, clock: FakeClock, secrets: Vault, transport: httpx.AsyncBaseTransport) -> None:
        self.clock = clock
        self.secrets = secrets
        self.transport = transport

    def run(self, tenant_id: str = "acme") -> "Run":
        return Run(self, tenant_id)


class Run:
    """One run of a flow that calls the API."""

    def __init__(self, process: Process, tenant_id: str) -> None:
        self.redact, self.tail, self.usage = Redaction(), Tail(process.clock), HttpUsage(process.clock)
        self.kv = TenantSecretClient(tenant_id, process.secrets, self.redact.add)
        self.run = FlowRun(
            run_id="r-1",
            tenant=cast("Any", SimpleNamespace(id=tenant_id)),
            flow_name="flow",
            settings={},
            scheduled_utc=process.clock.now(),
            attempt=1,
            window=Window(start=None, end=process.clock.now()),
            http=new_client(process.transport, self.usage),
            log=RunLog("acme/flow", {}, self.redact, self.tail),
        )

    def client_credentials(self, server: Server, **options: Any) -> ClientCredentials:
        return ClientCredentials(self.kv, self.run, "mysource", token_url=f"{server.url}/token", **options)

    def refresh_token(self, server: Server, **options: Any) -> RefreshToken:
        return RefreshToken(self.kv, self.run, "mysource", token_url=f"{server.url}/token", **options)

    async def get(self, server: Server, auth: httpx.Auth) -> httpx.Response:
        return await self.run.http.get(f"{server.url}/items", auth=auth)

    async def refusal(self, server: Server, auth: httpx.Auth) -> str:
        """Return the message of the error if the server gives no token."""
        with pytest.raises(TokenRefused) as refused:
            await self.get(server, auth)
        return str(refused.value)


@pytest_asyncio.fixture
async def process(make_vault: MakeVault) -> AsyncGenerator[Process]:
    """Return the parts of a process."""
    clock = FakeClock()
    async with new_transport() as transport:
        yield Process(clock, make_vault(clock), transport)


@pytest.fixture
def run(process: Process) -> Run:
    """Return a run of the tenant `acme`."""
    return process.run()


def basic(client_id: str, secret: str) -> str:
    return f"Basic {b64encode(f'{client_id}:{secret}'.encode()).decode()}"


def refused(error: str, description: str | None = None, status: int = 400) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=status)


async def test_a_request_has_a_token_of_the_client(server: Server, run: Run) -> None:
    """The id and the secret are sent as RFC 6749 demands, with the further fields. The request counts."""
    response = await run.get(server, run.client_credentials(server, scope="items.read", audience="api"))

    assert response.json() == [1, 2]
    assert server.forms == [{"grant_type": "client_credentials", "scope": "items.read", "audience": "api"}]
    assert server.basic == [basic("flows+app", "cl1ent%2Fs3cret")]
    assert server.used == ["acc3ss-1"]
    assert run.usage.totals()["requests"] == 2


async def test_the_client_can_be_named_in_the_body(server: Server, run: Run) -> None:
    """Some servers accept nothing else."""
    await run.get(server, run.client_credentials(server, client_auth="client_secret_post"))

    (form,) = server.forms
    assert (form["client_id"], form["client_secret"], server.basic) == ("flows app", "cl1ent/s3cret", [None])


async def test_a_public_client_has_no_secret(server: Server, run: Run, vault: KeyVault) -> None:
    """It is not read."""
    vault.delete_secret("tenants--acme--mysource--client-secret")
    await run.get(server, run.refresh_token(server, client_auth="none"))

    assert server.forms == [{"grant_type": "refresh_token", "client_id": "flows app", "refresh_token": "r3fresh-0"}]


async def test_tenants_can_have_one_client(server: Server, process: Process, vault: KeyVault) -> None:
    """Its secrets are shared. Each tenant has its own token all the same."""
    vault.set_secret("shared--mysource--client-id", "one")
    vault.set_secret("shared--mysource--client-secret", "s3cret")
    for tenant_id in ("acme", "newco"):
        run = process.run(tenant_id)
        await run.get(server, ClientCredentials(run.kv, run.run, "shared--mysource", token_url=f"{server.url}/token"))

    assert server.basic == [basic("one", "s3cret")] * 2
    assert server.used == ["acc3ss-1", "acc3ss-2"]


async def test_tenants_never_share_a_token(server: Server, process: Process, vault: KeyVault) -> None:
    """Even if their credentials are the same."""
    for name, value in SECRETS.items():
        vault.set_secret(f"tenants--newco--mysource--{name}", value)
    for tenant_id in ("acme", "newco", "acme", "newco"):
        run = process.run(tenant_id)
        await run.get(server, run.client_credentials(server))

    assert server.used == ["acc3ss-1", "acc3ss-2", "acc3ss-1", "acc3ss-2"]


async def test_other_fields_need_another_token(server: Server, process: Process) -> None:
    """A token has the scope that was asked for."""
    for scope in ("read", "write", "read"):
        run = process.run()
        await run.get(server, run.client_credentials(server, scope=scope))

    assert server.used == ["acc3ss-1", "acc3ss-2", "acc3ss-1"]


async def test_a_token_is_asked_for_once(server: Server, process: Process) -> None:
    """Requests and runs that need it at the same time wait for it."""
    server.gate = asyncio.Event()
    runs = [process.run(), process.run()]
    auths = [run.client_credentials(server) for run in runs]
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            for run, auth in zip(runs, auths, strict=True):
                group.create_task(run.get(server, auth))
        group.create_task(opened(server))

    assert len(server.forms) == 1
    assert server.used == ["acc3ss-1"] * 10


async def opened(server: Server) -> None:
    """Let the token endpoint answer after it was asked."""
    await wait_until(lambda: bool(server.forms), description="the endpoint was asked")
    assert server.gate
    server.gate.set()


async def test_requests_that_waited_for_a_token_share_its_refusal(server: Server, process: Process) -> None:
    """The server is not asked again for each of them. A secret that it repeats is one of all these runs."""
    server.gate, server.answers = asyncio.Event(), [refused("invalid_client", "cl1ent/s3cret is wrong", 401)]
    runs = [process.run() for _ in range(5)]
    asked = [run.get(server, run.client_credentials(server)) for run in runs]
    *errors, _ = await asyncio.gather(*asked, opened(server), return_exceptions=True)

    assert [type(each) for each in errors] == [TokenRefused] * 5
    assert len(server.forms) == 1
    for run, error in zip(runs, errors, strict=True):
        assert isinstance(error, TokenRefused)
        assert "<mysource--client-secret> is wrong" in run.redact.one_line(error)
    assert (await runs[0].get(server, runs[0].client_credentials(server))).status_code == 200  # it asks again


async def test_a_run_that_is_cancelled_leaves_the_token_to_the_next(server: Server, process: Process) -> None:
    """Runs that wait for it are not cancelled with it."""
    server.gate = asyncio.Event()
    first, second = process.run(), process.run()
    asking = asyncio.create_task(first.get(server, first.client_credentials(server)))
    await wait_until(lambda: bool(server.forms), description="the endpoint was asked")
    waiting = asyncio.create_task(second.get(server, second.client_credentials(server)))
    asking.cancel()
    server.gate.set()

    assert (await waiting).status_code == 200


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [(3600, timedelta(hours=1) - EARLY), ("3600", timedelta(hours=1) - EARLY), (30, timedelta(seconds=15))],
)
async def test_a_token_is_renewed_before_it_expires(
    server: Server, process: Process, expires_in: object, lifetime: timedelta
) -> None:
    """A minute before, or after half of a short lifetime. Some servers send a text."""
    server.issued["expires_in"] = expires_in
    run = process.run()
    auth = run.client_credentials(server)
    await run.get(server, auth)
    process.clock.time += lifetime - timedelta(seconds=1)
    await run.get(server, auth)
    process.clock.time += timedelta(seconds=1)
    await run.get(server, auth)

    assert server.used == ["acc3ss-1", "acc3ss-1", "acc3ss-2"]


@pytest.mark.parametrize("expires_in", [None, "soon", -1, "nan", "9" * 400, [3600]])
async def test_a_token_without_a_known_end_is_kept(server: Server, process: Process, expires_in: object) -> None:
    """Until the API refuses it."""
    server.issued["expires_in"] = expires_in
    run = process.run()
    auth = run.client_credentials(server)
    await run.get(server, auth)
    process.clock.time += timedelta(days=30)
    await run.get(server, auth)

    assert server.used == ["acc3ss-1"] * 2


async def test_a_request_is_sent_again_with_another_token(server: Server, process: Process) -> None:
    """Once, after a 401: the token was revoked. A POST too, since a refused request has done nothing."""
    run = process.run()
    auth = run.client_credentials(server)
    await run.get(server, auth)
    server.valid.clear()
    process.clock.time += timedelta(minutes=1)

    assert (await run.run.http.post(f"{server.url}/items", json={}, auth=auth)).status_code == 200
    assert server.used == ["acc3ss-1", "acc3ss-1", "acc3ss-2"]


async def test_requests_with_a_revoked_token_renew_it_once(server: Server, process: Process) -> None:
    """Whether they are of the same run or not."""
    runs = [process.run() for _ in range(3)]
    auths = [run.client_credentials(server) for run in runs]
    await runs[0].get(server, auths[0])
    server.valid.clear()
    process.clock.time += timedelta(minutes=1)
    answers = await asyncio.gather(*(run.get(server, auth) for run, auth in zip(runs, auths, strict=True)))

    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(server.forms) == 2


async def test_a_fresh_token_is_not_renewed(server: Server, process: Process) -> None:
    """An API that refuses all tokens gets its requests, and the token endpoint few. The flow sees the 401."""
    server.issued["access_token"] = "never-valid"
    run = process.run()
    auth = run.client_credentials(server)
    for _ in range(3):
        assert (await run.get(server, auth)).status_code == 401

    assert (len(server.forms), len(server.used)) == (1, 3)


async def test_a_stream_is_not_sent_again(server: Server, process: Process) -> None:
    """Its data is gone. The next request has another token."""
    run = process.run()
    auth = run.client_credentials(server)
    await run.get(server, auth)
    server.valid.clear()
    process.clock.time += timedelta(minutes=1)

    async def data() -> AsyncIterator[bytes]:
        yield b"data"

    assert (await run.run.http.put(f"{server.url}/items", content=data(), auth=auth)).status_code == 401
    assert (await run.get(server, auth)).status_code == 200
    assert len(server.forms) == 2


async def test_credentials_are_read_again_after_a_refusal(server: Server, process: Process, vault: KeyVault) -> None:
    """Somebody has changed the secret. The process has the old one for up to five minutes."""
    run = process.run()
    await run.kv.secret("mysource", "client-secret")
    vault.set_secret("tenants--acme--mysource--client-secret", "n3w")
    process.clock.time += timedelta(minutes=1)
    server.answers = [refused("invalid_client", status=401)]

    assert (await run.get(server, run.client_credentials(server))).status_code == 200
    assert server.basic == [basic("flows+app", "cl1ent%2Fs3cret"), basic("flows+app", "n3w")]


async def test_the_same_credentials_are_not_sent_again(server: Server, process: Process) -> None:
    """The server has refused them."""
    run = process.run()
    await run.kv.secret("mysource", "client-secret")
    process.clock.time += timedelta(minutes=1)
    server.answers = [refused("invalid_client", status=401)]
    await run.refusal(server, run.client_credentials(server))

    assert len(server.forms) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda: refused("invalid_client", "Unknown client.", 401),
            " (HTTP 401): invalid_client: Unknown client. To correct it, check the secrets mysource--client-id and "
            "mysource--client-secret, or give another client_auth than 'client_secret_basic'",
        ),
        (lambda: refused("invalid_scope"), ": invalid_scope. To correct it, pass a scope that mysource knows"),
        (lambda: refused("unauthorized_client"), "allow this client of mysource the grant, or store another client"),
        (lambda: refused("invalid_grant", "no"), ". To correct it, check the secrets mysource--client-id and mysource"),
        (lambda: web.Response(status=404, text="none"), " (HTTP 404). To correct it, check the secrets mysource"),
        (lambda: refused("bad_code", "expired", 200), " (HTTP 200): bad_code: expired. To correct it, check "),
        (lambda: web.Response(text="<html>"), ". Its answer has nothing, or it is not a JSON object. Is token_url="),
        (lambda: web.json_response({"token": "abcdef"}), ". Its answer has token. Is token_url="),
        (lambda: web.json_response({"access_token": ""}), ". Its answer has access_token. Is token_url="),
        (lambda: web.json_response({"access_token": "a\r\nX: y"}), " that a header can have: it has characters other"),
        (lambda: web.json_response({"access_token": "abc", "token_type": "mac"}), " of the type bearer, but 'mac'"),
        (lambda: refused("a" * 9000, "b\n\x1b" * 9000), "characters)"),
    ],
)  # fmt: skip
async def test_a_refusal_says_what_to_do(
    server: Server, run: Run, answer: Callable[[], web.Response], said: str
) -> None:
    """It has the error and the description of the server, and names the secrets, not their values."""
    server.answers = [answer()]
    message = await run.refusal(server, run.client_credentials(server))

    assert message.startswith("mysource: 127.0.0.1 gave no access token")
    assert said in message
    assert not [value for value in (*SECRETS.values(), "abcdef", "\x1b") if value in message]
    assert len(message) < 1200


async def test_a_refusal_is_described_in_the_record(server: Server, run: Run) -> None:
    """With the status and the host of the token endpoint, and without secrets that the server repeats."""
    server.answers = [refused("invalid_client", "cl1ent/s3cret is wrong", 401)]
    with pytest.raises(TokenRefused) as raised:
        await run.get(server, run.client_credentials(server))
    failure = failure_of(raised.value, run.redact, secrets=run.kv.reads)

    assert (failure.kind, failure.status, failure.host) == ("TokenRefused", 401, "127.0.0.1")
    assert "<mysource--client-secret> is wrong" in failure.message
    assert "Secrets used: mysource--client-id (read from the vault at " in failure.message
    assert "cl1ent/s3cret" not in f"{failure} {run.redact.traceback(raised.value)}"


async def test_the_token_endpoint_is_retried(server: Server, run: Run) -> None:
    """A request for a token changes no data."""
    server.answers = [web.Response(status=503), web.Response(status=429, headers={"Retry-After": "2"})]

    assert (await run.get(server, run.client_credentials(server))).status_code == 200
    assert run.usage.totals()["retries"] == 2


async def test_a_token_endpoint_that_asks_for_a_pause_defers_the_run(server: Server, run: Run) -> None:
    """As any API."""
    server.answers = [web.Response(status=429, headers={"Retry-After": "3600"})]

    with pytest.raises(RetryLater):
        await run.get(server, run.client_credentials(server))


@pytest.mark.parametrize("status", [307, 429, 500])
async def test_other_answers_are_errors_of_http(server: Server, run: Run, status: int) -> None:
    """A redirect is not followed: the body has secrets."""
    server.answers = [web.Response(status=status, headers={"Location": "/items"}) for _ in range(5)]
    run.run.http.follow_redirects = True

    with pytest.raises(httpx.HTTPStatusError, match=str(status)):
        await run.get(server, run.client_credentials(server))
    assert server.used == []


async def test_a_token_is_a_secret_of_every_run_that_uses_it(
    server: Server, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    """Also of a run that has not asked for it: it is replaced in logs and errors."""
    caplog.set_level(logging.INFO, "datasync")
    first, second = process.run(), process.run()
    await first.get(server, first.client_credentials(server))
    await second.get(server, second.client_credentials(server))
    second.run.log.info("sent acc3ss-1")

    assert "sent <mysource--access-token>" in caplog.text
    assert "acc3ss-1" not in caplog.text + second.redact.one_line(ValueError("acc3ss-1"))
    assert len(server.forms) == 1


async def test_a_new_refresh_token_is_used_and_reported(server: Server, process: Process) -> None:
    """The process uses it in every run of the tenant. The warning says that the vault has the old one."""
    server.issued["refresh_token"] = "r3fresh-1"
    first, second = process.run(), process.run()
    await first.get(server, first.refresh_token(server))
    process.clock.time += timedelta(hours=1)
    await second.get(server, second.refresh_token(server))

    assert [form["refresh_token"] for form in server.forms] == ["r3fresh-0", "r3fresh-1"]
    (line,), _ = first.tail.kept()
    assert line.text.startswith("mysource has issued a new refresh token. Only this process has it")
    assert second.redact("r3fresh-1") == "<mysource--refresh-token>"


async def test_a_refresh_token_that_somebody_stores_replaces_that_of_the_process(
    server: Server, process: Process, vault: KeyVault
) -> None:
    """It is newer."""
    server.issued["refresh_token"] = "r3fresh-1"
    run = process.run()
    await run.get(server, run.refresh_token(server))
    vault.set_secret("tenants--acme--mysource--refresh-token", "r3fresh-9")
    process.clock.time += timedelta(hours=1)
    run.kv.read_again()
    await run.get(server, run.refresh_token(server))

    assert [form["refresh_token"] for form in server.forms] == ["r3fresh-0", "r3fresh-9"]


async def test_the_stored_refresh_token_is_tried_if_the_new_one_is_refused(server: Server, process: Process) -> None:
    """Many servers accept the old ones, too."""
    server.issued["refresh_token"] = "r3fresh-1"
    run = process.run()
    await run.get(server, run.refresh_token(server))
    process.clock.time += timedelta(hours=1)
    server.answers = [refused("invalid_grant")]
    await run.get(server, run.refresh_token(server))

    assert [form["refresh_token"] for form in server.forms] == ["r3fresh-0", "r3fresh-1", "r3fresh-0"]


async def test_a_refresh_token_that_was_used_up_is_explained(server: Server, run: Run) -> None:
    """The remedy is at the server: flows cannot write to Key Vault."""
    server.answers = [refused("invalid_grant", "Token was already used")]
    message = await run.refusal(server, run.refresh_token(server))

    assert "get another refresh token and store it as mysource--refresh-token" in message
    assert "turn the rotation of refresh tokens off there" in message


async def test_a_missing_secret_is_named(server: Server, run: Run, vault: KeyVault) -> None:
    """As for any secret."""
    vault.delete_secret("tenants--acme--mysource--client-id")

    with pytest.raises(SecretNotFound, match="tenants--acme--mysource--client-id"):
        await run.get(server, run.client_credentials(server))


def test_mistakes_are_refused(run: Run, server: Server) -> None:
    """When the authentication is made."""
    with pytest.raises(ValueError, match="client_auth='basic': expected one of 'client_secret_basic', "):
        run.client_credentials(server, client_auth="basic")
    with pytest.raises(
        ValueError, match="client_secret=…: leave it out. Credentials come from the secrets of mysource"
    ):
        run.client_credentials(server, client_secret="s3cret")


def test_a_blocking_client_cannot_use_it(run: Run, server: Server) -> None:
    """Otherwise its requests would have no token."""
    with httpx.Client() as client, pytest.raises(TypeError, match="is for run.http, which is asynchronous"):
        client.get(server.url, auth=run.client_credentials(server))
