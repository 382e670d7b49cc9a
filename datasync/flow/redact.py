"""Removes the secrets that a run has read from its logs, records and errors."""

import json
import re
import traceback
from urllib.parse import quote

_SHORTEST = 4  # characters: a shorter secret would blank out everything
_SHORTEST_LINE = 8  # characters: a shorter line of a secret, such as `{` or `},`, is not secret

# Some APIs expect keys in the query. The address may be a secret, which is replaced already.
_URL_QUERY = re.compile(r"((?:https?://|<[0-9A-Za-z-]+>)[^\s?'\"]*\?)[^\s'\"]+")
_URL_PASSWORD = re.compile(r"(https?://[^\s/@:'\"]*:)[^\s/@'\"]+(?=@)")


class Redaction:
    """Replaces the secrets of one run by their names."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, name: str, secret: str | None) -> None:
        """Add a secret. Forms of it with fewer than 4 characters are left in texts."""
        for form in _forms(secret or ""):
            if len(form) >= _SHORTEST:
                self._names[form] = name

    def __call__(self, text: str) -> str:
        """Return the text with `<name>` for each secret, and `***` for the query and the password of any URL."""
        text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair cannot be printed
        for secret in sorted(self._names, key=len, reverse=True):
            text = text.replace(secret, f"<{self._names[secret]}>")
        return _URL_PASSWORD.sub(r"\1***", _URL_QUERY.sub(r"\1***", text))

    def line(self, text: str) -> str:
        """Return a text in one line of at most 2,000 characters."""
        return " ".join(self(text).split())[:2000]

    def one_line(self, error: BaseException) -> str:
        """Describe an exception in one line: class, message and notes, and the first three exceptions of a group."""
        return self.line(_described(error))

    def traceback(self, error: BaseException) -> str:
        """Return the whole traceback, as Python prints it."""
        return self("".join(traceback.format_exception(error)).rstrip())


def _forms(secret: str) -> set[str]:
    """Return the forms of a secret in texts: as it is, stripped, quoted, encoded, line by line."""
    lines = [line.strip() for line in secret.splitlines()]
    return {
        secret,
        secret.strip(),
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        *(line for line in lines if len(line) >= _SHORTEST_LINE),
    }


def _described(error: BaseException) -> str:
    text = " ".join(filter(None, [str(error), *getattr(error, "__notes__", ())]))
    if isinstance(error, BaseExceptionGroup):
        text += ": " + "; ".join(_described(each) for each in error.exceptions[:3])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
