"""The functions of the app, as the host checks them after the worker has indexed them.

The worker reports mistakes in Python. The host checks names, schedules, `%NAME%` and connections. The real host starts
without the functions that have such an error. The local host does not start, and reports all errors together.
"""

import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from localdev.host.config import setting
from localdev.host.connections import Connection, resolve
from localdev.host.errors import HostError
from localdev.host.ncrontab import Schedule
from localdev.host.routes import Route
from localdev.host.worker import IndexedFunction, RetryOptions

log = logging.getLogger(__name__)

# Source: Azure/azure-functions-host, Utility.cs.
_FUNCTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,127}", re.IGNORECASE | re.ASCII)
_BINDING_NAME = re.compile(r"[a-z][a-z0-9]{0,127}|\$return", re.IGNORECASE | re.ASCII)
# https://learn.microsoft.com/rest/api/storageservices/naming-queues-and-metadata
_QUEUE_NAME = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTrigger:
    """The queue trigger of a function, with all `%NAME%` replaced."""

    queue: str
    connection: Connection
    binary: bool
    """Whether the function gets bytes (`data_type=BINARY`), so that the body can be other than UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The retries after a failed run. With the strategy `fixed_delay`, both intervals are the same."""

    max_count: int
    """-1 means no limit."""
    minimum: timedelta
    maximum: timedelta


NO_RETRIES = RetryPolicy(max_count=0, minimum=timedelta(), maximum=timedelta())


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerTrigger:
    """The timer trigger of a function, with all `%NAME%` replaced."""

    schedule: Schedule
    run_on_startup: bool
    use_monitor: bool
    retries: RetryPolicy = NO_RETRIES


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTrigger:
    """The HTTP trigger of a function."""

    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function and its trigger."""

    name: str
    id: str
    """The worker's id of the function."""
    bindings: tuple[Mapping[str, Any], ...]
    """As in a function.json."""
    parameter: str
    """Name of the argument for the trigger's data."""
    trigger: QueueTrigger | TimerTrigger | HttpTrigger
    disabled: bool
    """Whether the app setting `AzureWebJobs.<name>.Disabled` is on, so that only admin calls run the function."""

    @property
    def kind(self) -> str:
        """`queue`, `timer` or `http`."""
        match self.trigger:
            case QueueTrigger():
                return "queue"
            case TimerTrigger():
                return "timer"
            case HttpTrigger():
                return "http"


def functions_of(indexed: Iterable[IndexedFunction], environ: Mapping[str, str]) -> list[Function]:
    """Check the indexed functions, and replace each `%NAME%` by its app setting.

    A function with a binding that the local host does not support is left out, with a warning.

    Raises:
        HostError: the app does not have functions, or some have problems; the message has one line for each problem.

    """
    indexed = list(indexed)
    if not indexed:
        raise HostError(
            "0 functions found in function_app.py. Decorate functions with the triggers of its FunctionApp, and "
            "register its blueprints"
        )
    problems: list[str] = []
    functions = [function for one in indexed if (function := _function(one, environ, problems))]
    problems.extend(_route_conflicts(functions))
    if problems:
        raise HostError("\n  ".join(["functions in error:", *problems]))
    return functions


def _function(indexed: IndexedFunction, environ: Mapping[str, str], problems: list[str]) -> Function | None:
    bindings = tuple(json.loads(text) for text in indexed.bindings)
    found = len(problems)
    if not _FUNCTION_NAME.fullmatch(indexed.name) or indexed.name.lower() == "host":
        problems.append(
            f"function {indexed.name!r}: not a valid function name. Start it with a letter; use up to 128 letters, "
            "digits, - and _; do not call it `host`"
        )
    problems.extend(
        f"function {indexed.name!r}: arg_name {name!r} is not a valid binding name; use letters and digits only"
        for name in (str(binding.get("name")) for binding in bindings)
        if not _BINDING_NAME.fullmatch(name)
    )
    types = sorted(str(binding["type"]) for binding in bindings)
    if types not in (["queueTrigger"], ["timerTrigger"], ["http", "httpTrigger"]):
        log.warning(
            "Function '%s' (%s) is left out: the local host does not support it", indexed.name, ", ".join(types)
        )
        return None
    own = next(binding for binding in bindings if str(binding["type"]).endswith("Trigger"))
    trigger: QueueTrigger | TimerTrigger | HttpTrigger
    try:
        match own["type"]:
            case "queueTrigger":
                trigger = _queue(own, environ)
            case "timerTrigger":
                trigger = _timer(own, indexed.retry_options, environ)
            case _:
                trigger = HttpTrigger(route=Route.parse(own.get("route") or indexed.name, own.get("methods") or ()))
    except ValueError as why:
        problems.append(f"function {indexed.name!r}: {why}")
        return None
    if len(problems) > found:
        return None
    if indexed.retry_options and isinstance(trigger, QueueTrigger):
        log.warning(
            "Function '%s': its retry policy is not applied. A queue trigger has visibilityTimeout and maxDequeueCount "
            "in host.json instead",
            indexed.name,
        )
    disabled = (setting(environ, f"AzureWebJobs.{indexed.name}.Disabled") or "").lower() in {"true", "1"}
    return Function(
        name=indexed.name,
        id=indexed.id,
        bindings=bindings,
        parameter=own["name"],
        trigger=trigger,
        disabled=disabled,
    )


