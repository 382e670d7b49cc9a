"""HTTP proxies between the app and its services, which cause faults."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

import aiohttp
from aiohttp import web
from yarl import URL

from localdev.web import serving

_LARGEST_BODY = 8 * 2**20
_NOT_PASSED_ON = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
_RETRY_SOON = {"x-ms-retry-after-ms": "100"}  # Cosmos DB names the time to wait in an answer of 429


class Kind(StrEnum):
    """The kinds of faults."""

    ANSWER = "answers"
    """Answer with a status, without passing the request on."""
    DROP = "dropped"
    """Reset the connection, without passing the request on."""
    LOSE = "lost answers"
    """Pass the request on, and reset the connection instead of answering."""
    STALL = "stalls"
    """Wait before the request is passed on."""


type Matches = Callable[[web.Request], bool]


@dataclass(eq=False, kw_only=True)
class Fault:
    """A fault, and the requests that it hits."""

    kind: Kind
    matches: Matches = field(default=lambda _: True)
    share: float = 1
    """The part of these requests that it hits, chosen at random."""
    every: int = 0
    """Hit each n-th of these requests, in place of a share."""
    first: int = 1
    """The number of the first request that is hit, if `every`."""
    status: int = 503
    seconds: float = 0
    """The length of a stall."""
    times: int = 0
    """How often it hits the same request that comes again and again, which passes then. 0: that is chosen each time."""
    injected: int = 0
    seen: int = 0
    """The number of requests among which `every` has chosen."""
    hit: Counter[bytes] = field(default_factory=Counter)
    """How often each request was hit, by its body, if `times`."""

    def hits(self, request: web.Request, body: bytes, random: Random) -> bool:
        """Choose whether to hit a request."""
        if not self.matches(request) or not self._chooses(body, random):
            return False
        self.injected += 1
        if self.times:
            self.hit[body] += 1
        return True

    @property
    def used_up(self) -> int:
        """The number of requests that were hit `times` times."""
        return sum(number == self.times for number in self.hit.values())

    def _chooses(self, body: bytes, random: Random) -> bool:
        if self.hit[body]:
            return self.hit[body] < self.times
        if not self.every:
            return random.random() < self.share
        self.seen += 1
        return self.seen >= self.first and (self.seen - self.first) % self.every == 0

    @property
    def name(self) -> str:
        return f"answers {self.status}" if self.kind is Kind.ANSWER else str(self.kind)


@dataclass(eq=False, repr=False)
class Proxy:
    """A proxy of one service."""

    service: str
    upstream: str
    """The URL of the service, without a path."""
    random: Random
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    session: aiohttp.ClientSession = field(init=False)

    @contextmanager
    def causing(self, *faults: Fault) -> Iterator[Sequence[Fault]]:
        """Cause faults during the block."""
        self.faults += faults
        try:
            yield faults
        finally:
            self.faults = [fault for fault in self.faults if fault not in faults]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, unless a fault hits it."""
        self.requests += 1
        body = await request.read()
        fault = self._choose(request, body)
        if fault and fault.kind is Kind.STALL:
            await asyncio.sleep(fault.seconds)
        if fault and fault.kind is Kind.ANSWER:
            return web.json_response({"message": "a fault of the test"}, status=fault.status, headers=_RETRY_SOON)
        if fault and fault.kind is Kind.DROP:
            return _reset(request)
        answer = await self._pass_on(request, body)
        return _reset(request) if answer is None or (fault and fault.kind is Kind.LOSE) else answer

    def _choose(self, request: web.Request, body: bytes) -> Fault | None:
        for fault in self.faults:
            if fault.hits(request, body, self.random):
                self.injected[f"{self.service} {fault.name}"] += 1
                return fault
        return None

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response | None:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _NOT_PASSED_ON]
        try:
            async with self.session.request(
                request.method,
                URL(f"{self.upstream}{request.raw_path}", encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            ) as answer:
                content = await answer.read()
                # The account of Cosmos DB names the address that its clients use from then on.
                content = content.replace(self.upstream.encode(), self.url.encode())
                kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _NOT_PASSED_ON]
                return web.Response(status=answer.status, headers=kept, body=content)
        except aiohttp.ClientError:
            return None


def _reset(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()


@asynccontextmanager
async def proxy(
    service: str,
    upstream: str,
    random: Random,
    *,
    server: ssl.SSLContext | None = None,
    client: ssl.SSLContext | None = None,
) -> AsyncGenerator[Proxy]:
    """Run a proxy of a service on 127.0.0.1. With SSL contexts it serves and speaks https."""
    made = Proxy(service, upstream, random)
    application = web.Application(client_max_size=_LARGEST_BODY)
    application.router.add_route("*", "/{path:.*}", made.handle)
    connector = aiohttp.TCPConnector(limit=0, ssl=client or True)
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False) as made.session,
        serving(f"The proxy of {service}", application, context=server) as made.url,
    ):
        yield made


def is_send(request: web.Request) -> bool:
    """Return whether a request puts a message on a queue."""
    return request.method == "POST" and request.path.endswith("/messages")


def is_write(request: web.Request) -> bool:
    """Return whether a request writes to a container of Cosmos DB."""
    is_query = "query" in request.headers.get("Content-Type", "")
    return request.method in ("POST", "PUT", "PATCH", "DELETE") and not is_query
