"""The HTTP trigger: requests for the routes of functions, on the port of the host.

* Keys are not checked at any level of authorization of a function, as with Core Tools.
  Source: …/azure-functions/functions-bindings-http-webhook-trigger#http-auth.
* A function gets the body as bytes. Empty values of a query are left out, and values of the same name are joined by
  commas, like those of a header. A body without a Content-Length does not arrive: the host sends only those that have
  one. Sources: Azure/azure-functions-host, GrpcMessageConversionExtensions.cs (ToRpcHttp); azure_functions_runtime,
  handle_event.py (the capabilities RawHttpBodyBytes and RpcHttpBodyOnly).
* An unknown path, a method that the function does not list, and a disabled function are answered with 404; a function
  that failed with 500 and no text. Sources: FunctionInvocationMiddleware.cs; `routes`.
* A body may have 104,857,600 bytes, or FUNCTIONS_REQUEST_BODY_SIZE_LIMIT. A longer one is answered with 413 (that the
  real host has the same status was not checked). Sources: HttpRequestBodySizeMiddleware.cs;
  …/azure-functions/functions-app-settings#functions_request_body_size_limit.
* A request for another name than this machine's (`Host`) is answered with 421. A page of any site can give its own name
  the address 127.0.0.1 and would then be let in as the same site (DNS rebinding). Azure has only the names of the app.
* The function goes on if the client leaves. After a stop, running functions may finish, and new requests get 503.

Not here: the limits of `extensions.http` (maxConcurrentRequests and so on), custom headers of host.json, the home
page at `/`, CORS, and the authentication of App Service with its `X-MS-…` headers. A client can send these headers
itself here. On Azure, the platform removes them where its authentication is on.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from localdev.host.app import Function, HttpTrigger
from localdev.host.config import HttpOptions
from localdev.host.execution import Executor
from localdev.host.worker import Datum

log = logging.getLogger(__name__)

_BODILESS = (204, 304)
_THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)


@web.middleware
async def for_this_machine(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer requests for a name of this machine. Others are answered with 421."""
    name = request.headers.get("Host", "")
    if not _THIS_MACHINE.fullmatch(name):
        raise web.HTTPMisdirectedRequest(
            text=f"The local Functions host answers for this machine only, and the request is for {name!r}. Use "
            "http://localhost or http://127.0.0.1, with the port. If a tool forwards requests to this port, let it set "
            "the header Host to localhost"
        )
    return await handler(request)


class HttpListener:
    """Answers requests for the routes of functions."""

    def __init__(
        self,
        functions: Sequence[Function],
        options: HttpOptions,
        executor: Executor,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        stopping: asyncio.Event,
    ) -> None:
        by_name = sorted(functions, key=lambda function: function.name.lower())
        self._routes = [(one, one.trigger.route) for one in by_name if isinstance(one.trigger, HttpTrigger)]
        self._options = options
        self._executor = executor
        self._spawn = spawn
        self._stopping = stopping
        for function, route in self._routes:
            log.info(
                "Mapped function route '%s' [%s] to '%s'",
                "/".join(filter(None, (options.route_prefix, route.template))),
                ",".join(sorted(route.methods)) or "all",
                function.name,
            )

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request for any path."""
        if self._stopping.is_set():
            raise web.HTTPServiceUnavailable
        found = self._find(request)
        if found is None or found[0].disabled:
            raise web.HTTPNotFound
        function, parameters = found
        data = await _datum(request, parameters)
        response: asyncio.Future[web.Response] = asyncio.get_running_loop().create_future()

        async def invoke() -> None:
            made = await self._invoke(function, data)
            if not response.done():
                response.set_result(made)

        self._spawn(invoke())
        return await response

    def _find(self, request: web.Request) -> tuple[Function, dict[str, str]] | None:
        below = _below(request.rel_url.raw_path.strip("/"), self._options.route_prefix)
        if below is None:
            return None
        for function, route in self._routes:
            if (parameters := route.match(request.method, below)) is not None:
                return function, parameters
        return None

    async def _invoke(self, function: Function, data: Datum) -> web.Response:
        result = await self._executor.run(
            function, data, {}, reason="This function was programmatically called via the host APIs."
        )
        if not result.succeeded:
            return web.Response(status=500)
        try:
            return _response(result.value)
        except (ValueError, TypeError, LookupError) as error:
            log.error("The answer of function '%s' cannot be sent: %s", function.name, error)  # noqa: TRY400
            return web.Response(status=500)


def _below(path: str, prefix: str) -> str | None:
    """Return the part of a path below the route prefix; None if it is elsewhere."""
    if not prefix:
        return path
    start, rest = path[: len(prefix)], path[len(prefix) :]
    return rest.strip("/") if start.lower() == prefix.lower() and rest[:1] in ("", "/") else None


async def _datum(request: web.Request, parameters: Mapping[str, str]) -> Datum:
    """Return a request as the worker library takes it (`HttpRequestConverter` of azure-functions)."""
    body = await request.read() if request.content_length else b""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name.lower()] = f"{headers[name.lower()]},{value}" if name.lower() in headers else value
    return Datum(
        {
            "method": Datum(request.method, "string"),
            "url": Datum(f"{request.scheme}://{request.host}{request.rel_url.raw_path_qs}", "string"),
            "headers": _texts(headers),
            "query": _texts(_query(request.rel_url.raw_query_string)),
            "params": _texts(parameters),
            "body": Datum(body, "bytes"),
        },
        "http",
    )


def _query(text: str) -> dict[str, str]:
    """Return the values of a query by their names, which differ without case; the first spelling wins."""
    values: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        values.setdefault(names.setdefault(name.lower(), name), []).append(value)
    joined = {name: ",".join(each) for name, each in values.items()}
    return {name: value for name, value in joined.items() if value}


def _texts(values: Mapping[str, str]) -> dict[str, Datum]:
    return {name: Datum(value, "string") for name, value in values.items()}


def _response(value: Any) -> web.Response:
    """Return the answer that a function has returned: an HttpResponse or a text (`HttpResponseConverter`)."""
    if value.type == "string":
        return web.Response(text=value.value)
    answer = value.value
    status = int(answer["status_code"].value)
    if not 200 <= status <= 999:  # noqa: PLR2004 - the last statuses that HTTP has room for; 1xx are not answers
        raise ValueError(f"{status} is not a status")
    headers = {name: each.value for name, each in answer["headers"].items()}
    made = web.Response(status=status, headers=headers, body=None if status in _BODILESS else answer["body"].value)
    for cookie in answer["cookies"] or ():
        for morsel in cookie.values():
            made.headers.add("Set-Cookie", morsel.OutputString())
    if any(set("\r\n") & set(text) for pair in made.headers.items() for text in pair):
        raise ValueError("a header has a line break")
    return made
