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
from datasync.tick.check import find_zone

LARGEST_EXACT = 2**53
"""Cosmos DB keeps numbers as JavaScript does. Above this one, neighbouring whole numbers become the same."""

LONGEST_LOOKAHEAD = timedelta(days=6)
"""The largest ORCHESTRATOR_LOOKAHEAD: how far ahead of its time the app itself may have planned an entry."""

_MOST_EXAMINED = 100  # unknown fields of one object that are compared with the known ones
_MOST_VALUES = 10_000  # values within the settings of one entry that are looked at

_DOCUMENT_WORDS = {"tz": "timezone", "zone": "timezone"}
_ENTRY_WORDS = {
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
}
_OF_ENTRIES = {"enabled": "enabled", "disabled": "enabled", "config": "settings", "settings": "settings",
               "cron": "cron", "schedule": "cron", "nextrunutc": "nextRunUtc", "nextrun": "nextRunUtc"}  # fmt: skip
"""Fields of entries that people write at the top of a document."""


def field_warnings(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a warning for each unknown field of a document, readable or not, that is probably a known one misspelt.

    Other unknown fields, such as notes, are left alone.
    """
    tenant_id = tenant_label(document)
    for name, why in _misspelt(document, DOCUMENT_FIELDS, _DOCUMENT_WORDS, _OF_ENTRIES):
        yield Problem(tenant_id=tenant_id, path=joined("", name), why=why, level="warning")
    entries = document.get("flows")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, Mapping):
            for name, why in _misspelt(entry, ENTRY_FIELDS, _ENTRY_WORDS, {}):
                path = joined(f"flows[{index}]", name)
                yield Problem(tenant_id=tenant_id, flow=entry_label(entry), path=path, why=why, level="warning")


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
    if not flow.takes_run:
        yield "settings", "the flow does not take `run`, so it cannot read them"
    elif flow.settings and not flow.settings.__struct_config__.forbid_unknown_fields:
        known = {*flow.settings.__struct_encode_fields__, flow.settings.__struct_config__.tag_field}
        for name in islice((each for each in settings if each not in known), _MOST_EXAMINED):
            close = get_close_matches(name[:100], [each for each in known if each], n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            yield joined("settings", name), f"unknown setting, which the flow does not read{meant}"


def _inexact_numbers(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the path of each number that Cosmos DB cannot keep as it is, and why."""
    left: list[tuple[str, Any]] = [("settings", settings)]
    seen = 0
    while left and seen < _MOST_VALUES:
        path, container = left.pop()
        parts = container.items() if isinstance(container, Mapping) else enumerate(container)
        for at, part in islice(parts, _MOST_VALUES - seen):
            seen += 1
            if isinstance(part, Mapping | list):
                left.append((_within(path, at), part))
            elif isinstance(part, float) and not isfinite(part):
                yield _within(path, at), f"{part} is not a number that JSON has"
            elif isinstance(part, int) and abs(part) > LARGEST_EXACT:
                yield _within(path, at), "a whole number above 2^53 is not kept exactly: write it as a text, in quotes"


def _within(path: str, at: str | int) -> str:
    return f"{path}[{at}]" if isinstance(at, int) else joined(path, at)


def _misspelt(
    fields: Mapping[str, Any], known: Collection[str], words: Mapping[str, str], elsewhere: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    unknown = (name for name in fields if name not in known and not name.startswith("_"))
    for name in islice(unknown, _MOST_EXAMINED):
        plain = _plain(name[:40])
        if other := elsewhere.get(plain):
            yield name, f"unknown field, ignored; {other!r} is a field of each entry: flows[0].{other}"
            continue
        exact, near = _similar(plain, tuple(known))
        if meant := exact or words.get(plain) or (None if near in fields else near):
            yield name, f"unknown field, ignored; did you mean {meant!r}?"


@lru_cache(maxsize=4096)
def _similar(plain: str, known: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return the known field that differs only in capitals and signs, and the one that differs in a letter or two."""
    names = {_plain(name): name for name in known}
    near = (names[close] for close in get_close_matches(plain, names, n=1, cutoff=0.8))
    return names.get(plain), next(near, None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
