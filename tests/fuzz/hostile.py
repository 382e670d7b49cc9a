"""A server over plain sockets whose answers break the rules of HTTP."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz import grammar

_STATUS = tuple(
    f"HTTP/1.1 {status}".encode()
    for status in (
        "200 OK",
        "204 No Content",
        "304 Same",
        "301 Moved",
        "307 Here",
        "401 No",
        "403 No",
        "429 Slow",
        "503 Away",
    )
)
_TURNS = 8  # of the event loop, in which the client reads one piece before the next is sent
_ODD_STATUS = (
    *(b"HTTP/1.1 500 \xe9t\xe9", b"HTTP/1.1 200 \xff\xfe", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK"),
    *(b"HTTP/1.1 000 a", b"HTTP/1.1 099 a", b"HTTP/1.1 600 a", b"HTTP/1.1 999 a", b"HTTP/1.1 1000 a", b"HTTP/1.1 -1 a"),
    *(b"HTTP/1.1 abc OK", b"HTTP/1.1 2\xb20 OK", b"HTTP/9.9 200 OK", b"HTTP/2 200", b"ICY 200 OK", b"SSH-2.0-x"),
    *(b"", b"\0", b" HTTP/1.1 200 OK", b"HTTP/1.1 200 a\0b", b"HTTP/1.1 101 Switching Protocols", b"GET / HTTP/1.1"),
    b"HTTP/1.1 200 " + b"a" * 9_000,
)
_NAMES = (
    *(
        b"",
        b"A B",
        b"\xe9",
        b"a\0",
        b":",
        b"X" * 9_000,
        b"Content-Length ",
        b" Content-Type",
        b"X-A",
        b"WWW-Authenticate",
    ),
    *(b"Content-Disposition", b"Upgrade", b"Date", b"Trailer"),
)
_CHARSETS = (
    b"utf-16 utf-32 utf-16-be utf-7 utf-8-sig latin-1 cp037 shift_jis gb18030 iso2022_jp iso2022_kr hz big5hkscs "
    b"cp1255 tis_620 unicode_escape raw_unicode_escape mbcs oem punycode idna rot13 undefined base64 bz2 hex quopri uu "
    b'zlib \xff "utf-8 ../utf-8 datasync_utf_16 encodings.punycode __init__'
).split()
_EXTENDED = (b"utf%00", b"%00", b"utf-8", b"%ff", b"%5CN%7Bx", b"-a" * 3_000)  # of RFC 2231
_SLOW_TO_READ = (  # in some charset
    *(b"-" + b"b" * 40_000, b"a" * 40_000, b"+AAA-" * 8_000, b"\\N{" * 10_000, b"\\ud800" * 6_000, b"~{" * 20_000),
    *(b"\x1b$B" * 13_000, b"\xff" * 40_000, b"\xff\xfe" + b"\0\xd8" * 20_000, b"xn--" * 10_000),
)
_VALUES: dict[bytes, tuple[bytes, ...]] = {
    b"Content-Type": (
        b"application/json",
        *(b"text/plain; charset=" + name for name in (*_CHARSETS, b"", b"a" * 5_000)),
        b"text/a; charset=\xff",
        *(
            b"text/a; charset*=" + name + b"''" + text
            for name in (*_CHARSETS[:6], b"", b"punycode")
            for text in _EXTENDED
        ),
        b"text/a; charset*0*=us-ascii''u%00; charset*1=tf",
        b"text/a" + b";" * 8_000,
        b"/",
        b";",
    ),
    b"Content-Encoding": (
        b"gzip",
        b"deflate",
        b"br",
        b"zstd",
        b"gzip, gzip",
        b"identity",
        b"x",
        b"gzip," * 50,
        b"GZIP",
        b"compress",
    ),
    b"Transfer-Encoding": (
        b"chunked",
        b"chunked, chunked",
        b"gzip, chunked",
        b"identity",
        b"x",
        b"Chunked ",
        b"\x0bchunked",
    ),
    b"Content-Length": (
        b"0",
        b"5",
        b"99999999",
        b"-1",
        b"+5",
        b"5, 5",
        b"5, 6",
        b"0x5",
        b"1" * 40,
        b"",
        b"1_0",
        b"\xb2",
        b"1e3",
    ),
    b"Connection": (b"close", b"keep-alive", b"upgrade", b"\xff"),
    b"Location": (
        b"/",
        b"//",
        b"http://",
        b"http://[::1",
        b"\xff",
        b"http://a:99999/",
        b"mailto:a",
        b"http://127.0.0.1:1/",
        b"?",
        b"http://\0/",
    ),
    b"Set-Cookie": (
        b"a=b",
        b"a=\xff",
        b"=",
        b";",
        b"a=b; expires=Thu, 99 Jan 99999 00:00:00 GMT",
        b"a=b; domain=..",
        b"a=b; max-age=1e9",
    ),
    b"Retry-After": (
        b"0",
        b"1",
        b"120",
        b"9" * 30,
        b"1e9",
        b"-1",
        b"\xb2",
        b"Wed, 21 Oct 2099 07:28:00 GMT",
        b"Thu, 01 Jan 0001 00:00:00 +2300",
        b"\xff",
        b"inf",
        b"Wed, 21 Oct 99999 07:28:00 GMT",
        b"1" * 5_000,
    ),
    b"X-RateLimit-Reset": (
        b"0",
        b"1756000000",
        b"1756000000000",
        b"9" * 19,
        b"9" * 30,
        b"inf",
        b"nan",
        b"-5",
        b"\xb2",
        b"1.5",
    ),
    b"X-RateLimit-Remaining": (b"0", b" 0 ", b"00", b"\xff", b"-1"),
    b"Link": (b'<http://a>; rel="next"', b"<", b"<>;;;=", b"<\xff>; rel"),
}


@dataclass
class Answer:
    """The bytes that a connection gets for one request, in pieces; and whether it is cut off in the middle."""

    pieces: list[bytes]
    is_reset: bool
    redirects: bool
    method: str
    way: str


@dataclass
class Server:
    url: str = ""
    answer: Answer | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Give the present answer to one request, then close the connection."""
        self.writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            assert self.answer
            for piece in self.answer.pieces if head else []:
                writer.write(piece)
                await writer.drain()
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
            if self.answer.is_reset:
                writer.transport.abort()
        writer.close()
        self.writers.discard(writer)


