"""The answers that the unsafe requests of a `try` get: from a file, or made up.

The file is a list. The first entry whose method and URL fit gives the answer. Of entries with the same method and URL,
each is used once, in their order, and then the last one again.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
from msgspec import UNSET, Meta, UnsetType

from datasync.errors import AnswersInvalid
from datasync.flow.connections import SAFE
from datasync.model.decode import FieldError, decode

MADE_UP = "made up"
"""The source of an answer that no file has."""

_STARTS = ("/", "https://", "http://", "*")
_EXAMPLE = '{"method": "POST", "url": "/v1/leads", "status": 201, "json": {"id": "42"}}'


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of the file."""

    method: Annotated[str, Meta(pattern="^[A-Z]+$", description='a method in capitals, such as "POST"')]
    url: Annotated[str, Meta(min_length=1, description="a URL or a path, in which * stands for any characters")]
    status: Annotated[int, Meta(ge=200, le=599, description="an HTTP status from 200 to 599")] = 200
    json: Any = UNSET
    text: Annotated[str | UnsetType, Meta(description="a text")] = UNSET
    headers: Annotated[dict[str, str], Meta(description="an object of texts")] = {}

    def fits(self, request: httpx.Request) -> bool:
        """Return whether the entry answers a request. The query counts only if `url` has one."""
        url = request.url
        text = url.path if self.url.startswith("/") else str(url.copy_with(query=None, fragment=None))
        if "?" in self.url:
            text += f"?{url.query.decode()}"
        pattern = ".*".join(map(re.escape, self.url.split("*")))
        return self.method == request.method and re.fullmatch(pattern, text, re.DOTALL) is not None

    def response(self, request: httpx.Request) -> httpx.Response:
        """Return the answer."""
        if self.json is not UNSET:
            return _json(self.status, self.json, request, self.headers)
        return httpx.Response(self.status, headers=self.headers, text=self.text or None, request=request)


class Answers:
    """The answers of one `try`."""

    def __init__(self, file: Path) -> None:
        """Read the file, which need not exist.

        Raises:
            AnswersInvalid: it cannot be read, or has a mistake.

        """
        self.file = file
        self._entries = _read(file)
        self._used = Counter[int]()

    def to(self, request: httpx.Request) -> tuple[httpx.Response, str]:
        """Return the answer to a request whose body was read, and its source: `answers[2]`, or MADE_UP."""
        first = next((each for each in self._entries if each.fits(request)), None)
        if first is None:
            return made_up(request), MADE_UP
        alike = [at for at, each in enumerate(self._entries) if (each.method, each.url) == (first.method, first.url)]
        at = next((at for at in alike if not self._used[at]), alike[-1])
        self._used[at] += 1
        return self._entries[at].response(request), f"answers[{at}]"

    @property
    def unused(self) -> list[str]:
        """The entries that have answered no request: `answers[2] PATCH /v1/leads/*`."""
        return [
            f"answers[{at}] {each.method} {each.url}" for at, each in enumerate(self._entries) if not self._used[at]
        ]


def made_up(request: httpx.Request) -> httpx.Response:
    """Return a plausible answer: the JSON of the request, with an id if a POST has none."""
    if request.method == "DELETE":
        return httpx.Response(HTTPStatus.NO_CONTENT, request=request)
    body = json_body(request)
    status = HTTPStatus.CREATED if request.method == "POST" else HTTPStatus.OK
    if status is HTTPStatus.CREATED and isinstance(body, dict):
        body = {"id": "made-up-1", **body}
    return _json(status, {} if body is UNSET else body, request)


def _json(status: int, value: Any, request: httpx.Request, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """Return an answer with any value that Python reads as JSON, also with NaN, which httpx refuses."""
    sent = httpx.Headers({"Content-Type": "application/json"})
    sent.update(headers)
    return httpx.Response(status, headers=sent, content=json.dumps(value).encode(), request=request)


def json_body(request: httpx.Request) -> Any:
    """Return the JSON of a request whose body was read; UNSET if it is not JSON."""
    try:
        return json.loads(request.content)
    except (ValueError, RecursionError):
        return UNSET


def _read(file: Path) -> list[Answer]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise AnswersInvalid(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise AnswersInvalid(f"{file} is not JSON in UTF-8: {error}. Expected a list such as [{_EXAMPLE}]") from None
    if not isinstance(content, list):
        raise AnswersInvalid(f"{file}: expected a list such as [{_EXAMPLE}], got {type(content).__name__}")
    return [_entry(file, at, each) for at, each in enumerate(content)]


def _entry(file: Path, at: int, content: object) -> Answer:
    place = f"answers[{at}]"
    try:
        answer = decode(Answer, content, place)
    except FieldError as error:
        raise AnswersInvalid(f"{file}: {error}. Expected an entry such as {_EXAMPLE}") from None
    if why := _mistake(answer):
        raise AnswersInvalid(f"{file}: {place}: {why}")
    return answer


def _mistake(answer: Answer) -> str | None:
    if answer.method in SAFE:
        return f"a {answer.method} is sent to the API, and not answered from the file: remove the entry"
    if not answer.url.startswith(_STARTS):
        return f"url {answer.url!r} must begin with '/', 'https://', 'http://' or '*'"
    if answer.json is not UNSET and answer.text is not UNSET:
        return "an answer has json or text, not both"
    return None
