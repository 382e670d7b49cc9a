"""The limits of a run's HTTP client for a hostile server, and the parts that it shares with other runs."""

import asyncio
import codecs
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio

from datasync import IDEMPOTENT, ResponseTooLarge, RetryLater, response_limits
from datasync.errors import LeaseLost
from datasync.flow.failures import failure_of
from datasync.flow.http import new_client
from datasync.flow.redact import Redaction
from datasync.flow.usage import HttpUsage
from tests.hostile_http import (
    ANSWERS,
    BOMBS,
    ENDLESS,
    MALFORMED,
    HostileServer,
    body,
    bomb,
    encoded,
    hanging,
    hostile_server,
    raw,
    raw_deflate,
)
from tests.stages import FakeClock
from tests.waiting import wait_until

SMALL = response_limits(max_body=1_000_000)
SHORT = response_limits(total=timedelta(seconds=0.2))
TEXT = b"hello " * 20_000

zipped = partial(gzip.compress, mtime=0)  # the same in all processes of a test run


@asynccontextmanager
async def stopped(tasks: Sequence[asyncio.Future[Any]]) -> AsyncGenerator[None]:
    """Cancel tasks at the end of a block."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[HostileServer]:
    async with hostile_server() as hostile:
        yield hostile


@pytest_asyncio.fixture
async def other_server() -> AsyncGenerator[HostileServer]:
    async with hostile_server({"ok": raw(body(b"ok"))}) as other:
        yield other


@pytest_asyncio.fixture
async def client(transport: httpx.AsyncBaseTransport, usage: HttpUsage) -> AsyncGenerator[httpx.AsyncClient]:
    """Return the client of one run."""
    async with new_client(transport, usage) as made:
        yield made


@pytest.mark.parametrize("name", sorted(ANSWERS))
async def test_no_answer_raises_an_error_that_is_not_documented(
    server: HostileServer, client: httpx.AsyncClient, name: str
) -> None:
    """The flow gets an answer, an error of httpx, ResponseTooLarge or RetryLater."""
    limits = response_limits(max_body=1_000_000, total=timedelta(seconds=0.2 if name in ENDLESS else 30))
    with suppress(httpx.HTTPError, ResponseTooLarge, RetryLater):
        await client.get(f"{server.url}/{name}", extensions=limits, follow_redirects=True)

    await wait_until(lambda: server.open == 0, description="no connection is left open")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("no-http", httpx.RemoteProtocolError),
        ("status-word", httpx.RemoteProtocolError),
        ("header-huge", httpx.RemoteProtocolError),
        ("headers-many", httpx.RemoteProtocolError),
        ("length-word", httpx.RemoteProtocolError),
        ("length-too-large", httpx.RemoteProtocolError),
        ("chunk-word", httpx.RemoteProtocolError),
        ("chunk-huge", httpx.RemoteProtocolError),
        ("nothing", httpx.RemoteProtocolError),
        ("cut-after-14", httpx.RemoteProtocolError),
        ("gzip-wrong", httpx.DecodingError),
        ("gzip-truncated", httpx.DecodingError),
        ("location-scheme", httpx.UnsupportedProtocol),
        ("location-self", httpx.TooManyRedirects),
    ],
)
async def test_an_answer_that_is_not_http_raises_the_error_of_httpx(
    server: HostileServer, client: httpx.AsyncClient, name: str, kind: type[Exception]
) -> None:
    """The kinds are those of https://www.python-httpx.org/exceptions/. The message does not repeat the URL."""
    with pytest.raises(httpx.HTTPError) as caught:
        await client.get(f"{server.url}/{name}?key=k3y", follow_redirects=True)

    assert type(caught.value) is kind
    assert "k3y" not in str(caught.value)


async def test_a_refused_connection_raises_a_connect_error(client: httpx.AsyncClient) -> None:
    """It is not taken for a timeout."""
    with pytest.raises(httpx.ConnectError):
        await client.get("http://127.0.0.1:1/")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_of_a_request_is_sent_before_a_connect_timeout(
    server: HostileServer, client: httpx.AsyncClient, usage: HttpUsage, method: str
) -> None:
    """So any request is repeated after it. Here, the server does not answer the handshake of TLS."""
    url = server.url.replace("http://", "https://")

    with pytest.raises(httpx.ConnectTimeout):
        await client.request(method, url, content=b"\r\n\r\n", timeout=httpx.Timeout(30, connect=0.1))

    assert server.requests == []
    assert usage.totals()["requests"] == 5


