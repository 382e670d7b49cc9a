"""Reads host.json and local.settings.json as Core Tools and the Functions host read them.

With AZURE_FUNCTIONS_ENVIRONMENT=Development, a `maxPollingInterval` of one minute, set or by default, becomes 2 s; any
other value is kept. This is the behaviour of the queue extension since version 5.0.0.

One value has no counterpart on Azure: `HIDING`, for tests that wait for the messages of a killed host.

Sources: https://learn.microsoft.com/azure/azure-functions/functions-host-json, …/functions-develop-local and
…/functions-bindings-storage-queue#host-json. For the polling interval: Azure/azure-sdk-for-net,
Microsoft.Azure.WebJobs.Extensions.Storage.Queues, StorageQueuesWebJobsBuilderExtensions.cs and CHANGELOG.md (5.0.0).
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from localdev.host.errors import HostError

log = logging.getLogger(__name__)

# App settings that override host.json: AzureFunctionsJobHost__extensions__queues__batchSize.
OVERRIDE = "azurefunctionsjobhost__"

DEFAULT_POLLING = timedelta(minutes=1)

_LARGEST_BODY = 104_857_600

HIDING = "LOCALDEV_MESSAGE_HIDING"
"""Environment variable of the local host alone: seconds that a message is hidden while the host works on it."""
_REAL_HIDING = timedelta(minutes=10)

LOG_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "information": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """host.json's `extensions.queues`."""

    batch_size: int
    new_batch_threshold: int
    """New messages are fetched when at most this many messages are in work."""
    max_dequeue_count: int
    visibility_timeout: timedelta
    """How long a message stays hidden after a failed attempt."""
    hiding: timedelta
    """How long a message is hidden while the host works on it, in whole seconds. Renewed at half time."""
    max_polling_interval: timedelta
    base64: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """host.json's `extensions.http`."""

    route_prefix: str
    """Without slashes at its ends; empty for none."""
    body_limit: int
    """The largest body of a request, in bytes: the app setting `FUNCTIONS_REQUEST_BODY_SIZE_LIMIT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """The values of host.json that the local host uses."""

    queues: QueueOptions
    http: HttpOptions
    function_timeout: timedelta | None
    """None means no limit (`"-1"`)."""
    log_level: int

    @classmethod
    def load(cls, host_json: Path, environ: Mapping[str, str]) -> Self:
        """Read host.json, overridden by app settings.

        Raises:
            HostError: the file is missing, is not JSON, has no version, or has invalid values (the message has one line
                for each), or `HIDING` is not valid.

        """
        content = _json_object(host_json)
        if content.get("version") != "2.0":
            raise HostError(f'{host_json}: "version" is {content.get("version")!r}; write "version": "2.0"')
        values = _Values(content, environ)
        half_an_hour: timedelta | None = timedelta(minutes=30)
        config = cls(
            queues=_queue_options(values, environ),
            http=HttpOptions(
                route_prefix=values.get("extensions:http:routePrefix", _route_prefix, "api"),
                body_limit=_body_limit(environ),
            ),
            function_timeout=values.get("functionTimeout", _function_timeout, half_an_hour),
            log_level=values.get("logging:logLevel:default", _log_level, logging.INFO),
        )
        if values.problems:
            raise HostError("\n  ".join([f"{host_json} has invalid values:", *values.problems]))
        return config


def _queue_options(values: "_Values", environ: Mapping[str, str]) -> QueueOptions:
    batch_size = values.get("extensions:queues:batchSize", _whole(1, 32), 16)
    polling = values.get("extensions:queues:maxPollingInterval", _at_least_100_ms, DEFAULT_POLLING)
    if polling == DEFAULT_POLLING and environ.get("AZURE_FUNCTIONS_ENVIRONMENT", "").lower() == "development":
        polling = timedelta(seconds=2)
    return QueueOptions(
        batch_size=batch_size,
        new_batch_threshold=values.get(
            "extensions:queues:newBatchThreshold", _whole(0, 100_000), batch_size // 2 * (os.cpu_count() or 1)
        ),
        max_dequeue_count=values.get("extensions:queues:maxDequeueCount", _whole(1, 1_000_000), 5),
        visibility_timeout=values.get("extensions:queues:visibilityTimeout", _up_to_7_days, timedelta()),
        hiding=_hiding(environ),
        max_polling_interval=polling,
        base64=values.get("extensions:queues:messageEncoding", _base64, default=True),
    )


def _route_prefix(text: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError("expected a path without parameters")
    return text.strip().strip("/")


def _body_limit(environ: Mapping[str, str]) -> int:
    """Return the limit of a body. The host ignores a setting that is not a whole number."""
    text = (setting(environ, "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT") or "").strip()
    return int(text) if text.isdecimal() else _LARGEST_BODY


def _hiding(environ: Mapping[str, str]) -> timedelta:
    if not (text := environ.get(HIDING)):
        return _REAL_HIDING
    try:
        hiding = timedelta(seconds=_whole(1, 604_800)(text))
    except ValueError as why:
        raise HostError(f"{HIDING} is {text!r}: {why}, in seconds; without it, 600 are used, as on Azure") from None
    log.info("%s: messages are hidden for %s s during their run (on Azure: 600 s)", HIDING, text)
    return hiding


class _Values:
    """host.json as .NET's configuration reads it: paths joined by colons, in any case, replaced by app settings."""

    def __init__(self, content: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._values = {path.lower(): (path.replace(":", "."), value) for path, value in _leaves(content)}
        for name, text in environ.items():
            if name.lower().startswith(OVERRIDE):
                path = name[len(OVERRIDE) :].replace("__", ":")
                self._values[path.lower()] = (f"app setting {name}", text)

    def get[T](self, path: str, parse: Callable[[str], T], default: T) -> T:
        """Return the parsed value, or the default if it is absent or invalid. `problems` gets the invalid ones."""
        if path.lower() not in self._values:
            return default
        name, value = self._values[path.lower()]
        try:
            parsed = parse(str(value))
        except ValueError as why:
            self.problems.append(f"{name} is {value!r}: {why}")
            return default
        if isinstance(parsed, timedelta) and str(value).strip().isdecimal():
            log.warning(
                "%s is %r, and the host reads a bare number as DAYS. Write hh:mm:ss for a shorter time", name, value
            )
        return parsed


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}:")
        else:
            yield f"{prefix}{key}", value


