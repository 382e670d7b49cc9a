"""Validates tenant documents and flow files."""

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
from datasync.model.display import shown
from datasync.model.tenant import DOCUMENT_FIELDS, ENTRY_FIELDS, Problem, Tenant
from datasync.tick.check import entry_problems, tenant_problems


class Report:
    """Reports problems, one line each, and counts them."""

    def __init__(self, registry: FlowRegistry, now: datetime) -> None:
        self._registry = registry
        self._now = now
        self._documents = 0
        self._warnings = 0
        self._places: dict[str, str] = {}
        self.problems = 0
        self.unread = 0
        """Number of files that could not be read. The caller, which reads the files, counts them."""

    def flow_files(self) -> Iterator[str]:
        """Yield a line for each flow file that could not be loaded."""
        for module in self._registry.broken:
            yield self._problem(module, f"cannot be loaded; its flows cannot run: {self._registry.cause(module)}")

    def documents(self, file: str, content: bytes) -> Iterator[str]:
        """Yield a line for each problem in a file. The file holds a tenant document or a list of documents."""
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
        """Return the numbers of documents, problems, warnings and unread files."""
        counts = [count(self._documents, "document"), count(self.problems, "problem")]
        if self._warnings:
            counts.append(count(self._warnings, "warning"))
        if self.unread:
            counts.append(f"{count(self.unread, 'file')} not read")
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
            why = f"{place} and {first} are documents of the same tenant: merge them"
            yield self._problem(file, f"{shown(tenant.id)} tenantId: {why}")
        for problem in _problems(tenant, self._registry, self._now):
            yield self._problem(file, problem)
        for path, meant in _misspelt(document):
            self._warnings += 1
            yield f"{file}: {shown(tenant.id)} {path}: warning: unknown field, ignored; did you mean {meant!r}?"
        if refused := _refused_secret(tenant.id):
            self._warnings += 1
            why = f"its flows cannot read secrets of the tenant: {refused}"
            yield f"{file}: {shown(tenant.id)} tenantId: warning: {why}"

    def _problem(self, place: str, what: object) -> str:
        self.problems += 1
        return f"{place}: {what}"


def load(package: str) -> FlowRegistry:
    """Import a package of flow files by its name, load the files, and return its registry.

    Raises:
        ValueError: The package cannot be imported or has no registry. The message contains the cause.

    """
    try:
        flows, registry = import_module(package), import_module(f"{package}.registry").registry
        registry.load(flows)
    except Exception as error:  # noqa: BLE001 - runs user code
        raise ValueError(
            f"{package!r} cannot be loaded ({type(error).__name__}: {error}); expected a package of flow files "
            "that can be imported from here and whose registry.py defines a FlowRegistry named registry"
        ) from None
    loaded: FlowRegistry = registry
    return loaded


def _parse(content: bytes) -> Any:
    """Parse JSON in UTF-8, with or without a byte order mark. Raises ValueError with the cause and the position."""
    try:
        read = json.loads(content.decode("utf-8-sig"))
        json.dumps(read, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}: save the file as UTF-8") from None
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start]).strip("'")
        raise ValueError(f"not valid text: {half} is half of a surrogate pair, which cannot be stored") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("not a tenant document: the JSON is nested too deeply") from None
    return read


def _problems(tenant: Tenant, registry: FlowRegistry, now: datetime) -> Iterator[Problem]:
    """Yield the problems of a document, each once. Disabled entries are checked as well."""
    found = [*tenant_problems(tenant)]
    for entry in tenant.flows:
        found += entry_problems(tenant, entry, registry, now)
    yield from dict.fromkeys(found)


def _misspelt(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the path of each unknown field with a name similar to a known field, and the known field."""
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
    """Return the reason why the flows of a tenant can read no secrets of their own, if there is one."""
    try:
        check_name(tenant_id, tenant_secret(tenant_id, "system", "key"))
    except SecretRefused as refused:
        return refused
    return None


def count(number: int, what: str) -> str:
    """Return a number with its noun: `1 problem`, `2 problems`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
