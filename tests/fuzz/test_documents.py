"""Tenant documents with any fault: a problem that can be stored and logged, or jobs that can be received."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from datasync.cli.validate import Report
from datasync.errors import TenantInvalid
from datasync.flow.registry import FlowRegistry
from datasync.model.job import QueueMessage
from datasync.model.tenant import Problem, Tenant, document_key, is_tenant_document
from datasync.run.receive import receive
from datasync.stores.fleet import StandingProblem
from datasync.telemetry.emit import emit
from datasync.telemetry.events import DocumentInvalid
from datasync.tick.check import entry_problems
from datasync.tick.plan import Advance, plan
from datasync.tick.tick import MOST_WARNINGS
from datasync.tick.warn import entry_warnings, field_warning_steps
from tests.documents import document, entry
from tests.fuzz import grammar
from tests.fuzz.campaign import Campaign
from tests.fuzz.conftest import Lines
from tests.stages import does_nothing

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
LONGEST_FILE = 64 * 1024
"""Bytes: `validate` keeps no event loop, so it may take its time for a file of some megabytes."""


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    sku: Annotated[str, Meta(min_length=1, pattern="^[A-Z]+$")]
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    tags: set[str] = set()


class ByMail(msgspec.Struct, tag="mail"):
    address: str


class ByHook(msgspec.Struct, tag="hook"):
    url: str
    retries: Annotated[int, Meta(ge=1, le=5)] = 1


class Rules(msgspec.Struct, rename="camel"):
    rules: list[Rule]
    notify: ByMail | ByHook | None = None
    mode: Literal["full", "delta"] = "full"
    since_utc: datetime | None = None
    limits: dict[str, int] = {}
    pair: tuple[int, str] | None = None


class Refusing(msgspec.Struct):
    low: int = 0
    high: int = 1

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high} - at `$`")


def _registry() -> FlowRegistry:
    registry = FlowRegistry()
    registry.flow("weather", aliases=("forecast",))(does_nothing)
    registry.flow("home→builder", settings=Rules, secrets=("home--api-key", "shared--proxy"))(does_nothing)
    registry.flow("refusing", settings=Refusing)(does_nothing)
    return registry


REGISTRY = _registry()
RULES = {
    "rules": [{"sku": "ABC", "share": 0.25, "tags": ["a", "b"]}, {"sku": "D"}],
    "notify": {"type": "hook", "url": "https://example.com/a?b=c", "retries": 3},
    "mode": "delta",
    "sinceUtc": "2025-08-23T01:00:00Z",
    "limits": {"a": 1},
    "pair": [1, "a"],
}
PLANNED = {"nextRunUtc": "2025-08-23T01:00:00Z", "enqueuedUtc": "2025-08-23T00:00:00Z", "key": "k"}
CORRECT = (
    document(),
    document(
        "acme",
        entry("home→builder", settings=RULES, timezone="tenant", cron="*/5 * 8-18 * * MON-FRI"),
        entry("weather", timezone="Europe/Berlin", planned=PLANNED),
        entry("refusing", settings={"low": 1, "high": 2}, nextRunUtc=None),
        entry("forecast", enabled=False),
    ),
    document("many", *(entry("weather", nextRunUtc=f"2025-08-23T0{n % 9}:00:00Z") for n in range(12))),
)


def make(choices: Random) -> Any:
    return grammar.mutated(choices, choices.choice(CORRECT))


def check_problem(problem: Problem, key: str, log: Lines) -> None:
    """Store and log a problem, as a tick does. Half of a surrogate pair can be neither stored nor printed."""
    stored = StandingProblem.found(key, problem, NOW)
    json.dumps({"id": stored.id, **msgspec.to_builtins(stored)}, ensure_ascii=False).encode()
    log.printed.clear()
    emit(DocumentInvalid(problem=problem))
    (line,) = log.printed
    line.encode()
    assert "\n" not in line


def examine(content: Any, log: Lines, ahead: timedelta = timedelta(hours=1)) -> Iterator[None]:
    """Handle a document as a tick does. Yields wherever a tick looks whether others need the event loop."""
    if not isinstance(content, dict) or not is_tenant_document(content):
        return
    key = document_key(content)
    try:
        tenant = yield from Tenant.reading(content)
    except TenantInvalid as error:
        check_problem(Problem(tenant_id=error.tenant_id, path=error.path, why=error.why), key, log)
        return
    for problem in _found(content, tenant, ahead):
        yield
        if problem:
            check_problem(problem, key, log)


def _found(content: dict[str, Any], tenant: Tenant, ahead: timedelta) -> Iterator[Problem | None]:
    """Yield the problems and warnings of a document, and None wherever a tick pauses."""
    for step in plan(tenant, REGISTRY, NOW, NOW + ahead, timedelta(minutes=5)):
        yield step if isinstance(step, Problem) else None
        for job in islice(step.jobs(), 3) if isinstance(step, Advance) else ():
            received = receive(QueueMessage("m-1", job.message.encode().encode(), 1, NOW))
            assert received.run_id == job.message.run_id
    yield from field_warning_steps(content)
    for each in tenant.flows:
        yield None
        yield from islice(entry_warnings(tenant, each, REGISTRY, NOW, NOW + ahead), MOST_WARNINGS)
        if not each.enabled:  # as `validate` does
            yield from entry_problems(tenant, each, REGISTRY, NOW)


def test_a_tick_examines_any_document(campaign: Campaign, log: Lines) -> None:
    """Each fault is a problem of its document or its entry. Planned jobs can be received."""
    campaign.run(1_000, make, lambda content: examine(content, log))


def test_validate_reads_any_file(campaign: Campaign) -> None:
    """Each line that it prints is a text in UTF-8."""

    def bytes_of(choices: Random) -> bytes:
        content = make(choices)
        return grammar.written(choices, [content, make(choices)] if choices.random() < 0.2 else content)[:LONGEST_FILE]

    def check(content: bytes) -> Iterator[None]:
        report = Report(REGISTRY, NOW)
        for line in report.documents("file.json", content):
            yield
            str(line).encode()
        report.summary().encode()

    campaign.run(800, bytes_of, check)