_TIMESPAN = re.compile(r"(?:(\d{1,8})\.)?(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,7}))?)?")


def timespan(text: str) -> timedelta:
    """Parse a .NET TimeSpan: `hh:mm:ss[.fff]` or `d.hh:mm:ss[.fff]`. A bare whole number means days.

    Raises ValueError if the text has another form, hours over 23, or minutes or seconds over 59.
    Source: https://learn.microsoft.com/dotnet/api/system.timespan.parse
    """
    text = text.strip()
    if text.isdecimal() and len(text) < 9:  # noqa: PLR2004 - the limit of timedelta and TimeSpan
        return timedelta(days=int(text))
    if (match := _TIMESPAN.fullmatch(text)) is None:
        raise ValueError("expected a time span such as 00:00:30 (hh:mm:ss) or 1.00:00:00 (d.hh:mm:ss)")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()[:4])
    if hours > 23 or minutes > 59 or seconds > 59:  # noqa: PLR2004 - the limits of a clock
        raise ValueError("expected a time span with hours up to 23, minutes and seconds up to 59, days before a dot")
    fraction = int((match[5] or "").ljust(7, "0")) // 10
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=fraction)


def _up_to_7_days(text: str) -> timedelta:
    if (parsed := timespan(text)) > timedelta(days=7):
        raise ValueError("expected at most 7 days (7.00:00:00); a bare number means days")
    return parsed


def _at_least_100_ms(text: str) -> timedelta:
    if (parsed := timespan(text)) < timedelta(milliseconds=100):
        raise ValueError("expected at least 100 ms (00:00:00.100)")
    return parsed


def _function_timeout(text: str) -> timedelta | None:
    if text.strip() == "-1":
        return None
    if not (parsed := timespan(text)):
        raise ValueError("expected a time span such as 00:10:00, or -1 for none")
    return parsed


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.strip().isdecimal() and low <= int(text) <= high):
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return parse


def _base64(text: str) -> bool:
    try:
        return {"base64": True, "none": False}[text.strip().lower()]
    except KeyError:
        raise ValueError("expected base64 or none") from None


def _log_level(text: str) -> int:
    try:
        return LOG_LEVELS[text.strip().lower()]
    except KeyError:
        raise ValueError("expected Trace, Debug, Information, Warning, Error, Critical or None") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """local.settings.json: the app settings for this machine."""

    values: Mapping[str, str]
    port: int | None
    """`Host.LocalHttpPort`."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file. A missing file has no settings.

        Raises:
            HostError: the file is not JSON, is encrypted (also without `IsEncrypted`), or has values of a wrong type.

        """
        if not path.exists():
            return cls(values={}, port=None)
        content = _json_object(path)
        if content.get("IsEncrypted", True) is not False:
            raise HostError(
                f'{path}: "IsEncrypted" is {content.get("IsEncrypted", "missing, which means true")}, '
                'and only Core Tools can decrypt it. Write "IsEncrypted": false and plain values'
            )
        values = content.get("Values", {})
        if not isinstance(values, dict):
            raise HostError(f'{path}: "Values" must be an object of strings')
        # The values can be secrets: the message has only their names.
        wrong = [name for name, value in values.items() if not isinstance(value, str)]
        if wrong:
            raise HostError(f"{path}: values must be strings, in quotes: {', '.join(wrong)}")
        host = content.get("Host")
        port = host.get("LocalHttpPort") if isinstance(host, dict) else None
        if port is not None and not (type(port) is int and 0 <= port <= 65535):  # noqa: PLR2004 - the last TCP port
            raise HostError(f'{path}: "LocalHttpPort" is {port!r}; expected a port number')
        return cls(values=values, port=port)

    def apply(self, environ: MutableMapping[str, str]) -> None:
        """Add the values to the environment. Variables that are already set are kept."""
        for name, value in self.values.items():
            if name in environ:
                log.info("Skipping '%s' from local settings: it is already set in the environment.", name)
            else:
                environ[name] = value
        environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")


def setting(environ: Mapping[str, str], name: str) -> str | None:
    """Return an app setting, or None. Its name is compared without case, as in .NET; an empty setting is unset."""
    if exact := environ.get(name):
        return exact
    return next((value for key, value in environ.items() if value and key.lower() == name.lower()), None)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise HostError(f"{path} is missing. Give --app the directory of a function app with a host.json") from None
    except ValueError as why:
        raise HostError(f"{path} is not valid JSON: {why}") from None
    if not isinstance(content, dict):
        raise HostError(f"{path} must hold a JSON object")
    return content
