"""The complete path from a tenant document to a run record, in the local host."""

import json
from base64 import b64encode

from azure.storage.queue.aio import QueueClient

from tests.acceptance.conftest import App, Start
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World


def posted_by_hand(world: World) -> QueueClient:
    """Return a client that enqueues texts without encoding, as the portal does without its base64 option."""
    return QueueClient.from_connection_string(world.environ["AzureWebJobsStorage"], world.settings.queue_name)


async def test_a_due_flow_of_a_tenant_runs_and_is_recorded(world: World, app: App, start: Start) -> None:
    """The timer enqueues the due flow, the flow runs, and its success is recorded."""
    await world.put(document("tenant-1", entry("succeeds"), entry("succeeds-not", enabled=False)))

    async with start() as host:
        await host.invoke("orchestrator")
        await wait_until(lambda: world.records("tenant-1"), description="the run is recorded")
        await wait_until(world.drained, description="the message is deleted")

    (record,) = await world.records()
    assert (record["flowName"], record["outcome"], record["counts"]) == ("succeeds", "succeeded", {"items": 1})
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] > record["startedUtc"]
    assert app.has_logged("START tenant-1/succeeds")
    assert app.has_logged("DONE tenant-1/succeeds in ")
    assert app.has_logged("TICK tenants=1 due=1 enqueued=1 advanced=1")


async def test_the_timer_runs_on_its_schedule(world: World, app: App, start: Start) -> None:
    """ORCHESTRATOR_SCHEDULE sets the times of the ticks."""
    await world.put(document("tenant-1", entry("succeeds")))

    async with start(ORCHESTRATOR_SCHEDULE="* * * * * *"):
        await wait_until(lambda: world.records("tenant-1"), description="the run is recorded")


async def test_a_failing_flow_is_dead_after_its_last_attempt(world: World, app: App, start: Start) -> None:
    """The record of the run has maxDequeueCount attempts. The message is complete, and not in the poison queue."""
    await world.put(document("tenant-1", entry("fails")))

    async with start() as host:
        await host.invoke("orchestrator")

        async def dead() -> bool:
            return [record["outcome"] for record in await world.records()] == ["dead"]

        await wait_until(dead, description="the run is dead")
        await wait_until(world.drained, description="the message is deleted")

    (record,) = await world.records()
    assert (record["tenantId"], record["flowName"], record["attemptCount"]) == ("tenant-1", "fails", 5)
    outcomes = [attempt["outcome"] for attempt in record["attempts"]]
    assert outcomes == ["failed", "failed", "failed", "failed", "dead"]
    assert record["error"]["message"] == "ConnectionError: the source closed the connection"
    assert await world.poisoned() == []
    assert app.has_logged("FAIL tenant-1/fails after ")
    assert app.has_logged("ConnectionError: the source closed the connection")


async def test_a_message_posted_by_hand_runs(world: World, app: App, start: Start) -> None:
    """A message with `{tenantId, flowName}` in base64 runs the flow, even if it is not due."""
    await world.put(document("tenant-1", entry("succeeds", nextRunUtc="2999-01-01T00:00:00Z")))

    async with start(), posted_by_hand(world) as queue:
        await queue.send_message(b64encode(b'{"tenantId": "tenant-1", "flowName": "succeeds"}').decode())
        await wait_until(lambda: world.records("tenant-1"), description="the run is recorded")


async def test_a_plain_text_message_is_poisoned_at_once(world: World, app: App, start: Start) -> None:
    """The host moves a message that is not base64 to the poison queue, and does not call the function."""
    async with start(), posted_by_hand(world) as queue:
        await queue.send_message("please run the weather")
        await wait_until(world.poisoned, description="the message is poisoned", seconds=90)

    assert await world.poisoned() == ["please run the weather"]
    assert await world.records() == []
    assert not app.has_logged("is not a job")


async def test_a_message_that_is_not_a_job_is_kept_with_the_reason(world: World, app: App, start: Start) -> None:
    """The log and the dead letter name the missing field. The message is complete."""
    body = '{"tenantId": "tenant-1"}'

    async def letters() -> list[dict[str, object]]:
        found = world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'", partition_key="@fleet")
        return [dict(letter) async for letter in found]

    async with start(), posted_by_hand(world) as queue:
        await queue.send_message(b64encode(body.encode()).decode())
        await wait_until(letters, description="the message is kept")
        await wait_until(world.drained, description="the message is deleted")

    (letter,) = await letters()
    assert letter["body"] == body
    assert "is not a job: flowName: missing" in str(letter["why"])
    assert app.has_logged("is not a job: flowName: missing")
    assert await world.poisoned() == []


async def test_an_unknown_flow_and_an_unknown_tenant_are_named(world: World, app: App, start: Start) -> None:
    """A job for an unknown flow waits, and the log lists the known flows. The run of an unknown tenant is dead."""
    await world.put(document("tenant-1", entry("home-depot→salesforce", nextRunUtc="2999-01-01T00:00:00Z")))

    async with start(), posted_by_hand(world) as queue:
        for tenant, flow in (("tenant-1", "home-depot→salesforce"), ("nobody", "succeeds")):
            body = json.dumps({"tenantId": tenant, "flowName": flow}).encode()
            await queue.send_message(b64encode(body).decode())
        await wait_until(lambda: world.records("nobody"), description="the run of the unknown tenant is recorded")
        await wait_until(lambda: app.has_logged("WAITING tenant-1/"), description="the other job waits")

    unknown = "WAITING tenant-1/home-depot→salesforce for 300s: no flow is named 'home-depot→salesforce'"
    (waiting,) = [line for line in app.log if unknown in line]
    assert "'succeeds', 'weather'" in waiting
    assert await world.records("tenant-1") == []
    (record,) = await world.records("nobody")
    assert (record["outcome"], record["attemptCount"]) == ("dead", 1)
    assert "there is no tenant 'nobody'" in record["error"]["message"]


async def test_a_broken_flow_file_does_not_disable_the_others(world: World, app: App, start: Start) -> None:
    """The log has the cause. An entry for a flow of the broken file is a problem."""
    app.add_flow_file("broken.py", "import a_package_that_is_not_installed\n")
    await world.put(document("tenant-1", entry("succeeds"), entry("was-in-the-broken-file")))

    async with start() as host:
        await host.invoke("orchestrator")
        await wait_until(lambda: world.records("tenant-1"), description="the other flow has run")
        await wait_until(lambda: app.has_logged("TICK tenants="), description="the tick has ended")

    assert [(record["flowName"], record["outcome"]) for record in await world.records()] == [("succeeds", "succeeded")]
    cause = "ModuleNotFoundError: No module named 'a_package_that_is_not_installed'"
    assert app.has_logged(f"BROKEN flow file flows.broken could not be loaded: {cause}")
    assert app.has_logged(
        "INVALID tenant-1/was-in-the-broken-file flows[1].name: no flow is named 'was-in-the-broken-file'"
    )
    assert app.has_logged("problems=1 late=0 broken=1")


async def test_a_missing_setting_is_named_in_the_log(world: World, app: App, start: Start) -> None:
    """The app starts without the setting. The first function that needs it logs its name."""
    async with start(COSMOS_CONNECTION_STRING="") as host:
        await host.invoke("orchestrator")
        await wait_until(
            lambda: app.has_logged("COSMOS_CONNECTION_STRING: missing"), description="the setting is named"
        )
