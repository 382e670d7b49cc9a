"""Keeps credentials from the servers to which an API redirects a request."""

import httpx

type Origin = tuple[str, str, int | None]
"""Scheme, host and port."""

_ORIGIN = "datasync.origin"
_PORTS = {"http": 80, "https": 443}
_KEPT = set(
    """
    accept accept-charset accept-encoding accept-language cache-control connection content-disposition content-encoding
    content-language content-length content-type expect host idempotency-key if-match if-modified-since if-none-match
    if-range if-unmodified-since pragma prefer range te traceparent tracestate transfer-encoding user-agent
    """.split()  # noqa: SIM905 - a list literal would be a page long
)
"""Headers without credentials. APIs have their own names for headers with them, which no list has."""


def origin(url: httpx.URL) -> Origin:
    """Return the origin of a URL, with the port that its scheme implies."""
    return (url.scheme, url.host, url.port or _PORTS.get(url.scheme))


def forget(request: httpx.Request) -> None:
    """Let a new request keep its credentials, though it has the extensions of an earlier one."""
    request.extensions.pop(_ORIGIN, None)


def guard(request: httpx.Request, cookies: httpx.Cookies) -> None:
    """Remove the credentials of a request that follows a redirect to another origin.

    httpx removes only `Authorization`. It keeps that too from http to https of the same host, and so does this
    function. `cookies` are those of the client. Those without a domain are for the server that was called.
    """
    before, now = request.extensions.get(_ORIGIN), origin(request.url)
    request.extensions[_ORIGIN] = now  # httpx copies the extensions to the request that follows a redirect
    if before in (None, now, ("http", now[1], 80) if now[0] == "https" and now[2] == _PORTS["https"] else now):
        return
    for name in set(request.headers) - _KEPT:
        del request.headers[name]
    bound = httpx.Cookies()
    for cookie in cookies.jar:
        if cookie.domain:
            bound.jar.set_cookie(cookie)
    bound.set_cookie_header(request)