def _route_conflicts(functions: Iterable[Function]) -> Iterator[str]:
    """Yield a problem for each two functions with the same route and a method in common."""
    routes = [(one.name, one.trigger.route) for one in functions if isinstance(one.trigger, HttpTrigger)]
    for (name, route), (other, its_route) in itertools.combinations(routes, 2):
        if route.conflicts(its_route):
            yield f"function {other!r}: its route {its_route.template!r} is the route of function {name!r} too"


def _queue(binding: Mapping[str, Any], environ: Mapping[str, str]) -> QueueTrigger:
    # The queue extension changes the name to lower case before it checks it.
    queue = _resolved(binding, "queueName", environ).lower()
    if not _QUEUE_NAME.fullmatch(queue):
        raise ValueError(
            f"queue_name {queue!r} is not a valid queue name: 3 to 63 lower-case letters, digits and single hyphens, "
            "with no hyphen at either end"
        )
    connection = resolve(_resolved(binding, "connection", environ), environ)
    return QueueTrigger(queue=queue, connection=connection, binary=binding.get("dataType") == "BINARY")


def _timer(binding: Mapping[str, Any], retry: RetryOptions | None, environ: Mapping[str, str]) -> TimerTrigger:
    text = _resolved(binding, "schedule", environ)
    try:
        schedule = Schedule.parse(text)
    except ValueError as why:
        raise ValueError(f"schedule {text!r} is not a valid NCRONTAB expression: {why}") from None
    return TimerTrigger(
        schedule=schedule,
        run_on_startup=binding.get("runOnStartup") is True,
        use_monitor=binding.get("useMonitor") is not False,
        retries=_retries(retry) if retry else NO_RETRIES,
    )


def _retries(options: RetryOptions) -> RetryPolicy:
    # Source: Azure/azure-functions-host, Utility.cs (ValidateRetryOptions).
    match options.retry_strategy:
        case "fixed_delay":
            minimum = maximum = options.delay_interval or timedelta()
        case "exponential_backoff":
            minimum, maximum = options.minimum_interval or timedelta(), options.maximum_interval or timedelta()
        case other:
            raise ValueError(f"the retry strategy {other!r} does not exist; use fixed_delay or exponential_backoff")
    if options.max_retry_count < -1:
        raise ValueError(f"max_retry_count is {options.max_retry_count}; expected -1 (no limit) or more")
    if minimum > maximum:
        raise ValueError(f"the minimum_interval {minimum} of its retries is longer than the maximum_interval {maximum}")
    return RetryPolicy(max_count=options.max_retry_count, minimum=minimum, maximum=maximum)


_PYTHON_NAMES = {"queueName": "queue_name", "connection": "connection", "schedule": "schedule"}


def _resolved(binding: Mapping[str, Any], key: str, environ: Mapping[str, str]) -> str:
    """Return a property's text with each %NAME% replaced by that app setting."""
    text = binding.get(key)
    if not isinstance(text, str):
        raise ValueError(f"{_PYTHON_NAMES[key]} is {text!r}; expected a string")  # noqa: TRY004 - the app's mistake, not the caller's

    def value(match: re.Match[str]) -> str:
        if (found := setting(environ, match[1])) is None:
            raise ValueError(
                f"{_PYTHON_NAMES[key]} {text!r}: %{match[1]}% does not resolve to a value. Set the app setting "
                f"{match[1]} (in local.settings.json, or the environment)"
            )
        return found

    return re.sub(r"%([^%]+)%", value, text)
