"""Links, paths, tables and expressions in the documents, compared with the repository."""

import ast
import inspect
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datasync import FlowRegistry, cron
from datasync.errors import FlowInvalid
from datasync.testing import FakeRuns
from localdev.hosting import ROOT
from tests.docs.pages import PAGES, anchors, links, rows, spans

DOCS = ROOT / "docs"
SETTINGS = DOCS / "settings.md"


@pytest.mark.parametrize(
    ("page", "target"), [(page, target) for page in PAGES for target in links(page)], ids=lambda each: str(each)[-60:]
)
def test_links_lead_to_a_page_and_a_heading(page: Path, target: str) -> None:
    """The file exists, and has the heading."""
    path, _, anchor = target.partition("#")
    linked = (page.parent / path).resolve() if path else page

    assert linked.exists()
    assert not anchor or anchor in anchors(linked)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == DOCS], ids=lambda page: page.name)
def test_every_page_is_linked_from_the_readme(page: Path) -> None:
    """A reader finds each page from the start."""
    assert f"docs/{page.name}" in {target.partition("#")[0] for target in links(ROOT / "README.md")}


def test_the_readme_is_short() -> None:
    """It is for the first ten minutes."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


PATH = re.compile(r"(?:datasync|localdev|tests|flows|docs|benchmarks|\.ci)/[\w./-]*")


@pytest.mark.parametrize(
    ("page", "path"),
    [(page, span) for page in PAGES for span in dict.fromkeys(spans(page)) if PATH.fullmatch(span)],
    ids=lambda each: str(each)[-60:],
)
def test_named_paths_exist(page: Path, path: str) -> None:
    """A file or folder in inline code is in the repository."""
    assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_cron_expressions_can_be_parsed() -> None:
    """Inline code that looks like a cron expression is one, except in the examples of mistakes."""
    looks_like_one = re.compile(r"@[a-z]+|(?:[\d*?/,LW#A-Z-]+ ){4,5}[\d*?/,LW#A-Z-]+")
    found = {span for page in PAGES for span in spans(page) if looks_like_one.fullmatch(span)}

    assert len(found) >= 8
    for expression in found - {"@fleet"}:  # which is a partition
        cron.parse(expression)


# --- tables


def first_code(cell: str) -> str:
    return re.findall(r"`([^`]*)`", cell)[0] if "`" in cell else ""


def test_every_setting_has_a_row_with_its_default() -> None:
    """The defaults are those of local.settings.json.example."""
    values: dict[str, str] = json.loads((ROOT / "local.settings.json.example").read_text(encoding="utf-8"))["Values"]
    documented = {first_code(cells[0]): first_code(cells[1]) for cells in rows(SETTINGS, "App settings")}
    given = {name: value for name, value in values.items() if name != "FUNCTIONS_WORKER_RUNTIME"}

    assert set(given) <= set(documented)
    without = {"AzureWebJobsStorage", "COSMOS_CONNECTION_STRING", "KEY_VAULT_URI"}  # have no default
    assert {name: documented[name] for name in set(given) - without} == {
        name: value for name, value in given.items() if name not in without
    }


def test_every_value_of_host_json_has_a_row() -> None:
    """The table has the values of the file."""
    host = json.loads((ROOT / "host.json").read_text(encoding="utf-8"))
    logging, sampling = host["logging"], host["logging"]["applicationInsights"]["samplingSettings"]
    values = {
        **host["extensions"]["queues"],
        "functionTimeout": host["functionTimeout"],
        "excludedTypes": sampling["excludedTypes"],
        **{name: level for name, level in logging["logLevel"].items() if name != "default"},
        "extensionBundle": host["extensionBundle"]["version"],
    }
    documented = {first_code(cells[0]): first_code(cells[1]) for cells in rows(SETTINGS, "host.json")}

    assert documented == {name: str(value) for name, value in values.items()}


def test_every_outcome_has_a_row() -> None:
    """The table has the members of Outcome, wherever that class is."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "datasync").rglob("*.py"))
    classes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    (outcome,) = (node for node in classes if node.name == "Outcome")
    values = [
        node.value.value
        for node in outcome.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]

    assert [first_code(cells[0]) for cells in rows(DOCS / "runbook.md", "Outcomes")] == values


def test_every_option_of_a_flow_has_a_row_with_its_default() -> None:
    """The table has the keyword parameters of the decorator, in their order."""
    parameters = inspect.signature(FlowRegistry.flow).parameters.values()
    documented = rows(DOCS / "writing-a-flow.md", "Options")

    assert [(first_code(cells[0]), eval(first_code(cells[1]))) for cells in documented] == [  # noqa: S307 - our own page
        (each.name, each.default) for each in parameters if each.kind is each.KEYWORD_ONLY
    ]


def test_every_argument_of_a_run_for_tests_has_a_row_with_its_default() -> None:
    """The table has the keyword parameters of `fake_run`, in their order."""
    parameters = inspect.signature(FakeRuns.__call__).parameters.values()
    documented = rows(DOCS / "testing.md", "The run")

    assert [(first_code(cells[0]), eval(first_code(cells[1]))) for cells in documented] == [  # noqa: S307 - our own page
        (each.name, each.default) for each in parameters if each.kind is each.KEYWORD_ONLY
    ]


# --- refused flows


async def good(tenant_id: str, kv: object) -> None: ...
async def other(tenant_id: str) -> None: ...
def blocking(tenant_id: str, kv: object) -> None: ...


class Undecodable(msgspec.Struct):
    registry: FlowRegistry


MISTAKES: list[Callable[[FlowRegistry], object]] = [
    lambda registry: [registry.flow("twice")(good), registry.flow("twice")(good)],
    lambda registry: registry.flow("a/b")(good),
    lambda registry: registry.flow(" ")(good),
    lambda registry: registry.flow("blocking")(blocking),  # type: ignore[type-var]
    lambda registry: registry.flow("other")(other),
    lambda registry: registry.flow("zero", timeout=timedelta(0))(good),
    lambda registry: registry.flow("aliased", aliases="old")(good),  # type: ignore[arg-type]
    lambda registry: registry.flow("overlapping", overlap="twice")(good),  # type: ignore[arg-type]
    lambda registry: registry.flow("parted", parts=0)(good),
    lambda registry: registry.flow("set", settings=dict)(good),  # type: ignore[arg-type]
    lambda registry: registry.flow("set", settings=Undecodable)(good),
    lambda registry: registry.flow("secret", secrets=("api-token",))(good),
    lambda registry: registry.flow("secret", secrets=(f"mysource--{'x' * 127}",))(good),
    lambda registry: registry.flow("provided", provider="my/source")(good),
    lambda registry: registry.flow("cool", cooldown="fleet")(good),  # type: ignore[arg-type]
    lambda registry: registry.flow("cool", cooldown="provider")(good),
]


def refusal(mistake: Callable[[FlowRegistry], Any]) -> str:
    with pytest.raises(FlowInvalid) as refused:
        mistake(FlowRegistry())
    return str(refused.value)


@pytest.mark.parametrize(
    ("cells", "mistake"), [*zip(rows(DOCS / "writing-a-flow.md", "Refused flows"), MISTAKES, strict=True)]
)
def test_refused_flows_get_the_documented_message(cells: list[str], mistake: Callable[[FlowRegistry], Any]) -> None:
    """Each row of the table is a mistake, in the order of MISTAKES, and quotes its message."""
    said = refusal(mistake)
    quoted = re.findall(r"``(.+?)`` |`([^`]+)`", f"{cells[1]} ")

    assert quoted
    for text in (double or single for double, single in quoted):
        assert text.strip() in said
