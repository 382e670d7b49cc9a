"""Requests and answers, without the host's objects."""

import asyncio
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

_SECURITY = {
    # No markup can load or run anything that is not a file of the page, and no text can become a script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_COMPRESSED_FROM = 1000  # bytes


class Request(msgspec.Struct, frozen=True):
    """A request. The platform has checked its function key where the route asks for one."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By their names in small letters."""
    body: bytes = b""
    path: str = ""
    """As the browser has sent it, with the prefix of the routes."""


class Answer(msgspec.Struct, frozen=True):
    """An answer, with all its headers."""

    status: int
    body: bytes
    headers: dict[str, str]


class Refused(Exception):
    """A request is refused. The message is a sentence for the person who reads the page."""

    def __init__(self, status: HTTPStatus, why: str, problems: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.status = status
        self.problems = problems
        """The problems to correct, each as its place and a sentence."""


async def json_answer(request: Request, content: object, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return content as JSON, compressed where the reader takes it. No cache keeps it."""
    body = _json(content)
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if len(body) >= _COMPRESSED_FROM and _takes_gzip(request.headers.get("accept-encoding", "")):
        # The states of a large fleet are megabytes: the runs of this process go on meanwhile.
        body = await asyncio.to_thread(gzip.compress, body, 5, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return answer(body, headers, status)


def _json(content: object) -> bytes:
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:  # half of a surrogate pair, which a document can have
        return json.dumps(msgspec.to_builtins(content)).encode()


def answer(body: bytes, headers: Mapping[str, str], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return an answer, with the headers that every answer has."""
    return Answer(status=status, body=body, headers={**_SECURITY, **headers})


def _takes_gzip(accepted: str) -> bool:
    codings = [each.partition(";") for each in accepted.lower().split(",")]
    return any(name.strip() == "gzip" and not re.search(r"q=0(\.0*)?\s*$", weight) for name, _, weight in codings)
