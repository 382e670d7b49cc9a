"""The app's functions as the host sees them: what it checks after the worker has indexed them.

The worker rejects what is wrong in Python; names, schedules, `%NAME%` and connections are the host's to check. The
real host leaves a function with such an error out and goes on; here it stops the start, with all errors at once.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from localdev.host.config import setting
from localdev.host.connections import Connection, resolve
from localdev.host.errors import HostError
from localdev.host.ncrontab import Schedule
from localdev.host.worker import IndexedFunction

log = logging.getLogger(__name__)

# Azure/azure-functions-host, Utility.cs.
_FUNCTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,127}", re.IGNORECASE | re.ASCII)
_BINDING_NAME = re.compile(r"[a-z][a-z0-9]{0,127}|\$return", re.IGNORECASE | re.ASCII)
# https://learn.microsoft.com/rest/api/storageservices/naming-queues-and-metadata
_QUEUE_NAME = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTrigger:
    """A function's queue trigger, with everything resolved."""

    queue: str
    connection: Connection
    binary: bool
    """The function asked for bytes (`data_type=BINARY`), so the body need not be UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerTrigger:
    """A function's timer trigger, with everything resolved."""

    schedule: Schedule
    run_on_startup: bool
    use_monitor: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function: how the worker knows it, and what starts it."""

    name: str
    id: str
    bindings: tuple[Mapping[str, Any], ...]
    """As in a function.json."""
    parameter: str
    """The argument that takes the trigger's data."""
    trigger: QueueTrigger | TimerTrigger
    disabled: bool
    """The app setting `AzureWebJobs.<name>.Disabled`: only admin calls run it."""

    @property
    def kind(self) -> str:
        """`queue` or `timer`."""
        return "queue" if isinstance(self.trigger, QueueTrigger) else "timer"


def functions_of(indexed: Iterable[IndexedFunction], environ: Mapping[str, str]) -> list[Function]:
    """Check what the worker indexed, and resolve it against the app settings.

    A function with a trigger or other binding that is not supported here is left out with a warning.

    Raises:
        HostError: no functions at all, or any number of problems, a line each.

    """
    indexed = list(indexed)
    if not indexed:
        raise HostError(
            "0 functions found: function_app.py defines none. Decorate functions with the triggers of its FunctionApp, "
            "and register any blueprints"
        )
    problems: list[str] = []
    functions = [function for one in indexed if (function := _function(one, environ, problems))]
    if problems:
        raise HostError("\n  ".join(["functions in error:", *problems]))
    return functions


def _function(indexed: IndexedFunction, environ: Mapping[str, str], problems: list[str]) -> Function | None:
    bindings = tuple(json.loads(text) for text in indexed.bindings)
    found = len(problems)
    if not _FUNCTION_NAME.fullmatch(indexed.name) or indexed.name.lower() == "host":
        problems.append(
            f"function {indexed.name!r}: not a valid function name; it must start with a letter and hold up to 128 "
            "letters, digits, - and _ (and not be `host`)"
        )
    problems.extend(
        f"function {indexed.name!r}: arg_name {name!r} is not a valid binding name; use letters and digits only"
        for name in (str(binding.get("name")) for binding in bindings)
        if not _BINDING_NAME.fullmatch(name)
    )
    types = [str(binding["type"]) for binding in bindings]
    if types not in (["queueTrigger"], ["timerTrigger"]):
        log.warning("Function '%s' (%s) is not supported by the local host: skipped", indexed.name, ", ".join(types))
        return None
    try:
        trigger = (_queue if types == ["queueTrigger"] else _timer)(bindings[0], environ)
    except ValueError as why:
        problems.append(f"function {indexed.name!r}: {why}")
        return None
    if len(problems) > found:
        return None
    if indexed.retried:
        log.warning("Function '%s': its retry policy is not applied (queue triggers have none on Azure)", indexed.name)
    disabled = (setting(environ, f"AzureWebJobs.{indexed.name}.Disabled") or "").lower() in {"true", "1"}
    return Function(
        name=indexed.name,
        id=indexed.id,
        bindings=bindings,
        parameter=bindings[0]["name"],
        trigger=trigger,
        disabled=disabled,
    )


def _queue(binding: Mapping[str, Any], environ: Mapping[str, str]) -> QueueTrigger:
    # The queue extension lowers the name before it checks it.
    queue = _resolved(binding, "queueName", environ).lower()
    if not _QUEUE_NAME.fullmatch(queue):
        raise ValueError(
            f"queue_name {queue!r} is not a valid queue name: 3 to 63 lower-case letters, digits and single hyphens, "
            "with no hyphen at either end"
        )
    connection = resolve(_resolved(binding, "connection", environ), environ)
    return QueueTrigger(queue=queue, connection=connection, binary=binding.get("dataType") == "BINARY")


def _timer(binding: Mapping[str, Any], environ: Mapping[str, str]) -> TimerTrigger:
    text = _resolved(binding, "schedule", environ)
    try:
        schedule = Schedule.parse(text)
    except ValueError as why:
        raise ValueError(f"schedule {text!r} is not a valid NCRONTAB expression: {why}") from None
    return TimerTrigger(
        schedule=schedule,
        run_on_startup=binding.get("runOnStartup") is True,
        use_monitor=binding.get("useMonitor") is not False,
    )


_PYTHON_NAMES = {"queueName": "queue_name", "connection": "connection", "schedule": "schedule"}


def _resolved(binding: Mapping[str, Any], key: str, environ: Mapping[str, str]) -> str:
    """Return a property's text with every %NAME% replaced by that app setting."""
    text = binding.get(key)
    if not isinstance(text, str):
        raise ValueError(f"{_PYTHON_NAMES[key]} is {text!r}; expected a string")  # noqa: TRY004 - a setting's value, not a caller's mistake

    def value(match: re.Match[str]) -> str:
        if (found := setting(environ, match[1])) is None:
            raise ValueError(
                f"{_PYTHON_NAMES[key]} {text!r}: %{match[1]}% does not resolve to a value. Set the app setting "
                f"{match[1]} (in local.settings.json, or the environment)"
            )
        return found

    return re.sub(r"%([^%]+)%", value, text)
