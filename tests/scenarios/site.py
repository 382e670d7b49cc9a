"""The page of the company's app, served as the app's routes do."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.utils import format_datetime

from aiohttp import web

from dashboard import server
from dashboard.web import Answer, Request
from localdev.web import serving
from tests.scenarios.company import Company


@asynccontextmanager
async def served(company: Company) -> AsyncGenerator[str]:
    """Serve the page, and yield its address. `shared_services` of the server are those of the company."""

    async def page(request: web.Request) -> web.Response:
        return answered(await server.index("key", await unpacked(request)))

    async def asset(request: web.Request) -> web.Response:
        return answered(await server.asset("key", await unpacked(request), request.match_info["name"]))

    async def data(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return answered(await server.data("key", company.registry, await unpacked(request), name))

    async def act(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return answered(await server.action("key", company.registry, await unpacked(request), name))

    async def unpacked(request: web.Request) -> Request:
        headers = {name.lower(): value for name, value in request.headers.items()}
        return Request(method=request.method, query=dict(request.query), headers=headers, body=await request.read())

    def answered(answer: Answer) -> web.Response:
        headers = {**answer.headers, "Date": format_datetime(company.now, usegmt=True)}
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    application = web.Application()
    application.router.add_get("/api/ops", page)
    application.router.add_get("/api/ops/assets/{name}", asset)
    application.router.add_get("/api/ops/data/{name}", data)
    application.router.add_post("/api/ops/actions/{name}", act)
    async with serving("the page", application) as url:
        yield f"{url}/api/ops"
