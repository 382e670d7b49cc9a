"""The answers of the dashboard: their headers, and the files of the page."""

import gzip
import json
from datetime import UTC, datetime
from http import HTTPStatus

import pytest

from dashboard.page import FOLDER, file
from dashboard.web import Refused, Request, json_answer


def get(**headers: str) -> Request:
    return Request(method="GET", query={}, headers={name.replace("_", "-"): text for name, text in headers.items()})


async def test_no_answer_can_run_foreign_code_or_be_framed() -> None:
    """The policy allows the page's own files only; and no text becomes a script."""
    for answer in (file(get(), "index.html"), await json_answer(get(), {"error": "no"}, HTTPStatus.NOT_FOUND)):
        policy = dict(each.strip().partition(" ")[::2] for each in answer.headers["Content-Security-Policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "connect-src": "'self'",
            "img-src": "'self'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_data_are_kept_by_no_cache() -> None:
    """Errors are data too."""
    for status in (HTTPStatus.OK, HTTPStatus.FORBIDDEN):
        assert (await json_answer(get(), {}, status)).headers["Cache-Control"] == "no-store"


async def test_a_text_that_is_not_unicode_spoils_no_answer() -> None:
    """A document can have half of a surrogate pair, and a reader gets it as it is."""
    content = {"name": "a\ud800", "at": datetime(2025, 8, 23, 12, tzinfo=UTC)}

    answer = await json_answer(get(), content)

    assert json.loads(answer.body) == {"name": "a\ud800", "at": "2025-08-23T12:00:00Z"}


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [("gzip, deflate, br", True), ("GZIP", True), ("br;q=1, gzip;q=0.5", True), ("", False), ("gzip;q=0", False),
     ("gzip;q=0.0", False), ("deflate", False), ("gzipped", False)],
)  # fmt: skip
async def test_large_answers_are_compressed_for_readers_that_take_it(accepted: str, is_compressed: bool) -> None:  # noqa: FBT001
    """The platform does not do it."""
    content = [{"tenantId": f"tenant-{at}"} for at in range(100)]

    answer = await json_answer(get(accept_encoding=accepted), content)

    assert (answer.headers.get("Content-Encoding") == "gzip") is is_compressed
    assert json.loads(gzip.decompress(answer.body) if is_compressed else answer.body) == content
    assert answer.headers["Vary"] == "Accept-Encoding"


def test_a_file_is_sent_again_only_if_it_has_changed() -> None:
    """The reader asks each time, so that a deployment is seen at once."""
    first = file(get(), "index.html")
    etag = first.headers["ETag"]

    assert first.body == (FOLDER / "index.html").read_bytes()
    assert first.headers["Cache-Control"] == "no-cache"
    for known in (etag, f"W/{etag}", f'"x", {etag}'):
        again = file(get(if_none_match=known), "index.html")
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", etag)
    assert file(get(if_none_match='"x"'), "index.html").status == 200


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../blueprint.py", "..%2Fblueprint.py", "/etc/passwd", "index.html\0", "INDEX.HTML", "ä"]
)
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    """Files are looked up by name, and never by path."""
    with pytest.raises(Refused, match="the page has no such file") as refused:
        file(get(), name)
    assert refused.value.status is HTTPStatus.NOT_FOUND


def test_every_file_of_the_folder_is_served() -> None:
    """A file of another kind would be missing on the page."""
    for path in FOLDER.iterdir():
        assert file(get(), path.name).body == path.read_bytes()
