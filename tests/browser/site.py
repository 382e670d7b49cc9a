"""The page and its files as the app serves them, over data that a test sets."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

from aiohttp import web

from dashboard import page, server
from dashboard.access import Mode
from dashboard.web import Answer, Request, json_answer
from localdev.web import serving

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)

type Question = Callable[[Mapping[str, str]], object]


class Site:
    """Answers each request at once. The headers of the answers are those of the app."""

    def __init__(self) -> None:
        self.url = ""
        self.mode: Mode = "key"
        """How people are let in."""
        self.key = ""
        """The function key that data and actions need; empty for none."""
        self.signed_out = HTTPStatus.OK
        """How the platform answers somebody whose sign-in is over: FOUND, or UNAUTHORIZED. OK while it is not."""
        self.now = NOW
        """The time of the app."""
        self.data: dict[str, object | Question] = {}
        """The answers by question: content, or a function of the query."""
        self.results: dict[str, list[tuple[HTTPStatus, object]]] = {}
        """The results of the coming actions by name, one for each request."""
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        """The questions, with their queries."""
        self.done: list[tuple[str, Any]] = []
        """The actions, with their bodies."""

    async def page(self, request: web.Request) -> web.Response:
        return _response(page.index(await _unpacked(request), self.mode))

    async def asset(self, request: web.Request) -> web.Response:
        return _response(await server.asset("key", await _unpacked(request), request.match_info["name"]))

    async def answer(self, request: web.Request) -> web.Response:
        name, query = request.match_info["name"], dict(request.query)
        if refused := self._refused(request):
            return refused
        self.asked.append((name, query))
        found = self.data.get(name)
        if found is None:
            return await _json(request, {"error": f"there is no {name}"}, HTTPStatus.NOT_FOUND)
        return self._at_its_time(await _json(request, found(query) if callable(found) else found))

    async def act(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        assert request.headers["X-DataSync"] == "dashboard"
        assert request.headers["Sec-Fetch-Site"] == "same-origin"
        assert request.content_type == "application/json"
        name = request.match_info["name"]
        self.done.append((name, await request.json()))
        waiting = self.results.get(name)
        status, content = waiting.pop(0) if waiting else (HTTPStatus.OK, {"message": f"{name} is done"})
        return self._at_its_time(await _json(request, content, status))

    def _at_its_time(self, response: web.Response) -> web.Response:
        response.headers["Date"] = format_datetime(self.now, usegmt=True)
        return response

    def _refused(self, request: web.Request) -> web.Response | None:
        """Return the answer of the platform to a wrong key, which has no body, or to somebody who is not signed in."""
        if self.signed_out is HTTPStatus.FOUND:
            return web.Response(status=self.signed_out, headers={"Location": "https://login.example/authorize"})
        if self.signed_out is HTTPStatus.UNAUTHORIZED:
            return web.Response(status=self.signed_out)
        if self.key and request.headers.get("x-functions-key") != self.key:
            return web.Response(status=HTTPStatus.UNAUTHORIZED)
        return None


@asynccontextmanager
async def site() -> AsyncGenerator[Site]:
    """Serve the page on a free port."""
    made = Site()
    application = web.Application()
    application.router.add_get("/api/ops", made.page)
    application.router.add_get("/api/ops/", made.page)
    application.router.add_get("/api/ops/assets/{name}", made.asset)
    application.router.add_get("/api/ops/data/{name}", made.answer)
    application.router.add_post("/api/ops/actions/{name}", made.act)
    async with serving("the page", application) as url:
        made.url = f"{url}/api/ops"
        yield made


async def _unpacked(request: web.Request) -> Request:
    headers = {name.lower(): value for name, value in request.headers.items()}
    query, body = dict(request.query), await request.read()
    return Request(method=request.method, query=query, headers=headers, body=body, path=request.path)


async def _json(request: web.Request, content: object, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return _response(await json_answer(await _unpacked(request), content, status))


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
