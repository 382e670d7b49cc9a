"""Serves the page and its files. They hold no data, and are the same for every reader."""

from functools import cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from dashboard.web import Answer, Refused, Request, answer

FOLDER = Path(__file__).parent / "page"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


def file(request: Request, name: str) -> Answer:
    """Return a file of the page. Raises Refused if there is no such file.

    The reader asks each time, and gets 304 as long as the file is the same.
    """
    known = _files()
    if name not in known:
        raise Refused(HTTPStatus.NOT_FOUND, "the page has no such file")
    body, etag = known[name]
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Type": _TYPES[Path(name).suffix]}
    if etag in (each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")):
        return answer(b"", headers, HTTPStatus.NOT_MODIFIED)
    return answer(body, headers)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Return the files of the folder and their ETags, by name: no name of a request becomes a path."""
    found = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in _TYPES}
    return {name: (body, f'"{sha256(body).hexdigest()[:32]}"') for name, body in found.items()}
