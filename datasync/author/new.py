"""Writes the files of a new flow: the flow, its test, and a tenant document with it."""

import builtins
import json
import keyword
import re
import sys
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any

from datasync.errors import ActionInvalid, ActionRefused, SecretRefused
from datasync.flow.registry import FlowRegistry, name_mistake
from datasync.flow.secrets import check_name, declared_secret
from datasync.model.decode import shorten
from datasync.model.tenant import id_mistake
from datasync.model.times import utc_text

LONGEST = 45
"""Characters of the name of a flow file, with which its lines have at most 120."""
LONGEST_NAME = 100
"""Characters of the name of a flow, for the same reason."""

_TEMPLATES = Path(__file__).parent / "templates"
_ARROW = re.compile(r"\s*(?:→|->|=>|⇒|➔|➜)\s*")
_LETTERS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "ø": "oe", "å": "aa", "œ": "oe", "ł": "l", "đ": "d"}
)
_USED = {
    *("changed_items", "datasync", "datetime", "fake_run", "flow", "flows", "kv", "mock_api", "msgspec", "registry"),
    *("run", "tenant_id", "timedelta", "to_target", "upsert"),
    *keyword.kwlist,
    *keyword.softkwlist,
    *dir(builtins),
    *sys.stdlib_module_names,
}
"""Names that mean something else in a flow file, or beside it."""


@dataclass(frozen=True, slots=True)
class NewFlow:
    """The files of a new flow, and the names that its author needs."""

    name: str
    tenant_id: str
    flow: Path
    test: Path
    tenant: Path
    """The file with the tenant document."""
    entry: dict[str, Any]
    """The entry of the flow in the document."""
    is_new_tenant: bool
    """Whether the document was written. One that exists is not changed."""
    secrets: tuple[str, ...]
    """The names of the secrets in the vault."""


def new_flow(folder: Path, registry: FlowRegistry, name: str, tenant_id: str, now: datetime) -> NewFlow:
    """Write the files of a new flow: all or none. No file that exists is changed.

    Args:
        folder: The folder of the app, which has `flows` and `tests`.
        registry: The flows of the app.
        name: The name of the flow: `source→target`, or that of one system, from which it reads.
        tenant_id: The id of the tenant in the document.
        now: The present instant (aware), at which the flow is due.

    Raises:
        ActionInvalid: the name of the flow or the id of the tenant cannot be used.
        ActionRefused: the name is registered already, a file exists, or a file cannot be written.

    """
    _check(registry, name)
    systems, module = _systems(name), _module(name)
    kind = "read" if len(systems) == 1 else "copy"
    declared = tuple(f"{system}--{key}" for system in systems for key in ("api-base", "api-token"))
    _check_tenant(tenant_id, declared)
    values = {"name": _literal(name), "module": module, "source": systems[0], "target": systems[-1]}
    new = NewFlow(
        name=name,
        tenant_id=tenant_id,
        flow=Path("flows", f"{module}.py"),
        test=Path("tests", "flows", f"test_{module}.py"),
        tenant=Path(f"{tenant_id}.json"),
        entry={"name": name, "enabled": True, "cron": "0 0 * * * *", "nextRunUtc": utc_text(now), "settings": {}},
        is_new_tenant=not (folder / f"{tenant_id}.json").exists(),
        secrets=tuple(declared_secret(tenant_id, each) for each in declared),
    )
    files = {new.flow: _filled(f"{kind}.py", values), new.test: _filled(f"test_{kind}.py", values)}
    if new.is_new_tenant:
        files[new.tenant] = json.dumps(_document(tenant_id, new.entry), indent=2, ensure_ascii=False) + "\n"
    _write(folder, files)
    return new


def _check(registry: FlowRegistry, name: str) -> None:
    if why := name_mistake(name):
        raise ActionInvalid(f"flow {shorten(repr(name))}: {why}")
    if len(name) > LONGEST_NAME:
        raise ActionInvalid(
            f"flow {name!r}: the name has {len(name)} characters, and a new flow has at most {LONGEST_NAME}: "
            "choose a shorter one"
        )
    for flow in registry:
        if name in flow.names:
            raise ActionRefused(f"flow {name!r} is already registered by {flow.source}: choose another name")


def _check_tenant(tenant_id: str, secrets: tuple[str, ...]) -> None:
    why = id_mistake(tenant_id) if tenant_id else "an id has at least one character"
    if why:
        raise ActionInvalid(f"tenant {shorten(repr(tenant_id))}: {why}")
    try:
        for each in secrets:
            check_name(tenant_id, declared_secret(tenant_id, each))
    except SecretRefused as error:
        raise ActionInvalid(f"tenant {shorten(repr(tenant_id))}: {error}") from None


def _module(name: str) -> str:
    """Return the name of the flow's file and function: `a_to_b` for `a→b`."""
    words = "_".join(re.findall("[a-z0-9]+", _plain(_ARROW.sub(" to ", name))))
    module = f"flow_{words}" if words[0].isdigit() else f"{words}_flow" if words in _USED else words
    if len(module) > LONGEST:
        raise ActionInvalid(
            f"flow {name!r}: its file would be flows/{module}.py, with {len(module)} characters. "
            f"A name of at most {LONGEST} is possible: choose a shorter one"
        )
    return module


def _systems(name: str) -> list[str]:
    """Return the systems in the name of a flow, as in the names of secrets: the source, and the target if any."""
    systems = list[str]()
    for part in _ARROW.split(name):
        systems.append("".join(re.findall("[a-z0-9]+", _plain(part))))
        if not systems[-1]:
            raise ActionInvalid(
                f"flow {name!r}: the system {part!r} has no letter from a to z, and no digit, for the names of its "
                "file and its secrets. Choose another name"
            )
    source, target = systems[0], systems[-1]
    if len(systems) == 1:
        return [source]
    return [f"{source}-source", f"{target}-target"] if source == target else [source, target]


def _plain(text: str) -> str:
    """Return a text in small letters from a to z, without accents."""
    return unicodedata.normalize("NFKD", text.lower().translate(_LETTERS)).encode("ascii", "ignore").decode()


def _literal(text: str) -> str:
    """Return a text as a literal of Python, in the quotes that `ruff format` prefers: those with fewer escapes."""
    literal = json.dumps(text, ensure_ascii=False)
    if text.count('"') <= text.count("'"):
        return literal
    inner = literal[1:-1].replace('\\"', '"').replace("'", "\\'")
    return f"'{inner}'"


def _filled(template: str, values: dict[str, str]) -> str:
    return Template((_TEMPLATES / f"{template}.template").read_text(encoding="utf-8")).substitute(values)


def _document(tenant_id: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": tenant_id,
        "type": "Tenant",
        "tenantId": tenant_id,
        "name": tenant_id,
        "timezone": "UTC",
        "flows": [entry],
    }


def _write(folder: Path, files: dict[Path, str]) -> None:
    for file in files:
        if (folder / file).exists():
            raise ActionRefused(f"{file.as_posix()} exists, and is not overwritten. Choose another name for the flow")
        if not (folder / file).parent.is_dir():
            raise ActionRefused(f"{folder} has no folder {file.parent.as_posix()}: run this in the folder of the app")
    written = list[Path]()
    for file, text in files.items():
        try:
            with (folder / file).open("x", encoding="utf-8", newline="\n") as opened:
                written.append(folder / file)
                opened.write(text)
        except OSError as error:
            for each in written:
                each.unlink()
            raise ActionRefused(f"{file.as_posix()} cannot be written: {error.strerror}") from None
