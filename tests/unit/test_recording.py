"""Recordings of the exchanges of a run, made on the wire and read by vcrpy."""

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import vcr
from aiohttp import web
from msgspec.structs import replace

from datasync import response_limits
from datasync.errors import RecordingInvalid, ResponseTooLarge
from datasync.flow.http import new_client
from datasync.flow.recording import (
    LARGEST,
    LARGEST_BODY,
    LARGEST_FIRST,
    LARGEST_LAST_BODY,
    LAST,
    MOST,
    Recording,
)
from datasync.flow.stand_ins import StandIns
from datasync.flow.usage import HttpUsage
from datasync.model.cassette import Cassette, RecordedRun, RecordedTenant, RecordedWindow, decode_cassette
from datasync.model.failure import Failure
from localdev.web import serving

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
TOKEN = "s3cr3t-t0ken"


class Api:
    """Answers by the path."""

    def __init__(self) -> None:
        self.url = ""
        self.failures = 0
        self.body = b""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/flaky" if self.failures:
                self.failures -= 1
                return web.Response(status=503, headers={"Retry-After": "0"})
            case "/reset":
                assert request.transport is not None
                request.transport.abort()
            case "/token":
                return web.json_response({"access_token": "an-oauth-token", "token_type": "bearer"})
            case "/bytes":
                return web.Response(body=self.body, content_type="application/octet-stream")
            case "/lines":
                stream = web.StreamResponse()
                await stream.prepare(request)
                for line in (b"one\n", b"two\n", b"three\n"):
                    await stream.write(line)
                return stream
        return web.json_response({"path": request.path, "next": f"{self.url}/items?page=2&sig=abc", "city": "Zürich"})


@pytest_asyncio.fixture
async def api() -> AsyncGenerator[Api]:
    answering = Api()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answering.answer)
    async with serving("the API", application) as url:
        answering.url = url
        yield answering


@pytest.fixture
def recording(api: Api) -> Recording:
    """Return a recording of an attempt that has read the API's URL and a token."""
    made = Recording()
    made.add_secret("mysource--api-base", api.url)
    made.add_secret("mysource--api-token", TOKEN)
    return made


@pytest.fixture
def client(transport: httpx.AsyncBaseTransport, usage: HttpUsage, recording: Recording) -> httpx.AsyncClient:
    return new_client(transport, usage, recording=recording)


def cassette(recording: Recording) -> Cassette:
    """Return the cassette, as it is written and read."""
    run = RecordedRun(
        run_id="r-1",
        flow_name="weather",
        tenant=RecordedTenant("acme", "Acme", "UTC"),
        scheduled_utc=NOW,
        started_utc=NOW,
        window=RecordedWindow(None, NOW),
        settings={"token": TOKEN, "pages": 3},
        cursor=[TOKEN],
    )
    return decode_cassette(recording.cassette(run).encode(), "it")


