"""The spans of the app, as lines in the log of the host."""

import re

from localdev.host.console import NOT_SEEN
from tests.localdev.host.running import App, Queues
from tests.waiting import wait_until

TRACED = """
from opentelemetry import trace

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    tracer = trace.get_tracer("app")
    with tracer.start_as_current_span("process jobs") as span:
        span.set_attributes({"datasync.tenant": "acme\\nSPAN", "datasync.flow": "weather", "error.type": "OSError"})
        span.set_status(trace.StatusCode.ERROR, "no route")
        with tracer.start_as_current_span("inner"):
            seen(enabled=os.environ["PYTHON_ENABLE_OPENTELEMETRY"])
"""
ID = "[0-9a-f]{16}"


async def test_a_line_for_each_span_is_logged_with_trace(app: App, queues: Queues) -> None:
    """It is one line, for any names. OpenTelemetry is on in the app."""
    app.write(TRACED)
    await queues.put("one")
    async with app.running("--trace") as host:
        await wait_until(lambda: host.has_logged("SPAN process jobs"), description="the span has ended")

    assert app.seen() == [{"enabled": "true"}]
    inner, outer = (line.partition("] ")[2] for line in host.logged if "] SPAN " in line)
    found = re.fullmatch(rf"SPAN inner [0-9]+\.[0-9]{{3}}s trace=([0-9a-f]{{32}}) span={ID} parent=({ID})", inner)
    assert found
    ids = f"trace={found[1]} span={found[2]} parent=-"
    assert re.fullmatch(rf"SPAN process jobs [0-9]+\.[0-9]{{3}}s acme\\nSPAN/weather {ids} error=OSError", outer)
    assert not host.has_logged(NOT_SEEN)
