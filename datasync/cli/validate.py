"""Validates tenant documents and flow files."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import import_module
from typing import Any, NoReturn, override

import msgspec

from datasync.cli.meaning import Meaning
from datasync.errors import SecretRefused, TenantInvalid
from datasync.flow.registry import FlowRegistry
from datasync.flow.secrets import check_name, tenant_secret
from datasync.model.decode import joined, shorten
from datasync.model.display import shown
from datasync.model.tenant import Level, Problem, Tenant, tenant_label
from datasync.tick.check import Spellings, entry_problems, tenant_problems
from datasync.tick.warn import entry_warnings, field_warnings

type _Repeated = Mapping[int, tuple[dict[str, Any], list[str]]]
"""Objects with the keys that a file gives them more than once, by the `id()` of the object."""


class Finding(msgspec.Struct, frozen=True):
    """A problem or a warning."""

    level: Level
    file: str | None
    """The file; None for a stored document and for a flow file."""
    place: str | None
    """The tenant, the flow and the field, such as `tenant-123/weather flows[2].cron`; None for a whole file."""
    why: str

    @override
    def __str__(self) -> str:
        """Render as one line."""
        parts = (self.file, self.place, "warning" if self.level == "warning" else None, self.why)
        return ": ".join(part for part in parts if part is not None)


class Validated(msgspec.Struct, frozen=True):
    """The result of `validate`, in numbers and with each finding."""

    documents: int
    problems: int
    warnings: int
    unread: int
    """Files that could not be read."""
    findings: list[Finding]
    entries: list[Meaning]
    """The meaning of each enabled entry."""


class Report:
    """Finds problems and warnings, and counts them."""

    def __init__(self, registry: FlowRegistry, now: datetime) -> None:
        self._registry = registry
        self._now = now
        self._documents = 0
        self._warnings = 0
        self._findings: list[Finding] = []
        self._places: dict[str, str] = {}
        self._spellings = Spellings()
        self.tenants: list[Tenant] = []
        """The documents that can be read."""
        self.problems = 0
        self.unread = 0
        """Number of files that could not be read. The caller, which reads the files, counts them."""

    def flow_files(self) -> Iterator[Finding]:
        """Yield each flow file that could not be loaded."""
        for module in self._registry.broken:
            why = f"cannot be loaded; its flows cannot run: {self._registry.cause(module)}"
            yield self._found(Finding("error", None, module, why))

    def documents(self, file: str, content: bytes) -> Iterator[Finding]:
        """Yield each problem and warning in a file, which holds a tenant document or a list of documents."""
        try:
            read, repeated = parse(content)
        except ValueError as why:
            yield self._found(Finding("error", file, None, str(why)))
            return
        if not isinstance(read, list):
            yield from self._document(file, file, read, repeated)
            return
        for index, document in enumerate(read):
            yield from self._document(file, f"{file}[{index}]", document, repeated)

    def summary(self) -> str:
        """Return the numbers of documents, problems, warnings and unread files."""
        counts = [count(self._documents, "document"), count(self.problems, "problem")]
        if self._warnings:
            counts.append(count(self._warnings, "warning"))
        if self.unread:
            counts.append(f"{count(self.unread, 'file')} not read")
        return ", ".join(counts)

    def result(self, meanings: list[Meaning]) -> Validated:
        """Return everything that was found, and the meanings of the enabled entries."""
        return Validated(
            documents=self._documents,
            problems=self.problems,
            warnings=self._warnings,
            unread=self.unread,
            findings=self._findings,
            entries=meanings,
        )

    def _document(self, file: str, place: str, document: object, repeated: _Repeated) -> Iterator[Finding]:
        self._documents += 1
        if not isinstance(document, dict):
            got = shorten(json.dumps(document, ensure_ascii=False), 80)
            why = f"expected a tenant document, which is a JSON object, got {got}"
            yield self._found(Finding("error", place, None, why))
            return
        label = tenant_label(document)
        for path, name in _repetitions(document, repeated):
            yield self._warning(file, f"{label} {path}", f"{name!r} is given more than once, and the last one counts")
        try:
            tenant = Tenant.from_document(document)
        except TenantInvalid as error:
            yield self._found(Finding("error", place, error.place, error.why))
            for warning in field_warnings(document):
                yield self._warning(file, warning.place, warning.why)
            return
        self.tenants.append(tenant)
        first = self._places.setdefault(tenant.id, place)
        if first != place:
            why = f"{place} and {first} are documents of the same tenant: merge them"
            yield self._found(Finding("error", file, f"{shown(tenant.id)} tenantId", why))
        for problem in [*self._spellings.problems(tenant.id), *_problems(tenant, self._registry, self._now)]:
            yield self._found(Finding("error", file, problem.place, shown(problem.why, 2000)))
        for warning in [*field_warnings(document), *self._entry_warnings(tenant)]:
            yield self._warning(file, warning.place, shown(warning.why, 2000))
        if refused := _refused_secret(tenant.id):
            yield self._warning(
                file, f"{shown(tenant.id)} tenantId", f"its flows cannot read secrets of the tenant: {refused}"
            )

    def _entry_warnings(self, tenant: Tenant) -> Iterator[Problem]:
        for entry in tenant.flows:
            yield from entry_warnings(tenant, entry, self._registry, self._now, self._now)

    def _warning(self, file: str, place: str, why: str) -> Finding:
        return self._found(Finding("warning", file, place, why))

    def _found(self, finding: Finding) -> Finding:
        self.problems += finding.level == "error"
        self._warnings += finding.level == "warning"
        self._findings.append(finding)
        return finding


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


def parse(content: bytes) -> tuple[Any, _Repeated]:
    """Parse JSON in UTF-8, with or without a byte order mark. Raises ValueError with the cause and the position."""
    repeated: dict[int, tuple[dict[str, Any], list[str]]] = {}

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counted = Counter(name for name, _ in pairs)
            repeated[id(made)] = made, [name for name in made if counted[name] > 1]
        return made

    try:
        read = json.loads(content.decode("utf-8-sig"), object_pairs_hook=as_object, parse_constant=_no_constant)
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
    return read, repeated


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is not a number that JSON has")


def _repetitions(document: object, repeated: _Repeated) -> Iterator[tuple[str, str]]:
    """Yield the path and the name of each key that is given more than once in an object."""
    left = [("", document)]
    while repeated and left:
        path, value = left.pop()
        if isinstance(value, dict):
            yield from ((joined(path, name), name) for name in repeated.get(id(value), (value, []))[1])
            left += [(joined(path, name), part) for name, part in value.items()]
        elif isinstance(value, list):
            left += [(f"{path}[{at}]", part) for at, part in enumerate(value)]


def _problems(tenant: Tenant, registry: FlowRegistry, now: datetime) -> Iterator[Problem]:
    """Yield the problems of a document, each once. Disabled entries are checked as well."""
    found = [*tenant_problems(tenant)]
    for entry in tenant.flows:
        found += entry_problems(tenant, entry, registry, now)
    yield from dict.fromkeys(found)


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