async def test_vcrpy_replays_a_recording_with_the_stand_ins(
    api: Api, client: httpx.AsyncClient, recording: Recording, tmp_path: Path
) -> None:
    """Requests that are made with the stand-ins get the recorded answers, without the network."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    first = (await client.get(f"{api.url}/items", params={"q": "a b/ü", "key": TOKEN}, headers=headers)).json()
    await client.post(f"{api.url}/items", json={"token": TOKEN})
    (tmp_path / "it.yaml").write_bytes(recording.cassette(cassette(recording).datasync).encode())

    facts = cassette(recording).datasync
    base, token = facts.secrets["mysource--api-base"], facts.secrets["mysource--api-token"]
    with vcr.use_cassette(tmp_path / "it.yaml", record_mode="none") as replayed:
        again = await client.get(f"{base}/items", params={"q": "a b/ü", "key": token})
        await client.post(f"{base}/items", json={})

    assert (base, token) == ("https://mysource--api-base.invalid", "<mysource--api-token>")
    assert first["next"].startswith(api.url)
    assert again.json() == first | {"next": f"{base}/items?page=2&sig=***"}
    assert again.headers["Content-Type"] == "application/json; charset=utf-8"
    assert replayed.all_played


async def test_no_secret_is_in_a_recording(api: Api, client: httpx.AsyncClient, recording: Recording) -> None:
    """Neither those of the vault, in any form, nor headers that look like secrets, nor tokens that an API has given."""
    token = (await client.post(f"{api.url}/token", data={"client_secret": "not-in-the-vault"})).json()["access_token"]
    await client.get(
        f"{api.url}/items",
        headers={"Authorization": f"Bearer {token}", "X-Api-Key": "another", "Cookie": "session=1"},
        params={"token": token},
        auth=("user", TOKEN),
    )
    await client.get(f"{api.url}/items", headers={"Authorization": f"Bearer {token}"})

    text = cassette(recording).encode().decode()

    for secret in (TOKEN, "not-in-the-vault", "an-oauth-token", "another", "session=1", api.url, "dXNlcjpzM2"):
        assert secret not in text
    assert '"settings": {\n   "token": "<mysource--api-token>",\n   "pages": 3' in text
    assert cassette(recording).datasync.cursor == ["<mysource--api-token>"]
    assert cassette(recording).interactions[2].request.headers["authorization"] == ["Bearer <access_token>"]


async def test_each_try_of_a_request_is_an_exchange(api: Api, client: httpx.AsyncClient, recording: Recording) -> None:
    """The recording is made below the retries."""
    api.failures = 2

    assert (await client.get(f"{api.url}/flaky")).status_code == 200

    assert [each.response.status.code for each in cassette(recording).interactions] == [503, 503, 200]


async def test_errors_of_the_connection_are_recorded(api: Api, client: httpx.AsyncClient, recording: Recording) -> None:
    """They have no answer, so that vcrpy does not see them. Their numbers say when they happened."""
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(f"{api.url}/reset")
    await client.get(f"{api.url}/items")

    made = cassette(recording)
    (unanswered,) = made.datasync.unanswered
    assert (unanswered.number, unanswered.request.uri) == (1, "https://mysource--api-base.invalid/reset")
    assert unanswered.trouble.kind == "RemoteProtocolError"
    assert made.interactions[0].datasync.number == 2


async def test_an_answer_above_its_limit_is_recorded_with_the_error(
    api: Api, client: httpx.AsyncClient, recording: Recording
) -> None:
    """The error ended the body."""
    with pytest.raises(ResponseTooLarge):
        await client.get(f"{api.url}/items", extensions=response_limits(max_body=10))

    trouble = cassette(recording).interactions[0].datasync.trouble
    assert trouble is not None
    assert trouble.kind == "ResponseTooLarge"


async def test_a_stream_is_recorded_as_far_as_it_was_read(
    api: Api, client: httpx.AsyncClient, recording: Recording
) -> None:
    """The flow reads it as without a recording. If it leaves the rest, the recording says so."""
    async with client.stream("GET", f"{api.url}/lines") as response:
        assert [line async for line in response.aiter_lines()] == ["one", "two", "three"]
    async with client.stream("GET", f"{api.url}/lines") as response:
        await anext(response.aiter_raw())

    whole, abandoned = cassette(recording).interactions
    assert (whole.response.body.string, whole.datasync.left_out) == ("one\ntwo\nthree\n", None)
    assert whole.response.body.string.startswith(abandoned.response.body.string)
    assert "bytes of it, and left the rest" in str(abandoned.datasync.left_out)


async def test_a_large_body_is_cut(api: Api, client: httpx.AsyncClient, recording: Recording) -> None:
    """The flow gets all of it. Half a character at the cut is left out."""
    api.body = "é".encode() * LARGEST_BODY

    response = await client.get(f"{api.url}/bytes")

    (made,) = cassette(recording).interactions
    assert response.content == api.body
    assert len(made.response.body.string.encode()) == LARGEST_BODY
    assert made.datasync.left_out == f"the recording has the first {LARGEST_BODY:,} of its {2 * LARGEST_BODY:,} bytes"


async def test_a_body_that_is_not_a_text_is_left_out(api: Api, client: httpx.AsyncClient, recording: Recording) -> None:
    """JSON cannot hold it, and nobody could look for secrets in it."""
    api.body = b"\xff\xfe\x00binary"

    await client.get(f"{api.url}/bytes")

    (made,) = cassette(recording).interactions
    assert (made.response.body.string, made.datasync.left_out) == (
        "",
        "it is not a text in UTF-8, and is left out (9 bytes)",
    )


async def test_of_many_exchanges_the_first_and_the_last_are_kept(usage: HttpUsage, recording: Recording) -> None:
    """The bodies share a limit. After it, and of the last exchanges, less is kept of each."""

    async def answer() -> httpx.Response:
        return httpx.Response(200, stream=_Large())

    class _Large(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncGenerator[bytes]:
            yield b"x" * LARGEST_BODY

    for number in range(MOST + LAST + 30):
        response = await recording.exchange(httpx.Request("GET", f"https://x.example/{number}"), answer)
        await response.aread()

    made = cassette(recording)
    numbers = [each.datasync.number for each in made.interactions]
    sizes = [len(each.response.body.string) for each in made.interactions]
    assert numbers == [*range(1, MOST + 1), *range(MOST + 31, MOST + LAST + 31)]
    assert made.datasync.left_out == 30
    assert sizes[: LARGEST // LARGEST_BODY] == [LARGEST_BODY] * (LARGEST // LARGEST_BODY)
    assert {*sizes[LARGEST // LARGEST_BODY :]} == {LARGEST_LAST_BODY}


async def test_all_bodies_of_a_recording_have_a_limit(usage: HttpUsage, recording: Recording) -> None:
    """Those of requests count too. What is left out is marked."""
    large = b"x" * LARGEST_BODY

    async def answer() -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(large))

    for _ in range(MOST + LAST):
        request = httpx.Request("POST", "https://x.example/", content=large)
        await (await recording.exchange(request, answer)).aread()

    made = cassette(recording).interactions
    sizes = [len(each.request.body or "") + len(each.response.body.string) for each in made]
    assert sum(sizes[:MOST]) == LARGEST_FIRST
    assert sizes[MOST:] == [2 * LARGEST_LAST_BODY] * LAST
    assert sum(sizes) < 8 * 1024 * 1024
    assert made[MOST - 1].datasync.left_out == "the recording has the first 0 of its 524,288 bytes"


async def test_a_request_that_was_cancelled_is_recorded(usage: HttpUsage, recording: Recording) -> None:
    """The attempt ran out of time while it waited for the answer."""

    async def answer() -> httpx.Response:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await recording.exchange(httpx.Request("GET", "https://x.example/"), answer)

    assert cassette(recording).datasync.unanswered[0].trouble.kind == "CancelledError"


def test_vcrpy_reads_any_text(tmp_path: Path) -> None:
    """YAML takes some characters of JSON for line breaks, or refuses them."""
    text = "".join(map(chr, range(1, 0x2100))) + "\ufeff\ufffd\uffff\U0001f600"
    recording = Recording()
    made = cassette(recording)
    made.datasync.settings["text"] = text
    content = made.encode()
    (tmp_path / "it.yaml").write_bytes(content)

    with vcr.use_cassette(tmp_path / "it.yaml", record_mode="none") as replayed:
        assert len(replayed) == 0
    assert decode_cassette(content, "it").datasync.settings["text"] == text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not JSON"),
        (b'{"version": 1, "interac', "it is not JSON"),
        (b"interactions: []\nversion: 1\n", "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b'{"version": 1, "interactions": []}', "a cassette without the facts of a run"),
        (b'{"version": 1, "datasync": {"format": 2}}', "is a cassette of version 1, format 2; this DataSync reads"),
        (b'{"version": 2, "datasync": {"format": 1}}', "is a cassette of version 2, format 1; this DataSync reads"),
        (b'{"version": 1, "datasync": {"format": 1}}', "is damaged, or was edited"),
        (b"[]", "is damaged, or was edited"),
        (b"[" * 100_000, "is damaged, or was edited"),
        (b" " * 64_000_001, "has 64,000,001 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_cassette_that_cannot_be_read_is_refused(content: bytes, why: str) -> None:
    """The error names the cassette, the problem and the remedy."""
    with pytest.raises(RecordingInvalid, match=why) as caught:
        decode_cassette(content, "old.yaml")

    assert str(caught.value).startswith("old.yaml ")


@pytest.mark.parametrize(
    ("value", "body", "safe"),
    [
        ("12345678", '{"account": 12345678, "n": 1.50}', '{"account": "<my--it>", "n": 1.50}'),
        (
            "https://h.example/v1",
            '{"next": "https:\\/\\/h.example\\/v1\\/a"}',
            '{"next": "https://my--it.invalid\\/a"}',
        ),
        ("https://h.example/v1", "https://h.example/v2/b", "https://my--it.invalid/v2/b"),
        ("https://h.example/v1/", "https://h.example/v1/b", "https://my--it.invalid/b"),
        ("api.h.example", "https://api.h.example/v1", "https://my--it.invalid/v1"),
        ("no", "no", "no"),
    ],
)
def test_stand_ins_keep_a_body_usable(value: str, body: str, safe: str) -> None:
    """JSON stays JSON, and URLs stay URLs. A secret of less than four characters is left in texts."""
    assert StandIns([("my--it", value)]).body(body) == safe


@pytest.mark.parametrize(
    ("body", "safe"),
    [
        (r'{"access_token": "abc\/defGHI123456"}', '{"access_token": "***"}'),
        (r'{"password": "p\u00e4ss\"w0rd", "n": 1}', '{"password": "***", "n": 1}'),
        ('{"password": 123456}', '{"password": "***"}'),
        ('{"access_token": ["one", "", "t\\"wo"], "n": [1]}', '{"access_token": ["***", "", "***"], "n": [1]}'),
        ('{"access_token": "cut-in-the-midd', '{"access_token": "***'),
        (
            '{"authToken": "a", "session_token": "b", "jwt": "c"}',
            '{"authToken": "***", "session_token": "***", "jwt": "***"}',
        ),
        ('{"token": "one-two-three", "secret": "a", "pwd": "b"}', '{"token": "***", "secret": "***", "pwd": "***"}'),
        ("user=me&pwd=a%2Fb&token=c&auth_token=d", "user=me&pwd=***&token=***&auth_token=***"),
        ('{"x": "a&password=abc\\"d"}', '{"x": "a&password=***\\"d"}'),
        ('{"id": "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2ln"}', '{"id": "***"}'),
        (
            r'{"next": "https:\/\/x.example\/?page=2&key=abc\/defGHI"}',
            r'{"next": "https:\/\/x.example\/?page=2&key=***"}',
        ),
        (
            r'{"next": "https://x.example/?token\u003dabcdefgh\u0026page\u003d2"}',
            r'{"next": "https://x.example/?token\u003d***\u0026page\u003d2"}',
        ),
    ],
)
def test_credentials_that_are_not_in_the_vault_are_replaced(body: str, safe: str) -> None:
    """By the names of their fields and parameters, and tokens by their form. JSON stays JSON."""
    assert StandIns().body(body) == safe
    assert StandIns().body(safe) == safe


@pytest.mark.parametrize(
    "body",
    [
        '{"key": "status", "code": "US-12345678", "auth": "required"}',
        '{"token": "p2", "secret": true, "password": null}',
        '{"token": "<my--it>", "secret": "my--it"}',
        '{"next": "https://x.example/?key=status&code=US&token=%3Cmy--it%3E"}',
    ],
)
def test_ordinary_fields_are_kept(body: str) -> None:
    """So are stand-ins, and the names of secrets, which a flow may have in its settings."""
    assert StandIns([("my--it", "a-value-of-the-vault")]).body(body) == body


def test_a_token_with_escapes_is_replaced_in_other_exchanges() -> None:
    """Some APIs escape the slashes in JSON. The flow sends the token without the escapes."""
    safe = StandIns([("my--it", "a-value-of-the-vault")])

    safe.learn(r'{"access_token": "abc\/defGHI123456", "password": "is required", "token": "a-value-of-the-vault"}')

    assert safe.text("Bearer abc/defGHI123456") == "Bearer <access_token>"
    assert safe.text("it is required, as a-value-of-the-vault") == "it is required, as <my--it>"


def test_headers_that_look_like_secrets_are_hidden() -> None:
    """In the URL of a redirect, its parameters are. The places of pages are kept, which a replay needs."""
    headers = {
        "X-JWT": "a",
        "X-Vault-Token": "b",
        "X-Shop-Token": "c",
        "Location": "https://x.example/cb?code=abcdefgh&page=2#access_token=d",
        "X-Next-Page-Token": "e",
    }

    assert StandIns().headers(httpx.Headers(headers)) == {
        "x-jwt": ["***"],
        "x-vault-token": ["***"],
        "x-shop-token": ["***"],
        "location": ["https://x.example/cb?code=***&page=2#access_token=***"],
        "x-next-page-token": ["e"],
    }


@pytest.mark.parametrize("part", ["eyJ", '"token":["', "//a:", "&token=%3c"])
def test_a_body_cannot_slow_the_search_down(part: str) -> None:
    """The search takes time in proportion to the body. Else this would take minutes."""
    assert StandIns().body(part * (1_200_000 // len(part)))


def test_the_error_of_the_attempt_has_no_credentials() -> None:
    """Its text and its body may be parts of an answer."""
    recording = Recording()
    recording.add_secret("my--it", TOKEN)
    failure = Failure(
        message=f'ValueError: {TOKEN} got https://x.example/?token=abcdefgh and {{"access_token": "abc"}}',
        body='{"access_token": "abc", "refresh_token": "cut-in-the-midd',
        host="x.example",
    )

    made = recording.cassette(replace(cassette(recording).datasync, error=failure)).datasync.error

    assert made == Failure(
        message='ValueError: <my--it> got https://x.example/?token=*** and {"access_token": "***"}',
        body='{"access_token": "***", "refresh_token": "***',
        host="x.example",
    )


def test_a_secret_that_changes_has_one_stand_in() -> None:
    """A secret can be rotated between two reads of an attempt. None of its values is in the recording."""
    recording = Recording()
    recording.add_secret("my--it", "the-old-value")
    recording.add_secret("my--it", "the-new-value")
    facts = cassette(recording).datasync
    facts.settings["values"] = ["the-old-value", "the-new-value"]

    made = recording.cassette(facts).datasync

    assert made.settings["values"] == ["<my--it>", "<my--it>"]
    assert made.secrets == {"my--it": "<my--it>"}


async def test_an_answer_that_was_made_with_its_body_is_recorded() -> None:
    """It was made up in place of the API, and is not a stream."""
    recording = Recording()

    async def answer() -> httpx.Response:
        return httpx.Response(200, json={"id": 1})

    await recording.exchange(httpx.Request("POST", "https://x.example/"), answer)

    (made,) = cassette(recording).interactions
    assert (made.response.body.string, made.datasync.left_out) == ('{"id":1}', None)


async def test_a_recording_does_not_hold_the_bodies_that_it_cuts() -> None:
    """The requests and answers of httpx keep their bodies, so the recording lets go of them."""
    recording, alive = Recording(), list[weakref.ref[object]]()

    async def answer() -> httpx.Response:
        response = httpx.Response(200, stream=httpx.ByteStream(b"x" * 1000))
        alive.append(weakref.ref(response))
        return response

    request = httpx.Request("POST", "https://x.example/", content=b"y" * 1000)
    alive.append(weakref.ref(request))
    await (await recording.exchange(request, answer)).aread()
    del request
    gc.collect()

    assert [each() for each in alive] == [None, None]
    assert len(cassette(recording).interactions) == 1


def test_a_secret_in_json_has_a_stand_in_of_the_same_shape() -> None:
    """A flow can read the parts of the key of a service account. Two secrets with one value have one stand-in."""
    recording = Recording()
    recording.add_secret("google--key", json.dumps({"client_email": "a@b.example", "private_key": "-----BEGIN"}))
    recording.add_secret("a--base", "https://h.example")
    recording.add_secret("b--base", "https://h.example")

    secrets = cassette(recording).datasync.secrets

    assert json.loads(secrets["google--key"]) == {"client_email": "<google--key>", "private_key": "<google--key>"}
    assert secrets["a--base"] == secrets["b--base"] == "https://a--base.invalid"
