"""Replaces the secrets in recorded exchanges by stand-ins, so that a flow makes the same requests with these again."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from yarl import URL

from datasync.flow.redact import Redaction

HIDDEN = "***"
"""Replaces a value that looks like a secret, and is not one that the run has read from the vault."""

_FIELD = (
    r"access_?token|refresh_?token|id_?token|client_?secret|client_?assertion|api_?key|private_?key|password|passwd"
)
_TOKEN = re.compile(rf'(?i)(?P<name>"(?P<field>{_FIELD})"\s*:\s*")(?P<value>[^"\\<]+)(?=")')
_FORM = re.compile(rf"(?i)(?P<name>(?:^|&)(?:{_FIELD})=)(?P<value>[^&\s\"'<>*][^&\s\"'<>]*)")
_QUERY = re.compile(
    rf"(?i)(?P<name>(?:[?&;]|\\u0026|&amp;)(?:{_FIELD}|sig|signature|x-amz-signature|x-amz-security-token|x-amz-credential"
    r"|x-goog-signature|x-goog-credential)=)(?P<value>[^&\s\"'\\<>#*]+)"
)
_USER = re.compile(r"(?P<name>//)(?P<value>[^/\s\"'<>@:]*:[^/\s\"'<>@]*)(?=@)")
_HEADER = re.compile(
    r"(?i)authorization|cookie|authentication|secret|signature|password|session|csrf|xsrf|credential|subscription-key"
    r"|(?:api|access|auth)[-_]?key|(?:api|access|auth|security|refresh|id|bearer)[-_]?token|^(?:x-)?(?:token|auth)$"
)
_HOST = re.compile(r"(?i)(?=.{4,253}$)(?:[a-z0-9-]+\.)+[a-z]{2,}(?::[0-9]+)?")
_MOST_TOKENS = 50
_SHORTEST_TOKEN = 8  # characters


class StandIns:
    """The stand-ins for the secrets of one attempt.

    They are `<system--key>`; for a URL, `https://system--key.invalid`, which is without its path, since a path can be
    secret too. Of two secrets with the same value, both have the stand-in of the first.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        """Make them. Long secrets take a tenth of a second each: use a thread."""
        self._redact = Redaction(keeps_queries=True)
        by_value = dict[str, str]()
        for name, value in secrets.items():
            by_value.setdefault(value, _stand_in(name, value))
        for value, stand_in in by_value.items():
            for form, label in _forms(value, stand_in):
                self._redact.add("", form, label)
        self._tokens = set[str]()
        self.names: dict[str, str] = {name: by_value[value] for name, value in secrets.items()}
        """Name of a secret → its stand-in."""

    def learn(self, body: str) -> None:
        """Add the tokens in a body of JSON, such as the answer of a token endpoint. They may be in later requests."""
        for found in _TOKEN.finditer(body):
            token = found["value"]
            if len(self._tokens) < _MOST_TOKENS and len(token) >= _SHORTEST_TOKEN and token not in self._tokens:
                self._tokens.add(token)
                self._redact.add("", token, f"<{found['field'].lower()}>")

    def text(self, text: str) -> str:
        """Return a text without secrets. URLs in it keep their queries, without values that look like secrets."""
        text = self._redact(text)
        for pattern in (_QUERY, _USER):
            text = pattern.sub(rf"\g<name>{HIDDEN}", text)
        return text

    def url(self, url: str) -> str:
        """Return the URL of a request without secrets, as the client would send it with the stand-ins."""
        return sent_url(self.text(url))

    def headers(self, headers: httpx.Headers) -> dict[str, list[str]]:
        """Return headers without secrets."""
        safe = dict[str, list[str]]()
        for name, value in headers.multi_items():
            text = self.text(value)
            is_hidden = _HEADER.search(name) and (text == value or "cookie" in name.lower())
            safe.setdefault(name, []).append(HIDDEN if is_hidden else text)
        return safe

    def body(self, text: str) -> str:
        """Return a body without secrets. JSON stays JSON: a number with a secret in it becomes a text."""
        safe = self.text(text)
        if safe != text and _is_json(text) and not _is_json(safe):
            safe = self._json(text)
        for pattern in (_FORM, _TOKEN):
            safe = pattern.sub(rf"\g<name>{HIDDEN}", safe)
        return safe

    def value(self, value: Any) -> Any:
        """Return a JSON value without secrets."""
        return json.loads(self.body(json.dumps(value)))

    def _json(self, text: str) -> str:
        content = json.loads(text, parse_int=_Number, parse_float=_Number)
        return _encoded(content, self.text, self.text)


def sent_url(url: str) -> str:
    """Return a URL as aiohttp sends it: with its own escapes, and without user information."""
    try:
        return str(URL(str(httpx.URL(url))).with_user(None))
    except (httpx.InvalidURL, ValueError):  # a stand-in is in the host
        return url


def _stand_in(name: str, value: str) -> str:
    """Return the text that a flow gets in place of a secret when its run is replayed."""
    label = f"<{name}>"
    if _address(value):
        return f"https://{_host(name)}{'/' if value.endswith('/') else ''}"
    if _HOST.fullmatch(value):
        return _host(name)
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        return label
    return _encoded(content, str, lambda _: label) if isinstance(content, dict | list) else label


def _forms(value: str, stand_in: str) -> list[tuple[str, str]]:
    """Return the texts to replace for a secret, with the text in the place of each."""
    if parts := _address(value):
        url = stand_in.rstrip("/")
        host = url.partition("//")[2]
        netloc = parts.netloc.decode()
        return [(value, stand_in), (str(parts), stand_in), (f"{parts.scheme}://{netloc}", url), (netloc, host)]
    label = re.search(r"<[^<>]*>", stand_in)  # in JSON with several texts, too
    return [(value, label[0] if label else stand_in)]


def _address(value: str) -> httpx.URL | None:
    """Return a secret as the URL of an API; None if it is not one."""
    try:
        url = httpx.URL(value)
    except (httpx.InvalidURL, ValueError):
        return None
    return url if url.scheme in ("http", "https") and url.host and not re.search(r"\s", value) else None


def _host(name: str) -> str:
    """Return a host that does not exist (RFC 2606, section 2), with the name of a secret."""
    return f"{name.strip('-').lower()[:63].strip('-')}.invalid"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class _Number(str):
    """A number in JSON, as it is written."""

    __slots__ = ()


def _encoded(content: Any, key: Callable[[str], str], text: Callable[[str], str]) -> str:
    """Return JSON, with each key, and each text and number, replaced."""
    match content:
        case dict():
            members = (f"{json.dumps(key(name))}: {_encoded(part, key, text)}" for name, part in content.items())
            return f"{{{', '.join(members)}}}"
        case list():
            return f"[{', '.join(_encoded(part, key, text) for part in content)}]"
        case _Number():
            number = text(content)
            return number if number == content else json.dumps(number)
        case str():
            return json.dumps(text(content), ensure_ascii=False)
    return json.dumps(content)
