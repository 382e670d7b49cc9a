"""Serves the page and its files. They hold no data, and are the same for every reader."""

from functools import cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from dashboard.access import Mode
from dashboard.web import Answer, Refused, Request, answer

FOLDER = Path(__file__).parent / "page"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


def index(request: Request, mode: Mode) -> Answer:
    """Return the page. It has the mode, since its scripts have to know how people sign in before they get an answer.

    An address with a slash at its end leads to the one without: the addresses of the files are relative to that.
    """
    if request.path.endswith("/"):
        return answer(b"", {"Location": "../ops", "Cache-Control": "no-cache"}, HTTPStatus.PERMANENT_REDIRECT)
    body = _files()["index.html"][0].replace(b'data-mode=""', f'data-mode="{mode}"'.encode())
    return _kept(request, "index.html", body, _etag(body))


def file(request: Request, name: str) -> Answer:
    """Return a file of the page. Raises Refused if the file does not exist.

    The reader asks each time, and gets 304 as long as the file is the same.
    """
    known = _files()
    if name not in known:
        raise Refused(HTTPStatus.NOT_FOUND, "the page has no such file")
    return _kept(request, name, *known[name])


def _kept(request: Request, name: str, body: bytes, etag: str) -> Answer:
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Type": _TYPES[Path(name).suffix]}
    if etag in (each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")):
        return answer(b"", headers, HTTPStatus.NOT_MODIFIED)
    return answer(body, headers)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Return the files of the folder and their ETags, by name: no name of a request becomes a path."""
    found = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in _TYPES}
    return {name: (body, _etag(body)) for name, body in found.items()}


def _etag(body: bytes) -> str:
    return f'"{sha256(body).hexdigest()[:32]}"'
