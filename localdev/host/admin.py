"""Three admin calls of the Functions host that help during development, without keys, on 127.0.0.1 only.

* `POST /admin/functions/<name>` with `{"input": "…"}` runs a function now, and answers 202 at once. A queue function
  gets the input as the body of its message. A timer function ignores it.
* `GET /admin/functions` lists the functions.
* `GET /admin/host/status` returns the state of the host.

Source: https://learn.microsoft.com/azure/azure-functions/functions-manually-run-non-http
"""

from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from localdev.host.app import Function, HttpTrigger


def routes(functions: Sequence[Function], invoke: Callable[[Function, str], object]) -> list[web.RouteDef]:
    """Return the routes of the admin calls.

    `invoke` starts a function with the input and does not wait for its end.
    """
    by_name = {function.name.lower(): function for function in functions}

    async def run(request: web.Request) -> web.Response:
        function = by_name.get(request.match_info["name"].lower())
        if function is None:
            raise web.HTTPNotFound(
                text=f"There is no function {request.match_info['name']!r}. The functions are: {_names(functions)}"
            )
        if isinstance(function.trigger, HttpTrigger):
            raise web.HTTPBadRequest(text=f"{function.name} is an HTTP function: send a request for its route")
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="Send JSON with the header Content-Type: application/json")
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("input", ""), str | None):
            raise web.HTTPBadRequest(text='Expected a JSON object: {"input": "text"} or {}')
        invoke(function, body.get("input") or "")
        return web.Response(status=202)

    async def list_functions(_: web.Request) -> web.Response:
        return web.json_response([_described(function) for function in functions])

    async def status(_: web.Request) -> web.Response:
        return web.json_response({"id": "local", "state": "Running"})

    return [
        web.post("/admin/functions/{name}", run),
        web.get("/admin/functions", list_functions),
        web.get("/admin/host/status", status),
    ]


def _names(functions: Sequence[Function]) -> str:
    return ", ".join(function.name for function in functions)


def _described(function: Function) -> dict[str, Any]:
    return {
        "name": function.name,
        "language": "python",
        "isDisabled": function.disabled,
        "config": {"name": function.name, "bindings": list(function.bindings)},
    }
