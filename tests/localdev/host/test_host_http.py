"""The HTTP trigger: the input of a function, the conversion of its answer, and the answers of the host itself."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientConnectionError, ClientSession

from localdev.azurite import Storage
from tests.localdev.host.running import App, Queues, RunningHost, new_queues
from tests.waiting import wait_until

FUNCTIONS = """
@app.route("echo/{name?}", methods=["GET", "POST"], auth_level=func.AuthLevel.FUNCTION)
async def echo(req: func.HttpRequest) -> func.HttpResponse:
    got = dict(method=req.method, url=req.url, query=dict(req.params), route=dict(req.route_params),
               headers=dict(req.headers), body=req.get_body().decode("latin-1"))
    return func.HttpResponse(json.dumps(got), mimetype="application/json", status_code=201,
                             headers={"X-Own": "1", "Set-Cookie": "a=b; Path=/; HttpOnly"})

@app.route("echo/special", methods=["GET"])
def a_special(req: func.HttpRequest) -> str:
    return "grüße"

@app.route("fails")
async def fails(req: func.HttpRequest) -> func.HttpResponse:
    raise RuntimeError("a secret")

@app.route("nothing")
async def nothing(req: func.HttpRequest) -> func.HttpResponse:
    return None

@app.route("splits")
async def splits(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("", headers={"X-Own": "a\\tb"}, status_code=999999)

@app.route("empty", methods=["DELETE"])
async def empty(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(status_code=204)

@app.route("waits")
async def waits(req: func.HttpRequest) -> str:
    seen(function="waits")
    while not Path("go").exists():
        await asyncio.sleep(0.05)
    seen(function="waits", ended=True)
    return "done"

@app.route("off")
async def off(req: func.HttpRequest) -> str:
    return "on"

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    seen(function="work", body=msg.get_body().decode())
"""


@dataclass(frozen=True, slots=True)
class Shared:
    """The host of this module."""

    app: App
    host: RunningHost
    queues: Queues
    client: ClientSession


@pytest_asyncio.fixture(scope="module")
async def shared(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shared]:
    """Run one host for the tests of this module."""
    async with new_queues(storage) as queues:
        settings = {"AzureWebJobs.off.Disabled": "true", "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "1000"}
        app = App.with_storage(tmp_path_factory.mktemp("http"), storage, QUEUE=queues.name, **settings)
        app.write(FUNCTIONS)
        async with app.running() as host, ClientSession(host.url) as client:
            yield Shared(app, host, queues, client)


async def got(client: ClientSession, path: str, method: str = "GET", **options: Any) -> dict[str, Any]:
    async with client.request(method, path, **options) as response:
        assert response.status == 201
        found: dict[str, Any] = await response.json()
        return found


async def test_a_function_gets_the_request(shared: Shared) -> None:
    """Parameters of the path are decoded, empty values are left out, and repeated ones are joined."""
    found = await got(shared.client, "/API/Echo/J%C3%BCrg/?a=1&A=2&b=&c=%C3%A9+x", headers=[("X-A", "1"), ("X-A", "2")])

    assert found["method"] == "GET"
    assert found["url"] == f"{shared.host.url}/API/Echo/J%C3%BCrg/?a=1&A=2&b=&c=%C3%A9+x"
    assert found["route"] == {"name": "Jürg"}
    assert found["query"] == {"a": "1,2", "c": "é x"}
    assert found["headers"]["x-a"] == "1,2"
    assert found["body"] == ""


async def test_a_function_gets_the_bytes_of_the_body(shared: Shared) -> None:
    """All values of a byte."""
    found = await got(shared.client, "/api/echo", "POST", data=bytes(range(256)))

    assert found["body"].encode("latin-1") == bytes(range(256))


async def test_a_body_without_a_length_does_not_arrive(shared: Shared) -> None:
    """The host of Azure sends only those with a Content-Length."""

    async def chunks() -> AsyncGenerator[bytes]:
        yield b"{}"

    assert (await got(shared.client, "/api/echo", "POST", data=chunks()))["body"] == ""


async def test_the_answer_is_that_of_the_function(shared: Shared) -> None:
    """Status, headers, cookies and text; a text alone is 200."""
    async with shared.client.get("/api/echo") as response:
        assert response.status == 201
        assert response.headers["X-Own"] == "1"
        assert response.headers["Content-Type"] == "application/json"
        assert response.cookies["a"]["httponly"]
    async with shared.client.get("/api/echo/special") as response:
        assert (response.status, await response.text()) == (200, "grüße")
    async with shared.client.delete("/api/empty") as response:
        assert (response.status, await response.read()) == (204, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/unknown", 404),
        ("GET", "/echo", 404),
        ("GET", "/apis/echo", 404),
        ("GET", "/api", 404),
        ("HEAD", "/api/echo", 404),
        ("PUT", "/api/echo", 404),
        ("GET", "/api/off", 404),
        ("GET", "/api/fails", 500),
        ("GET", "/api/nothing", 500),
        ("GET", "/api/splits", 500),
    ],
)
async def test_the_host_answers_itself(shared: Shared, method: str, path: str, status: int) -> None:
    """404 for a path that it does not find, also for a method; 500 without the reason for a function that failed."""
    async with shared.client.request(method, path) as response:
        assert response.status == status
        assert "secret" not in await response.text()


async def test_routes_are_tried_in_the_order_of_the_names_of_their_functions(shared: Shared) -> None:
    """`a_special` is before `echo`, whose route matches too."""
    async with shared.client.get("/api/echo/special") as response:
        assert response.status == 200
    assert shared.host.has_logged("Mapped function route 'api/echo/{name?}' [GET,POST] to 'echo'")


async def test_a_large_body_is_refused(shared: Shared) -> None:
    """The limit is a setting of the host."""
    assert len((await got(shared.client, "/api/echo", "POST", data=b"x" * 1000))["body"]) == 1000
    async with shared.client.post("/api/echo", data=b"x" * 1001) as response:
        assert response.status == 413


@pytest.mark.parametrize("path", ["/api/echo", "/admin/host/status", "/nothing"])
async def test_requests_for_another_machine_are_refused(shared: Shared, path: str) -> None:
    """A page of any site can give its own name the address 127.0.0.1. It would be let in as the same site."""
    port = shared.host.url.rpartition(":")[2]
    for name in (
        "evil.example",
        f"evil.example:{port}",
        f"localhost.evil.example:{port}",
        f"127.0.0.1.evil:{port}",
        "",
    ):
        async with shared.client.get(path, headers={"Host": name}) as response:
            assert response.status == 421
            assert "Use http://localhost or http://127.0.0.1, with the port" in await response.text()
    for name in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        async with shared.client.get(path, headers={"Host": name}) as response:
            assert response.status != 421


async def test_an_admin_call_does_not_run_an_http_function(shared: Shared) -> None:
    """It has a route."""
    async with shared.client.post("/admin/functions/echo", json={}) as response:
        assert response.status == 400
        assert "send a request for its route" in await response.text()


async def test_requests_run_beside_each_other_and_beside_messages(storage: Storage, app: App, queues: Queues) -> None:
    """While a request waits, others are answered and messages are worked on. A client may leave: the function goes on.

    After a stop, functions that run may finish.
    """
    app.write(FUNCTIONS)
    async with app.running() as host, ClientSession(host.url) as client:
        waiting = asyncio.create_task(client.get("/api/waits"))
        leaving = asyncio.create_task(client.get("/api/waits"))
        await wait_until(lambda: len(app.seen()) == 2, description="both requests wait")
        async with client.get("/api/echo/special") as response:
            assert response.status == 200
        await queues.put("{}")
        await wait_until(lambda: {"function": "work", "body": "{}"} in app.seen(), description="the message arrived")
        leaving.cancel()
        host.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: host.has_logged("Stopping: running functions"), description="the host stops")
        async with client.get("/api/echo") as response:
            assert response.status == 503
        app.let_go()
        response = await waiting
        assert await response.text() == "done"
        assert await host.exit_code() == 0
        with pytest.raises(ClientConnectionError):
            await client.get("/api/echo")
    assert app.seen().count({"function": "waits", "ended": True}) == 2


@pytest.mark.parametrize(
    ("prefix", "path"), [("", "/text"), ("my/own", "/My/Own/text"), ("/v1/", "/v1/text/")], ids=["none", "two", "one"]
)
async def test_the_prefix_is_a_setting(bare_app: App, prefix: str, path: str) -> None:
    """host.json can change it, or leave it out."""
    bare_app.write(
        '@app.route("text")\ndef text(req: func.HttpRequest) -> str:\n    return "hallo"\n',
        host={"extensions": {"http": {"routePrefix": prefix}}},
    )
    async with bare_app.running() as host, ClientSession(host.url) as client:
        async with client.get(path) as response:
            assert await response.text() == "hallo"
        async with client.get("/api/text") as response:
            assert response.status == 404


async def test_routes_that_the_host_refuses_stop_the_start(bare_app: App) -> None:
    """All mistakes are reported together."""
    bare_app.write("""
@app.route("admin/x")
def one(req: func.HttpRequest) -> str: ...

@app.route("same", methods=["GET"])
def two(req: func.HttpRequest) -> str: ...

@app.route("Same")
def three(req: func.HttpRequest) -> str: ...
""")

    lines = "\n".join(await bare_app.refused())

    assert "function 'one': route 'admin/x' begins with admin or runtime, which the host reserves" in lines
    assert "function 'three': its route 'Same' is the route of function 'two' too" in lines
