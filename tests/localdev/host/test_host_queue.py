"""The queue trigger: the host as a process, on a real storage queue."""

import uuid
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from localdev.azurite import Storage, azurite
from localdev.keyvault import KeyVault
from localdev.tls import Certificates
from tests.localdev.host.running import App, Queues, RunningHost, new_queues
from tests.waiting import wait_until


def trigger(setting: str) -> str:
    """Return the decorator of a function whose queue is named by an app setting."""
    return f'@app.queue_trigger(arg_name="msg", queue_name="%{setting}%", connection="AzureWebJobsStorage")'


TRIGGER = trigger("QUEUE")

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


@dataclass(frozen=True, slots=True)
class Shared:
    """The host of this module. Its functions note their inputs, and each has a queue of its own."""

    app: App
    host: RunningHost
    queues: dict[str, Queues]
    """Queues by function name."""

    def seen(self, function: str) -> list[dict[str, Any]]:
        """Return the facts that one function has noted."""
        return [facts for facts in self.app.seen() if facts.pop("by") == function]


NOTES = f"""
{trigger("DETAILS")}
async def details(msg: func.QueueMessage, context: func.Context) -> None:
    logging.info("working on %s", msg.get_json()["tenantId"])
    print("printed")
    lifetime = msg.expiration_time - msg.insertion_time
    hidden = msg.time_next_visible - msg.insertion_time
    seen(by="details", body=msg.get_body().decode(), id=msg.id, receipt=msg.pop_receipt, attempt=msg.dequeue_count,
         days=lifetime.days, minutes=round(hidden.total_seconds() / 60),
         function=context.function_name, invocation=context.invocation_id)

{trigger("RAW").replace("connection", "data_type=func.DataType.BINARY, connection")}
def raw(msg: func.QueueMessage) -> None:
    seen(by="raw", body=msg.get_body().hex())

{trigger("KEYS")}
async def keys(msg: func.QueueMessage) -> None:
    seen(by="keys", id=msg.id, attempt=msg.dequeue_count, receipt=msg.pop_receipt is not None)

{trigger("TEXT")}
async def text(msg: func.QueueMessage) -> None:
    seen(by="text", body=msg.get_body().decode())
"""


@pytest_asyncio.fixture(scope="module")
async def shared(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shared]:
    """Run one host for the tests that need no app or options of their own."""
    async with AsyncExitStack() as stack:
        names = ("details", "raw", "keys", "text")
        queues = {name: await stack.enter_async_context(new_queues(storage)) for name in names}
        settings = {name.upper(): queues[name].name for name in names}
        app = App.with_storage(tmp_path_factory.mktemp("queue"), storage, **settings)
        app.write(NOTES, host=queue_options(maxDequeueCount=2))
        host = await stack.enter_async_context(app.running())
        yield Shared(app, host, queues)


async def test_a_message_is_run_once_and_deleted(shared: Shared) -> None:
    """The function gets the body, the message's properties and its own invocation. Its success is logged."""
    queues, host = shared.queues["details"], shared.host
    start = len(host.logged)
    await queues.put('{"tenantId": "tenant-1→"}')
    await wait_until(queues.empty, description="the message is deleted")
    await wait_until(lambda: host.has_logged("Executed 'Functions.details'"), description="the end is logged")
    await wait_until(lambda: host.printed, description="the function's output is read")
    (seen,) = shared.seen("details")
    assert seen["body"] == '{"tenantId": "tenant-1→"}'
    assert seen["id"]
    assert seen["receipt"]
    assert (seen["attempt"], seen["days"], seen["minutes"]) == (1, 7, 10)
    assert seen["function"] == "details"
    executing, properties, user, executed = host.logged[start : start + 4]
    assert f"Executing 'Functions.details' (Reason='New queue message detected on '{queues.name}'.', Id=" in executing
    assert f"Trigger Details: MessageId: {seen['id']}, DequeueCount: 1" in properties
    assert host.printed == ["printed"]
    assert user.startswith("[20")
    assert user.endswith("Z] working on tenant-1→")
    assert f"Executed 'Functions.details' (Succeeded, Id={seen['invocation']}, Duration=" in executed


