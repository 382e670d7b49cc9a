"""Replaces the secrets in recorded exchanges by stand-ins, so that a flow makes the same requests with these again."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import httpx
from yarl import URL

from datasync.flow.redact import SHORTEST, Redaction

HIDDEN = "***"
"""Replaces a value that looks like a secret, and is not one that the run has read from the vault."""

_FIELD = (
    r"(?:access|refresh|id|auth|session|bearer)[_-]?token|client[_-]?(?:secret|assertion)|(?:api|private)[_-]?key"
    r"|password|passwd|pwd|secret|jwt"
)
_SHORTEST_TOKEN = 8  # characters
_MOST_TOKENS = 250
_LONGEST_WORDS = 20  # characters

# Possessive quantifiers and lookbehinds keep the search linear, also in a body that somebody made to slow it down.
_IN_QUOTES = r'"(?:[^"\\]|\\.)*+'
_TEXT = re.compile(r'(?s)"(?P<text>(?:[^"\\]|\\.)*+)(?P<end>"?)')
_TOKEN = re.compile(
    rf'(?is)(?P<name>"(?P<field>{_FIELD}|token)"\s*+:\s*+)'
    rf'(?P<value>{_IN_QUOTES}|-?[0-9][0-9.e+-]{{3,}}|\[(?:[^]["{{}}]|{_IN_QUOTES}"?)*+)'
)
_STAND_IN = re.compile(r"<[\w-]+>")
_WORDS = re.compile(r"[A-Za-z]?[a-z]+(?: [a-z]+)*")

# In JSON, a character of a URL may have an escape.
_CHARACTER = r"(?:[^&\s\"'\\<>#]|\\[^\"u]|\\u(?!00(?:2[02367]|3[ce]))[0-9a-f]{4})"
_EQUALS = r"(?:=|\\u003d|%3d)(?!\*\*\*|(?:<|%3c)[\w-]++(?:>|%3e))"  # before a value that is not replaced yet
_FORM = re.compile(rf"(?i)(?P<name>(?:^|&)(?:{_FIELD}|token){_EQUALS})(?:#|{_CHARACTER})++")
_QUERY = re.compile(
    rf"(?i)(?P<name>(?:[?&;#]|\\u0026|&amp;|%3f|%26|%23)"
    rf"(?:(?:{_FIELD}|sig|signature|subscription-key|x-(?:amz|goog)-(?:signature|security-token|credential)){_EQUALS}"
    rf"|(?:token|auth|key|code){_EQUALS}(?={_CHARACTER}{{{_SHORTEST_TOKEN}}})))"
    rf"{_CHARACTER}++"
)
_USER = re.compile(r"(?P<name>/\\?/)[^/\s\"'<>@:]*:[^/\s\"'<>@]*(?=@)")
_JWT = re.compile(  # https://www.rfc-editor.org/rfc/rfc7519#section-3
    r"(?P<name>(?<![A-Za-z0-9_-])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4}))"
    r"eyJ[A-Za-z0-9_-]{6,}+\.[A-Za-z0-9_-]{6,}+(?:\.[A-Za-z0-9_-]*+){1,3}"
)
_HEADER = re.compile(
    r"(?i)authorization|cookie|authentication|secret|signature|password|session|csrf|xsrf|credential|subscription-key"
    r"|jwt|^x-vault-|(?:api|access|auth)[-_]?key|(?:api|access|auth|security|refresh|id|bearer)[-_]?token|^(?:x-)?auth$"
    r"|^(?!.*(?:page|next|continuation|cursor|delta|sync)).*token$"
)
_HOST = re.compile(r"(?i)(?=.{4,253}$)(?:[a-z0-9-]+\.)+[a-z]{2,}(?::[0-9]+)?")


class StandIns:
    """The stand-ins for the secrets of one attempt.

    They are `<system--key>`; for a URL, `https://system--key.invalid`, which is without its path, since a path can be
    secret too. Of two secrets with the same value, both have the stand-in of the first.
    """

    def __init__(self, secrets: Iterable[tuple[str, str]] = ()) -> None:
        """Make them for secrets by name. Long secrets take a tenth of a second each: use a thread.

        A name may have several values, since a secret can be rotated during an attempt.
        """
        secrets = [*secrets]
        self._redact = Redaction(keeps_queries=True)
        by_value = dict[str, str]()
        for name, value in secrets:
            by_value.setdefault(value, _stand_in(name, value))
        for value, stand_in in by_value.items():
            for form, label in _forms(value, stand_in):
                self._redact.add("", form, label)
        self._secrets = [value for value in by_value if len(value) >= SHORTEST]
        self._tokens = set[str]()
        self.names: dict[str, str] = {name: by_value[value] for name, value in secrets}
        """Name of a secret → its stand-in."""

    def learn(self, body: str) -> None:
        """Add the tokens in a body of JSON, such as the answer of a token endpoint. They may be in later requests.

        Plain words are left out, such as those of the error `{"password": "is required"}`, and secrets of the vault.
        """
        for found in _TOKEN.finditer(body):
            for written in _values(found["value"]):
                token = _decoded(written)
                if len(self._tokens) < _MOST_TOKENS and token not in self._tokens and self._is_token(token):
                    self._tokens.add(token)
                    for form in {token, written}:
                        self._redact.add("", form, f"<{found['field'].lower()}>")

    def text(self, text: str) -> str:
        """Return a text without secrets. URLs in it keep their queries, without values that look like secrets."""
        text = self._redact(text)
        for pattern in (_JWT, _QUERY, _USER):
            text = pattern.sub(rf"\g<name>{HIDDEN}", text)
        return text

    def url(self, url: str) -> str:
        """Return the URL of a request without secrets, as the client would send it with the stand-ins."""
        return sent_url(self.text(url))

    def headers(self, headers: httpx.Headers) -> dict[str, list[str]]:
        """Return headers without secrets."""
        safe = dict[str, list[str]]()
        for name, value in headers.multi_items():
            is_hidden = _HEADER.search(name) and ("cookie" in name.lower() or self._redact(value) == value)
            safe.setdefault(name, []).append(HIDDEN if is_hidden else self.text(value))
        return safe

    def body(self, text: str) -> str:
        """Return a body without secrets. JSON stays JSON: a number with a secret in it becomes a text."""
        safe = self.text(text)
        if safe != text and _is_json(text) and not _is_json(safe):
            safe = self._json(text)
        return _TOKEN.sub(self._hidden, _FORM.sub(rf"\g<name>{HIDDEN}", safe))

    def value(self, value: Any) -> Any:
        """Return a JSON value without secrets."""
        return json.loads(self.body(json.dumps(value)))

    def _hidden(self, found: re.Match[str]) -> str:
        """Return a field of JSON without its value. Stand-ins and names of secrets are kept, and short tokens."""
        name, value = found["name"], found["value"]
        shortest = _SHORTEST_TOKEN if found["field"].lower() == "token" else 1

        def hidden(text: re.Match[str]) -> str:
            written = text["text"]
            is_kept = len(written) < shortest or written in self.names or _STAND_IN.fullmatch(written)
            return text[0] if is_kept else f'"{HIDDEN}{text["end"]}'

        return name + (f'"{HIDDEN}"' if value[0] not in '"[' else _TEXT.sub(hidden, value))

    def _is_token(self, text: str) -> bool:
        is_words = len(text) < _LONGEST_WORDS and _WORDS.fullmatch(text)
        return len(text) >= _SHORTEST_TOKEN and not is_words and not any(secret in text for secret in self._secrets)

    def _json(self, text: str) -> str:
        content = json.loads(text, parse_int=_Number, parse_float=_Number)
        return _encoded(content, self.text, self.text)


def _values(value: str) -> list[str]:
    """Return the texts in the value of a field, as they are written, or the number."""
    return [text["text"] for text in _TEXT.finditer(value)] if value[0] in '"[' else [value]


def _decoded(written: str) -> str:
    """Return a text without the escapes of JSON; as it is written if it is cut in one of them."""
    try:
        return str(json.loads(f'"{written}"', strict=False))
    except ValueError:
        return written


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
