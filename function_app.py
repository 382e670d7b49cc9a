"""The entry: two triggers, each of which unpacks what the host hands over and calls one stage."""

import os
from datetime import UTC, datetime

import azure.functions as func

import flows
from datasync import log, settings
from datasync.model import Message
from datasync.orchestrate import tick
from datasync.run import run_job
from datasync.services import services
from flows.registry import registry

log.configure()
registry.load(flows)

app = func.FunctionApp()


@app.timer_trigger("timer", schedule=settings.orchestrator_schedule(os.environ))
async def orchestrator(timer: func.TimerRequest) -> None:  # noqa: ARG001 - the trigger hands it over by this name
    """Put on the queue what is due now."""
    await tick(await services(), datetime.now(UTC))


@app.queue_trigger("msg", queue_name=settings.queue_name(os.environ), connection="AzureWebJobsStorage")
async def run_flow(msg: func.QueueMessage) -> None:
    """Run the flow that one message asks for."""
    ready, now = await services(), datetime.now(UTC)
    message = Message(msg.id or now.isoformat(), msg.get_body(), msg.dequeue_count or 1, msg.insertion_time or now)
    await run_job(ready, registry, message, now)
