"""Logging: a sentence for people, then its fields as `key=value`, on one line.

The fields ride along as the record's `fields` attribute too, for handlers that keep structure.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, override
from urllib.parse import quote

logger = logging.getLogger("datasync")

_CHATTY = ("azure", "httpx", "httpx_retries", "msal", "urllib3")


def configure() -> None:
    """Let datasync say what happens, and keep the libraries from logging every request (with its URL)."""
    logger.setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def line(sentence: str, fields: Mapping[str, object]) -> str:
    """Return a sentence with its fields behind it: `DONE acme/weather in 1.2s run=5f… attempt=1`."""
    return " ".join([sentence, *(f"{key}={value}" for key, value in fields.items() if value is not None)])


def event(level: int, sentence: str, *, traceback: str = "", **fields: object) -> None:
    """Log a sentence with its fields, leaving out those that are None; a traceback follows on lines of its own."""
    text = "\n".join(filter(None, [line(sentence, fields), traceback]))
    logger.log(level, "%s", text, extra={"fields": fields})


class Redaction:
    """Takes the secrets that one run has read out of every text that leaves it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, name: str, secret: str | None) -> None:
        """Remember a secret. One of fewer than 4 characters is no secret, and would blank out everything."""
        for form in _forms(secret or ""):
            if len(form) >= 4:  # noqa: PLR2004
                self._names[form] = name

    def __call__(self, text: str) -> str:
        """Return the text with `<name>` for each secret, and `***` for the query and the password of any URL."""
        text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair goes nowhere
        for secret in sorted(self._names, key=len, reverse=True):
            text = text.replace(secret, f"<{self._names[secret]}>")
        return _URL_PASSWORD.sub(r"\1***", _URL_QUERY.sub(r"\1***", text))

    def line(self, text: str) -> str:
        """Return a text in one line, not endless."""
        return " ".join(self(text).split())[:2000]

    def one_line(self, error: BaseException) -> str:
        """Describe an exception in one line: its class, its message and notes; of a group, the first three in it."""
        return self.line(_described(error))

    def traceback(self, error: BaseException) -> str:
        """Return the whole traceback, as Python prints it."""
        return self("".join(traceback.format_exception(error)).rstrip())


# Where APIs that know no better have callers put their keys. An address may be a secret itself, and replaced already.
_URL_QUERY = re.compile(r"((?:https?://|<[0-9A-Za-z-]+>)[^\s?'\"]*\?)[^\s'\"]+")
_URL_PASSWORD = re.compile(r"(https?://[^\s/@:'\"]*:)[^\s/@'\"]+(?=@)")


def _forms(secret: str) -> set[str]:
    """Return the ways in which a secret appears in texts: as it is, stripped, quoted, encoded, line by line."""
    lines = [line.strip() for line in secret.splitlines()]
    return {
        secret,
        secret.strip(),
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        *(line for line in lines if len(line) >= 8),  # noqa: PLR2004 - `{` or `},` is no secret
    }


def _described(error: BaseException) -> str:
    text = " ".join(filter(None, [str(error), *getattr(error, "__notes__", ())]))
    if isinstance(error, BaseExceptionGroup):
        text += ": " + "; ".join(_described(each) for each in error.exceptions[:3])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class RunLog(logging.LoggerAdapter[logging.Logger]):
    """The `run.log` of a flow: a standard logger that names the run and takes out its secrets."""

    def __init__(self, subject: str, fields: Mapping[str, object], redact: Redaction) -> None:
        super().__init__(logger, {"fields": dict(fields)})
        self._subject = subject
        self._redact = redact

    @override
    def log(self, level: int, msg: object, *args: object, exc_info: object = None, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        try:
            text = logging.LogRecord("", level, "", 0, msg, args, None).getMessage()
        except Exception:  # noqa: BLE001 - a format that does not fit fails no run, as elsewhere in logging
            text = f"{msg} {args}"
        text = f"{self._subject}: {self._redact(text)}"
        if exc_info:
            error = exc_info if isinstance(exc_info, BaseException) else sys.exception()
            text = f"{text}\n{self._redact.traceback(error)}" if error else text
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, "%s", text, **kwargs)

    @override
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = {
            key: self._redact(value) if isinstance(value, str) else value
            for key, value in (kwargs.get("extra") or {}).items()
        }
        return msg, {**kwargs, "extra": {**(self.extra or {}), **extra}}
