"""The logger of a flow."""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from itertools import takewhile
from typing import Any, override

from datasync.flow.redact import TEXT, Redaction
from datasync.flow.tail import Tail
from datasync.model.display import shown_lines
from datasync.telemetry.emit import logger

_DEPTH = 5  # of objects within objects in `extra`; deeper ones are logged as text
_ITEMS = 100  # of a list or an object in `extra`; a longer one is logged as text
_LEAST = 20  # characters that a value or a name in `extra` counts as, at least


class RunLog(logging.LoggerAdapter[logging.Logger]):
    """The `run.log` of a flow: a standard logger that names the run, replaces its secrets, and keeps its last lines."""

    def __init__(self, subject: str, fields: Mapping[str, object], redact: Redaction, tail: Tail | None = None) -> None:
        super().__init__(logger, {"fields": dict(fields)})
        self._subject = subject
        self._redact = redact
        self._tail = tail

    @override
    def log(self, level: int, msg: object, *args: object, exc_info: object = None, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        try:
            text = logging.LogRecord("", level, "", 0, msg, args, None).getMessage()
        except Exception:  # noqa: BLE001 - a format that does not fit its arguments fails no run, as elsewhere in logging
            text = f"{_text_of(msg)} {_text_of(args)}"
        text, error = self._redact.start(text), _error(exc_info) if exc_info else None
        if self._tail:
            self._tail.add(level, f"{text}: {self._redact.one_line(error)}" if error else text)
        text = f"{self._subject}: {text}"
        if error:
            text = f"{text}\n{self._redact.traceback(error)}"
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, "%s", shown_lines(text), **kwargs)

    @override
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        given, safe = kwargs.get("extra") or {}, _Safe(self._redact)
        extra = {str(safe.value(str(key), _DEPTH)): safe.value(value) for key, value in safe.first(given.items())}
        if len(extra) < len(given):
            extra[_CUT] = f"{len(given) - len(extra)} fields are left out: all of them have {TEXT} characters at most"
        return msg, {**kwargs, "extra": {**(self.extra or {}), **extra}}


class _Safe:
    """Removes secrets from the values of one log line, which share the characters of one long text."""

    def __init__(self, redact: Redaction) -> None:
        self._redact = redact
        self._left = TEXT

    def first[T](self, parts: Iterable[T]) -> Iterator[T]:
        """Yield parts until all characters are used."""
        return takewhile(lambda _: self._left > 0, parts)

    def value(self, value: object, depth: int = 0) -> object:
        """Return a value without secrets: objects and lists part by part, and any other value as text if need be."""
        if isinstance(value, Mapping | list | tuple | set | frozenset) and depth < _DEPTH and len(value) <= _ITEMS:
            self._left -= _LEAST
            if isinstance(value, Mapping):
                members = {
                    self.value(key, _DEPTH): self.value(part, depth + 1) for key, part in self.first(value.items())
                }
                return members | ({_CUT: _CUT} if self._left <= 0 else {})
            parts = [self.value(part, depth + 1) for part in self.first(value)]
            parts += [_CUT] * (len(parts) < len(value))
            return parts if isinstance(value, list) else tuple(parts)
        if self._left <= 0:
            return _CUT
        text = value if isinstance(value, str) else _text_of(value)
        safe = shown_lines(self._redact.start(text, self._left))
        self._left -= max(len(safe), _LEAST)
        return value if safe == text and isinstance(value, _PLAIN) else safe


_CUT = "…"
"""In the place of values for which no characters are left."""


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
