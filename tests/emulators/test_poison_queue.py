"""The poison queue at a tick: messages that no function can receive."""

from datetime import UTC, datetime
from typing import Any

from azure.storage.queue.aio import QueueClient

from datasync.services import Services
from tests.documents import document
from tests.stages import tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)


def plain(world: World) -> QueueClient:
    """Return a client of the poison queue that does not encode messages."""
    return QueueClient.from_connection_string(world.environ["AzureWebJobsStorage"], world.poison.queue_name)


async def letters(world: World) -> list[dict[str, Any]]:
    return [dict(item) async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]


async def test_a_tick_needs_no_poison_queue(world: World, services: Services) -> None:
    """The host creates the queue when it moves the first message there."""
    await world.put(document("t"))
    await world.poison.delete_queue()
    try:
        tally = await tick(services, NOW)
    finally:
        await world.poison.create_queue()  # the end of the test deletes it

    assert (tally.enqueued, tally.failed) == (1, 0)


async def test_a_message_that_is_not_base64_is_kept_as_a_dead_letter(world: World, services: Services) -> None:
    """The queue is empty then, and the text can be read in partition `@fleet`."""
    async with plain(world) as poison:
        await poison.send_message("not base64")
    await tick(services, NOW)

    assert [(letter["tenantId"], letter["body"]) for letter in await letters(world)] == [("@fleet", "not base64")]
    assert await world.poisoned() == []


async def test_all_messages_that_are_not_base64_are_kept_in_one_tick(world: World, services: Services) -> None:
    """There may be more of them than one request returns. The others stay, for the function that receives them."""
    async with plain(world) as poison:
        for number in range(70):
            await poison.send_message(f"not base64: {number}")
    await world.poison.send_message("a job")
    await tick(services, NOW)

    assert {letter["body"] for letter in await letters(world)} == {f"not base64: {number}" for number in range(70)}
    assert await world.poisoned() == ["a job"]
