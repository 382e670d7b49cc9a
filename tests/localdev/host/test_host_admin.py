"""The admin calls: run a function, list the functions, read the state of the host."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from localdev.azurite import Storage
from tests.localdev.host.running import App, Queues, RunningHost, new_queues
from tests.waiting import wait_until

TIMER = """
@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def tick(timer: func.TimerRequest) -> None:
    seen(function="tick", past_due=timer.past_due)
"""

FUNCTIONS = f"""
{TIMER}
@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    seen(function="work", body=msg.get_body().decode(), attempt=msg.dequeue_count, id=msg.id)

@app.function_name("Off")
@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
async def off(timer: func.TimerRequest) -> None:
    seen(function="Off")
"""


@dataclass(frozen=True, slots=True)
class Shared:
    """The host of this module, with three functions."""

    app: App
    host: RunningHost
    queues: Queues
    client: ClientSession


@pytest_asyncio.fixture(scope="module")
async def shared(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shared]:
    """Run one host for the tests of this module."""
    async with new_queues(storage) as queues:
        settings = {"QUEUE": queues.name, "AzureWebJobs.Off.Disabled": "1"}
        app = App.with_storage(tmp_path_factory.mktemp("admin"), storage, **settings)
        app.write(FUNCTIONS)
        async with app.running() as host, ClientSession(host.url) as client:
            yield Shared(app, host, queues, client)


async def test_functions_and_state_are_listed(shared: Shared) -> None:
    """The list has all functions, with their bindings and whether they are disabled."""
    assert shared.host.ready.startswith("Host started: 2 functions (tick timer, work queue) on http://127.0.0.1:")
    async with shared.client.get("/admin/host/status") as response:
        assert (await response.json())["state"] == "Running"
    async with shared.client.get("/admin/functions") as response:
        listed = await response.json()
    assert [(function["name"], function["isDisabled"]) for function in listed] == [
        ("tick", False),
        ("work", False),
        ("Off", True),
    ]
    assert listed[1]["config"]["bindings"][0]["queueName"] == "%QUEUE%"


@pytest.mark.parametrize(
    ("function", "request_", "status", "message"),
    [
        ("nope", {"json": {}}, 404, "There is no function 'nope'. The functions are: tick, work, Off"),
        ("tick", {"data": b"{}"}, 415, "Content-Type: application/json"),
        ("tick", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, '{"input": "text"}'),
        ("tick", {"json": ["input"]}, 400, '{"input": "text"}'),
        ("tick", {"json": {"input": {"a": 1}}}, 400, '{"input": "text"}'),
    ],
)
async def test_an_invalid_call_is_refused(
    shared: Shared, function: str, request_: dict[str, Any], status: int, message: str
) -> None:
    """The status is that of the real host, and the message shows the correct form. No function runs."""
    before = shared.app.seen()
    async with shared.client.post(f"/admin/functions/{function}", **request_) as response:
        assert response.status == status
        assert message in await response.text()
    assert shared.app.seen() == before


async def test_a_call_runs_a_function(shared: Shared) -> None:
    """Also a disabled function can be called. The case of the name is ignored. A queue function gets the input."""
    for name, body in (("tick", {}), ("work", {"input": '{"a": 1}'}), ("OFF", {"input": None})):
        async with shared.client.post(f"/admin/functions/{name}", json=body) as response:
            assert response.status == 202
            assert await response.read() == b""
    await wait_until(lambda: len(shared.app.seen()) == 3, description="all three functions have run")
    assert sorted(shared.app.seen(), key=str) == [
        {"function": "Off"},
        {"function": "tick", "past_due": False},
        {"function": "work", "body": '{"a": 1}', "attempt": 0, "id": None},
    ]
    assert await shared.queues.empty()
    reason = "(Reason='This function was programmatically called via the host APIs.', Id="
    await wait_until(lambda: shared.host.has_logged(reason, times=3), description="the three calls are logged")


async def test_local_settings_can_have_the_port(bare_app: App, unused_tcp_port: int) -> None:
    """`Host.LocalHttpPort` is the port if --port is not given."""
    bare_app.write(TIMER, settings={"IsEncrypted": False, "Host": {"LocalHttpPort": unused_tcp_port}})
    async with bare_app.running(port=None) as host:
        assert host.url == f"http://127.0.0.1:{unused_tcp_port}"
