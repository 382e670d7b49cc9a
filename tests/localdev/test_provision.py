"""The creation of the resources that the app expects."""

import asyncio
from typing import Any

from localdev.provision import RUNS_INDEX, TENANTS_INDEX, provision
from tests.world import World


def indexed(container: dict[str, Any]) -> list[str]:
    """Return the indexed paths. All other paths must be excluded."""
    policy = container["indexingPolicy"]
    assert policy["indexingMode"] == "consistent"
    assert {"path": "/*"} in policy["excludedPaths"]
    return [each["path"] for each in policy["includedPaths"]]


async def test_containers_have_their_indexing_policy_and_time_to_live(world: World) -> None:
    """`tenants` indexes the paths of the tick's query. `runs` indexes the queried paths, and its records may expire."""
    tenants, runs = await asyncio.gather(world.tenants.read(), world.runs.read())
    assert tenants["partitionKey"]["paths"] == runs["partitionKey"]["paths"] == ["/tenantId"]
    assert indexed(tenants) == ["/type/?", "/tenantId/?", "/flows/[]/{enabled, nextRunUtc}/?"]
    assert tenants["indexingPolicy"] == TENANTS_INDEX
    assert {"/type/?", "/tenantId/?", "/outcome/?", "/startedUtc/?"} <= set(indexed(runs))
    assert runs["indexingPolicy"] == RUNS_INDEX
    assert "defaultTtl" not in tenants
    assert runs["defaultTtl"] == -1


async def test_existing_resources_are_kept(world: World) -> None:
    """Creating the resources a second time does not change or remove them."""
    containers = (world.tenants, world.runs)
    for container in containers:
        await container.create_item({"id": "one", "tenantId": "acme"})
    await world.jobs.send_message("b25l")
    before = [await container.read() for container in containers]
    await provision(world.settings)
    assert [await container.read() for container in containers] == before
    for container in containers:
        assert (await container.read_item("one", "acme"))["tenantId"] == "acme"
    assert (await world.jobs.get_queue_properties()).approximate_message_count == 1
