"""Warnings: parts of a tenant document that are probably mistakes. They stop nothing. Pure."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from math import isfinite
from typing import Any

from datasync import cron
from datasync.errors import CronInvalid, FlowUnknown
from datasync.flow.registry import Flow, FlowRegistry
from datasync.model.decode import joined
from datasync.model.tenant import DOCUMENT_FIELDS, ENTRY_FIELDS, FlowEntry, Problem, Tenant, entry_label, tenant_label
from datasync.model.times import utc_text
from datasync.schedule import find_zone

LARGEST_EXACT = 2**53
"""Cosmos DB keeps numbers as JavaScript does. Above this one, neighbouring whole numbers become the same."""

LONGEST_LOOKAHEAD = timedelta(days=6)
"""The largest ORCHESTRATOR_LOOKAHEAD: how far ahead of its time the app itself may have planned an entry."""

_EARLIEST = 2000  # the year: no run was due before it
_MOST_FIELDS = 10_000  # unknown fields of a document that are looked up
_MOST_COMPARED = 100  # different names among them that are compared with the known ones
_MOST_VALUES = 10_000  # values within the settings of one entry that are looked at


type _Place = tuple[_Place, str | int] | None
"""The object or list that holds a value, and the name or the number of the value in it."""


class _Words:
    """The fields of an object, and the words that people write instead of them."""

    def __init__(self, known: Collection[str], instead: Mapping[str, str], of_entries: Mapping[str, str]) -> None:
        self.known = frozenset(known)
        self._plain = {_plain(name): name for name in known}
        self._instead = {**instead, **self._plain}
        self._of_entries = of_entries

    def why(self, plain: str, fields: Mapping[str, Any], *, is_compared: bool) -> str | None:
        """Return a sentence about an unknown field if it is probably a known one."""
        if other := self._of_entries.get(plain):
            return f"unknown field, ignored; {other!r} is a field of each entry: flows[0].{other}"
        meant = self._instead.get(plain)
        if meant is None and is_compared:
            near = _nearest(plain, tuple(self._plain))
            meant = self._plain[near] if near and self._plain[near] not in fields else None
        return f"unknown field, ignored; did you mean {meant!r}?" if meant else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


@lru_cache(maxsize=4096)
def _nearest(plain: str, known: tuple[str, ...]) -> str | None:
    return next(iter(get_close_matches(plain, known, n=1, cutoff=0.8)), None)


_DOCUMENT = _Words(
    DOCUMENT_FIELDS,
    instead={"tz": "timezone", "zone": "timezone"},
    of_entries={
        "enabled": "enabled",
        "disabled": "enabled",
        "settings": "settings",
        "config": "settings",
        "cron": "cron",
        "schedule": "cron",
        "nextrunutc": "nextRunUtc",
        "nextrun": "nextRunUtc",
    },
)
_ENTRY = _Words(
    ENTRY_FIELDS,
    instead={
        "tz": "timezone",
        "zone": "timezone",
        "disabled": "enabled",
        "active": "enabled",
        "isenabled": "enabled",
        "config": "settings",
        "configuration": "settings",
        "options": "settings",
        "params": "settings",
        "parameters": "settings",
        "schedule": "cron",
        "cronexpression": "cron",
        "nextrun": "nextRunUtc",
        "flow": "name",
        "flowname": "name",
    },
    of_entries={},
)


def field_warnings(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a warning for each unknown field of a document, readable or not, that is probably a known one misspelt.

    Other unknown fields, such as notes, are left alone.
    """
    return filter(None, field_warning_steps(document))


def field_warning_steps(document: Mapping[str, Any]) -> Iterator[Problem | None]:
    """Yield the warnings of `field_warnings`, and None for each other part of the document that was looked at."""
    tenant_id = tenant_label(document)
    compared: set[str] = set()
    seen = 0
    for path, fields, words in _objects(document):
        yield None
        for name in fields:
            if name in words.known or name.startswith("_"):
                continue
            if seen == _MOST_FIELDS:
                return
            seen += 1
            plain = _plain(name[:40])
            if len(compared) < _MOST_COMPARED:
                compared.add(plain)
            why = words.why(plain, fields, is_compared=plain in compared)
            flow = entry_label(fields) if why and words is _ENTRY else None
            yield Problem(tenant_id, joined(path, name), why, flow, level="warning") if why else None


