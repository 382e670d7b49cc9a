"""The routes of the page. Each unpacks its request and calls `server`.

Everything else is imported at the first request: the processes of the timer and of the queue never need it.
"""

from typing import TYPE_CHECKING

import azure.functions as func

from datasync.flow.registry import FlowRegistry
from datasync.settings import DashboardMode

if TYPE_CHECKING:
    from dashboard.web import Answer, Request


def routes(mode: DashboardMode, registry: FlowRegistry) -> func.Blueprint:
    """Return the routes: in mode `off` that of the health alone.

    In mode `key` the platform lets requests for data and changes through that have the function key in the header
    `x-functions-key`. The page and its files hold no data. In mode `entra`, the authentication of App Service stands
    before all routes, and a key would have to be given in addition.
    """
    blueprint = func.Blueprint()  # type: ignore[no-untyped-call]

    @blueprint.route("ops/health", methods=["GET", "HEAD"], auth_level=func.AuthLevel.ANONYMOUS)
    async def ops_health(req: func.HttpRequest) -> func.HttpResponse:
        from dashboard.health import health

        return _response(await health(registry, _request(req)))

    if mode == "off":
        return blueprint
    guarded = func.AuthLevel.FUNCTION if mode == "key" else func.AuthLevel.ANONYMOUS

    @blueprint.route("ops", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
    async def ops_page(req: func.HttpRequest) -> func.HttpResponse:
        from dashboard import server

        return _response(await server.index(mode, _request(req)))

    @blueprint.route("ops/assets/{name}", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
    async def ops_assets(req: func.HttpRequest) -> func.HttpResponse:
        from dashboard import server

        return _response(await server.asset(mode, _request(req), req.route_params["name"]))

    @blueprint.route("ops/data/{question}", methods=["GET"], auth_level=guarded)
    async def ops_data(req: func.HttpRequest) -> func.HttpResponse:
        from dashboard import server

        return _response(await server.data(mode, registry, _request(req), req.route_params["question"]))

    @blueprint.route("ops/actions/{name}", methods=["POST"], auth_level=guarded)
    async def ops_actions(req: func.HttpRequest) -> func.HttpResponse:
        from dashboard import server

        return _response(await server.action(mode, registry, _request(req), req.route_params["name"]))

    return blueprint


def _request(req: func.HttpRequest) -> "Request":
    from urllib.parse import urlsplit

    from dashboard.web import Request

    path = urlsplit(req.url).path
    return Request(method=req.method, query=req.params, headers=req.headers, body=req.get_body(), path=path)


def _response(answer: "Answer") -> func.HttpResponse:
    return func.HttpResponse(answer.body, status_code=answer.status, headers=answer.headers)