@asynccontextmanager
async def hostile_server() -> AsyncGenerator[Server]:
    """Serve on this machine. The caller sets the answer."""
    server = Server()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for writer in [*server.writers]:
            writer.transport.abort()
        await listening.wait_closed()


def answer(choices: Random) -> Answer:
    """Return an answer with any faults."""
    if choices.random() < 0.2:
        made = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunked(choices, b"0123456789" * 9)
    else:
        made = _head(choices) + _body(choices)
    if choices.random() < 0.15:
        made = made[: choices.randrange(len(made) + 1)]
    if choices.random() < 0.15:
        at = choices.randrange(len(made) + 1)
        made = made[:at] + choices.randbytes(choices.choice((1, 3, 40))) + made[at + choices.choice((0, 1, 5)) :]
    if choices.random() < 0.1:
        made = b"HTTP/1.1 100 Continue\r\n\r\n" * choices.choice((1, 20)) + made
    if choices.random() < 0.05:
        made += made
    cut = choices.choice((len(made) or 1, 1 + len(made) // 3, 1 + len(made) // 20))
    return Answer(
        pieces=[made[at : at + cut] for at in range(0, len(made), cut)],
        is_reset=choices.random() < 0.1,
        redirects=choices.random() < 0.5,
        method=choices.choice(("GET", "GET", "POST", "HEAD", "DELETE")),
        way=choices.choice(("read", "read", "bytes", "lines", "raw")),
    )


def _head(choices: Random) -> bytes:
    end = choices.choice((b"\r\n",) * 16 + (b"\n", b"\r", b"\r\n\r\n", b"\r\n "))
    lines = [choices.choice(_STATUS if choices.random() < 0.75 else _ODD_STATUS)]
    for _ in range(choices.choice((0, 1, 2, 3, 3, 5, 150))):
        name = choices.choice((*_VALUES,) if choices.random() < 0.9 else _NAMES)
        known = _VALUES.get(name, ())
        if known and choices.random() < 0.95:
            content = choices.choice(known)
        else:
            content = grammar.text(choices).encode(errors="surrogatepass")[: choices.choice((20, 200, 20_000))]
        lines.append(name + choices.choice((b": ",) * 30 + (b":", b" : ", b"", b":\t")) + content)
    return end.join(lines) + choices.choice((b"\r\n\r\n",) * 8 + (b"\n\n", b"\r\n", b""))


def _body(choices: Random) -> bytes:
    content: Any = grammar.written(choices, grammar.value(choices))[:20_000]
    kind = choices.randrange(9)
    match kind:
        case 0:
            content = gzip.compress(content)
        case 1:
            content = gzip.compress(gzip.compress(content))[: choices.choice((5, 15, 1_000))]
        case 2:
            content = zlib.compress(content)
        case 3 | 4:
            content = _chunked(choices, content)
        case 5:
            content = b""
        case 6:
            content = choices.choice(_SLOW_TO_READ)
    return bytes(content)


def _chunked(choices: Random, content: bytes) -> bytes:
    made, step = b"", choices.choice((1 + len(content) // 4, 1 + len(content)))
    for at in range(0, len(content), step):
        part = content[at : at + step]
        size = choices.choice(
            (b"%x" % len(part),) * 12 + (b"%X;a=b" % len(part), b"-1", b"", b"g", b"f" * 20, b"0x1", b" 5")
        )
        made += size + b"\r\n" + part + choices.choice((b"\r\n",) * 12 + (b"\n", b"", b"x"))
    return made + choices.choice(
        (b"0\r\n\r\n",) * 6 + (b"0\r\nA: b\r\n\r\n", b"0\r\n", b"", b"0\r\n\xff\r\n\r\n", b"00000\r\n\r\n")
    )
