"""The entry: three triggers, and the routes of the dashboard. Each unpacks its input and calls one stage."""

import os

import azure.functions as func

import flows
from dashboard.blueprint import routes
from datasync.model.job import QueueMessage
from datasync.run.bury import bury as bury_message
from datasync.run.pipeline import run_message
from datasync.services import Services, shared_services
from datasync.settings import DEFAULT_QUEUE, DEFAULT_SCHEDULE, binding, dashboard_mode
from datasync.telemetry.emit import configure
from datasync.tick.tick import tick
from flows.registry import registry

configure()
registry.load(flows)

app = func.FunctionApp()
app.register_functions(routes(dashboard_mode(os.environ), registry))

QUEUE = binding(os.environ, "QUEUE_NAME", DEFAULT_QUEUE)


@app.retry("exponential_backoff", max_retry_count="15", minimum_interval="00:00:15", maximum_interval="00:05:00")
@app.timer_trigger("timer", schedule=binding(os.environ, "ORCHESTRATOR_SCHEDULE", DEFAULT_SCHEDULE))
async def orchestrator(timer: func.TimerRequest) -> None:  # noqa: ARG001 - the trigger passes it by this name
    """Enqueue the runs that are due now."""
    await tick(shared_services(), registry)


@app.queue_trigger("msg", queue_name=QUEUE, connection="AzureWebJobsStorage")
async def run_flow(msg: func.QueueMessage) -> None:
    """Run the flow that one message asks for."""
    services = shared_services()
    await run_message(services, registry, _received(services, msg))


@app.queue_trigger("msg", queue_name=f"{QUEUE}-poison", connection="AzureWebJobsStorage")
async def bury(msg: func.QueueMessage) -> None:
    """End the run whose message has failed for the last time."""
    services = shared_services()
    await bury_message(services, registry, _received(services, msg))


def _received(services: Services, msg: func.QueueMessage) -> QueueMessage:
    now = services.clock.now()
    return QueueMessage(msg.id or now.isoformat(), msg.get_body(), msg.dequeue_count or 1, msg.insertion_time or now)
