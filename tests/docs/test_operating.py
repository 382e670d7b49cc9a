"""The samples of docs/operating.md: each command prints exactly its sample, for a fleet with the usual troubles."""

import re
import shlex
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio

from datasync.services import Services
from tests.docs.pages import Block, blocks
from tests.documents import document, entry
from tests.operating import FEED, NEXT, Fleet, command
from tests.world import World

MINUTE = timedelta(minutes=1)


def refused() -> httpx.HTTPStatusError:
    """Return the error of an API that answers 401."""
    request = httpx.Request("GET", "https://api.homedepot.com/v1/orders")
    answer = httpx.Response(401, request=request, json={"error": "token expired"})
    return httpx.HTTPStatusError("Client error '401 Unauthorized'", request=request, response=answer)


@pytest_asyncio.fixture
async def troubled(world: World, services: Services) -> Fleet:
    """Run five tenants: one is well, two have an expired token, one is disabled, and one has a wrong cron."""
    fleet = Fleet(world, services)
    orders = entry(FEED, nextRunUtc=NEXT)
    await world.put(
        document("acme-cabinets", orders, entry(nextRunUtc=NEXT)),
        document("cobalt-floors", {**orders, "enabled": False}),
        document("delta-decks", {**orders, "cron": "0 * * * *"}),
        document("fargo-floors", orders),
        document("gulf-garages", orders),
    )
    await fleet.tick()
    await fleet.run("acme-cabinets", "1c9b", flow="weather")
    await fleet.run("acme-cabinets", "5f2b", flow=FEED)
    fleet.ends = {"fargo-floors": refused(), "gulf-garages": refused()}
    await fleet.run("fargo-floors", "e27a", MINUTE, attempts=5, flow=FEED)
    await fleet.run("gulf-garages", "90d4", 2 * MINUTE, attempts=5, flow=FEED)
    return fleet


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.text.partition("\n")[0])
async def test_a_sample_is_what_its_command_prints(world: World, troubled: Fleet, block: Block) -> None:
    """To the letter, but for the name of the queue."""
    typed, _, sample = block.text.partition("\n")
    words = shlex.split(typed)
    assert words[:4] == ["$", "python", "-m", "datasync"]

    printed = await command(world, *words[4:], after=14 * MINUTE)

    assert re.sub(re.escape(world.settings.queue_name), "flow-jobs", printed.stdout) == sample
