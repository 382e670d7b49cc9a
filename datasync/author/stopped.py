"""The unsafe requests that a `try` has stopped: kept within bounds, and shown without secrets."""

import json
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import msgspec
from msgspec import UNSET

from datasync.author.answers import MADE_UP, json_body
from datasync.author.last_try import Sent
from datasync.flow.redact import Redaction
from datasync.flow.stand_ins import StandIns

MOST = 1_000
"""The number of requests that are kept from the start of a `try`."""
LAST = 10
"""The number of requests after those that are kept, too: the last ones."""
LARGEST_BODY = 512 * 1024
"""Bytes of a body that is kept. Of a larger one, its size and its hash are kept."""
LARGEST = 4 * 1024 * 1024
"""Characters that are kept of all bodies together."""

_SAMPLE = 400  # characters
_SEARCHED = 16_384  # characters from which a sample is taken: a secret that is cut at their end is not in it
_FIELDS = StandIns()
"""Hides the values of fields by their names, such as `password`."""


class Stopped(msgspec.Struct, frozen=True, rename="camel"):
    """An unsafe request that was not sent. It has no secrets."""

    method: str
    url: str
    pattern: str
    """The URL as the file with the answers has it: its path, with `*` in place of each secret."""
    items: int | None
    """Of the JSON array that it sends, or of the largest array in the JSON; None if it has none."""
    sample: str
    """The start of the first item, or of the body."""
    status: int
    """Of the answer that the flow got."""
    source: str
    """The entry of the file that has the answer, such as `answers[2]`; or MADE_UP."""

    @property
    def is_made_up(self) -> bool:
        """Whether no file has the answer."""
        return self.source == MADE_UP


class Body:
    """The body of a request. A stream that is too large is read, and not kept."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._hash = sha256()
        self.size = 0
        """Bytes of the whole body."""

    @classmethod
    async def of(cls, request: httpx.Request) -> "Body":
        """Read the body of a request."""
        body = cls()
        try:
            body._add(request.content, kept=len(request.content))  # the flow has it in memory
        except httpx.RequestNotRead:
            assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - of an async client
            async for chunk in request.stream:
                body._add(chunk, kept=LARGEST_BODY)
        return body

    def _add(self, chunk: bytes, kept: int) -> None:
        self.size += len(chunk)
        self._hash.update(chunk)
        if self.size <= kept:
            self._kept += chunk
        else:
            self._kept.clear()

    @property
    def content(self) -> bytes:
        """The bytes, none if they were not kept."""
        return bytes(self._kept)

    @property
    def summary(self) -> str:
        """The size and the hash."""
        return f"({self.size:,} bytes, SHA-256 {self._hash.hexdigest()})"


@dataclass(frozen=True, slots=True)
class _Kept:
    """A stopped request, with secrets. It does not hold the objects of httpx, which have the whole bodies."""

    method: str
    url: httpx.URL
    items: int | None
    sample: str
    body: str
    """JSON in lines, one for each value; or the summary of the body."""
    status: int
    source: str
    answer: str | None
    """The JSON of an answer that was made up, empty if it has none; None if it is too large."""

    def shown(self, redact: Redaction) -> Stopped:
        """Return the request without secrets."""
        return Stopped(
            method=self.method,
            url=redact(str(self.url)),
            pattern=_pattern(self.url, redact),
            items=self.items,
            sample=redact.line(_FIELDS.body(redact.start(self.sample, _SEARCHED)), _SAMPLE),
            status=self.status,
            source=self.source,
        )

    def sent(self, redact: Redaction) -> Sent:
        """Return the request without secrets, to compare it."""
        return Sent(self.method, redact(str(self.url)), _FIELDS.body(redact(self.body)).splitlines())

    def entry(self, redact: Redaction, safe: StandIns) -> dict[str, Any]:
        """Return the entry of the file that gives the answer again."""
        entry = {"method": self.method, "url": _pattern(self.url, redact), "status": self.status}
        return {**entry, "json": safe.value(json.loads(self.answer))} if self.answer else entry


class StoppedRequests:
    """The stopped requests of a `try`, within bounds."""

    def __init__(self) -> None:
        self._first = list[_Kept]()
        self._last = deque[_Kept](maxlen=LAST)
        self._size = 0
        self.count = 0
        """Of all of them."""

    def add(self, request: httpx.Request, body: Body, response: httpx.Response, source: str) -> None:
        """Keep a request with its answer, whose body was read."""
        self.count += 1
        content = json_body(request)
        array = largest_array(content)
        first = array[0] if array else content
        text = request.content.decode(errors="replace") if first is UNSET else _compact(first)
        lines, is_whole = self._lines(content, body)
        answer = response.text if is_whole else None if response.content else ""
        kept = _Kept(
            method=request.method,
            url=request.url,
            items=None if array is None else len(array),
            sample=text[: 2 * _SEARCHED] if body.content else body.summary if body.size else "",
            body=lines,
            status=response.status_code,
            source=source,
            answer=answer if source == MADE_UP else None,
        )
        (self._first if len(self._first) < MOST else self._last).append(kept)

    def _lines(self, content: Any, body: Body) -> tuple[str, bool]:
        """Return the body in lines, and whether it is the whole one."""
        if body.size > LARGEST_BODY:
            return body.summary, False
        text = body.content.decode(errors="replace") if content is UNSET else _in_lines(content)
        if self._size + len(text) > LARGEST:
            return body.summary, False
        self._size += len(text)
        return text, True

    @property
    def left_out(self) -> int:
        """The number of requests that were not kept."""
        return self.count - len(self._kept)

    @property
    def _kept(self) -> list[_Kept]:
        return [*self._first, *self._last]

    def shown(self, redact: Redaction) -> tuple[Stopped, ...]:
        """Return the requests without secrets."""
        return tuple(each.shown(redact) for each in self._kept)

    def sent(self, redact: Redaction) -> list[Sent]:
        """Return the requests without secrets, to compare them."""
        return [each.sent(redact) for each in self._kept]

    def made_up(self, redact: Redaction, safe: StandIns) -> list[dict[str, Any]]:
        """Return the entries for the answers that were made up. One that fits each URL is behind the others."""
        entries = [each.entry(redact, safe) for each in self._kept if each.answer is not None]
        return sorted(entries, key=lambda entry: entry["url"] == "*")

    @property
    def unsaved(self) -> int:
        """The number of made-up answers that are too large to be saved."""
        return sum(each.source == MADE_UP and each.answer is None for each in self._kept)


def largest_array(body: Any) -> list[Any] | None:
    """Return the largest array in a JSON value, also within the objects in it; None if it has none.

    An array that is an item of another one does not count.
    """
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        return None
    arrays = [array for value in body.values() if (array := largest_array(value)) is not None]
    return max(arrays, key=len, default=None)


def one_of_each(stopped: Iterable[Stopped]) -> list[Stopped]:
    """Return the requests whose answers were made up, one for each method and URL."""
    return [*{(each.method, each.url): each for each in stopped if each.is_made_up}.values()]


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _in_lines(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=1)
    except RecursionError:  # with `indent`, Python's own encoder is used
        return _compact(value)


def _pattern(url: httpx.URL, redact: Redaction) -> str:
    """Return the `url` of an entry that fits a request. A part that a secret hides is `*`."""
    url = url.copy_with(query=None, fragment=None)
    shown = redact(str(url))
    if shown.endswith(redact(url.raw_path.decode())):  # no secret has both the host and a part of the path
        return _stars(redact(url.path))
    return _stars(shown)


def _stars(text: str) -> str:
    return re.sub(r"<[^<>]*>|\*+", "*", text)