async def test_a_function_can_get_bytes(shared: Shared) -> None:
    """With `data_type=BINARY` the body may be any bytes. This function is not async, and runs in a thread."""
    await shared.queues["raw"].put(b"\xff\xfe")
    await wait_until(shared.queues["raw"].empty, description="the message is deleted")
    assert shared.seen("raw") == [{"body": "fffe"}]


async def test_top_level_keys_overwrite_the_metadata(shared: Shared) -> None:
    """Keys are compared without case: an `id` in the body replaces the message's own. Lists and nulls do not."""
    await shared.queues["keys"].put('{"ID": "mine", "dequeuecount": 7, "popReceipt": ["a"], "insertionTime": null}')
    await wait_until(shared.queues["keys"].empty, description="the message is deleted")
    assert shared.seen("keys") == [{"id": "mine", "attempt": 7, "receipt": True}]


async def test_a_body_that_is_not_base64_or_not_text_is_poison(shared: Shared) -> None:
    """Invalid base64 is moved unchanged at the first attempt. Base64 of other bytes than UTF-8 fails each attempt."""
    queues, host = shared.queues["text"], shared.host
    await queues.jobs.send_message("not base64!")
    await queues.put(b"\xff\xfe", "good")
    await queues.jobs.send_message("Z29\nvZA==")
    await wait_until(queues.empty, description="all messages are processed")
    assert [seen["body"] for seen in shared.seen("text")] == ["good", "good"]
    assert set(await queues.poisoned()) == {"not base64!", encoded(b"\xff\xfe")}
    assert host.has_logged("is not valid base64, and messageEncoding is base64")
    assert host.has_logged("Function 'text' cannot take message", times=2)


async def test_a_failing_message_is_tried_again_and_then_is_poison(app: App, queues: Queues) -> None:
    """Each attempt waits for visibilityTimeout. After maxDequeueCount attempts the text moves to a new poison queue."""
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
    """The default is 0. A visibilityTimeout below one second has the same effect."""
    app.write(FAILING, host=queue_options(visibilityTimeout="00:00:00.999"))
    await queues.put("one")
    async with app.running():
        await wait_until(queues.poisoned, description="the message is in the poison queue")
    assert [seen["attempt"] for seen in app.seen()] == [1, 2, 3, 4, 5]


async def test_a_message_can_be_plain_text(app: App, queues: Queues) -> None:
    """With `messageEncoding: none` the function gets the text unchanged. The poison queue gets it unchanged too."""
    app.write(FAILING, host=queue_options(messageEncoding="none", maxDequeueCount=1))
    await queues.jobs.send_message("<plain> & simple")
    async with app.running() as host:
        await wait_until(queues.poisoned, description="the message is in the poison queue")
    assert host.has_logged("ValueError: no good: <plain> & simple")
    assert await queues.poisoned() == ["<plain> & simple"]


async def test_a_message_that_was_received_too_often_is_poison(app: App, queues: Queues) -> None:
    """If all attempts were killed, the message is moved without another attempt."""
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
    """The trigger does not create the queue, and warns once. It continues when the queue exists."""
    await queues.jobs.delete_queue()
    app.write(NOTING)
    async with app.running() as host:
        await wait_until(lambda: host.has_logged("does not exist"), description="the host has looked for the queue")
        await queues.jobs.create_queue()
        await queues.put("late")
        await wait_until(app.seen, description="the message has run")
    assert sum("does not exist" in line for line in host.logged) == 1


async def test_concurrency_is_batch_size_plus_threshold(app: App, queues: Queues) -> None:
    """All messages of a batch start at once. The next are fetched when at most `newBatchThreshold` are running."""
    app.write(
        WAITING + "    seen(done=True)\n",
        host=queue_options(batchSize=2, newBatchThreshold=1),
    )
    await queues.put(*"abcdef")
    async with app.running():
        await wait_until(lambda: len(app.seen()) >= 2, description="the first batch is running")
        running_before = len(app.seen())
        app.let_go()
        await wait_until(queues.empty, description="all messages are processed")
    assert running_before == 2, "more messages were fetched while 2 were running"
    running = most = 0
    for seen in app.seen():
        running += -1 if "done" in seen else 1
        most = max(most, running)
    assert most <= 3


