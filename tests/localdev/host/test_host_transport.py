"""The HTTP transport of the host's own requests to Azure Storage."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from localdev.web import serving
from tests.localdev.host.running import App, Queues
from tests.waiting import wait_until

NOTING = """
@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    seen(body=msg.get_body().decode())
"""
STORAGE = (
    "DefaultEndpointsProtocol=http;AccountName=acme;AccountKey=a2V5;QueueEndpoint=http://acme.queue.example.invalid;"
)


@asynccontextmanager
async def proxy(hosts: list[str]) -> AsyncGenerator[str]:
    """Run an HTTP proxy that notes the hosts of requests, and answers 404."""

    async def refuse(request: web.Request) -> web.Response:
        hosts.append(request.headers["Host"])
        return web.Response(status=404)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", refuse)
    async with serving("The proxy", application) as url:
        yield url


async def test_a_configured_proxy_is_used(app: App) -> None:
    """With HTTP_PROXY in the environment, requests to the storage account go to the proxy."""
    app.write(NOTING)
    hosts: list[str] = []
    async with proxy(hosts) as url:
        app.environ.update(AzureWebJobsStorage=STORAGE, HTTP_PROXY=url, NO_PROXY="")
        async with app.running():
            await wait_until(lambda: hosts, description="the proxy has received a request")
    assert set(hosts) == {"acme.queue.example.invalid"}


@pytest.mark.parametrize("environ", [{}, {"NO_PROXY": "example.com"}], ids=["nothing set", "exceptions only"])
async def test_without_a_proxy_the_environment_is_not_read_for_each_request(
    app: App, queues: Queues, environ: dict[str, str]
) -> None:
    """The host does not read .netrc: a missing file is not reported."""
    app.write(NOTING)
    app.environ.update(environ, NETRC=str(app.folder / "missing"))
    await queues.put("one")
    async with app.running() as host:
        await wait_until(queues.empty, description="the message is deleted")
    assert app.seen() == [{"body": "one"}]
    assert not host.has_logged(".netrc")
