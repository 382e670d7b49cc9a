"""The logger of a flow."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, override

from datasync.flow.redact import Redaction
from datasync.telemetry.emit import logger


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
