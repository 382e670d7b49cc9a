"""An HTTP server that answers as no server should: raw bytes on raw sockets, without an HTTP library."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache, partial

HOST = "127.0.0.1"
PIECE = b"x" * 65536
OK = b"HTTP/1.1 200 OK\r\n"

type Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Writes an answer. The server closes the connection after it."""


class HostileServer:
    """Answers a request for `/name` with the answer of that name, and any other with an empty 200."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.url = ""
        self.answers = answers
        self.requests: list[bytes] = []
        """The heads of the requests."""
        self.open = 0
        """Connections."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.open += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                name = head.split(b" ")[1].partition(b"?")[0].decode().strip("/")
                answer = asyncio.ensure_future(self.answers.get(name, raw(body(b"")))(writer))
                gone = asyncio.ensure_future(drained(reader))
                await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
                answer.cancel()
                gone.cancel()
                await asyncio.gather(answer, gone, return_exceptions=True)
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def hostile_server(answers: dict[str, Answer] | None = None) -> AsyncGenerator[HostileServer]:
    """Serve the given answers, or all of this module, on a free port of this machine."""
    hostile = HostileServer(ANSWERS if answers is None else answers)
    handlers = set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(hostile.serve(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    server = await asyncio.start_server(accept, HOST, 0, backlog=1024)
    hostile.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    try:
        yield hostile
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


async def drained(reader: asyncio.StreamReader) -> None:
    """Wait until the client closes the connection."""
    with suppress(OSError):
        while await reader.read(65536):
            pass


def raw(*parts: bytes) -> Answer:
    """Send these bytes, and close."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        await writer.drain()

    return send


def forever(start: bytes, piece: bytes, pause: float = 0) -> Answer:
    """Send a start, and then a piece again and again, with a pause in seconds, until the client leaves."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return send


def hanging(start: bytes = b"") -> Answer:
    """Send a start, and nothing after it."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()
        await asyncio.Event().wait()

    return send


def made(make: Callable[[], bytes]) -> Answer:
    """Send bytes that are made at the first use."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(await asyncio.to_thread(make))
        await writer.drain()

    return send


def head(*lines: str, status: str = "200 OK") -> bytes:
    """Return the head of an answer."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, "")).encode("latin-1")


def body(content: bytes, *lines: str, status: str = "200 OK") -> bytes:
    """Return an answer with a body."""
    return head(*lines, f"Content-Length: {len(content)}", status=status) + content


def encoded(content: bytes, *names: str) -> bytes:
    """Return an answer whose body is said to have these encodings."""
    return body(content, f"Content-Encoding: {', '.join(names)}")


def raw_deflate(content: bytes) -> bytes:
    """Compress without the header of RFC 1950."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


@cache
def gzip_of_zeros(megabytes: int) -> bytes:
    """Return so many zeros, compressed."""
    compressor = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    zeros = bytes(1_000_000)
    return b"".join([*(compressor.compress(zeros) for _ in range(megabytes)), compressor.flush()])


@cache
def bomb(megabytes: int, layers: int) -> bytes:
    """Return zeros, compressed again and again. Two layers of 100 megabytes have about 400 bytes."""
    data = gzip_of_zeros(megabytes)
    for _ in range(layers - 1):
        data = gzip.compress(data, mtime=0)
    return data


@cache
def gzip_of_nothing(megabytes: int) -> bytes:
    """Return a gzip stream that is long and has no content: empty stored blocks (RFC 1951, section 3.2.4)."""
    start = gzip.compress(b"", mtime=0)[:10]
    return start + b"\x00\x00\x00\xff\xff" * (megabytes * 200_000)


@cache
def endings() -> dict[str, bytes]:
    """Return complete answers, each cut after every byte of its head and body."""
    whole = head("Transfer-Encoding: chunked", "Content-Type: text/plain") + b"5\r\nhello\r\n0\r\n\r\n"
    return {f"cut-after-{length}": whole[:length] for length in range(0, len(whole), 7)}


MALFORMED = {
    "nothing": b"",
    "no-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(2000),
    "tls": bytes.fromhex("15030100020246"),
    "status-word": b"HTTP/1.1 OK\r\n\r\n",
    "status-0": b"HTTP/1.1 000 Zero\r\n\r\n",
    "status-99": b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
    "status-1000": b"HTTP/1.1 1000 High\r\nContent-Length: 0\r\n\r\n",
    "status-999": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "status-negative": b"HTTP/1.1 -200 No\r\nContent-Length: 0\r\n\r\n",
    "status-long": b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n",
    "version-9": b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "version-missing": b"HTTP 200 OK\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxxxx",
    "header-without-colon": OK + b"nonsense\r\n\r\n",
    "header-without-name": OK + b": value\r\n\r\n",
    "header-with-nul": OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "header-with-cr": OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "header-latin-1": OK + b"X-\xe9: \xe9\r\nContent-Length: 0\r\n\r\n",
    "header-folded": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "header-huge": OK + b"X: " + b"a" * 1_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "headers-many": OK + b"X: a\r\n" * 20_000 + b"Content-Length: 0\r\n\r\n",
    "length-negative": OK + b"Content-Length: -5\r\n\r\nhello",
    "length-word": OK + b"Content-Length: five\r\n\r\nhello",
    "length-huge": OK + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nhello",
    "length-twice": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length-too-large": OK + b"Content-Length: 500\r\n\r\nhello",
    "length-too-small": OK + b"Content-Length: 2\r\n\r\nhello",
    "length-and-chunks": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "transfer-unknown": OK + b"Transfer-Encoding: zip\r\n\r\nhello",
    "transfer-twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunk-word": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "chunk-negative": OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk-huge": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nhello",
    "chunk-too-long": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "chunk-extension": OK + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
    "chunk-trailers": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    "reason-latin-1": b"HTTP/1.1 200 Tr\xe8s bien\r\nContent-Length: 2\r\n\r\nok",
    "reason-utf-8": "HTTP/1.1 200 Très bien ✓\r\nContent-Length: 2\r\n\r\nok".encode(),
    "reason-bytes": b"HTTP/1.1 200 \x80\xff\xfe\xed\xa0\x80\r\nContent-Length: 2\r\n\r\nok",
    "reason-nul": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok",
    "reason-missing": b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    "gzip-truncated": encoded(gzip.compress(b"hello" * 99, mtime=0)[:-9], "gzip"),
    "gzip-wrong": encoded(b"hello", "gzip"),
    "gzip-checksum": encoded(gzip.compress(b"hello", mtime=0)[:-8] + bytes(8), "gzip"),
    "deflate-wrong": encoded(b"\xff\xff\xff", "deflate"),
    "brotli": encoded(b"\x0b\x02\x80hello\x03", "br"),
    "zstandard": encoded(bytes.fromhex("28b52ffd200568"), "zstd"),
    "encodings-many": encoded(b"hello", *["gzip"] * 500),
    "encoding-unknown": encoded(b"hello", "none", "utf-8", "x" * 1000),
    "charset-not-text": body(b"hello", "Content-Type: text/plain; charset=hex"),
    "charset-with-nul": body(b"hello", "Content-Type: text/plain; charset*=us-ascii''utf%00"),
    "charset-in-parts": body(b"hello", "Content-Type: text/plain; charset*0*=us-ascii''%00; charset*1*=utf%00"),
    "charset-of-a-charset": body(b"hello", "Content-Type: text/plain; charset*=idna''xn--" + "a" * 7000),
    "parameters-many": body(b"hello", "Content-Type: text/plain" + ";" * 8000),
    "content-type-latin-1": body(b"hello", "Content-Type: t\xe9xt/\xff; charset=\xe9"),
    "cookie-odd": body(b"", "Set-Cookie: =;;;=\xff; expires=Wed, 99 Foo 99999", "Set-Cookie: a=b; max-age=" + "9" * 40),
    "location-odd": body(b"", "Location: http://[::1", status="302 Found"),
    "location-latin-1": body(b"", "Location: http://\xe9\xff/", status="302 Found"),
    "location-port": body(b"", "Location: http://127.0.0.1:99999999/", status="302 Found"),
    "location-scheme": body(b"", "Location: file:///etc/passwd", status="302 Found"),
    "location-empty": body(b"", "Location:", status="302 Found"),
    "location-self": body(b"", "Location: /location-self", status="302 Found"),
    "location-long": body(b"", f"Location: /{'a' * 7000}", status="302 Found"),
    "retry-after-30-digits": body(b"", f"Retry-After: {'9' * 30}", status="429 Slow"),
    "retry-after-8000-digits": body(b"", f"Retry-After: {'9' * 8000}", status="503 Slow"),
    "retry-after-negative": body(b"", "Retry-After: -1", status="503 Slow"),
    "retry-after-odd": body(b"", "Retry-After: Mon, 99 Foo 99999 99:99:99 +999999", status="503 Slow"),
    "reset-odd": body(b"", "X-RateLimit-Remaining: 0", f"X-RateLimit-Reset: {'9' * 400}", status="429 Slow"),
    **endings(),
}  # fmt: skip
"""Complete answers by name: some wrong, some only strange."""

BOMBS: dict[str, Answer] = {
    "endless": forever(OK + b"\r\n", PIECE),
    "endless-chunks": forever(head("Transfer-Encoding: chunked"), b"10000\r\n" + PIECE + b"\r\n"),
    "endless-length": forever(head("Content-Length: 99999999999999"), PIECE),
    "gzip-bomb": made(lambda: encoded(gzip_of_zeros(20), "gzip")),
    "gzip-bomb-twice": made(lambda: encoded(bomb(100, 2), "gzip", "gzip")),
    "deflate-bomb": made(lambda: encoded(zlib.compress(bytes(20_000_000)), "deflate")),
    "raw-deflate-bomb": made(lambda: encoded(raw_deflate(bytes(20_000_000)), "deflate")),
    "gzip-of-nothing": made(lambda: encoded(gzip_of_nothing(5), "gzip")),
    "gzip-of-nothing-twice": made(lambda: encoded(gzip.compress(gzip_of_nothing(5)), "gzip", "gzip")),
}
"""Answers with more bytes than a client can want."""

ENDLESS: dict[str, Answer] = {
    "hanging": hanging(),
    "hanging-head": hanging(OK),
    "hanging-body": hanging(head("Content-Length: 5") + b"he"),
    "trickling-head": forever(OK + b"X: ", b"a", 0.01),
    "trickling-body": forever(OK + b"\r\n", b"a", 0.01),
    "trickling-chunks": forever(head("Transfer-Encoding: chunked"), b"1\r\na\r\n", 0.01),
    "informational": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "hints": forever(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0.01),
}
"""Answers that take a client's time."""

ANSWERS: dict[str, Answer] = {
    **{name: raw(data) for name, data in MALFORMED.items()},
    "100-continue": raw(b"HTTP/1.1 100 Continue\r\n\r\n", body(b"hello")),
    "members": made(partial(encoded, b"".join([gzip.compress(b"a", mtime=0)] * 1000), "gzip")),
    "many-empty-members": made(partial(encoded, gzip.compress(b"", mtime=0) * 200_000, "gzip")),
    **BOMBS,
    **ENDLESS,
}
"""All answers by name."""
