"""The end of the host."""

import signal

import pytest

from tests.localdev.host.running import App, Queues
from tests.waiting import wait_until

WAITING = """
@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    seen(started=msg.get_body().decode())
    while not Path("go").exists():
        await asyncio.sleep(0.05)
    seen(finished=msg.get_body().decode())
"""


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_running_functions_may_finish(app: App, queues: Queues, which: signal.Signals) -> None:
    """After a signal no more messages are fetched. The running function finishes, and its message is deleted."""
    app.write(WAITING, host={"extensions": {"queues": {"batchSize": 1}}})
    await queues.put("one", "two")
    async with app.running() as host:
        await wait_until(app.seen, description="a function is running")
        host.process.send_signal(which)
        await wait_until(lambda: host.has_logged("Stopping: "), description="the host is stopping")
        app.let_go()
        assert await host.exit_code() == 0
    assert app.seen() == [{"started": "one"}, {"finished": "one"}]
    (left,) = await queues.jobs.peek_messages(32)
    assert left.content == "dHdv"


@pytest.mark.parametrize("how", ["await asyncio.sleep", "time.sleep"])
async def test_functions_that_do_not_finish_are_cancelled(app: App, queues: Queues, how: str) -> None:
    """They have --drain seconds, also if they block. Their messages stay hidden, as on Azure."""
    app.write(WAITING.replace("await asyncio.sleep", how))
    await queues.put("one")
    async with app.running("--drain", "0.1") as host:
        await wait_until(app.seen, description="the function is running")
        assert await host.exit_code(signal.SIGTERM) == 0
    assert app.seen() == [{"started": "one"}]
    assert host.has_logged(
        "Cancelled the functions that were still running. Their messages stay hidden for up to 600 s"
    )
    assert not await queues.empty()
    assert await queues.jobs.peek_messages() == []


async def test_a_cancelled_function_has_a_moment_to_end(app: App, queues: Queues) -> None:
    """The app can note that it was interrupted, also after the end of the host's parent."""
    app.write("""
@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    seen(started=True)
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.1)
        seen(noted=True)
""")
    await queues.put("one")
    async with app.running() as host:
        await wait_until(app.seen, description="the function is running")
        assert host.process.stdin
        host.process.stdin.close()
        assert await host.exit_code() == 0
    assert app.seen() == [{"started": True}, {"noted": True}]


async def test_a_second_signal_does_not_wait(app: App, queues: Queues) -> None:
    """The second Ctrl-C ends a function that had an hour to finish."""
    app.write(WAITING)
    await queues.put("one")
    async with app.running("--drain", "3600") as host:
        await wait_until(app.seen, description="the function is running")
        host.process.send_signal(signal.SIGINT)
        await wait_until(lambda: host.has_logged("Stopping: "), description="the host is stopping")
        assert await host.exit_code(signal.SIGINT) == 0


async def test_the_host_stops_with_its_parent(bare_app: App) -> None:
    """With --stdin-from-parent it ends when standard input ends, which also happens if the parent is killed."""
    bare_app.write("""
@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
def tick(timer: func.TimerRequest) -> None: ...
""")
    async with bare_app.running() as host:
        assert host.process.stdin
        host.process.stdin.close()
        assert await host.exit_code() == 0


async def test_a_line_on_standard_input_lets_running_functions_finish(app: App, queues: Queues) -> None:
    """With --stdin-from-parent, the parent stops the host with a line."""
    app.write(WAITING)
    await queues.put("one")
    async with app.running() as host:
        await wait_until(app.seen, description="the function is running")
        assert host.process.stdin
        host.process.stdin.write(b"stop\n")
        await wait_until(lambda: host.has_logged("Stopping: "), description="the host is stopping")
        app.let_go()
        assert await host.exit_code() == 0
    assert app.seen() == [{"started": "one"}, {"finished": "one"}]
    assert await queues.empty()


async def test_a_signal_stops_the_host_during_the_import_of_the_app(bare_app: App) -> None:
    """The import of this app never ends by itself."""
    bare_app.write("seen(importing=True)\ntime.sleep(3600)")
    async with bare_app.starting() as process:
        await wait_until(bare_app.seen, description="the app is being imported")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("call", "message"), [("sys.exit, 3", "SystemExit(3)"), ("loop.stop", "RuntimeError('it was stopped')")]
)
async def test_an_app_that_ends_its_event_loop_ends_the_host(app: App, queues: Queues, call: str, message: str) -> None:
    """No function can run any more, so the host reports the reason, and exits with code 1."""
    app.write(f"""
@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon({call})
    await asyncio.sleep(3600)
""")
    await queues.put("one")
    async with app.running() as host:
        assert await host.exit_code() == 1
    assert host.logged[-1] == f"the event loop that functions run on has ended: {message}"