async def test_a_message_stays_hidden_while_its_function_blocks(app: App, queues: Queues) -> None:
    """The host renews the message in its own thread, also if the function blocks the event loop of the app."""
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
    app.environ["LOCALDEV_MESSAGE_HIDING"] = "2"
    async with app.running() as host:
        await wait_until(lambda: host.has_logged("stays hidden for another", times=3), description="it was renewed")
        app.let_go()
        await wait_until(queues.empty, description="the message is deleted")
    assert app.seen() == [{"attempt": 1}]


async def test_a_message_that_was_deleted_during_its_run_is_not_an_error(app: App, queues: Queues) -> None:
    """A message that another process has received is handled in the same way: the old receipt is ignored."""
    app.write(WAITING)
    await queues.put("one")
    async with app.running() as host:
        await wait_until(app.seen, description="the function is running")
        await queues.jobs.clear_messages()
        app.let_go()
        await wait_until(lambda: host.has_logged("(Succeeded"), description="the function has succeeded")
    assert not host.has_logged("could not be deleted")


async def test_a_run_that_takes_too_long_or_exits_fails(app: App, queues: Queues) -> None:
    """FunctionTimeout cancels an async function. `sys.exit` in a function is a failure of that function only."""
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
        await wait_until(queues.empty, description="both messages are processed")
        await queues.put("good")
        await wait_until(lambda: {"body": "good"} in app.seen(), description="the next message has run")
    assert {"cancelled": True} in app.seen()
    assert sorted(await queues.poisoned(), key=str) == [encoded(b"exit"), encoded(b"hang")]
    assert host.has_logged("Timeout value of 0:00:00.500000 was exceeded by function 'Functions.work'")
    assert host.has_logged("SystemExit: enough")


BURYING = """
@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%-poison", connection="AzureWebJobsStorage")
async def bury(msg: func.QueueMessage) -> None:
    seen(buried=msg.get_body().decode(), attempt=msg.dequeue_count)
"""


async def test_a_poison_queue_can_have_a_trigger(app: App, queues: Queues) -> None:
    """Its function gets the message that the other function could not process. It is deleted after the success."""
    app.write(FAILING + BURYING, host=queue_options(maxDequeueCount=1))
    await queues.put("one")
    async with app.running() as host:
        assert host.ready.startswith("Host started: 2 functions (work queue, bury queue) on ")
        await wait_until(lambda: host.has_logged("Executed 'Functions.bury' (Succeeded"), description="it has run")
    assert [seen for seen in app.seen() if "buried" in seen] == [{"buried": "one", "attempt": 1}]
    assert await queues.empty()
    assert not (await queues.poison.get_queue_properties()).approximate_message_count


async def test_a_poison_queue_has_no_poison_queue(app: App, queues: Queues) -> None:
    """A message that fails there is not moved, and not released: it stays hidden, without a visibilityTimeout too."""
    poison = f"{queues.name}-poison"
    app.environ["QUEUE"] = poison
    app.write(FAILING, host=queue_options(maxDequeueCount=1, visibilityTimeout="00:00:00"))
    await queues.poison.create_queue()
    await queues.poison.send_message(encoded(b"again"))
    async with app.running() as host:
        await wait_until(lambda: host.has_logged("stays hidden, because"), description="the function has failed")
    assert len(app.seen()) == 1
    assert await queues.poisoned() == [], "it is hidden"
    assert (await queues.poison.get_queue_properties()).approximate_message_count == 1
    async with QueueServiceClient.from_connection_string(queues.connection_string) as service:
        assert [queue.name async for queue in service.list_queues(name_starts_with=poison)] == [poison]


async def test_a_poison_queue_has_no_limit_of_attempts(app: App, queues: Queues) -> None:
    """The function gets the message again each time its hiding ends, also after maxDequeueCount attempts."""
    app.environ.update(QUEUE=f"{queues.name}-poison", LOCALDEV_MESSAGE_HIDING="1")
    app.write(FAILING, host=queue_options(maxDequeueCount=1))
    await queues.poison.create_queue()
    await queues.poison.send_message(encoded(b"again"))
    async with app.running():
        await wait_until(lambda: len(app.seen()) >= 3, description="the function has failed three times")
    assert [seen["attempt"] for seen in app.seen()[:3]] == [1, 2, 3]


