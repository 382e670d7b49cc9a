"""Pages of APIs, read by the HTTP client of a run from servers on this machine."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from datasync import READ, RetryLater
from datasync.flow.http import new_client
from datasync.flow.usage import HttpUsage
from datasync.http import NextPage, Page, PagingFailed, by_cursor, by_link, by_offset, by_page, by_url, paginate
from localdev.web import serving

ITEMS = ["a", "b", "c", "d", "e"]


class Api:
    """Answers as a test says, and remembers the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.answer: Callable[[dict[str, str]], web.Response] = lambda _: web.json_response({})
        """Makes an answer from the parameters of the query or of the JSON body."""
        self.asked: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.Response:
        asked = {**request.query, **(await request.json() if request.can_read_body else {})}
        self.asked.append(asked)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return self.answer(asked)

    @property
    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
        return application


@pytest_asyncio.fixture
async def api() -> AsyncGenerator[Api]:
    """Serve the API that a flow calls."""
    api = Api()
    async with serving("the API", api.application) as api.url:
        yield api


@pytest_asyncio.fixture
async def stranger() -> AsyncGenerator[Api]:
    """Serve another host's API."""
    api = Api()
    async with serving("the other API", api.application) as api.url:
        yield api


@pytest.fixture
def client(transport: httpx.AsyncBaseTransport, usage: HttpUsage) -> httpx.AsyncClient:
    """Return the client of one run."""
    return new_client(transport, usage)


async def read(client: httpx.AsyncClient, api: Api, next_page: NextPage | None = None, **options: Any) -> list[Page]:
    """Read all pages of `/items`."""
    return [page async for page in paginate(client, f"{api.url}/items", next_page, **options)]


def two_at_a_time(start: int) -> dict[str, Any]:
    """Return a page of the items, with the position of the next one, if there is one."""
    return {"items": ITEMS[start : start + 2], "next": start + 2 if start + 2 < len(ITEMS) else None}


def by_position(asked: dict[str, str]) -> web.Response:
    return web.json_response(two_at_a_time(int(asked.get("after", 0))))


def linked(asked: dict[str, str]) -> web.Response:
    page = two_at_a_time(int(asked.get("after", 0)))
    header = {"Link": f'</items?size=2&after={page["next"]}>; rel="next"'} if page["next"] else {}
    return web.json_response(page["items"], headers=header)


