"""The queue trigger: the host as a process, on a real storage queue."""

from base64 import b64encode
from datetime import timedelta
from typing import Any

from azure.storage.queue.aio import QueueClient, QueueServiceClient

from localdev.azurite import azurite
from localdev.keyvault import KeyVault
from localdev.tls import Certificates
from tests.localdev.host.running import App, Queues
from tests.waiting import wait_until

TRIGGER = '@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")'

NOTING = f"""
{TRIGGER}
async def work(msg: func.QueueMessage) -> None:
    seen(body=msg.get_body().decode())
"""

FAILING = f"""
{TRIGGER}
async def work(msg: func.QueueMessage) -> None:
    seen(attempt=msg.dequeue_count, at=time.time())
    raise ValueError("no good: " + msg.get_body().decode())
"""

WAITING = f"""
{TRIGGER}
async def work(msg: func.QueueMessage) -> None:
    seen(body=msg.get_body().decode())
    while not Path("go").exists():
        await asyncio.sleep(0.05)
"""


def queue_options(**options: Any) -> dict[str, Any]:
    return {"extensions": {"queues": options}}


def encoded(body: bytes) -> str:
    return b64encode(body).decode()


async def test_a_message_is_run_once_and_deleted(app: App, queues: Queues) -> None:
    """The function sees the body, the message's properties and its own invocation; success is logged."""
    app.write(f"""
{TRIGGER}
async def work(msg: func.QueueMessage, context: func.Context) -> None:
    logging.info("working on %s", msg.get_json()["tenantId"])
    print("printed")
    lifetime = msg.expiration_time - msg.insertion_time
    hidden = msg.time_next_visible - msg.insertion_time
    seen(body=msg.get_body().decode(), id=msg.id, receipt=msg.pop_receipt, attempt=msg.dequeue_count,
         days=lifetime.days, minutes=round(hidden.total_seconds() / 60),
         function=context.function_name, invocation=context.invocation_id)
""")
    await queues.put('{"tenantId": "tenant-1→"}')
    async with app.running() as host:
        assert host.ready.startswith("Host started: 1 function (work queue) on http://127.0.0.1:")
        await wait_until(queues.empty, description="the message is deleted")
    (seen,) = app.seen()
    assert seen["body"] == '{"tenantId": "tenant-1→"}'
    assert seen["id"]
    assert seen["receipt"]
    assert (seen["attempt"], seen["days"], seen["minutes"]) == (1, 7, 10)
    assert seen["function"] == "work"
    executing, details, user, executed = host.logged[:4]
    assert f"Executing 'Functions.work' (Reason='New queue message detected on '{queues.name}'.', Id=" in executing
    assert f"Trigger Details: MessageId: {seen['id']}, DequeueCount: 1" in details
    assert host.printed == ["printed"]
    assert user.startswith("[20")
    assert user.endswith("Z] working on tenant-1→")
    assert f"Executed 'Functions.work' (Succeeded, Id={seen['invocation']}, Duration=" in executed


async def test_a_failing_message_is_tried_again_and_then_poison(app: App, queues: Queues) -> None:
    """It is delayed by visibilityTimeout, and its text moves to a new poison queue after maxDequeueCount attempts."""
    app.write(FAILING, host=queue_options(maxDequeueCount=2, visibilityTimeout="00:00:01"))
    await queues.put("one")
    async with app.running() as host:
        await wait_until(queues.poisoned, description="the message is in the poison queue")
        await wait_until(queues.empty, description="the message is out of its own queue")
    first, second = app.seen()
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert second["at"] - first["at"] > 0.9
    assert await queues.poisoned() == [encoded(b"one")]
    (message,) = await queues.poison.peek_messages()
    assert message.expires_on
    assert message.inserted_on
    assert message.expires_on - message.inserted_on == timedelta(days=7)
    assert host.has_logged("(Failed, Id=", times=2)
    assert sum("ValueError: no good: one" in line for line in host.logged) == 2, "each failure is logged once"
    assert host.has_logged('raise ValueError("no good: "')
    assert host.has_logged("Message has reached MaxDequeueCount of 2.")
    assert host.has_logged(f"Moving message to queue '{queues.name}-poison'.")


async def test_without_a_visibility_timeout_attempts_follow_at_once(app: App, queues: Queues) -> None:
    """The default of 0 burns all five; a visibilityTimeout below a second is no more than that."""
    app.write(FAILING, host=queue_options(visibilityTimeout="00:00:00.999"))
    await queues.put("one")
    async with app.running():
        await wait_until(queues.poisoned, description="the message is in the poison queue")
    assert [seen["attempt"] for seen in app.seen()] == [1, 2, 3, 4, 5]


