"""The admin calls: running functions by hand, and asking how the host is."""

from typing import Any

from aiohttp import ClientSession

from tests.localdev.host.running import App, Queues
from tests.waiting import wait_until

FUNCTIONS = """
@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def tick(timer: func.TimerRequest) -> None:
    seen(function="tick", past_due=timer.past_due)

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    seen(function="work", body=msg.get_body().decode(), attempt=msg.dequeue_count, id=msg.id)

@app.function_name("Off")
@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
async def off(timer: func.TimerRequest) -> None:
    seen(function="Off")
"""


async def test_functions_are_run_by_hand(app: App, queues: Queues) -> None:
    """Any of them, also a disabled one, in any case of its name; a queue function gets the input as its body."""
    app.environ["AzureWebJobs.Off.Disabled"] = "1"
    app.write(FUNCTIONS)
    async with app.running() as host, ClientSession(host.url) as client:
        assert host.ready.startswith("Host started: 2 functions (tick timer, work queue) on http://127.0.0.1:")
        for name, body in (("tick", {}), ("work", {"input": '{"a": 1}'}), ("OFF", {"input": None})):
            async with client.post(f"/admin/functions/{name}", json=body) as response:
                assert response.status == 202
                assert await response.read() == b""
        await wait_until(lambda: len(app.seen()) == 3, description="all three have run")
        async with client.get("/admin/host/status") as response:
            assert (await response.json())["state"] == "Running"
        async with client.get("/admin/functions") as response:
            listed = await response.json()
    assert sorted(app.seen(), key=str) == [
        {"function": "Off"},
        {"function": "tick", "past_due": False},
        {"function": "work", "body": '{"a": 1}', "attempt": 0, "id": None},
    ]
    assert await queues.empty()
    assert [(function["name"], function["isDisabled"]) for function in listed] == [
        ("tick", False),
        ("work", False),
        ("Off", True),
    ]
    assert listed[1]["config"]["bindings"][0]["queueName"] == "%QUEUE%"
    assert host.has_logged("(Reason='This function was programmatically called via the host APIs.', Id=", times=3)


async def test_a_wrong_call_is_told_what_is_wrong(bare_app: App) -> None:
    """With the status the real host answers."""
    bare_app.write(FUNCTIONS.split("@app.queue_trigger", maxsplit=1)[0])
    calls: list[tuple[str, dict[str, Any], int, str]] = [
        ("nope", {"json": {}}, 404, "No function 'nope' here: tick"),
        ("tick", {"data": b"{}"}, 415, "Content-Type: application/json"),
        ("tick", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, '{"input": "text"}'),
        ("tick", {"json": ["input"]}, 400, '{"input": "text"}'),
        ("tick", {"json": {"input": {"a": 1}}}, 400, '{"input": "text"}'),
    ]
    async with bare_app.running() as host, ClientSession(host.url) as client:
        for name, arguments, status, told in calls:
            async with client.post(f"/admin/functions/{name}", **arguments) as response:
                assert response.status == status
                assert told in await response.text()
    assert bare_app.seen() == []


async def test_the_port_may_stand_in_local_settings(bare_app: App, unused_tcp_port: int) -> None:
    """`Host.LocalHttpPort`, where no --port is given."""
    settings = {"IsEncrypted": False, "Host": {"LocalHttpPort": unused_tcp_port}}
    bare_app.write(FUNCTIONS.split("@app.queue_trigger", maxsplit=1)[0], settings=settings)
    async with bare_app.running(port=None) as host:
        assert host.url == f"http://127.0.0.1:{unused_tcp_port}"
