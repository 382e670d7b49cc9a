"""What a person has to mend in tenant documents and flow files, before the app finds it."""

import json
from collections.abc import Iterator
from datetime import datetime
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from datasync.errors import SecretRefused, TenantInvalid
from datasync.flow.registry import FlowRegistry
from datasync.flow.secrets import check_name, tenant_secret
from datasync.model.decode import shorten
from datasync.model.tenant import DOCUMENT_FIELDS, ENTRY_FIELDS, Problem, Tenant
from datasync.tick.check import entry_problems, tenant_problems


class Report:
    """Finds problems, a line each, and counts them."""

    def __init__(self, registry: FlowRegistry, now: datetime) -> None:
        self._registry = registry
        self._now = now
        self._documents = 0
        self._warnings = 0
        self._places: dict[str, str] = {}
        self.problems = 0
        self.unread = 0
        """Files that could not be read: whoever reads them counts them here."""

    def flow_files(self) -> Iterator[str]:
        """Yield a line for each flow file that could not be loaded."""
        for module, traceback in self._registry.broken.items():
            yield self._problem(module, f"could not be loaded, its flows are off: {traceback.strip().splitlines()[-1]}")

    def documents(self, file: str, content: bytes) -> Iterator[str]:
        """Yield a line for each problem of a file, which holds a tenant document or a list of them."""
        try:
            read = _parse(content)
        except ValueError as why:
            yield self._problem(file, why)
            return
        if not isinstance(read, list):
            yield from self._document(file, file, read)
            return
        for index, document in enumerate(read):
            yield from self._document(file, f"{file}[{index}]", document)

    def summary(self) -> str:
        """Say how much there was of everything."""
        counts = [_count(self._documents, "document"), _count(self.problems, "problem")]
        if self._warnings:
            counts.append(_count(self._warnings, "warning"))
        if self.unread:
            counts.append(f"{_count(self.unread, 'file')} not read")
        return ", ".join(counts)

    def _document(self, file: str, place: str, document: object) -> Iterator[str]:
        self._documents += 1
        if not isinstance(document, dict):
            got = shorten(json.dumps(document, ensure_ascii=False), 80)
            yield self._problem(place, f"expected a tenant document, which is a JSON object, got {got}")
            return
        try:
            tenant = Tenant.from_document(document)
        except TenantInvalid as error:
            yield self._problem(place, error)
            return
        first = self._places.setdefault(tenant.id, place)
        if first != place:
            yield self._problem(
                file, f"{tenant.id} tenantId: {place} and {first} are documents of one tenant: merge them"
            )
        for problem in _problems(tenant, self._registry, self._now):
            yield self._problem(file, problem)
        for path, meant in _misspelt(document):
            self._warnings += 1
            yield f"{file}: {tenant.id} {path}: warning: no such field, and so ignored; is {meant!r} meant?"
        if refused := _refused_secret(tenant.id):
            self._warnings += 1
            yield f"{file}: {tenant.id} tenantId: warning: its flows cannot have secrets of their own: {refused}"

    def _problem(self, place: str, what: object) -> str:
        self.problems += 1
        return f"{place}: {what}"


def load(package: str) -> FlowRegistry:
    """Load the flow files of a package, given by its name: the framework itself knows none.

    Raises:
        ValueError: it holds no registry; the message says why, and what is expected.

    """
    try:
        flows, registry = import_module(package), import_module(f"{package}.registry").registry
        registry.load(flows)
    except Exception as error:  # noqa: BLE001 - it runs a person's code
        raise ValueError(
            f"{package!r} cannot be loaded ({type(error).__name__}: {error}); expected a package of flow files "
            "whose registry.py makes a FlowRegistry named registry, importable from here"
        ) from None
    loaded: FlowRegistry = registry
    return loaded


def _parse(content: bytes) -> Any:
    """Read JSON in UTF-8, with or without a byte order mark. A ValueError says what is wrong, and where."""
    try:
        read = json.loads(content.decode("utf-8-sig"))
        json.dumps(read, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}: save the file as UTF-8") from None
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start]).strip("'")
        raise ValueError(f"not text: {half} is half of a character, which no database stores") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("not a tenant document: its JSON is nested too deeply to be read") from None
    return read


def _problems(tenant: Tenant, registry: FlowRegistry, now: datetime) -> Iterator[Problem]:
    """Yield the problems of a document, each once. Disabled entries are checked as well."""
    found = [*tenant_problems(tenant)]
    for entry in tenant.flows:
        found += entry_problems(tenant, entry, registry, now)
    yield from dict.fromkeys(found)


def _misspelt(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Find fields that are nearly one the app reads: their paths, and the fields that may be meant."""
    places: list[tuple[str, Any, tuple[str, ...]]] = [("", document, DOCUMENT_FIELDS)]
    places += [(f"flows[{index}].", entry, ENTRY_FIELDS) for index, entry in enumerate(document["flows"])]
    for path, fields, known in places:
        if not isinstance(fields, dict):
            continue
        missing = {name.lower(): name for name in known if name not in fields}
        for name in sorted(set(fields) - set(known)):
            for close in get_close_matches(name.lower(), missing, n=1, cutoff=0.85):
                yield f"{path}{name}", missing[close]


def _refused_secret(tenant_id: str) -> SecretRefused | None:
    """Return the reason why a tenant of this id cannot have secrets of its own, if there is one."""
    try:
        check_name(tenant_id, tenant_secret(tenant_id, "system", "key"))
    except SecretRefused as refused:
        return refused
    return None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