@pytest.mark.parametrize("name", ["reason-latin-1", "reason-utf-8", "reason-bytes", "reason-missing"])
async def test_a_reason_phrase_may_have_any_bytes(server: HostileServer, client: httpx.AsyncClient, name: str) -> None:
    """The flow gets the answer."""
    assert (await client.get(f"{server.url}/{name}")).text == "ok"


async def test_a_retry_after_of_30_digits_defers_the_run(server: HostileServer, client: httpx.AsyncClient) -> None:
    """A number that no timedelta can hold is a long time."""
    with pytest.raises(RetryLater) as later:
        await client.get(f"{server.url}/retry-after-30-digits")

    assert later.value.delay == timedelta(days=7)


@pytest.mark.parametrize("name", sorted(BOMBS))
async def test_a_large_body_is_an_error_before_it_needs_memory(
    server: HostileServer, client: httpx.AsyncClient, usage: HttpUsage, name: str
) -> None:
    """The size is that of the decoded body. The request is not repeated."""
    with pytest.raises(ResponseTooLarge, match=r"127\.0\.0\.1 \(HTTP 200\) has more than 1,000,000 bytes"):
        await client.get(f"{server.url}/{name}", extensions=SMALL)

    assert usage.sent == 1


async def test_a_nested_bomb_needs_little_memory(client: httpx.AsyncClient) -> None:
    """321 bytes would be 100 MB. Neither they nor their first decoding are held."""
    content = bomb(100, 2)
    async with hostile_server({"bomb": raw(encoded(content, "gzip", "gzip"))}) as server:
        await client.get(f"{server.url}/warm")
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLarge):
                await client.get(f"{server.url}/bomb", extensions=SMALL)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert len(content) < 1000
    assert peak < 5_000_000


async def test_the_default_limit_is_50_mb(client: httpx.AsyncClient) -> None:
    """A body of this size is read, and one with a byte more is not."""
    answers = {"fits": raw(body(bytes(50_000_000))), "more": raw(body(bytes(50_000_001)))}
    async with hostile_server(answers) as server:
        assert len((await client.get(f"{server.url}/fits")).content) == 50_000_000
        with pytest.raises(ResponseTooLarge):
            await client.get(f"{server.url}/more")

        more = await client.get(f"{server.url}/more", extensions={**IDEMPOTENT, **response_limits(max_body=60_000_000)})
        assert len(more.content) == 50_000_001


async def test_a_stream_has_the_same_limits(server: HostileServer, client: httpx.AsyncClient) -> None:
    """The flow gets the part of the body that is allowed, and then the error."""
    async with client.stream("GET", f"{server.url}/gzip-bomb-twice", extensions=SMALL) as response:
        pieces = response.aiter_bytes(500_000)
        assert len(await anext(pieces)) == 500_000
        with pytest.raises(ResponseTooLarge):
            await anext(pieces)

    async with client.stream("GET", f"{server.url}/trickling-body", extensions=SHORT) as response:
        with pytest.raises(httpx.ReadTimeout):
            await response.aread()


async def test_an_answer_that_is_too_large_has_its_host_and_status_in_the_failure(
    server: HostileServer, client: httpx.AsyncClient
) -> None:
    """It is a failure like any other."""
    with pytest.raises(ResponseTooLarge) as caught:
        await client.get(f"{server.url}/endless", extensions=SMALL)

    failure = failure_of(caught.value, Redaction())
    assert (failure.kind, failure.status, failure.host) == ("ResponseTooLarge", 200, "127.0.0.1")
    assert "response_limits(max_body=…)" in failure.message


