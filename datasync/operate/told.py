"""Parts of tenant documents that audits keep: the paths of fields that differ, and the values that decide about runs.

Values of settings, and of fields that the app does not know, are not kept: an audit outlives them by weeks.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from datasync.model.decode import shorten
from datasync.model.display import shown

NOT_KEPT = "(not kept)"
"""Stands for a value of which an audit has the path only."""

MOST_PATHS = 200
"""The most paths that an audit has. The others are counted."""

KEPT_OF_ENTRIES = frozenset(
    ("enabled", "pauseReason", "pausedWithTenant", "cron", "timezone", "nextRunUtc", "freshness")
)
"""The fields of an entry whose values an audit keeps."""

_KEPT_OF_TENANTS = frozenset(("name", "timezone"))
_SAME_IN_ALL = frozenset(("id", "tenantId", "type", "lastAction", "flows"))
_LONGEST = 500  # characters of a value

type _Field = tuple[str, tuple[bool, Any]]
"""A path, whether an audit keeps the value, and the value."""


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Return the fields in which two tenant documents differ, as an audit keeps them: those of each by their paths.

    None stands for no document. A path is `timezone`, `flows[weather].cron` or `flows[weather].settings.units`.
    """
    old, new = (dict(_fields(each or {})) for each in (before, after))
    paths = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    told = tuple({path: _told(*each[path]) for path in paths[:MOST_PATHS] if path in each} for each in (old, new))
    for each in told if paths[MOST_PATHS:] else ():
        each["…"] = f"and {len(paths) - MOST_PATHS} more"
    return (None if before is None else told[0]), (None if after is None else told[1])


def _fields(document: Mapping[str, Any]) -> Iterator[_Field]:
    for name, value in document.items():
        if not name.startswith("_") and name not in _SAME_IN_ALL:
            yield shown(name), (name in _KEPT_OF_TENANTS, value)
    entries = document.get("flows", [])
    if not isinstance(entries, list):
        yield "flows", (False, entries)
        return
    taken: set[str] = set()
    for index, entry in enumerate(entries):
        own = entry.get("name") if isinstance(entry, Mapping) else None
        label = shown(own) if isinstance(own, str) and own not in taken else str(index)
        taken.add(label)
        yield from _entry_fields(f"flows[{label}]", entry)


def _entry_fields(place: str, entry: object) -> Iterator[_Field]:
    if not isinstance(entry, Mapping):
        yield place, (False, entry)
        return
    for name, value in entry.items():
        if name == "settings" and isinstance(value, Mapping):
            yield from ((f"{place}.settings.{shown(key)}", (False, each)) for key, each in value.items())
        elif name != "name":
            yield f"{place}.{shown(name)}", (name in KEPT_OF_ENTRIES, value)


def _told(is_kept: bool, value: object) -> Any:  # noqa: FBT001 - of a _Field
    if not is_kept or not isinstance(value, str | int | float | None):
        return NOT_KEPT
    return shorten(value, _LONGEST) if isinstance(value, str) else value
