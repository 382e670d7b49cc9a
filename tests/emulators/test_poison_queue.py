"""The poison queue at a tick: messages that no function can receive."""

from datetime import UTC, datetime

from azure.storage.queue.aio import QueueClient

from datasync.services import Services
from tests.documents import document
from tests.stages import tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)


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
    connection, name = world.environ["AzureWebJobsStorage"], world.poison.queue_name
    async with QueueClient.from_connection_string(connection, name) as plain:  # which does not encode
        await plain.send_message("not base64")
    await tick(services, NOW)

    letters = [dict(item) async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
    assert [(letter["tenantId"], letter["body"]) for letter in letters] == [("@fleet", "not base64")]
    assert await world.poisoned() == []
