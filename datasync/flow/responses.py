"""Limits the size, the encodings and the time of an answer."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import httpx

from datasync.clock import Clock
from datasync.errors import ResponseTooLarge

ACCEPTED = ("gzip", "deflate")
"""The encodings that are decoded."""
MAX_BODY = 50_000_000
"""Bytes of a body, unless a request sets another limit."""
TOTAL = timedelta(minutes=5)
"""The time of a request and its answer, unless a request sets another."""

_MOST_ENCODINGS = 2
_REFUSED = ("br", "zstd")  # httpx would decode them without a limit where their libraries are installed
_MOST_MEMBERS = 1024  # of a gzip stream. For each, zlib copies all the data that follows it
_PIECE = 64 * 1024
_GZIP = b"\x1f"  # the first byte of a member: RFC 1952, section 2.3.1
_ZLIB = 8  # the lower half of the first byte with a header: RFC 1950, section 2.2. Some servers send none


def response_limits(*, max_body: int = MAX_BODY, total: timedelta = TOTAL) -> dict[str, Any]:
    """Limit the answer to one request: `await run.http.get(url, extensions=response_limits(max_body=200_000_000))`.

    Args:
        max_body: Bytes of the body, decoded. The client raises ResponseTooLarge for a larger one.
        total: The time from sending the request to the end of its answer. After it, the client raises
            httpx.ReadTimeout. A retry has this time again.

    Raises:
        TypeError: a value is not of its type.
        ValueError: a value is not above zero.

    """
    if isinstance(max_body, bool) or not isinstance(max_body, int):
        raise TypeError(f"max_body={max_body!r}: expected a number of bytes, such as 200_000_000")
    if not isinstance(total, timedelta):
        raise TypeError(f"total={total!r}: expected a timedelta, such as timedelta(minutes=15)")
    if max_body <= 0 or total <= timedelta():
        raise ValueError(f"max_body={max_body!r}, total={total!r}: expected values above zero")
    return {"max_body": max_body, "total": total}


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request."""

    max_body: int
    total: timedelta

    @classmethod
    def of(cls, request: httpx.Request) -> Self:
        """Read the limits in the extensions of a request. Raises as `response_limits` does."""
        given = {name: request.extensions[name] for name in ("max_body", "total") if name in request.extensions}
        return cls(**response_limits(**given))


class TotalTimeout(httpx.ReadTimeout):
    """A request and its answer took longer than `total`. Not retried: the next try would take as long."""


class Deadline:
    """The end of the time for a request and its answer."""

    def __init__(self, total: timedelta, clock: Clock) -> None:
        self._total = total.total_seconds()
        self._clock = clock
        self._begun = clock.monotonic()

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """End a block at the deadline, and do not begin it after that. Raises TotalTimeout."""
        left = self._total - (self._clock.monotonic() - self._begun)
        if left <= 0:
            raise self._timeout()
        timer = asyncio.timeout(left)
        try:
            async with timer:
                yield
        except TimeoutError as error:
            if timer.expired():
                raise self._timeout() from error
            raise

    async def over(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
        """Yield the chunks that come before the deadline. Raises TotalTimeout."""
        following = aiter(chunks)
        while True:
            async with self.kept():
                chunk = await anext(following, None)
            if chunk is None:
                return
            yield chunk

    def _timeout(self) -> TotalTimeout:
        return TotalTimeout(
            f"the answer was not complete after {self._total:g} s. Allow more with "
            "extensions=response_limits(total=timedelta(…))"
        )


def encodings(response: httpx.Response) -> list[str]:
    """Return the encodings of a body, the one that was applied last at the end.

    Unknown ones are left out, as httpx does.

    Raises:
        httpx.DecodingError: there are more than two, or one that this client did not ask for.

    """
    named = [name.strip().lower() for name in response.headers.get_list("Content-Encoding", split_commas=True)]
    if refused := [name for name in named if name in _REFUSED]:
        raise httpx.DecodingError(
            f"the answer has the encoding {refused[0]}, which was not asked for. Send the header "
            f"Accept-Encoding: {', '.join(ACCEPTED)}"
        )
    known = [name for name in named if name in ACCEPTED]
    if len(known) > _MOST_ENCODINGS:
        raise httpx.DecodingError(f"the answer is encoded {len(known)} times; at most {_MOST_ENCODINGS} are decoded")
    return known


async def decoded(
    chunks: AsyncIterable[bytes], names: list[str], too_large: ResponseTooLarge, clock: Clock
) -> AsyncGenerator[bytes]:
    """Decode a body in pieces. Neither its content nor any encoding of it may have more bytes than the limit.

    Args:
        chunks: The body, as it was sent.
        names: Its encodings, the one that was applied last at the end.
        too_large: The error to raise, with the limit.
        clock: Gives the other runs their turn between two pieces.

    Raises:
        ResponseTooLarge: the body has more bytes.
        httpx.DecodingError: the data is not in this encoding, or ends too early.

    """
    body = _limited(chunks, too_large)
    for name in reversed(names):
        body = _limited(_inflated(body, name, clock), too_large)
    async for piece in body:
        yield piece


async def _limited(chunks: AsyncIterable[bytes], too_large: ResponseTooLarge) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > too_large.limit:
            raise too_large
        yield chunk


async def _inflated(chunks: AsyncIterable[bytes], name: str, clock: Clock) -> AsyncGenerator[bytes]:
    """Decode gzip, with one member or more, or deflate. Bytes after the end are ignored, as browsers do."""
    inflater, members = None, 0
    async for chunk in chunks:
        rest, piece = chunk, b""
        while rest or len(piece) == _PIECE:
            if inflater is None or (inflater.eof and name == "gzip" and rest.startswith(_GZIP)):
                inflater, members = zlib.decompressobj(_window_bits(name, rest)), members + 1
            if members > _MOST_MEMBERS:
                raise httpx.DecodingError(f"the answer has more than {_MOST_MEMBERS} gzip members")
            if inflater.eof:
                break
            try:
                piece = inflater.decompress(rest, _PIECE)
            except zlib.error as error:
                raise httpx.DecodingError(f"the answer cannot be decoded as {name}: {error}") from error
            rest = inflater.unused_data or inflater.unconsumed_tail
            if piece:
                yield piece
            if len(piece) == _PIECE:  # a small chunk can become many of them
                await clock.sleep(timedelta())
        await clock.sleep(timedelta())
    if inflater is not None and not inflater.eof:
        raise httpx.DecodingError(f"the answer ends in the middle of its {name} data")


def _window_bits(name: str, start: bytes) -> int:
    if name == "gzip":
        return zlib.MAX_WBITS | 16
    return zlib.MAX_WBITS if start[0] & 0x0F == _ZLIB else -zlib.MAX_WBITS
