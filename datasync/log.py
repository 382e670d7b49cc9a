"""Logging: a sentence for people, then its fields as `key=value`, on one line.

The fields ride along as the record's `fields` attribute too, for handlers that keep structure.
"""

import logging
import re
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, override

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
        if secret and len(secret) >= 4:  # noqa: PLR2004
            self._names[secret] = name

    def __call__(self, text: str) -> str:
        """Return the text with `<name>` for each secret, and `***` for the query and the password of any URL."""
        text = _URL_PASSWORD.sub(r"\1***", _URL_QUERY.sub(r"\1***", text))
        for secret in sorted(self._names, key=len, reverse=True):
            text = text.replace(secret, f"<{self._names[secret]}>")
        return text

    def one_line(self, error: BaseException) -> str:
        """Describe an exception in one line: its class, its message, and its notes."""
        text = " ".join([str(error), *getattr(error, "__notes__", ())])
        return self(f"{type(error).__name__}: {' '.join(text.split())}" if text else type(error).__name__)[:2000]

    def traceback(self, error: BaseException) -> str:
        """Return the whole traceback, as Python prints it."""
        return self("".join(traceback.format_exception(error)).rstrip())


# Where APIs that know no better have callers put their keys.
_URL_QUERY = re.compile(r"(https?://[^\s?'\"<>]*\?)[^\s'\"<>]+")
_URL_PASSWORD = re.compile(r"(https?://[^\s/@:'\"<>]*:)[^\s/@'\"<>]+(?=@)")


class RunLog(logging.LoggerAdapter[logging.Logger]):
    """The `run.log` of a flow: a standard logger that names the run and takes out its secrets."""

    def __init__(self, subject: str, fields: Mapping[str, object], redact: Redaction) -> None:
        super().__init__(logger, {"fields": dict(fields)})
        self._subject = subject
        self._redact = redact

    @override
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        text = str(msg) % args if args else str(msg)
        if kwargs.pop("exc_info", None):
            text += "\n" + traceback.format_exc()
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, "%s", f"{self._subject}: {self._redact(text)}", **kwargs)

    @override
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(self.extra or {}), **kwargs.get("extra", {})}}