async def test_pages_follow_the_link_header(client: httpx.AsyncClient, api: Api) -> None:
    """This is the default. A relative URL is one of the API."""
    api.answer = linked
    pages = await read(client, api, params={"size": 2, "status": None}, headers={"X-Api-Key": "s3cret"})

    assert [page.json for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
    assert api.asked == [{"size": "2"}, {"size": "2", "after": "2"}, {"size": "2", "after": "4"}]
    assert [headers["x-api-key"] for headers in api.headers] == ["s3cret"] * 3


@pytest.mark.parametrize(
    "header",
    [
        '<{url}>; rel="next"',
        "<{url}>;rel=next",
        '<{url}>; REL="Next"',
        '<{url}>; rel="last next"',
        '<http://elsewhere.example/>; rel="prev", <{url}>; rel="next"',
        '<{url}>; title="a, b; c=d"; rel="next"',
        '<{url}>; results="true"; rel="next"; cursor="0:100:0"',
    ],
)
def test_the_link_to_the_next_page_is_found(header: str) -> None:
    """Parameters stand in any order and may hold any text: RFC 8288."""
    url = "https://api.example/items?ids=1,2;3&after=x"
    response = httpx.Response(200, headers={"Link": header.format(url=url)})

    assert by_link(Page(response, 1, {}, is_repeated=False)) == url


@pytest.mark.parametrize(
    "header",
    ["", "<", "next", '<https://a.example>; rel="nextcloud"', '<https://a.example>; title="rel=next"', "<" * 8000],
)
def test_a_header_without_such_a_link_ends_the_pages(header: str) -> None:
    """It may also be one that nobody can read."""
    response = httpx.Response(200, headers={"Link": header})

    assert not by_link(Page(response, 1, {}, is_repeated=False))


async def test_a_cursor_in_the_body_is_sent_as_a_parameter(client: httpx.AsyncClient, api: Api) -> None:
    """The other parameters are sent with it."""
    api.answer = by_position
    pages = await read(client, api, by_cursor("after", "next"), params={"status": "open"})

    assert [page.at("items") for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
    assert api.asked == [{"status": "open"}, {"status": "open", "after": "2"}, {"status": "open", "after": "4"}]


async def test_a_cursor_in_a_header_is_sent_as_a_parameter(client: httpx.AsyncClient, api: Api) -> None:
    """The last page does not have the header."""

    def answer(asked: dict[str, str]) -> web.Response:
        return web.json_response([], headers={} if "page_token" in asked else {"X-Next-Page": "t2"})

    api.answer = answer
    await read(client, api, by_cursor("page_token", header="X-Next-Page"))

    assert api.asked == [{}, {"page_token": "t2"}]


async def test_a_cursor_is_sent_in_the_body_of_a_post(client: httpx.AsyncClient, api: Api) -> None:
    """The POST is retried if the flow says that it only reads."""
    answers = [web.Response(status=503)]
    api.answer = lambda asked: answers.pop() if answers else by_position(asked)
    pages = await read(client, api, by_cursor("after", "next"), method="POST", json={"status": "open"}, extensions=READ)

    assert [page.asked.get("after") for page in pages] == [None, 2, 4]
    assert api.asked[1:] == [{"status": "open"}, {"status": "open", "after": 2}, {"status": "open", "after": 4}]


async def test_a_url_in_the_body_is_requested_as_it_is(client: httpx.AsyncClient, api: Api) -> None:
    """A name in the body may have dots."""

    def answer(asked: dict[str, str]) -> web.Response:
        return web.json_response({"@odata.nextLink": None if asked.get("skip") else f"{api.url}/items?skip=2"})

    api.answer = answer
    await read(client, api, by_url("@odata.nextLink"), params={"top": 2})

    assert api.asked == [{"top": "2"}, {"skip": "2"}]


@pytest.mark.parametrize(
    ("next_page", "params", "asked"),
    [
        (by_page("page", "items"), {}, [None, "2", "3", "4"]),
        (by_page("page", "items"), {"page": 0}, ["0", "1", "2", "3"]),
        (by_offset("offset", "items"), {}, [None, "2", "4", "5"]),
        (by_offset("offset", "items"), {"offset": 3}, ["3", "5"]),
    ],
)
async def test_numbered_pages_end_with_an_empty_one(
    client: httpx.AsyncClient, api: Api, next_page: NextPage, params: dict[str, int], asked: list[str | None]
) -> None:
    """A page may have fewer items than were asked for, so only an empty one is the end."""

    def answer(asked: dict[str, str]) -> web.Response:
        start = int(asked["offset"]) if "offset" in asked else 2 * (int(asked.get("page", 1)) - params.get("page", 1))
        return web.json_response({"items": ITEMS[start : start + 2]})

    api.answer = answer
    pages = await read(client, api, next_page, params=params)

    assert [sent.get("page") or sent.get("offset") for sent in api.asked] == asked
    assert [item for page in pages for item in page.at("items")] == (ITEMS[3:] if params.get("offset") else ITEMS)


async def test_a_function_can_find_the_next_page(client: httpx.AsyncClient, api: Api) -> None:
    """Some APIs expect the id of the last item."""

    def after_last(page: Page) -> dict[str, Any] | None:
        return {"after": ITEMS.index(page.at("items")[-1]) + 1} if page.at("next") else None

    api.answer = by_position
    await read(client, api, after_last)

    assert api.asked == [{}, {"after": "2"}, {"after": "4"}]


@pytest.mark.parametrize(
    ("next_page", "kept"), [(by_cursor("after", "next"), {"after": 2}), (by_link, "/items?size=2&after=2")]
)
async def test_pages_go_on_after_a_kept_place(
    client: httpx.AsyncClient, api: Api, next_page: NextPage, kept: object
) -> None:
    """`next` of a page is a JSON value, and `start` of a later run. It is None on the last page."""
    api.answer = linked if next_page is by_link else by_position
    async for page in paginate(client, f"{api.url}/items", next_page):
        assert page.next == kept
        break

    rest = await read(client, api, next_page, start=page.next)

    assert [sent.get("after") for sent in api.asked] == [None, "2", "4"]
    assert [each.number for each in rest] == [1, 2]
    assert rest[-1].next is None


async def test_requests_are_those_of_the_run(client: httpx.AsyncClient, api: Api, usage: HttpUsage) -> None:
    """They are retried, counted, and deferred if the server asks for a long pause."""
    answers = [web.Response(status=429, headers={"Retry-After": "3600"}), web.Response(status=503)]
    api.answer = lambda asked: answers.pop() if asked.get("after") and answers else by_position(asked)

    with pytest.raises(RetryLater):
        await read(client, api, by_cursor("after", "next"))

    assert usage.totals()["requests"] == 3


async def test_an_error_ends_the_pages(client: httpx.AsyncClient, api: Api) -> None:
    """A flow need not check the status."""
    api.answer = lambda _: web.json_response({"items": []}, status=404)

    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await read(client, api)


REPEATING: dict[str, tuple[NextPage, Callable[[Api, dict[str, str]], object]]] = {
    "the cursor of this page": (by_cursor("after", "next"), lambda _, __: {"next": "x"}),
    "two cursors in turn": (by_cursor("after", "next"), lambda _, asked: {"next": "yx"[asked.get("after") == "y"]}),
    "the URL of this page": (by_url("next"), lambda api, _: {"next": f"{api.url}/items"}),
    "its fragments": (by_url("next"), lambda _, asked: {"next": f"/items#{len(asked)}"}),
    "a relative URL": (by_url("next"), lambda _, __: {"next": "?after=x"}),
}


@pytest.mark.parametrize("case", REPEATING)
async def test_an_api_that_repeats_its_pages_is_stopped(client: httpx.AsyncClient, api: Api, case: str) -> None:
    """The error names the page and the value."""
    next_page, body = REPEATING[case]
    api.answer = lambda asked: web.json_response(body(api, asked))

    with pytest.raises(PagingFailed, match=r"page \d of http.*/items.* names a page that was read before: ") as failed:
        await read(client, api, next_page)

    assert len(api.asked) <= 3
    assert "'x'" in str(failed.value) or "/items" in str(failed.value) or "?after=x" in str(failed.value)


@pytest.mark.parametrize("next_page", [by_page("page", "items"), by_offset("offset", "items")])
async def test_an_api_that_ignores_the_number_is_stopped(
    client: httpx.AsyncClient, api: Api, next_page: NextPage
) -> None:
    """The second page is the first one."""
    api.answer = lambda _: web.json_response({"items": ITEMS})

    with pytest.raises(PagingFailed, match="the same as the page before: does the API know the parameter '"):
        await read(client, api, next_page)

    assert len(api.asked) == 2


@pytest.mark.parametrize("way", ["body", "header"])
async def test_credentials_are_not_sent_to_another_origin(
    client: httpx.AsyncClient, api: Api, stranger: Api, way: str
) -> None:
    """The pages end with an error that names both."""
    url = f"{stranger.url}/items"
    api.answer = lambda _: web.json_response({"next": url}, headers={"Link": f'<{url}>; rel="next"'})

    with pytest.raises(PagingFailed, match="not sent to another origin") as failed:
        await read(
            client, api, by_url("next") if way == "body" else by_link, headers={"Authorization": "Bearer s3cret"}
        )

    assert stranger.asked == []
    assert url in str(failed.value)
    assert f"Credentials for {api.url}" in str(failed.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://[::1", "//elsewhere.example/items", "http://a:99999999/"]
)
async def test_other_addresses_are_not_requested(client: httpx.AsyncClient, api: Api, url: str) -> None:
    """Whether they are URLs or not."""
    api.answer = lambda _: web.json_response({"next": url})

    with pytest.raises(PagingFailed, match=r"page 1 of .*: the next page is '"):
        await read(client, api, by_url("next"))

    assert len(api.asked) == 1


async def test_a_kept_place_at_another_origin_is_refused(client: httpx.AsyncClient, api: Api) -> None:
    """The address of the API may have changed since it was kept."""
    with pytest.raises(PagingFailed, match="start: the next page is 'https://old.example/items"):
        await read(client, api, start="https://old.example/items?after=2")


@pytest.mark.parametrize("end", [None, "", False, 0])
@pytest.mark.parametrize("next_page", [by_cursor("after", "next"), by_url("next")])
async def test_an_empty_place_is_the_end(client: httpx.AsyncClient, api: Api, next_page: NextPage, end: object) -> None:
    """APIs have many ways to end their pages."""
    api.answer = lambda _: web.json_response({"items": [], "next": end})

    assert len(await read(client, api, next_page)) == 1


@pytest.mark.parametrize(
    ("next_page", "body", "message"),
    [
        (by_cursor("after", "next"), {"next": ["x"]}, r"\['x'\] was found at 'next', and a cursor was expected"),
        (by_cursor("after", "next"), {"next": True}, "True was found at 'next', and a cursor was expected"),
        (
            by_cursor("after", "paging", "next"),
            {"paging": "x"},
            "'paging' is 'x', and an object with 'next' was expected",
        ),
        (by_cursor("after", "next"), ["x"], r"its body is \['x'\], and an object with 'next' was expected"),
        (by_url("next"), {"next": 7}, "7 was found at 'next', and a URL was expected"),
        (by_page("page", "items"), {"data": []}, "None was found at 'items', and a list of items was expected"),
        (by_offset("offset"), {"data": []}, "was found at the top of the body, and a list of items was expected"),
        (lambda _: 7, {}, "the next page is 7, and a URL or parameters were expected"),
    ],
)
async def test_an_answer_of_another_form_is_an_error(
    client: httpx.AsyncClient, api: Api, next_page: NextPage, body: object, message: str
) -> None:
    """A page that is misread as the last one would lose all that follow."""
    api.answer = lambda _: web.json_response(body)

    with pytest.raises(PagingFailed, match=message):
        await read(client, api, next_page)


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"", b"\xff\xfe\xff", b"[" * 100_000])
async def test_a_body_that_is_not_json_is_an_error(client: httpx.AsyncClient, api: Api, body: bytes) -> None:
    """The message names the page and its media type."""
    api.answer = lambda _: web.Response(body=body, content_type="text/html")

    with pytest.raises(PagingFailed, match=r"page 1 of http://.*/items is not JSON, but text/html"):
        await read(client, api, by_cursor("after", "next"))


async def test_the_number_of_a_page_must_be_one(client: httpx.AsyncClient, api: Api) -> None:
    """It is counted from the one that was asked for."""
    api.answer = lambda _: web.json_response({"items": ITEMS})

    with pytest.raises(PagingFailed, match="page='first' was asked for, and a number was expected"):
        await read(client, api, by_page("page", "items"), params={"page": "first"})


@pytest.mark.parametrize("places", [((), None), (("next",), "X-Next")])
def test_a_cursor_has_one_place(places: tuple[tuple[str, ...], str | None]) -> None:
    """In the body, or in a header."""
    path, header = places
    with pytest.raises(TypeError, match="name the place of the cursor"):
        by_cursor("after", *path, header=header)