def _objects(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], _Words]]:
    """Yield the path, the object and the known words of a document and of its entries."""
    yield "", document, _DOCUMENT
    entries = document.get("flows")
    for at, entry in enumerate(entries if isinstance(entries, list) else ()):
        yield f"flows[{at}]", entry if isinstance(entry, Mapping) else {}, _ENTRY


def entry_warnings(
    tenant: Tenant, entry: FlowEntry, registry: FlowRegistry, now: datetime, horizon: datetime
) -> Iterator[Problem]:
    """Yield the warnings about an entry that can be read, as a tick at `now` that looks ahead to `horizon` sees it."""
    for name, why in _entry_warnings(tenant, entry, registry, now, horizon):
        path = f"flows[{entry.index}].{name}"
        yield Problem(tenant_id=tenant.id, flow=entry.name, path=path, why=why, level="warning")


def _entry_warnings(
    tenant: Tenant, entry: FlowEntry, registry: FlowRegistry, now: datetime, horizon: datetime
) -> Iterator[tuple[str, str]]:
    if entry.timezone == "tenant" and not tenant.has_zone:
        yield "timezone", "the document has no timezone of its own, so this is UTC: add it, or leave this field out"
    if why := _far_ahead(tenant, entry, now + LONGEST_LOOKAHEAD if entry.is_planned else horizon):
        yield "nextRunUtc", why
    if entry.next_run and entry.next_run.year < _EARLIEST:
        why = (
            f"{utc_text(entry.next_run)} is long ago: the flow runs once, at the next tick. Set null to leave that out"
        )
        yield "nextRunUtc", why
    if entry.settings:
        with suppress(FlowUnknown):  # an error already
            yield from _unread(registry.resolve(entry.name), entry.settings)
        yield from _inexact_numbers(entry.settings)


def _far_ahead(tenant: Tenant, entry: FlowEntry, after: datetime) -> str | None:
    """Say that the next run lies beyond the second occurrence of the cron after a time."""
    if entry.next_run is None or entry.next_run <= after:
        return None
    second = _second_occurrence(entry.cron, tenant.zone_of(entry), after)
    if second is None or entry.next_run <= second:
        return None
    return (
        f"{entry.next_run_text} lies more than two periods of the cron ahead, and the flow does not run before it: "
        "set null for the next time of the cron"
    )


@lru_cache(maxsize=4096)  # a tick asks for one instant, and fleets have few expressions
def _second_occurrence(expression: str, zone: str, after: datetime) -> datetime | None:
    try:
        schedule, info = cron.parse(expression), find_zone(zone)
    except (CronInvalid, ValueError):  # an error already
        return None
    first = schedule.next(after, info)
    return first and schedule.next(first, info)


def _unread(flow: Flow, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if flow.settings is None:
        if not flow.takes_run:
            yield "settings", "the flow does not take `run`, so it cannot read them"
    elif not flow.settings.__struct_config__.forbid_unknown_fields:
        known = {*flow.settings.__struct_encode_fields__, flow.settings.__struct_config__.tag_field}
        for name in islice((each for each in settings if each not in known), _MOST_COMPARED):
            close = get_close_matches(name[:100], [each for each in known if each], n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            yield joined("settings", name), f"unknown setting, which the flow does not read{meant}"


def _inexact_numbers(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the path of each number that Cosmos DB cannot keep as it is, and why."""
    left: list[tuple[_Place, Any]] = [(None, settings)]
    seen = 0
    while left and seen < _MOST_VALUES:
        place, container = left.pop()
        parts = container.items() if isinstance(container, Mapping) else enumerate(container)
        for at, part in islice(parts, _MOST_VALUES - seen):
            seen += 1
            if isinstance(part, Mapping | list):
                left.append(((place, at), part))
            elif isinstance(part, float) and not isfinite(part):
                yield _path((place, at)), f"{part} is not a number that JSON has"
            elif isinstance(part, int) and abs(part) > LARGEST_EXACT:
                yield _path((place, at)), "a whole number above 2^53 is not kept exactly: write it as a text, in quotes"


def _path(place: _Place) -> str:
    """Write the path of a value within the settings, which may be a thousand levels deep."""
    steps = list[str]()
    while place:
        place, at = place
        step = f"[{at}]" if isinstance(at, int) else joined("", at)
        steps.append(step if step.startswith("[") else f".{step}")
    return "".join(["settings", *reversed(steps)])
