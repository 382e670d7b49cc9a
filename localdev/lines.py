"""Shows the log of the host and the app: one line for each event, in columns. With `verbose`, as the host writes it.

The host sends its records as JSON objects (`localdev.host.console`). The app adds the parts of its events to them
(`Event.facts` in `datasync.telemetry.events`). An object without these parts, or with parts that this version does not
know, is shown as the line that the app has logged.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from datasync.model.display import shown, shown_line, shown_lines
from localdev.host.console import NOT_SEEN
from localdev.hosting import READY
from localdev.results import following

_SUBJECT = 42  # columns
_OUTCOME = 11
_SECONDS = 8
_LONGEST = 4000  # characters of a sentence

_COLOURS = {"succeeded": "green", "failed": "red", "dead": "bold red", "started": "dim"}
_LEVELS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}
_KEYS = {"line", "at", "level", "logger", "text", "seen", "facts", "reported"}
_OF_HOST = ("localdev.host", "azure.functions")
_TALLY = ("due", "enqueued", "problems", "late", "broken", "failed", "conflicts")


class Lines:
    """Shows lines on a console."""

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self.broken = set[str]()
        """The flow files that could not be loaded since `take_broken`, as `flows/x.py`."""

    def take_broken(self) -> set[str]:
        """Return `broken`, and empty it."""
        taken, self.broken = self.broken, set()
        return taken

    def say(self, text: str) -> None:
        """Show a line of our own."""
        self._print(_now(), Text(text, "bold"))

    def alarm(self, text: str) -> None:
        """Show a line of our own about something that must be corrected."""
        self._print(_now(), Text(text, "bold red"))

    def line(self, text: str) -> None:
        """Show a line that the host has written. It is a JSON object, or the output of a function."""
        logged = _logged(text)
        if logged is None:
            if self._verbose:
                self._console.print(Text(text), soft_wrap=True)
            elif not text.startswith(READY):
                self._print("", Text(shown_lines(text), "dim"))
            return
        if (facts := logged["facts"] or {}).get("event") == "FlowFileBroken" and not logged["seen"]:
            self.broken.add(_file(facts))
        if self._verbose:
            self._console.print(Text(logged["line"]), soft_wrap=True)
        else:
            self._show(logged)

    def _show(self, logged: Mapping[str, Any]) -> None:
        at, level = logged["at"][11:19] + "Z", logged["level"]
        try:
            lines = [*_event(logged)]
        except (AttributeError, KeyError, TypeError, ValueError):  # the app of this folder has other facts
            lines = [Text(shown_lines(logged["text"]), _LEVELS.get(level, ""))]
        for number, part in enumerate(part for line in lines for part in line.split("\n")):
            self._print("" if number else at, part)

    def _print(self, at: str, line: Text) -> None:
        text = Text.assemble((f"{at:<11}", "dim"), line)
        text.rstrip()
        self._console.print(text, soft_wrap=True)


def _now() -> str:
    return f"{datetime.now(UTC):%H:%M:%S}Z"


def _logged(text: str) -> dict[str, Any] | None:
    if not text.startswith('{"line": '):
        return None
    try:
        logged: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return logged if logged.keys() >= _KEYS else None


def _event(logged: Mapping[str, Any]) -> Iterator[Text]:
    """Yield the lines of a record: none for the steps of the host, and for a failure that is known already."""
    facts, level = logged["facts"], logged["level"]
    if facts is None:
        is_of_host = logged["logger"].startswith(_OF_HOST)
        if not logged["reported"] and not (is_of_host and level < logging.WARNING):
            yield from _plain(logged)
        return
    match facts["event"]:
        case "RunStarted":
            yield _columns(facts, "started")
        case "RunEnded":
            yield from _run_ended(facts)
        case "TickEnded":
            numbers = [f"{facts[name]} {name}" for name in _TALLY if facts[name] or name in ("due", "enqueued")]
            yield _row("tick", "done", f"{facts['seconds']:.1f} s", ", ".join(numbers))
            if facts["away"]:
                yield Text(facts["away"], "red")
        case "FlowFileBroken":
            yield _row(_file(facts), "broken", "", shown_line(facts["cause"], _LONGEST), colour="red")
            if not logged["seen"] and not facts["cause"].startswith("SyntaxError"):
                yield Text(shown_lines(facts["traceback"]), "dim")
        case _:
            yield Text(shown_line(facts["sentence"], _LONGEST), _LEVELS.get(level, ""))


def _plain(logged: Mapping[str, Any]) -> Iterator[Text]:
    """Yield the line of a flow, a library or the host."""
    mark = "" if logged["seen"] else f" {NOT_SEEN}"
    colour = _LEVELS.get(logged["level"], "")
    yield Text(logged["text"] + mark, f"dim {colour}".strip())


def _run_ended(facts: Mapping[str, Any]) -> Iterator[Text]:
    counts = " ".join(f"{shown(name)}={number}" for name, number in facts["counts"].items())
    attempt = f"attempt {facts['attempt']}" if facts["attempt"] > 1 or facts["error"] else ""
    rest = "  ".join(filter(None, (counts, _http(facts["http"]), attempt, "same error" * facts["repeated"])))
    yield _columns(facts, facts["outcome"], f"{facts['seconds']:.1f} s", rest)
    if facts["error"] and not facts["repeated"]:
        yield Text(shown_line(facts["error"], _LONGEST), _COLOURS.get(facts["outcome"], "yellow"))
    if facts["traceback"] and not facts["repeated"]:
        yield Text(shown_lines(facts["traceback"]), "dim")
    if facts["error"] and not facts["repeated"]:
        yield Text(shown_line(following(facts["run"], is_recorded=facts["recorded"]), _LONGEST))


def _http(http: Mapping[str, float]) -> str:
    if not (requests := int(http.get("requests", 0))):
        return ""
    retries, waited = int(http.get("retries", 0)), http.get("waited", 0)
    return "".join(
        [
            f"{requests} request{'s' * (requests != 1)}",
            f", {retries} retr{'ies' if retries != 1 else 'y'}" * bool(retries),
            f", waited {waited:.1f} s" * (round(waited, 1) > 0),
        ]
    )


def _columns(facts: Mapping[str, Any], outcome: str, seconds: str = "", rest: str = "") -> Text:
    return _row(facts["subject"], outcome, seconds, rest, colour=_COLOURS.get(outcome, "yellow"))


def _row(subject: str, outcome: str, seconds: str, rest: str, colour: str = "") -> Text:
    is_quiet = colour == "dim"
    return Text.assemble(
        (f"{subject:<{_SUBJECT}} ", "dim" if is_quiet else ""),
        (f"{outcome:<{_OUTCOME}}", colour),
        f"{seconds:>{_SECONDS}}  ",
        rest,
    )


def _file(facts: Mapping[str, Any]) -> str:
    return shown(str(facts.get("module"))).replace(".", "/") + ".py"
