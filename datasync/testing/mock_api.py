"""Answers the requests of flows by the routes of a test. They are respx's: https://lundberg.github.io/respx/guide/"""

from typing import override

import httpx
from respx import MockRouter
from respx.models import AllMockedAssertionError, PassThrough, SideEffectError


def answered_by(routes: MockRouter) -> httpx.AsyncBaseTransport:
    """Return a transport that answers each request by the routes, in the place of the network.

    A request that no route matches, and one for which a route has no answer left, raise an AssertionError.
    """
    return _Answers(routes)


class _Answers(httpx.AsyncBaseTransport):
    def __init__(self, routes: MockRouter) -> None:
        self._routes = routes

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        try:
            return await self._routes.async_handler(request)
        except AllMockedAssertionError:
            raise AssertionError(self._unmatched(request)) from None
        except PassThrough:
            raise AssertionError(
                f"mock_api sends nothing to the network, but the route of {_shown(request)} says so: "
                "give it an answer, with respond() or mock()"
            ) from None
        except RuntimeError as error:
            if not isinstance(error.__cause__, StopIteration):
                raise
            raise AssertionError(
                f"mock_api has no answer left for {_shown(request)}: the list of answers in side_effect has an end. "
                "A request that fails is sent up to five times"
            ) from None
        except Exception as error:
            if isinstance(error.__cause__, SideEffectError):
                raise error from None  # the exception that the route was given, without respx's own
            raise

    def _unmatched(self, request: httpx.Request) -> str:
        known = "".join(f"\n  {route.pattern!r}" for route in self._routes.routes) or " none"
        url = request.url.copy_with(query=None)
        return (
            f"no route of mock_api matches {_shown(request)}. Add one: "
            f'mock_api.{request.method.lower()}("{url}").respond(json=…). Its routes:{known}'
        )


def _shown(request: httpx.Request) -> str:
    return f"{request.method} {request.url}"