async def test_invalid_base64_stays_in_a_poison_queue(app: App, queues: Queues) -> None:
    """Such a message never reaches the function. The host finds it again each time its hiding ends."""
    app.environ["LOCALDEV_MESSAGE_HIDING"] = "1"
    app.write(BURYING, host=queue_options(maxDequeueCount=1))
    await queues.poison.create_queue()
    await queues.poison.send_message("not base64!")
    await queues.poison.send_message(encoded(b"good"))
    async with app.running() as host:
        await wait_until(
            lambda: host.has_logged("is not valid base64, and messageEncoding is base64", times=3),
            description="the host has found the message three times",
        )
    assert app.seen() == [{"buried": "good", "attempt": 1}]
    assert (await queues.poison.get_queue_properties()).approximate_message_count == 1


async def test_the_longest_queue_names_have_no_poison_queue(app: App, storage: Storage) -> None:
    """With `-poison` the name would have more than 63 characters. The host starts, and the function works."""
    name = f"{uuid.uuid4()}-{'x' * 20}"
    app.environ["QUEUE"] = name
    app.write(FAILING, host=queue_options(maxDequeueCount=1))
    async with QueueClient.from_connection_string(storage.connection_string, name) as queue:
        await queue.create_queue()
        await queue.send_message(encoded(b"one"))
        async with app.running() as host:
            await wait_until(lambda: host.has_logged("has no poison queue"), description="the function has failed")
        assert (await queue.get_queue_properties()).approximate_message_count == 1
        await queue.delete_queue()


@pytest.mark.parametrize("death", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
async def test_the_message_of_a_killed_host_is_delivered_again(app: App, queues: Queues, death: str) -> None:
    """It comes back when its hiding ends, with a higher dequeue count."""
    app.environ["LOCALDEV_MESSAGE_HIDING"] = "2"
    app.write(f"""
{TRIGGER}
async def work(msg: func.QueueMessage) -> None:
    seen(attempt=msg.dequeue_count)
    if msg.dequeue_count == 1:
        {death}
""")
    await queues.put("one")
    async with app.running() as host:
        assert await host.exit_code() != 0
    async with app.running():
        await wait_until(queues.empty, description="the message is deleted")
    assert app.seen() == [{"attempt": 1}, {"attempt": 2}]


async def test_storage_that_refuses_access_stops_the_host(app: App, queues: Queues) -> None:
    """The process ends with exit code 1, and the last line names the app setting."""
    app.environ["AzureWebJobsStorage"] = queues.connection_string.replace("AccountKey=Eby8", "AccountKey=AAAA")
    app.write(NOTING)
    async with app.running() as host:
        assert await host.exit_code() == 1
    assert f"queue '{queues.name}' of function 'work' cannot be read: 403" in host.logged[-1]
    assert host.logged[-1].endswith("Check the app setting AzureWebJobsStorage")
    assert "AccountKey" not in "\n".join(host.logged)


async def test_the_host_waits_for_storage_that_cannot_be_reached(app: App, queues: Queues) -> None:
    """An emulator can be started after the host. Until then the host warns once."""
    app.environ["AzureWebJobsStorage"] = queues.connection_string.replace(
        "QueueEndpoint=http://127.0.0.1:", "QueueEndpoint=http://127.0.0.2:"
    )
    app.write(NOTING)
    async with app.running() as host:
        await wait_until(lambda: host.has_logged("cannot be reached"), description="the host has tried")
    assert sum("cannot be reached" in line for line in host.logged) == 1
    assert host.process.returncode == 0


async def test_an_account_is_reached_by_identity(app: App, certificates: Certificates, shared_vault: KeyVault) -> None:
    """With `…__queueServiceUri` instead of a connection string, the host gets a token, as on Azure."""
    del app.environ["AzureWebJobsStorage"]
    app.environ.update(shared_vault.environ)
    app.write(NOTING)
    async with azurite(tls=certificates) as secure:
        app.environ["AzureWebJobsStorage__queueServiceUri"] = secure.queue_endpoint
        async with QueueClient.from_connection_string(secure.connection_string, app.environ["QUEUE"]) as queue:
            await queue.create_queue()
            await queue.send_message(encoded(b"by identity"))
        async with app.running():
            await wait_until(app.seen, description="the message has run")
    assert app.seen() == [{"body": "by identity"}]
