"""The parts of tenant documents that an audit keeps."""

from typing import Any

from datasync.operate.told import MOST_PATHS, NOT_KEPT, difference
from tests.documents import document, entry


def test_only_what_differs_is_kept() -> None:
    """By path. The fields that the app and the database write are left out."""
    before = document("t", entry(settings={"a": 1, "b": 2}), notes="mine", lastAction="x")
    after = document("t", entry(settings={"a": 1, "b": 3}, pauseReason="r", enabled=False), notes="ours")

    assert difference(before, after) == (
        {"notes": NOT_KEPT, "flows[weather].enabled": True, "flows[weather].settings.b": NOT_KEPT},
        {
            "notes": NOT_KEPT,
            "flows[weather].enabled": False,
            "flows[weather].settings.b": NOT_KEPT,
            "flows[weather].pauseReason": "r",
        },
    )
    assert difference(before, before) == ({}, {})


def test_a_new_or_removed_document_is_kept_on_one_side() -> None:
    """The other side is None."""
    before, after = difference(None, {"id": "t", "name": "Acme", "flows": []})

    assert (before, after) == (None, {"name": "Acme"})
    assert difference({"id": "t", "name": "Acme", "flows": []}, None) == ({"name": "Acme"}, None)


def test_what_an_entry_cannot_be_is_named_by_its_place() -> None:
    """Also two entries of one name, a field with a value of another kind, and `flows` that is not a list."""
    odd: list[Any] = ["text", {"name": 7, "cron": ["x"]}, entry("a", cron="1"), {"name": "a", "cron": "2" * 900}]

    _, kept = difference({"flows": []}, {"flows": odd})
    assert kept["flows[0]"] == kept["flows[1].cron"] == NOT_KEPT
    assert kept["flows[a].cron"] == "1"
    assert kept["flows[3].cron"] == f"{'2' * 500}… (900 characters)"
    assert difference({"flows": "x"}, {"flows": 7}) == ({"flows": NOT_KEPT}, {"flows": NOT_KEPT})


def test_the_number_of_paths_is_bounded() -> None:
    """The others are counted."""
    _, kept = difference(None, {"flows": [entry(settings={str(number): 0 for number in range(1000)})]})

    assert len(kept) == MOST_PATHS + 1
    assert kept["…"].startswith("and ")
