"""Serves an aiohttp application on this machine, in the caller's event loop."""

import asyncio
import errno
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from localdev.errors import PortTaken
from localdev.ports import owner

HOST = "127.0.0.1"
CLOSE_SECONDS = 1


@asynccontextmanager
async def serving(
    part: str, application: web.Application, *, port: int = 0, context: ssl.SSLContext | None = None
) -> AsyncGenerator[str]:
    """Serve `application` on 127.0.0.1, over https with an SSL `context`. Yields its URL, without a slash at the end.

    Port 0 means a free port. `part` is its name in error messages. Raises PortTaken.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port, ssl_context=context).start()
        except OSError as why:
            if why.errno in {errno.EADDRINUSE, errno.EACCES}:  # EACCES on Windows
                raise PortTaken([(part, port, owner(port))]) from None
            raise
        bound: int = runner.addresses[0][1]
        yield f"{'https' if context else 'http'}://{HOST}:{bound}"
    finally:
        await asyncio.shield(runner.cleanup())