async def test_what_is_not_base64_or_not_text(app: App, queues: Queues) -> None:
    """Bad base64 is poison at once, as it is; base64 of what is not UTF-8 fails each attempt. Neither is run."""
    app.write(NOTING, host=queue_options(maxDequeueCount=2))
    await queues.jobs.send_message("not base64!")
    await queues.put(b"\xff\xfe", "good")
    await queues.jobs.send_message("Z29\nvZA==")
    async with app.running() as host:
        await wait_until(queues.empty, description="all messages are done with")
    assert [seen["body"] for seen in app.seen()] == ["good", "good"]
    assert set(await queues.poisoned()) == {"not base64!", encoded(b"\xff\xfe")}
    assert host.has_logged("is not valid base64, and messageEncoding is base64")
    assert host.has_logged("Function 'work' cannot take message", times=2)


async def test_bytes_are_taken_as_they_are_if_asked_for(app: App, queues: Queues) -> None:
    """`data_type=BINARY` needs no UTF-8. This function is not async: it runs on the library's threads."""
    app.write(f"""
{TRIGGER.replace("connection", "data_type=func.DataType.BINARY, connection")}
def work(msg: func.QueueMessage) -> None:
    seen(body=msg.get_body().hex())
""")
    await queues.put(b"\xff\xfe")
    async with app.running():
        await wait_until(queues.empty, description="the message is deleted")
    assert app.seen() == [{"body": "fffe"}]


async def test_top_level_keys_overwrite_the_metadata(app: App, queues: Queues) -> None:
    """Whatever their case: a body with an `id` hides the message's own. Lists and nulls do not."""
    app.write(f"""
{TRIGGER}
async def work(msg: func.QueueMessage) -> None:
    seen(id=msg.id, attempt=msg.dequeue_count, receipt=msg.pop_receipt is not None)
""")
    await queues.put('{"ID": "mine", "dequeuecount": 7, "popReceipt": ["a"], "insertionTime": null}')
    async with app.running():
        await wait_until(queues.empty, description="the message is deleted")
    assert app.seen() == [{"id": "mine", "attempt": 7, "receipt": True}]


async def test_plain_text_with_encoding_none(app: App, queues: Queues) -> None:
    """`messageEncoding: none` takes the text as it is, and moves it as it is."""
    app.write(FAILING, host=queue_options(messageEncoding="none", maxDequeueCount=1))
    await queues.jobs.send_message("<plain> & simple")
    async with app.running() as host:
        await wait_until(queues.poisoned, description="the message is in the poison queue")
    assert host.has_logged("ValueError: no good: <plain> & simple")
    assert await queues.poisoned() == ["<plain> & simple"]


async def test_a_message_whose_attempts_were_all_killed_is_poison(app: App, queues: Queues) -> None:
    """One that was handed out more often than maxDequeueCount is not run again."""
    app.write(NOTING, host=queue_options(maxDequeueCount=2))
    await queues.put("deadly")
    for _ in range(2):
        message = await queues.jobs.receive_message()
        assert message
        await queues.jobs.update_message(message, visibility_timeout=0)
    async with app.running():
        await wait_until(queues.poisoned, description="the message is in the poison queue")
    assert app.seen() == []


async def test_the_trigger_waits_for_its_queue(app: App, queues: Queues) -> None:
    """It never creates it, says so once, and goes on when somebody has."""
    await queues.jobs.delete_queue()
    app.write(NOTING)
    async with app.running() as host:
        await wait_until(lambda: host.has_logged("does not exist"), description="the host has looked for the queue")
        await queues.jobs.create_queue()
        await queues.put("late")
        await wait_until(app.seen, description="the message is run")
    assert sum("does not exist" in line for line in host.logged) == 1


async def test_concurrency_is_batch_size_plus_threshold(app: App, queues: Queues) -> None:
    """All of a batch start at once, and the next is fetched when no more than the threshold are running."""
    app.write(
        WAITING + "    seen(done=True)\n",
        host=queue_options(batchSize=2, newBatchThreshold=1),
    )
    await queues.put(*"abcdef")
    async with app.running():
        await wait_until(lambda: len(app.seen()) >= 2, description="the first batch is running")
        running_before = len(app.seen())
        app.let_go()
        await wait_until(queues.empty, description="all messages are done with")
    assert running_before == 2, "with 2 running no more are fetched"
    running = most = 0
    for seen in app.seen():
        running += -1 if "done" in seen else 1
        most = max(most, running)
    assert most <= 3


async def test_a_function_that_blocks_does_not_keep_the_host_from_renewing(app: App, queues: Queues) -> None:
    """The host has its own thread: the message stays hidden however long the function holds up the event loop."""
    app.write(
        f"""
{TRIGGER}
async def work(msg: func.QueueMessage) -> None:
    seen(attempt=msg.dequeue_count)
    while not Path("go").exists():
        time.sleep(0.05)
""",
        host={"logging": {"logLevel": {"default": "Debug"}}},
    )
    await queues.put("slow")
    two_seconds = (
        "from datetime import timedelta; import localdev.host.messages as m, localdev.host.queues as q; "
        "m.VISIBILITY = q.VISIBILITY = timedelta(seconds=2); from localdev.host.command import main; main()"
    )
    async with app.running(code=two_seconds) as host:
        await wait_until(lambda: host.has_logged("stays hidden for another", times=3), description="it was renewed")
        app.let_go()
        await wait_until(queues.empty, description="the message is deleted")
    assert app.seen() == [{"attempt": 1}]


