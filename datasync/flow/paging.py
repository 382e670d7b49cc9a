"""The pages of an API, one after another."""

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any

import httpx

from datasync.errors import PagingFailed
from datasync.flow.redirects import origin
from datasync.model.display import shown

type Next = str | dict[str, Any] | None
"""Where the next page is: a URL, absolute or relative, or parameters that change. None after the last page."""

type NextPage = Callable[[Page], Next]
"""Tells from a page where the next one is."""

_LONGEST = 500  # characters of a URL or a value in a message
# RFC 8288, section 3. The parser of httpx ends at a parameter with a `=` in it, and would end the pages too.
_LINK = re.compile(r'<([^<>]*)>((?:[^,"]|"(?:[^"\\]|\\.)*")*)')
_RELATIONS = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,"]+))', re.IGNORECASE)


class Page:
    """One answer of an API that gives its items in pages."""

    def __init__(self, response: httpx.Response, number: int, asked: Mapping[str, Any], *, is_repeated: bool) -> None:
        self.response = response
        self.number = number
        """1 for the first page that was read."""
        self.asked = asked
        """The parameters of its request: of the query, and of a JSON body."""
        self.is_repeated = is_repeated
        """Whether the body is that of the page before."""
        self.next: Next = None
        """Where the next page is: a JSON value, to keep in `run.cursor` and pass as `start`. None on the last page."""

    @cached_property
    def json(self) -> Any:
        """The decoded body. Raises PagingFailed if it is not JSON."""
        try:
            return self.response.json()
        except (ValueError, RecursionError) as error:
            media_type = shown(self.response.headers.get("Content-Type", "")) or "an unknown type"
            raise PagingFailed(f"{self} is not JSON, but {media_type}: check the address") from error

    def at(self, *path: str) -> Any:
        """Return the value at a path in the decoded body, or None: `page.at("paging", "next")`.

        Raises:
            PagingFailed: the body is not JSON, or a value on the way is not an object.

        """
        value, name = self.json, "its body"
        for key in path:
            if not isinstance(value, dict):
                raise PagingFailed(f"{self}: {name} is {_shown(value)}, and an object with {key!r} was expected")
            value, name = value.get(key), repr(key)
            if value is None:
                return None
        return value

    def __str__(self) -> str:
        """Render as `page 2 of https://api.example/items?cursor=a`."""
        return f"page {self.number} of {shown(str(self.response.url), _LONGEST)}"