@pytest.mark.parametrize(
    ("names", "content"),
    [
        (["gzip"], zipped(TEXT)),
        (["GZIP"], zipped(TEXT)),
        (["identity", "gzip"], zipped(TEXT)),
        (["gzip"], zipped(TEXT[:1000]) + zipped(TEXT[1000:])),
        (["gzip"], zipped(TEXT) + b"\r\n"),
        (["deflate"], zlib.compress(TEXT)),
        (["deflate"], raw_deflate(TEXT)),
        (["deflate", "gzip"], zipped(zlib.compress(TEXT))),
        (["gzip", "deflate"], zlib.compress(zipped(TEXT))),
        (["gzip", "gzip"], zipped(zipped(TEXT))),
        (["utf-8"], TEXT[:999]),
    ],
)
@pytest.mark.parametrize("piece", [1, 1000, 1_000_000])
async def test_up_to_two_encodings_are_decoded(
    client: httpx.AsyncClient, names: list[str], content: bytes, piece: int
) -> None:
    """The pieces in which they arrive do not matter. The headers are those of the decoded body."""

    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        answer = encoded(content, *names)
        for start in range(0, len(answer), piece):
            writer.write(answer[start : start + piece])
            await asyncio.sleep(0)

    async with hostile_server({"encoded": in_pieces}) as server:
        response = await client.get(f"{server.url}/encoded")

    assert response.content == TEXT[: len(response.content)]
    assert len(response.content) in (999, len(TEXT))
    assert response.headers.get("Content-Encoding", "utf-8") == "utf-8"
    assert response.headers.get("Content-Length", "999") == "999"


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "undefined", "zlib", "bz2", "hex", "base64", "quopri", "uu", "rot13"]
)
async def test_a_charset_that_is_not_for_texts_is_read_as_utf_8(client: httpx.AsyncClient, charset: str) -> None:
    """Python has codecs that fail, that give no text, or that take the square of the length (Punycode)."""
    answer = body("-añb".encode(), f"Content-Type: text/plain; charset={charset}")
    async with hostile_server({"text": raw(answer)}) as server:
        response = await client.get(f"{server.url}/text")
        async with client.stream("GET", f"{server.url}/text") as streamed:
            lines = [line async for line in streamed.aiter_lines()]

    assert response.text == "-añb"
    assert lines == ["-añb"]


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain; charset*=us-ascii''utf%00",
        "text/plain; charset*0*=us-ascii''%00; charset*1*=utf%00",
        "text/plain; charset*=idna''xn--" + "a" * 7_000,
        "text/plain; charset=latin-1" + ";" * 8_000,
    ],
    ids=["nul", "parts", "idna", "parameters"],
)
async def test_a_charset_that_cannot_be_read_is_utf_8(client: httpx.AsyncClient, content_type: str) -> None:
    """RFC 2231 lets a name have any bytes. However many such answers a run gets, it keeps its connections."""
    answer = body("añb".encode(), f"Content-Type: {content_type}")
    async with hostile_server({"text": raw(answer)}) as server:
        texts = [(await client.get(f"{server.url}/text", timeout=httpx.Timeout(5, pool=1))).text for _ in range(11)]

    assert texts == ["añb"] * 11


async def test_a_charset_for_texts_is_used(client: httpx.AsyncClient) -> None:
    """An answer without one is UTF-8."""
    latin = body("ñ".encode("latin-1"), "Content-Type: text/plain; charset=latin-1")
    async with hostile_server({"latin": raw(latin), "plain": raw(body("ñ".encode()))}) as server:
        assert (await client.get(f"{server.url}/latin")).text == "ñ"
        assert (await client.get(f"{server.url}/plain")).text == "ñ"


@pytest.mark.parametrize(
    ("charset", "content", "text"),
    [
        ("utf-16", "ñ\nb".encode("utf-16-le"), "ñ\nb"),
        ("UTF-16", "ñ\nb".encode("utf-16"), "ñ\nb"),
        ("utf16", codecs.BOM_UTF16_BE + "ñ\nb".encode("utf-16-be"), "ñ\nb"),
        ("utf-16", b"a", "\ufffd"),
        ("utf-16", b"", ""),
        ("utf-32", "ñ\nb".encode("utf-32-le"), "ñ\nb"),
        ("utf-32", codecs.BOM_UTF32_BE + "ñ\nb".encode("utf-32-be"), "ñ\nb"),
        ("utf-32", b"abcdefgh", "\ufffd\ufffd"),
    ],
)
async def test_wide_characters_need_no_byte_order_mark(
    client: httpx.AsyncClient, charset: str, content: bytes, text: str
) -> None:
    """Python's own decoders of streams fail without one."""
    answer = body(content, f"Content-Type: text/plain; charset={charset}")
    async with hostile_server({"text": raw(answer)}) as server:
        response = await client.get(f"{server.url}/text")
        async with client.stream("GET", f"{server.url}/text") as streamed:
            lines = [line async for line in streamed.aiter_lines()]

    assert response.text == text
    assert lines == text.splitlines()


