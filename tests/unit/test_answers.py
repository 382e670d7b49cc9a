"""The answers that the unsafe requests of a `try` get."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from datasync.author.answers import MADE_UP, Answers
from datasync.author.stopped import largest_array


def answers(folder: Path, *entries: dict[str, Any]) -> Answers:
    file = folder / "feed.answers.json"
    file.write_text(json.dumps(entries))
    return Answers(file)


def request(url: str = "https://crm.example/v1/leads", method: str = "POST", **options: Any) -> httpx.Request:
    return httpx.Request(method, url, **options)


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("/v1/leads", True),
        ("/v1/*", True),
        ("*/leads", True),
        ("https://crm.example/v1/leads", True),
        ("https://*/leads", True),
        ("/leads", False),
        ("/v1/lead", False),
        ("/v1/leads?page=2", True),
        ("/v1/leads?page=3", False),
    ],
)
def test_a_url_is_a_path_or_has_stars(tmp_path: Path, url: str, fits: bool) -> None:  # noqa: FBT001 - an expectation
    """The query counts only if the entry has one."""
    found = answers(tmp_path, {"method": "POST", "url": url, "status": 202})

    response, source = found.to(request("https://crm.example/v1/leads?page=2"))

    assert (response.status_code, source) == ((202, "answers[0]") if fits else (201, MADE_UP))


def test_entries_for_the_same_requests_are_used_in_their_order(tmp_path: Path) -> None:
    """The last one is repeated. Entries that were not used are named."""
    found = answers(
        tmp_path,
        {"method": "POST", "url": "/v1/leads", "status": 503},
        {"method": "POST", "url": "/v1/leads", "json": {"id": 1}},
        {"method": "POST", "url": "*"},
    )

    sent = [found.to(request()) for _ in range(3)]

    assert [(response.status_code, source) for response, source in sent] == [
        (503, "answers[0]"),
        (200, "answers[1]"),
        (200, "answers[1]"),
    ]
    assert found.unused == ["answers[2] POST *"]


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        (request(json={"name": "A"}), 201, {"id": "made-up-1", "name": "A"}),
        (request(json={"id": 7}), 201, {"id": 7}),
        (request(json=[1]), 201, [1]),
        (request(content=b"no JSON"), 201, {}),
        (request(method="PUT", json={"name": "A"}), 200, {"name": "A"}),
        (request(method="PATCH"), 200, {}),
    ],
)
def test_an_answer_is_made_up_of_the_request(
    tmp_path: Path, asked: httpx.Request, status: int, content: object
) -> None:
    """A POST creates something, which has an id."""
    response, source = answers(tmp_path).to(asked)

    assert (response.status_code, response.json(), source) == (status, content, MADE_UP)


@pytest.mark.parametrize("content", [b'{"price": NaN}', b'{"price": 1e999, "id": 1}', b'{"name": "\\ud800"}'])
def test_values_that_httpx_cannot_write_are_answered(tmp_path: Path, content: bytes) -> None:
    """Also those that Python reads, and that are not JSON."""
    response, _ = answers(tmp_path).to(request(content=content))
    made = response.json()
    saved, _ = answers(tmp_path, {"method": "POST", "url": "*", "json": made}).to(request())

    assert {name for name in made if name != "id"} == {name for name in json.loads(content) if name != "id"}
    assert saved.text == response.text


def test_a_deletion_has_no_content(tmp_path: Path) -> None:
    """As of an API."""
    assert answers(tmp_path).to(request(method="DELETE"))[0].status_code == 204


@pytest.mark.parametrize(
    ("body", "size"),
    [([1, 2], 2), ({"a": [1], "b": {"c": [1, 2, 3]}}, 3), ({"a": 1}, None), ("text", None), ([], 0)],
)
def test_the_items_of_a_request_are_those_of_its_largest_array(body: object, size: int | None) -> None:
    """Also within an object."""
    found = largest_array(body)

    assert (None if found is None else len(found)) == size