async def paginate(
    http: httpx.AsyncClient,
    url: str,
    next_page: NextPage | None = None,
    *,
    start: Next = None,
    method: str = "GET",
    params: Mapping[str, Any] | None = None,
    json: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncGenerator[Page]:
    """Read the pages of an API, one after another.

    Each page is requested when the one before has been processed:

        async for page in paginate(run.http, f"{base}/items", by_cursor("cursor", "next"), auth=auth):
            await upsert(page.at("items"))

    Args:
        http: `run.http`.
        url: The address of the first page.
        next_page: Tells where the next page is: `by_link` (the default), `by_cursor(…)`, `by_url(…)`, `by_page(…)`,
            `by_offset(…)`, or a function of your own. A URL that it returns is requested as it is. Parameters replace
            those of the first request, in the JSON body if `json` is given, else in the query.
        start: The `next` of a page, to go on after that page. None begins with the first page.
        method: `POST` for an API that is asked with a body. Pass `extensions=READ` too.
        params: The query. Values that are None are left out.
        json: The body, an object.
        options: Other arguments of httpx: `auth`, `headers`, `timeout`, `extensions`, `follow_redirects`.

    Raises:
        PagingFailed: an answer does not have the form that `next_page` expects, or names a page that was read, or one
            at another origin, to which credentials must not be sent.
        httpx.HTTPStatusError: the status of an answer is not 2xx.
        RetryLater, httpx.RequestError: as for any request.

    """
    first = httpx.URL(url).copy_merge_params({name: each for name, each in (params or {}).items() if each is not None})
    base, place, number, before, requested = first, "start", 0, b"", set[str]()
    following = start or None
    while following or number == 0:
        target, body = _request(following, first, json, base, place)
        if (request := f"{target.copy_with(fragment=None)} {body}") in requested:
            raise PagingFailed(
                f"{place} names a page that was read before: {_shown(following)}. The API would repeat its pages for "
                "ever: check the parameters, and where the next page is named"
            )
        requested.add(request)
        response = await http.request(method, target, json=body, **options)
        response.raise_for_status()
        digest, number = sha256(response.content).digest(), number + 1
        page = Page(response, number, {**target.params, **(body or {})}, is_repeated=digest == before)
        page.next = following = (next_page or by_link)(page) or None
        base, place, before = response.url, str(page), digest
        yield page


def _request(
    following: Next, first: httpx.URL, json: Mapping[str, Any] | None, base: httpx.URL, place: str
) -> tuple[httpx.URL, Mapping[str, Any] | None]:
    """Return the address and the body of a request for a page. `base` is the address to which a URL is relative."""
    match following:
        case None:
            return first, json
        case str():
            return _resolved(following, first, base, place), json
        case dict() if json is None:
            return first.copy_merge_params(following), None
        case dict():
            return first, {**json, **following}
    raise PagingFailed(f"{place}: the next page is {_shown(following)}, and a URL or parameters were expected")


def _resolved(url: str, first: httpx.URL, base: httpx.URL, place: str) -> httpx.URL:
    try:
        target = base.join(url.strip())
    except (httpx.InvalidURL, ValueError) as error:
        raise PagingFailed(f"{place}: the next page is {_shown(url)}, which is not a URL: {error}") from error
    if origin(target) != origin(first):
        raise PagingFailed(
            f"{place}: the next page is {_shown(url)}. Credentials for {first.scheme}://{first.netloc.decode()} are "
            "not sent to another origin. If the API has moved, change its address. If it names its own pages wrongly, "
            "pass a function as next_page that returns the right URL"
        )
    return target


def by_link(page: Page) -> Next:
    """Find the next page in the header `Link: <…>; rel="next"`."""
    for match in _LINK.finditer(page.response.headers.get("Link", "")):
        relations = _RELATIONS.search(match[2])
        if relations and "next" in (relations[1] or relations[2] or "").lower().split():
            return match[1]
    return None


def by_url(*path: str) -> NextPage:
    """Find the URL of the next page at a path in the body: `by_url("@odata.nextLink")`. Null or nothing is the end."""

    def following(page: Page) -> Next:
        url = page.at(*path)
        if url and not isinstance(url, str):
            raise PagingFailed(f"{page}: {_shown(url)} was found at {_path(path)}, and a URL was expected")
        return url or None

    return following


def by_cursor(parameter: str, *path: str, header: str | None = None) -> NextPage:
    """Send the value at a path in the body, or in a header, as a parameter: `by_cursor("after", "paging", "next")`.

    Null, false, 0, an empty text or nothing is the end.

    Raises:
        TypeError: neither a path nor a header is given, or both are.

    """
    if bool(path) == bool(header):
        raise TypeError(f'by_cursor({parameter!r}): name the place of the cursor in the body, or header="…"')

    def following(page: Page) -> Next:
        cursor = page.response.headers.get(header) if header else page.at(*path)
        if cursor and (isinstance(cursor, bool) or not isinstance(cursor, str | int)):
            raise PagingFailed(f"{page}: {_shown(cursor)} was found at {_path(path)}, and a cursor was expected")
        return {parameter: cursor} if cursor else None

    return following


def by_page(parameter: str, *path: str) -> NextPage:
    """Count pages, until one has no items: `by_page("page", "items")`, where `items` is the list's path in the body.

    The number of the first page is that in `params`, else 1.
    """

    def following(page: Page) -> Next:
        return {parameter: _number(page, parameter, 1) + 1} if _items(page, parameter, path) else None

    return following


def by_offset(parameter: str, *path: str) -> NextPage:
    """Count items, until a page has none: `by_offset("offset", "items")`, where `items` is the list's path in the body.

    The first offset is that in `params`, else 0.
    """

    def following(page: Page) -> Next:
        items = _items(page, parameter, path)
        return {parameter: _number(page, parameter, 0) + len(items)} if items else None

    return following


def _items(page: Page, parameter: str, path: tuple[str, ...]) -> list[Any]:
    items = page.at(*path)
    if not isinstance(items, list):
        raise PagingFailed(f"{page}: {_shown(items)} was found at {_path(path)}, and a list of items was expected")
    if items and page.is_repeated:
        raise PagingFailed(f"{page} is the same as the page before: does the API know the parameter {parameter!r}?")
    return items


def _number(page: Page, parameter: str, first: int) -> int:
    asked = page.asked.get(parameter, first)
    try:
        return int(asked)
    except (TypeError, ValueError) as error:
        raise PagingFailed(f"{page}: {parameter}={_shown(asked)} was asked for, and a number was expected") from error


def _path(path: tuple[str, ...]) -> str:
    return shown(" → ".join(map(repr, path))) or "the top of the body"


def _shown(value: object) -> str:
    return shown(repr(value), _LONGEST)
