"""Removes the secrets that a run has read from its logs, records and errors."""

import html
import json
import re
import traceback
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

LINE = 2000
"""The most characters of a line in a record."""

_SHORTEST = 4  # characters: a shorter secret would blank out everything
_SHORTEST_PART = 8  # characters: a shorter part of a secret, such as the line `},`, is not secret

# Some APIs expect keys in the query. The address may be a secret, which is replaced already. The patterns start where a
# text without blanks starts and do not backtrack, so that a long text is searched once.
_START = r"(?:^|(?<=[\s'\"?]))"
_URL_QUERY = re.compile(rf"({_START}(?>[^\s?'\"]*?(?:https?://|<[0-9A-Za-z-]+>))[^\s?'\"]*+\?)[^\s'\"]+")
# The same without a host. Without a `=`, as in "and/or?", it is a sentence.
_PATH_QUERY = re.compile(rf"({_START}[^\s?'\"/]*+/[^\s?'\"]*+\?)[^\s?'\"=]++=[^\s'\"]*")
_URL_PASSWORD = re.compile(r"(https?://[^\s/@:'\"]*:)[^\s/@'\"]+(?=@)")
_URL_SAFE = str.maketrans("+/", "-_")


class Redaction:
    """Replaces the secrets of one run by their names."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, name: str, secret: str | None) -> None:
        """Add a secret, in all its forms. Forms with fewer than 4 characters are left in texts.

        If the secret is JSON, its texts are secrets too.
        """
        secret = _printable(secret or "")
        for part in (secret, *_texts_in(secret)):
            self._names.update(dict.fromkeys((form for form in _forms(part) if len(form) >= _SHORTEST), name))

    def __call__(self, text: str) -> str:
        """Return the text with `<name>` for each secret, and `***` for the query and the password of any URL."""
        text = _printable(text)
        for secret in sorted(self._names, key=len, reverse=True):
            text = text.replace(secret, f"<{self._names[secret]}>")
        for pattern in (_URL_QUERY, _PATH_QUERY, _URL_PASSWORD):
            text = pattern.sub(r"\1***", text)
        return text

    def line(self, text: str, limit: int = LINE) -> str:
        """Return a text in one line of at most `limit` characters."""
        return " ".join(self(text).split())[:limit]

    def one_line(self, error: BaseException, limit: int = LINE) -> str:
        """Describe an exception in one line: class, message and notes, and the first three exceptions of a group."""
        return self.line(_described(error), limit)

    def traceback(self, error: BaseException) -> str:
        """Return the whole traceback, as Python prints it."""
        return self("".join(traceback.format_exception(error)).rstrip())


def _printable(text: str) -> str:
    """Escape half a surrogate pair, which cannot be printed."""
    return text.encode(errors="backslashreplace").decode()


def _texts_in(secret: str) -> Iterator[str]:
    """Yield the texts in a secret that is a JSON object or array, such as the key of a service account."""
    try:
        pending = [json.loads(secret)]
    except (ValueError, RecursionError):
        return
    while pending:
        match pending.pop():
            case dict() as members:
                pending.extend(members.values())
            case list() as items:
                pending.extend(items)
            case str() as text if len(text) >= _SHORTEST_PART:
                yield _printable(text)


def _forms(secret: str) -> set[str]:
    """Return the forms of a secret in texts: as it is, stripped, quoted, encoded, line by line."""
    forms = {part for line in secret.splitlines() if len(part := line.strip()) >= _SHORTEST_PART}
    for text in {secret, secret.strip()}:
        escaped = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        forms |= {
            text,
            repr(text)[1:-1],
            *escaped,
            *(each.replace("/", r"\/") for each in escaped),  # as PHP does
            html.escape(text),
            quote(text),
            quote(text, safe=""),
            quote_plus(text),
            *_base64(text.encode()),
        }
    return forms


def _base64(secret: bytes) -> Iterator[str]:
    """Yield the characters that a secret becomes in base64, alone or within other data such as `user:secret`.

    A character has six bits, so there are three forms, one for each remainder of the place by three. Characters at
    the ends that also depend on the data around the secret are left out.
    """
    for before in range(3):
        first, end = -(-before * 8 // 6), (before + len(secret)) * 8 // 6
        form = b64encode(bytes(before) + secret).decode()[first:end]
        if len(form) >= _SHORTEST_PART:
            yield from (form, form.translate(_URL_SAFE))


def _described(error: BaseException) -> str:
    text = _text(error)
    if isinstance(error, BaseExceptionGroup):
        text += ": " + "; ".join(_described(each) for each in error.exceptions[:3])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return " ".join(filter(None, [str(error), *map(str, getattr(error, "__notes__", ()))]))
    except Exception as broken:  # noqa: BLE001 - the text of an exception is code of the flow or of a library
        return f"(its text cannot be shown: {type(broken).__name__})"