async def test_a_message_that_is_gone_when_its_run_ends_is_no_error(app: App, queues: Queues) -> None:
    """Somebody else deleted it, or had it handed out: the lost receipt is passed over."""
    app.write(WAITING)
    await queues.put("one")
    async with app.running() as host:
        await wait_until(app.seen, description="the function is running")
        await queues.jobs.clear_messages()
        app.let_go()
        await wait_until(lambda: host.has_logged("(Succeeded"), description="the function has succeeded")
    assert not host.has_logged("could not be deleted")


async def test_runs_that_take_too_long_or_end_the_process_fail(app: App, queues: Queues) -> None:
    """FunctionTimeout cancels an async function; `sys.exit` in a function is a failure of that function only."""
    app.write(
        f"""
{TRIGGER}
async def work(msg: func.QueueMessage) -> None:
    if msg.get_body() == b"exit":
        sys.exit("enough")
    if msg.get_body() == b"hang":
        try:
            await asyncio.sleep(3600)
        finally:
            seen(cancelled=True)
    seen(body=msg.get_body().decode())
""",
        host={"functionTimeout": "00:00:00.500", **queue_options(maxDequeueCount=1)},
    )
    await queues.put("exit", "hang")
    async with app.running() as host:
        await wait_until(queues.empty, description="both are done with")
        await queues.put("good")
        await wait_until(lambda: {"body": "good"} in app.seen(), description="the next message is run")
    assert {"cancelled": True} in app.seen()
    assert sorted(await queues.poisoned(), key=str) == [encoded(b"exit"), encoded(b"hang")]
    assert host.has_logged("Timeout value of 0:00:00.500000 was exceeded by function 'Functions.work'")
    assert host.has_logged("SystemExit: enough")


async def test_a_poison_queue_has_no_poison_queue(app: App, queues: Queues) -> None:
    """A message that fails there stays hidden rather than going round and round."""
    poison = f"{queues.name}-poison"
    app.environ["QUEUE"] = poison
    app.write(FAILING, host=queue_options(maxDequeueCount=1))
    await queues.poison.create_queue()
    await queues.poison.send_message(encoded(b"again"))
    async with app.running() as host:
        await wait_until(lambda: host.has_logged("(Failed"), description="the function has failed")
    assert len(app.seen()) == 1
    assert await queues.poisoned() == [], "it is hidden"
    assert (await queues.poison.get_queue_properties()).approximate_message_count == 1
    async with QueueServiceClient.from_connection_string(queues.connection_string) as service:
        assert [queue.name async for queue in service.list_queues(name_starts_with=poison)] == [poison]


async def test_storage_that_refuses_stops_the_host(app: App, queues: Queues) -> None:
    """A listener that cannot go on ends the process, and the last line says which setting to look at."""
    app.environ["AzureWebJobsStorage"] = queues.connection_string.replace("AccountKey=Eby8", "AccountKey=AAAA")
    app.write(NOTING)
    async with app.running() as host:
        assert await host.exit_code() == 1
    assert f"queue '{queues.name}' of function 'work' cannot be read: 403" in host.logged[-1]
    assert host.logged[-1].endswith("Check the app setting AzureWebJobsStorage")
    assert "AccountKey" not in "\n".join(host.logged)


async def test_storage_that_is_not_there_is_waited_for(app: App, queues: Queues) -> None:
    """An emulator that is started after the host is found; until then its absence is told, once."""
    app.environ["AzureWebJobsStorage"] = "UseDevelopmentStorage=true"
    app.environ["AzureWebJobsStorage"] = queues.connection_string.replace(
        "QueueEndpoint=http://127.0.0.1:", "QueueEndpoint=http://127.0.0.2:"
    )
    app.write(NOTING)
    async with app.running() as host:
        await wait_until(lambda: host.has_logged("cannot be reached"), description="the host has tried")
    assert sum("cannot be reached" in line for line in host.logged) == 1
    assert host.process.returncode == 0


async def test_an_account_is_reached_by_identity(app: App, certificates: Certificates, shared_vault: KeyVault) -> None:
    """`…__queueServiceUri` instead of a connection string: the host asks for a token, as on Azure."""
    del app.environ["AzureWebJobsStorage"]
    app.environ.update(shared_vault.environ)
    app.write(NOTING)
    async with azurite(tls=certificates) as secure:
        app.environ["AzureWebJobsStorage__queueServiceUri"] = secure.queue_endpoint
        async with QueueClient.from_connection_string(secure.connection_string, app.environ["QUEUE"]) as queue:
            await queue.create_queue()
            await queue.send_message(encoded(b"by identity"))
        async with app.running():
            await wait_until(app.seen, description="the message is run")
    assert app.seen() == [{"body": "by identity"}]
