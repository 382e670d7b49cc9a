import asyncio

import pytest
from azure.core.exceptions import HttpResponseError
from azure.identity.aio import DefaultAzureCredential
from azure.storage.queue import TextBase64DecodePolicy, TextBase64EncodePolicy
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from localdev.azurite import KEY, Storage, azurite
from localdev.errors import PortTaken
from localdev.keyvault import KeyVault
from localdev.tls import Certificates
from tests.localdev.ports import answers, port_of
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("node")

OTHER_KEY = KEY[::-1].replace("==", "") + "=="


def ports(storage: Storage) -> list[int]:
    return [port_of(url) for url in (storage.queue_endpoint, storage.blob_endpoint, storage.table_endpoint)]


async def all_closed(numbers: list[int]) -> bool:
    return not any([await answers(number) for number in numbers])


async def test_a_message_is_received_as_it_was_sent(storage: Storage) -> None:
    """A queue client needs the connection string only. The text of a message is not changed."""
    async with QueueClient.from_connection_string(
        storage.connection_string,
        "round-trip",
        message_encode_policy=TextBase64EncodePolicy(),
        message_decode_policy=TextBase64DecodePolicy(),
    ) as queue:
        await queue.create_queue()
        await queue.send_message("home-depot→builder-prime")
        received = await queue.receive_message()
        assert received
        assert received.content == "home-depot→builder-prime"
        await queue.delete_message(received)
        await queue.delete_queue()


async def test_a_delayed_message_appears_after_its_delay(storage: Storage) -> None:
    """A visibility delay hides a message. The length of the queue includes it."""
    async with QueueClient.from_connection_string(storage.connection_string, "delayed") as queue:
        await queue.create_queue()
        await queue.send_message("later", visibility_timeout=1)
        assert await queue.peek_messages() == []
        assert (await queue.get_queue_properties()).approximate_message_count == 1
        await wait_until(queue.peek_messages, description="the message appears")
        await queue.delete_queue()


async def test_a_wrong_key_is_refused(storage: Storage) -> None:
    """A request with another key gets 403, as on Azure."""
    wrong = storage.connection_string.replace(KEY, OTHER_KEY)
    async with QueueServiceClient.from_connection_string(wrong) as service:
        with pytest.raises(HttpResponseError) as caught:
            await service.get_service_properties()
    assert caught.value.status_code == 403


async def test_an_identity_has_access_over_https(certificates: Certificates, vault: KeyVault) -> None:
    """With certificates, queues accept the tokens of the local managed identity."""
    async with azurite(tls=certificates) as storage:
        assert storage.queue_endpoint.startswith("https://")
        async with (
            DefaultAzureCredential() as identity,
            QueueServiceClient(storage.queue_endpoint, credential=identity) as service,
            QueueServiceClient.from_connection_string(storage.connection_string) as with_key,
        ):
            await service.create_queue("made-by-identity")
            assert [queue.name async for queue in with_key.list_queues()] == ["made-by-identity"]


async def test_accounts_of_another_azurite_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """With AZURITE_ACCOUNTS in the environment, the connection string still works."""
    monkeypatch.setenv("AZURITE_ACCOUNTS", "someone:a2V5")
    async with (
        azurite() as storage,
        QueueServiceClient.from_connection_string(storage.connection_string) as service,
    ):
        assert [queue async for queue in service.list_queues()] == []


async def test_a_port_in_use_is_reported(storage: Storage) -> None:
    """The error names the part, the port, the program that uses it, and the remedy."""
    taken = port_of(storage.queue_endpoint)
    with pytest.raises(PortTaken, match=rf"Azurite cannot listen on port {taken}: .*azurite.mjs.*\n.*--ports free"):
        async with azurite(queue_port=taken):
            pytest.fail("Azurite listens on a port in use")


async def test_nothing_is_left_after_the_block() -> None:
    """All three ports are closed after the block."""
    async with azurite() as storage:
        assert all([await answers(port) for port in ports(storage)])
    assert await all_closed(ports(storage))


async def test_nothing_is_left_after_an_exception() -> None:
    """An error in the block is raised again, and Azurite has stopped."""
    numbers: list[int] = []

    async def run() -> None:
        async with azurite() as storage:
            numbers.extend(ports(storage))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run()
    assert numbers
    assert await all_closed(numbers)


async def test_nothing_is_left_after_cancellation() -> None:
    """Azurite stops when the task of its block is cancelled."""
    running: asyncio.Future[Storage] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with azurite() as storage:
            running.set_result(storage)
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    numbers = ports(await running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await all_closed(numbers)


async def test_nothing_is_left_after_a_cancelled_start() -> None:
    """If the start is cancelled, for instance by a timeout, the block is not entered, and no process is left."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), azurite():
            pytest.fail("Azurite started in less than 0.2 s")
