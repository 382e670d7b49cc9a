"""The logger of a flow."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, override

from datasync.flow.redact import Redaction
from datasync.model.display import shown_lines
from datasync.telemetry.emit import logger

_DEPTH = 5  # of objects within objects in `extra`; what lies deeper is logged as text
_ITEMS = 100  # of a list or an object in `extra`; a longer one is logged as text


class RunLog(logging.LoggerAdapter[logging.Logger]):
    """The `run.log` of a flow: a standard logger that names the run and replaces its secrets."""

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
        except Exception:  # noqa: BLE001 - a format that does not fit its arguments fails no run, as elsewhere in logging
            text = f"{_text_of(msg)} {_text_of(args)}"
        text = f"{self._subject}: {self._redact.start(text)}"
        if exc_info and (error := _error(exc_info)):
            text = f"{text}\n{self._redact.traceback(error)}"
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, "%s", shown_lines(text), **kwargs)

    @override
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = {self._redact.start(str(key)): self._safe(value) for key, value in (kwargs.get("extra") or {}).items()}
        return msg, {**kwargs, "extra": {**(self.extra or {}), **extra}}

    def _safe(self, value: object, depth: int = 0) -> object:
        """Return a value without secrets: objects and lists part by part, and any other value as text if need be."""
        if isinstance(value, Mapping | list | tuple | set | frozenset) and depth < _DEPTH and len(value) <= _ITEMS:
            if isinstance(value, Mapping):
                return {self._safe(key, _DEPTH): self._safe(part, depth + 1) for key, part in value.items()}
            parts = [self._safe(part, depth + 1) for part in value]
            return parts if isinstance(value, list) else tuple(parts)
        text = value if isinstance(value, str) else _text_of(value)
        safe = self._redact.start(text)
        return value if safe == text and isinstance(value, _PLAIN) else safe


_PLAIN = (int, float, type(None))
"""Values that need not become texts."""


def _error(exc_info: object) -> BaseException | None:
    """Return the exception that `exc_info` means: itself, the second of three values, or the one being handled."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    return exc_info if isinstance(exc_info, BaseException) else sys.exception()


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception as broken:  # noqa: BLE001 - the text of an object is code of the flow or of a library
        return f"(its text cannot be shown: {type(broken).__name__})"