async def test_an_empty_body_has_no_encoding(client: httpx.AsyncClient) -> None:
    """Servers send the header with it. The answer to a HEAD keeps its headers."""
    async with hostile_server({"empty": raw(encoded(b"", "gzip")), "head": raw(encoded(b"", "br"))}) as server:
        assert (await client.get(f"{server.url}/empty")).content == b""
        assert (await client.head(f"{server.url}/head")).headers["Content-Encoding"] == "br"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("names", [["gzip"] * 3, ["gzip"] * 500, ["br"], ["gzip", "zstd"]])
async def test_other_encodings_are_refused_before_they_are_decoded(
    client: httpx.AsyncClient, usage: HttpUsage, method: str, names: list[str]
) -> None:
    """The body does not matter: here, it never comes. The request is not repeated."""
    head = encoded(b"x" * 100, *names)[:-100]
    async with hostile_server({"encoded": hanging(head)}) as server:
        with pytest.raises(httpx.DecodingError, match="encoded .* times|was not asked for"):
            await client.request(method, f"{server.url}/encoded", extensions=IDEMPOTENT)
        await wait_until(lambda: server.open == 0, description="the connection is closed")

    assert usage.sent == 1


async def test_the_client_asks_for_the_encodings_that_it_decodes(
    server: HostileServer, client: httpx.AsyncClient
) -> None:
    """Also where a package of a flow lets httpx decode others."""
    await client.get(f"{server.url}/ok")

    assert b"accept-encoding: gzip, deflate\r\n" in server.requests[0]


