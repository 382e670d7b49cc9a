"""`validate` reports each mistake with its level, its path and a remedy."""

import json
from typing import Any

import pytest

from datasync.cli.validate import Report
from datasync.tick.warn import field_warning_steps
from tests.mistakes import FLOWS, MISTAKES, NOW, Mistake, hourly, one


def validate(content: str) -> tuple[list[str], str]:
    """Return the lines about a file, and the summary."""
    report = Report(FLOWS, NOW)
    lines = [str(each) for each in report.documents("file", content.encode())]
    return lines, report.summary()


def is_said(level: str, path: str, words: str, lines: list[str]) -> bool:
    """Return whether a line has the path, the level and the words."""
    what = f" {path}: {'warning: ' if level == 'warning' else ''}"
    found = [line for line in lines if what in line and words in line.partition(what)[2]]
    return any(level == "warning" or not line.partition(what)[2].startswith("warning: ") for line in found)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: f"{each.path} {each.words}"[:80])
def test_validate_reports_a_mistake(mistake: Mistake) -> None:
    """The line has the path and the remedy, and a warning says that it is one."""
    lines, _ = validate(json.dumps(mistake.document))

    assert is_said(mistake.level, mistake.path, mistake.words, lines), lines
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"owner": "Ann", "note": "x", "contact": {"enabled": 1}, "description": "", "tags": [], "_etag": "1"},
        {"nextRunUtc": None},
        {"nextRunUtc": "2025-08-23T14:00:00Z"},
        {"settings": {"id": 2**53, "rate": 1e300, "flag": True}},
        {"timezone": "tenant"},
        {"freshness": "2h"},
        {"freshness": None},
    ],
    ids=repr,
)
def test_a_document_without_a_mistake_has_no_line(fields: dict[str, Any]) -> None:
    """Other fields, such as notes, are left alone, in the document and in its entries."""
    assert validate(json.dumps(one(hourly(**fields), owner="Ann", region="us"))) == (
        [],
        "1 document, 0 problems",
    )


class TestFiles:
    """Mistakes that only a file can have: Cosmos DB does not store them."""

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_a_number_that_json_does_not_have_is_a_problem(self, number: str) -> None:
        """Python would read it, and Cosmos DB refuses it."""
        lines, _ = validate(json.dumps(one(hourly(settings={"a": 5}))).replace("5}", f"{number}}}"))

        assert lines == [f"file: not JSON: {number} is not a number that JSON has"]

    def test_a_number_that_is_too_large_is_a_warning(self) -> None:
        """`1e400` becomes infinite when it is read."""
        lines, _ = validate(json.dumps(one(hourly(settings={"a": 5}))).replace("5}", "1e400}"))

        assert is_said("warning", "flows[0].settings.a", "inf is not a number that JSON has", lines)

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ('{"id": "t", "id": "t", "tenantId": "t", "flows": []}', "id"),
            (
                '{"id": "t", "tenantId": "t", "flows": [{"name": "weather", "enabled": true, "enabled": false, '
                '"cron": "0 0 * * * *"}]}',
                "flows[0].enabled",
            ),
            (
                '{"id": "t", "tenantId": "t", "flows": [{"name": "weather", "enabled": true, "cron": "0 0 * * * *", '
                '"settings": {"a b": [{"c": 1, "c": 1}]}}]}',
                'flows[0].settings["a b"][0].c',
            ),
        ],
    )
    def test_a_key_that_is_given_twice_is_a_warning(self, text: str, path: str) -> None:
        """The warning has the path of the key. The last value counts."""
        lines, summary = validate(text)

        assert is_said("warning", path, "is given more than once, and the last one counts", lines), lines
        assert summary == "1 document, 0 problems, 1 warning"


def test_a_time_that_the_app_has_planned_ahead_is_no_mistake() -> None:
    """With a lookahead, the app plans up to six days ahead. A yearly time left by an earlier cron is a mistake."""

    def planned(time: str) -> str:
        note = {"nextRunUtc": time, "enqueuedUtc": "2025-08-23T12:00:00Z", "key": "k"}
        return json.dumps(one(hourly(nextRunUtc=time, planned=note)))

    yearly, _ = validate(planned("2026-01-01T00:00:00Z"))
    assert validate(planned("2025-08-29T12:00:00Z"))[0] == []
    assert is_said("warning", "flows[0].nextRunUtc", "more than two periods", yearly)


def test_warnings_about_a_document_with_very_many_fields_take_little_time() -> None:
    """Only the first hundred unknown fields of an object are compared with the known ones."""
    many: dict[str, Any] = {f"enable{n}": n for n in range(100_000)}
    lines, _ = validate(json.dumps(one(hourly(**many), **many)))

    assert len(lines) <= 200


def test_the_search_for_unknown_fields_lets_others_work() -> None:
    """After each entry, and after each of the fields."""
    entries = [5, {}, *(hourly(tz="UTC", note="x") for _ in range(98))]

    steps = [*field_warning_steps(one(*entries))]

    assert len([step for step in steps if step]) == 98
    assert len([step for step in steps if step is None]) == 1 + 100 + 98


def test_a_number_deep_in_the_settings_has_its_path() -> None:
    """The path is written for this number, not for each level of the others."""
    deep: Any = 2**60
    for level in range(10):
        deep = [0, deep] if level % 2 else {"a b": deep}
    lines, _ = validate(json.dumps(one(hourly(settings={"x": deep}))))

    assert is_said("warning", f"flows[0].settings.x{'[1]["a b"]' * 5}", "a whole number above 2^53", lines), lines
