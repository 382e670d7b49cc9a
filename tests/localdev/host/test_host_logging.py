"""The log lines of the app. Lines that are lost on Azure are marked."""

from localdev.host.console import NOT_SEEN
from tests.localdev.host.running import App, Queues
from tests.waiting import wait_until

BACKGROUND = """
logging.warning("at import")

async def later():
    while not Path("go").exists():
        await asyncio.sleep(0.05)
    logging.info("in the background, afterwards")

async def part():
    logging.info("in a task of the invocation")

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    logging.info("in the invocation")
    await asyncio.create_task(part())
    await asyncio.to_thread(logging.info, "in a thread of the invocation")
    work.later = asyncio.create_task(later())

@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *", run_on_startup=True)
def tick(timer: func.TimerRequest) -> None:
    logging.info("in a function that is not async")
    try:
        raise ValueError("no good")
    except ValueError:
        logging.exception("with a traceback")
"""


def line_of(lines: list[str], text: str) -> str:
    (line,) = [line for line in lines if text in line]
    return line


async def test_lines_outside_an_invocation_are_marked_as_not_seen_on_azure(app: App, queues: Queues) -> None:
    """Lines at import and lines of a task after the end of its invocation are marked. Other lines are not."""
    app.write(BACKGROUND)
    await queues.put("one")
    async with app.running() as host:
        await wait_until(queues.empty, description="the message is deleted")
        await wait_until(lambda: host.has_logged("ValueError: no good"), description="the timer function has run")
        app.let_go()
        await wait_until(lambda: host.has_logged("afterwards"), description="the background task has logged")

    assert line_of(host.logged, "at import").endswith(f"Z] at import {NOT_SEEN}")
    assert line_of(host.logged, "afterwards").endswith(f"Z] in the background, afterwards {NOT_SEEN}")
    marked = [line for line in host.logged if NOT_SEEN in line]
    assert len(marked) == 2, marked
    for text in (
        "in the invocation",
        "in a task of the invocation",
        "in a thread of the invocation",
        "in a function that is not async",
        "with a traceback",
    ):
        assert line_of(host.logged, text).endswith(text)