async def test_other_runs_have_their_turn_while_a_body_is_decoded(client: httpx.AsyncClient) -> None:
    """The bytes of one read can become many megabytes."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    answers = {"zeros": raw(encoded(bomb(40, 2), "gzip", "gzip"))}
    async with (
        hostile_server(answers) as server,
        client.stream("GET", f"{server.url}/zeros") as response,
        stopped([asyncio.ensure_future(count())]),
    ):
        await response.aread()

    assert turns > 500


@pytest.mark.parametrize("name", sorted(ENDLESS))
async def test_an_answer_has_a_total_time(
    server: HostileServer, client: httpx.AsyncClient, usage: HttpUsage, name: str
) -> None:
    """A server that sends a byte now and then keeps every other timeout. The request is not repeated."""
    with pytest.raises(httpx.ReadTimeout, match=r"not complete after 0\.2 s"):
        await client.get(f"{server.url}/{name}", extensions=SHORT)

    assert usage.sent == 1
    await wait_until(lambda: server.open == 0, description="the connection is closed")


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_body": "50"}, TypeError),
        ({"max_body": 5.5}, TypeError),
        ({"max_body": True}, TypeError),
        ({"max_body": None}, TypeError),
        ({"max_body": 0}, ValueError),
        ({"total": 5}, TypeError),
        ({"total": timedelta()}, ValueError),
    ],
)
async def test_a_limit_that_is_none_is_refused(
    server: HostileServer, client: httpx.AsyncClient, limits: dict[str, Any], error: type[Exception]
) -> None:
    """By `response_limits`, and also where the extensions are written by hand. Nothing is sent."""
    with pytest.raises(error, match="expected"):
        response_limits(**limits)
    with pytest.raises(error, match="expected"):
        await client.get(f"{server.url}/ok", extensions=limits)

    assert server.requests == []


async def test_a_run_with_300_hanging_requests_does_not_stop_another_run(
    server: HostileServer, client: httpx.AsyncClient, transport: httpx.AsyncBaseTransport, usage: HttpUsage
) -> None:
    """It has ten connections at once. The other run is answered by the same host."""
    requests = [asyncio.ensure_future(client.get(f"{server.url}/hanging")) for _ in range(300)]
    async with stopped(requests), new_client(transport, HttpUsage()) as other, asyncio.timeout(10):
        await wait_until(lambda: usage.calls == 300 and server.open >= 10, description="the requests wait")
        assert (await other.get(f"{server.url}/ok")).status_code == 200
        assert usage.sent == 10

    assert usage.totals()["waited"] > 0


async def test_a_host_has_256_connections_at_once(
    server: HostileServer, other_server: HostileServer, transport: httpx.AsyncBaseTransport
) -> None:
    """If they are all in use, the requests to other hosts are still answered."""
    usage = HttpUsage(FakeClock())
    clients = [new_client(transport, usage) for _ in range(27)]
    requests = [asyncio.ensure_future(each.get(f"{server.url}/hanging")) for each in clients for _ in range(10)]
    async with stopped(requests), new_client(transport, HttpUsage()) as other, asyncio.timeout(20):
        await wait_until(lambda: usage.calls == 270 and server.open >= 256, description="the host is fully used")
        assert (await other.get(f"{other_server.url}/ok")).text == "ok"
        with pytest.raises(httpx.PoolTimeout, match=r"no connection to 127\.0\.0\.1 was free within 0\.1 s"):
            await other.get(f"{server.url}/ok", timeout=httpx.Timeout(5, pool=0.1))
        assert usage.sent == 256


async def test_waiting_for_a_connection_has_a_timeout_and_is_counted(
    server: HostileServer, client: httpx.AsyncClient, usage: HttpUsage
) -> None:
    """The request that found no connection was not sent. A connection that is given back is used."""
    open_requests = [client.build_request("GET", f"{server.url}/hanging-body") for _ in range(10)]
    taken = [await client.send(request, stream=True) for request in open_requests]

    with pytest.raises(httpx.PoolTimeout):
        await client.get(f"{server.url}/ok", timeout=httpx.Timeout(5, pool=0.2))
    assert (usage.sent, usage.totals()["waited"]) == (10, 0.2)

    await taken[0].aclose()
    assert (await client.get(f"{server.url}/ok", timeout=httpx.Timeout(5, pool=0.2))).status_code == 200
    assert usage.totals()["waited"] == 0.2


async def test_a_request_that_waited_is_checked_when_it_is_sent(
    server: HostileServer, transport: httpx.AsyncBaseTransport, usage: HttpUsage
) -> None:
    """The lease of the run may have ended in the meantime."""

    async def check() -> None:
        raise LeaseLost("the lease is over")

    async with new_client(transport, usage, check) as client:
        open_requests = [client.build_request("GET", f"{server.url}/hanging-body") for _ in range(10)]
        taken = [await client.send(request, stream=True) for request in open_requests]
        late = asyncio.ensure_future(client.post(f"{server.url}/ok"))
        await wait_until(lambda: usage.calls == 11, description="the request waits")
        assert not late.done()

        await taken[0].aclose()
        with pytest.raises(LeaseLost):
            await late


@pytest.mark.parametrize("name", ["nothing", "gzip-wrong", "brotli", "status-word", "endless", "length-too-large"])
async def test_an_answer_that_fails_gives_its_connection_back(
    server: HostileServer, client: httpx.AsyncClient, name: str
) -> None:
    """A run can fail more often than it has connections."""
    for _ in range(11):
        with pytest.raises((httpx.HTTPError, ResponseTooLarge)):
            await client.post(f"{server.url}/{name}", extensions=SMALL, timeout=httpx.Timeout(5, pool=1))
    assert (await client.get(f"{server.url}/ok", timeout=httpx.Timeout(5, pool=1))).status_code == 200


async def test_closing_the_client_closes_the_answers_that_a_flow_left_open(
    server: HostileServer, transport: httpx.AsyncBaseTransport, usage: HttpUsage
) -> None:
    """Otherwise the connections would be lost for the other runs."""
    client = new_client(transport, usage)
    left = [
        await client.send(client.build_request("GET", f"{server.url}/hanging-body"), stream=True) for _ in range(10)
    ]
    assert server.open == 10

    await client.aclose()

    await wait_until(lambda: server.open == 0, description="the connections are closed")
    assert len(left) == 10
    with pytest.raises(RuntimeError, match="closed"):
        await client.get(f"{server.url}/ok")


def test_the_hostile_answers_are_of_many_kinds() -> None:
    """None of the lists is empty, and no name is used twice."""
    assert len(MALFORMED) > 60
    assert len(ANSWERS) > len(MALFORMED) + len(BOMBS) + len(ENDLESS)
