import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any, cast

import httpx
import pytest
from azure.core import MatchConditions
from azure.core.async_paging import AsyncItemPaged, AsyncPageIterator
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosBatchOperationError,
    CosmosHttpResponseError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)
from azure.identity.aio import DefaultAzureCredential

from localdev.cosmos import KEY, Database, cosmos
from localdev.errors import PortTaken
from localdev.keyvault import KeyVault
from localdev.tls import Certificates
from tests.localdev.ports import answers, port_of
from tests.waiting import wait_until

NEXT_RUN = "2025-08-23T01:00:00Z"


def tenant(item_id: str = "t1", *, tenant_id: str | None = None, **fields: Any) -> dict[str, Any]:
    flow = {"name": "home-depot→builder-prime", "enabled": True, "nextRunUtc": None}
    return {"id": item_id, "tenantId": tenant_id or item_id, "flows": [flow], **fields}


def setting(path: str, value: Any) -> dict[str, Any]:
    return {"op": "set", "path": path, "value": value}


def query(items: ContainerProxy, text: str, **options: Any) -> AsyncItemPaged[Any]:
    return cast("AsyncItemPaged[Any]", items.query_items(text, **options))  # the SDK annotates all results as dicts


async def found(items: ContainerProxy, text: str, **options: Any) -> list[Any]:
    return [item async for item in query(items, text, **options)]


async def where(items: ContainerProxy, condition: str) -> list[str]:
    return sorted(await found(items, f"SELECT VALUE c.id FROM c WHERE {condition}"))  # noqa: S608 - tests only


async def status_of(request: Awaitable[object]) -> tuple[int | None, int | None]:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await request
    return caught.value.status_code, caught.value.sub_status


# Items


async def test_an_item_is_read_as_it_was_created(items: ContainerProxy) -> None:
    """Ids and values keep all characters."""
    item_id = "tenant 1|home-depot→builder-prime %20+&='"
    await items.create_item(tenant(item_id, name="Dąbrowski & Söhne"))
    read = await items.read_item(item_id, item_id)
    assert read["name"] == "Dąbrowski & Söhne"


async def test_missing_items_are_404(items: ContainerProxy) -> None:
    """Each operation on a missing item is answered with 404, without a sub-status."""
    assert await status_of(items.read_item("none", "none")) == (404, None)
    assert await status_of(items.patch_item("none", "none", [setting("/x", 1)])) == (404, None)
    assert await status_of(items.replace_item("none", tenant("none"))) == (404, None)
    assert await status_of(items.delete_item("none", "none")) == (404, None)


async def test_a_missing_container_is_404_with_a_sub_status(cosmos_client: CosmosClient) -> None:
    """The sub-status 1003 distinguishes a missing container from a missing item."""
    database = await cosmos_client.create_database(f"test-{uuid.uuid4().hex[:12]}")
    container = await database.create_container("short-lived", PartitionKey("/tenantId"))
    await container.create_item(tenant())
    await database.delete_container(container)
    assert await status_of(container.read_item("t1", "t1")) == (404, 1003)
    await cosmos_client.delete_database(database)


async def test_creating_twice_is_a_conflict(items: ContainerProxy) -> None:
    """An id is unique in its partition. Other partitions can have the same id."""
    await items.create_item(tenant("same", tenant_id="one"))
    await items.create_item(tenant("same", tenant_id="two", name="Two"))
    with pytest.raises(CosmosResourceExistsError):
        await items.create_item(tenant("same", tenant_id="one"))
    assert (await items.read_item("same", "two"))["name"] == "Two"
    assert await found(items, "SELECT VALUE c.tenantId FROM c", partition_key="one") == ["one"]


async def test_upsert_creates_and_replaces(items: ContainerProxy) -> None:
    """A second upsert with the same id replaces the item."""
    await items.upsert_item(tenant(version=1))
    await items.upsert_item(tenant(version=2))
    assert await found(items, "SELECT VALUE c.version FROM c") == [2]
    await items.delete_item("t1", "t1")
    with pytest.raises(CosmosResourceNotFoundError):
        await items.read_item("t1", "t1")


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_an_item_of_more_than_two_megabytes_is_refused(items: ContainerProxy) -> None:
    """The limit is the same as on Azure. A patch that makes an item too large does not change it."""
    assert await status_of(items.create_item(tenant(padding="x" * 2_200_000))) == (413, None)
    created = await items.create_item(tenant(padding="x" * 1_200_000))
    assert await status_of(items.patch_item("t1", "t1", [setting("/more", "x" * 1_200_000)])) == (413, None)
    assert dict(await items.read_item("t1", "t1")) == dict(created)


async def test_every_write_changes_the_etag(items: ContainerProxy) -> None:
    """ETags have quotes, and each write returns the new one."""
    created = await items.create_item(tenant())
    patched = await items.patch_item("t1", "t1", [setting("/name", "Acme")])
    replaced = await items.replace_item("t1", dict(patched))
    etags = [item["_etag"] for item in (created, patched, replaced)]
    assert len(set(etags)) == 3
    assert all(etag.startswith('"') and etag.endswith('"') for etag in etags)
    assert (await items.read_item("t1", "t1"))["_etag"] == etags[-1]
    assert replaced.get_response_headers()["etag"] == etags[-1]


async def test_a_stale_etag_is_refused(items: ContainerProxy) -> None:
    """Of two writers that have read the same version, the second gets 412, for each kind of write."""
    stale = await items.create_item(tenant())
    await items.patch_item("t1", "t1", [setting("/name", "first")])
    condition: dict[str, Any] = {"etag": stale["_etag"], "match_condition": MatchConditions.IfNotModified}
    for write in (
        items.patch_item("t1", "t1", [setting("/name", "second")], **condition),
        items.replace_item("t1", dict(stale), **condition),
        items.upsert_item(dict(stale), **condition),
        items.delete_item("t1", "t1", **condition),
    ):
        with pytest.raises(CosmosAccessConditionFailedError):
            await write
    assert (await items.read_item("t1", "t1"))["name"] == "first"


async def test_a_write_can_accept_any_version(items: ContainerProxy) -> None:
    """`IfPresent` (If-Match: *) only requires that the item exists."""
    await items.create_item(tenant())
    await items.patch_item("t1", "t1", [setting("/name", "Acme")], match_condition=MatchConditions.IfPresent)


async def test_one_of_many_concurrent_writers_succeeds(items: ContainerProxy) -> None:
    """Of 64 writers with the same ETag, one succeeds, and the others get 412."""
    created = await items.create_item(tenant())
    answers = await asyncio.gather(
        *(
            items.patch_item(
                "t1",
                "t1",
                [setting("/winner", number)],
                etag=created["_etag"],
                match_condition=MatchConditions.IfNotModified,
            )
            for number in range(64)
        ),
        return_exceptions=True,
    )
    losers = [answer for answer in answers if isinstance(answer, CosmosAccessConditionFailedError)]
    assert len(losers) == 63


# Patches


async def test_a_patch_changes_nothing_else(items: ContainerProxy) -> None:
    """A path into a list changes one value. All other fields stay."""
    await items.create_item(tenant(note="by hand"))
    patched = await items.patch_item("t1", "t1", [setting("/flows/0/nextRunUtc", NEXT_RUN)])
    assert patched["note"] == "by hand"
    assert patched["flows"] == [{"name": "home-depot→builder-prime", "enabled": True, "nextRunUtc": NEXT_RUN}]


async def test_a_patch_has_at_most_ten_operations(items: ContainerProxy) -> None:
    """Eleven operations, or none, are refused, and the item is not changed."""
    await items.create_item(tenant())
    await items.patch_item("t1", "t1", [setting(f"/field{number}", 1) for number in range(10)])
    assert await status_of(items.patch_item("t1", "t1", [setting(f"/field{number}", 2) for number in range(11)])) == (
        400,
        None,
    )
    assert await status_of(items.patch_item("t1", "t1", [])) == (400, None)
    assert (await items.read_item("t1", "t1"))["field0"] == 1


@pytest.mark.parametrize("path", ["/flows/7/nextRunUtc", "/nothing/there", "/id", "/tenantId", "/_etag"])
async def test_a_patch_with_an_invalid_path_is_refused(items: ContainerProxy, path: str) -> None:
    """The parent of the path must exist, and system fields and keys cannot be changed."""
    await items.create_item(tenant())
    assert (await status_of(items.patch_item("t1", "t1", [setting(path, "x")])))[0] == 400


async def test_a_patch_condition_is_checked_for_its_item_only(items: ContainerProxy) -> None:
    """The condition keeps its case. An item with the same id in another partition has no effect."""
    await items.create_item(tenant("same", tenant_id="one", nextRunUtc=NEXT_RUN))
    await items.create_item(tenant("same", tenant_id="two"))
    condition = f"FROM c WHERE c.nextRunUtc = '{NEXT_RUN}'"
    await items.patch_item("same", "one", [setting("/met", 1)], filter_predicate=condition)
    refused = items.patch_item("same", "two", [setting("/met", 1)], filter_predicate=condition)
    assert await status_of(refused) == (412, 1110)


async def test_a_write_without_a_response_returns_the_etag(items: ContainerProxy) -> None:
    """With `no_response`, the body is empty, and the header has the ETag."""
    await items.create_item(tenant())
    patched = await items.patch_item("t1", "t1", [setting("/name", "Acme")], no_response=True)
    assert dict(patched) == {}
    assert patched.get_response_headers()["etag"] == (await items.read_item("t1", "t1"))["_etag"]


async def test_a_patch_increments_and_answers_with_the_whole_item(items: ContainerProxy) -> None:
    """The answer of a patch is the new item, with the new values and a new `_etag`."""
    created = await items.create_item(tenant(lease={"token": 7, "run": "old"}, note="by hand"))
    operations = [{"op": "incr", "path": "/lease/token", "value": 2}, setting("/lease/run", "new")]
    patched = dict(await items.patch_item("t1", "t1", operations))
    assert patched["lease"] == {"token": 9, "run": "new"}
    assert patched["note"] == "by hand"
    assert patched["flows"] == created["flows"]
    assert patched["_etag"] != created["_etag"]
    assert patched == await items.read_item("t1", "t1")


async def test_a_patch_sets_a_field_to_an_object_and_to_null(items: ContainerProxy) -> None:
    """`set` creates a missing field, and replaces the whole value of an existing one."""
    await items.create_item(tenant())
    held = await items.patch_item("t1", "t1", [setting("/lease", {"until": 1764000000.5, "nonce": "0123abcd"})])
    assert held["lease"] == {"until": 1764000000.5, "nonce": "0123abcd"}
    replaced = await items.patch_item("t1", "t1", [setting("/lease", {"nonce": "89ef"})])
    assert replaced["lease"] == {"nonce": "89ef"}
    released = await items.patch_item("t1", "t1", [setting("/lease", None)])
    assert released["lease"] is None
    assert (await status_of(items.patch_item("t1", "t1", [setting("/lease/until", 1)])))[0] == 400


async def test_a_patch_increments_a_missing_field_from_zero(items: ContainerProxy) -> None:
    """The field is set to the value. The next patch increments it."""
    await items.create_item(tenant())
    increment = {"op": "incr", "path": "/token", "value": 1}
    assert (await items.patch_item("t1", "t1", [increment]))["token"] == 1
    assert (await items.patch_item("t1", "t1", [increment]))["token"] == 2


@pytest.mark.parametrize("token", ["7", None, True, {}, [7]])
async def test_only_a_number_can_be_incremented(items: ContainerProxy, token: Any) -> None:
    """Other values are refused with 400, and no operation of the patch is applied."""
    created = await items.create_item(tenant(token=token))
    operations = [setting("/name", "Acme"), {"op": "incr", "path": "/token", "value": 1}]
    assert await status_of(items.patch_item("t1", "t1", operations)) == (400, None)
    assert dict(await items.read_item("t1", "t1")) == dict(created)


async def test_a_patch_removes_a_field(items: ContainerProxy) -> None:
    """A missing field is refused with 400."""
    await items.create_item(tenant(lease={"nonce": "0123abcd"}))
    remove = {"op": "remove", "path": "/lease"}
    assert "lease" not in await items.patch_item("t1", "t1", [remove])
    assert await status_of(items.patch_item("t1", "t1", [remove])) == (400, None)


NOW = 1764000000.5
FREE = "FROM c WHERE NOT IS_NUMBER(c.lease.until)"
FREE_OR_OWN = (
    f'FROM c WHERE (NOT IS_NUMBER(c.lease.until) OR c.lease.until < {NOW} OR c.lease.nonce = "0123abcd") '
    "AND c.token = 7"
)


@pytest.mark.parametrize(
    ("fields", "free", "free_or_own"),
    [
        ({"token": 7}, True, True),
        ({"token": 7, "lease": None}, True, True),
        ({"token": 7, "lease": "0123abcd"}, True, True),
        ({"token": 7, "lease": []}, True, True),
        ({"token": 7, "lease": {}}, True, True),
        ({"token": 7, "lease": {"until": None}}, True, True),
        ({"token": 7, "lease": {"until": "1764000001", "nonce": "89ef"}}, True, True),
        ({"token": 7, "lease": {"until": NOW - 0.1, "nonce": "89ef"}}, False, True),
        ({"token": 7, "lease": {"until": NOW, "nonce": "89ef"}}, False, False),
        ({"token": 7, "lease": {"until": NOW + 60, "nonce": "89ef"}}, False, False),
        ({"token": 7, "lease": {"until": NOW + 60, "nonce": "0123abcd"}}, False, True),
        ({"token": 7, "lease": {"until": NOW + 60}}, False, False),
        ({"token": 8, "lease": {}}, True, False),
        ({"token": "7"}, True, False),
        ({"token": None}, True, False),
        ({}, True, False),
    ],
)
async def test_a_patch_condition_can_test_a_field_that_is_missing(
    items: ContainerProxy, fields: dict[str, Any], *, free: bool, free_or_own: bool
) -> None:
    """IS_NUMBER of a missing field is false. A comparison with a missing field is never true."""
    await items.create_item(tenant(**fields))
    for condition, met in ((FREE, free), (FREE_OR_OWN, free_or_own)):
        patch = items.patch_item("t1", "t1", [setting("/note", condition)], filter_predicate=condition)
        if met:
            assert (await patch)["note"] == condition
        else:
            assert await status_of(patch) == (412, 1110)


async def test_an_invalid_patch_condition_is_refused(items: ContainerProxy) -> None:
    """The answer is 400, not 412."""
    await items.create_item(tenant())
    patch = items.patch_item("t1", "t1", [setting("/name", "Acme")], filter_predicate="FROM c WHERE c.lease.until <")
    assert await status_of(patch) == (400, None)


# Batches


async def failure_of(request: Awaitable[object]) -> tuple[int, int | None, list[int]]:
    """Return the index of the operation that failed, its status, and the statuses of all operations."""
    with pytest.raises(CosmosBatchOperationError) as caught:
        await request
    error = caught.value
    return error.error_index, error.status_code, [each["statusCode"] for each in error.operation_responses]


async def test_a_batch_has_a_result_for_each_operation(items: ContainerProxy) -> None:
    """A result has the status, the charge, the ETag, and the document. A deletion has neither ETag nor document."""
    for item_id in ("read", "replaced", "patched", "deleted"):
        await items.create_item(tenant(item_id, tenant_id="acme"))
    results = await items.execute_item_batch(
        [
            ("create", (tenant("created", tenant_id="acme"),)),
            ("upsert", (tenant("upserted", tenant_id="acme"),)),
            ("read", ("read",)),
            ("replace", ("replaced", tenant("replaced", tenant_id="acme", name="Acme"))),
            ("patch", ("patched", [setting("/name", "Acme")])),
            ("delete", ("deleted",)),
        ],
        partition_key="acme",
    )
    assert [each["statusCode"] for each in results] == [201, 201, 200, 200, 200, 204]
    assert [each["requestCharge"] for each in results] == [1, 1, 1, 1, 1, 1]
    assert results.get_response_headers()["x-ms-request-charge"] == "6"
    for result, item_id in zip(results[:-1], ["created", "upserted", "read", "replaced", "patched"], strict=True):
        stored = await items.read_item(item_id, "acme")
        assert result["resourceBody"] == dict(stored)
        assert result["eTag"] == stored["_etag"]
    assert set(results[-1]) == {"statusCode", "requestCharge"}
    assert await where(items, "c.name = 'Acme'") == ["patched", "replaced"]
    assert "deleted" not in await where(items, "true")


async def test_an_operation_of_a_batch_sees_those_before_it(items: ContainerProxy) -> None:
    """The operations are executed in their order."""
    results = await items.execute_item_batch(
        [
            ("create", (tenant(token=1),)),
            (
                "patch",
                ("t1", [{"op": "incr", "path": "/token", "value": 1}]),
                {"filter_predicate": "FROM c WHERE c.token = 1"},
            ),
            ("read", ("t1",)),
            ("delete", ("t1",)),
            ("create", (tenant(token=5),)),
        ],
        partition_key="t1",
    )
    assert [each.get("resourceBody", {}).get("token") for each in results] == [1, 2, 2, None, 5]
    assert (await items.read_item("t1", "t1"))["token"] == 5


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (("create", (tenant("old", tenant_id="acme"),)), 409),
        (("create", (tenant("new", tenant_id="other"),)), 400),
        (("create", ({"id": "new"},)), 400),
        (("upsert", (tenant("old", tenant_id="other"),)), 400),
        (("read", ("missing",)), 404),
        (("replace", ("missing", tenant("missing", tenant_id="acme"))), 404),
        (("replace", ("old", tenant("new", tenant_id="acme"))), 400),
        (("replace", ("old", tenant("old", tenant_id="acme")), {"if_match_etag": '"stale"'}), 412),
        (("upsert", (tenant("old", tenant_id="acme"),), {"if_match_etag": '"stale"'}), 412),
        (("delete", ("old",), {"if_match_etag": '"stale"'}), 412),
        (("delete", ("missing",)), 404),
        (("patch", ("old", [setting("/name", "Acme")]), {"if_match_etag": '"stale"'}), 412),
        (("patch", ("old", [setting("/name", "Acme")]), {"filter_predicate": "FROM c WHERE c.token = 8"}), 412),
        (("patch", ("old", [setting("/name", "Acme")]), {"filter_predicate": "FROM c WHERE"}), 400),
        (("patch", ("old", [{"op": "remove", "path": "/missing"}])), 400),
        (("patch", ("missing", [setting("/name", "Acme")])), 404),
    ],
)
async def test_a_failed_operation_undoes_the_whole_batch(
    items: ContainerProxy, operation: tuple[Any, ...], status: int
) -> None:
    """The error has the index and status of the operation. All others have 424, and no item has changed."""
    for item_id in ("old", "patched", "replaced", "deleted"):
        await items.create_item(tenant(item_id, tenant_id="acme", token=7))
    before = await found(items, "SELECT * FROM c")
    batch = items.execute_item_batch(
        [
            ("create", (tenant("created", tenant_id="acme"),)),
            ("patch", ("patched", [setting("/name", "Acme")])),
            ("upsert", (tenant("replaced", tenant_id="acme"),)),
            ("delete", ("deleted",)),
            operation,
            ("create", (tenant("later", tenant_id="acme"),)),
        ],
        partition_key="acme",
    )
    assert await failure_of(batch) == (4, status, [424, 424, 424, 424, status, 424])
    assert await found(items, "SELECT * FROM c") == before


async def test_a_batch_can_be_conditional_on_etags(items: ContainerProxy) -> None:
    """With the current ETag, or with any (`*`), the operation succeeds. A read of a known version is 304."""
    etag = (await items.create_item(tenant()))["_etag"]

    async def execute() -> list[dict[str, Any]]:
        return await items.execute_item_batch(
            [
                ("read", ("t1",), {"if_none_match_etag": etag}),
                ("replace", ("t1", tenant(version=2)), {"if_match_etag": etag}),
                ("patch", ("t1", [setting("/name", "Acme")]), {"if_match_etag": "*"}),
            ],
            partition_key="t1",
        )

    assert [each["statusCode"] for each in await execute()] == [304, 200, 200]
    assert (await items.read_item("t1", "t1"))["version"] == 2
    assert await failure_of(execute()) == (1, 412, [424, 412, 424])


async def test_a_batch_has_from_one_to_a_hundred_operations(items: ContainerProxy) -> None:
    """A batch without operations, or with more than a hundred, is refused as a whole."""
    batch = [("create", (tenant(f"i{number}", tenant_id="acme"),)) for number in range(101)]
    assert await status_of(items.execute_item_batch([], partition_key="acme")) == (400, None)
    assert await status_of(items.execute_item_batch(batch, partition_key="acme")) == (400, None)
    assert await where(items, "true") == []
    assert len(await items.execute_item_batch(batch[:100], partition_key="acme")) == 100
    assert len(await where(items, "true")) == 100


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_batch_of_more_than_two_megabytes_is_refused(items: ContainerProxy) -> None:
    """The limit is for the request, and for each document that an operation makes."""
    large = [("create", (tenant(f"i{number}", tenant_id="acme", padding="x" * 800_000),)) for number in range(3)]
    assert await status_of(items.execute_item_batch(large, partition_key="acme")) == (413, None)
    grow = [large[0], ("patch", ("i0", [setting("/more", "x" * 1_200_000)]))]
    await items.create_item(tenant("i0", tenant_id="acme", padding="x" * 1_200_000))
    assert await failure_of(items.execute_item_batch(grow[1:], partition_key="acme")) == (0, 413, [413])
    assert "more" not in await items.read_item("i0", "acme")


async def test_nobody_reads_a_half_applied_batch(items: ContainerProxy) -> None:
    """While batches succeed and fail, both documents of a query always have the same version."""
    for item_id in ("state", "record"):
        await items.create_item(tenant(item_id, tenant_id="acme", version=0))
    done = asyncio.Event()

    async def write() -> None:
        for version in range(1, 31):
            documents = [tenant(item_id, tenant_id="acme", version=version) for item_id in ("state", "record")]
            writes: list[Any] = [("upsert", (document,)) for document in documents]
            await items.execute_item_batch(writes, partition_key="acme")
            half = [("upsert", (tenant("state", tenant_id="acme", version=-1),)), ("read", ("missing",))]
            assert await failure_of(items.execute_item_batch(half, partition_key="acme")) == (1, 404, [424, 404])
        done.set()

    async def read() -> None:
        while not done.is_set():
            versions = await found(items, "SELECT VALUE c.version FROM c", partition_key="acme")
            assert len(versions) == 2
            assert len(set(versions)) == 1

    await asyncio.gather(write(), read(), read())


async def test_one_of_many_concurrent_batches_succeeds(items: ContainerProxy) -> None:
    """Of 32 batches with the same ETag, one is applied, and the others get 412."""
    created = await items.create_item(tenant("state", tenant_id="acme"))

    async def settle(number: int) -> str:
        replace = ("state", tenant("state", tenant_id="acme", winner=number))
        record = tenant(f"record-{number}", tenant_id="acme")
        batch: list[Any] = [("create", (record,)), ("replace", replace, {"if_match_etag": created["_etag"]})]
        try:
            await items.execute_item_batch(batch, partition_key="acme")
        except CosmosBatchOperationError as error:
            return f"{error.error_index}: {error.status_code}"
        return "applied"

    answers = await asyncio.gather(*(settle(number) for number in range(32)))
    assert sorted(answers) == ["1: 412"] * 31 + ["applied"]
    assert await where(items, "STARTSWITH(c.id, 'record')") == [f"record-{answers.index('applied')}"]


async def test_a_batch_for_a_missing_container_is_404(cosmos_client: CosmosClient) -> None:
    """The error is a CosmosHttpResponseError, as the batch was not executed."""
    database = await cosmos_client.create_database(f"test-{uuid.uuid4().hex[:12]}")
    container = await database.create_container("short-lived", PartitionKey("/tenantId"))
    await container.create_item(tenant())
    await database.delete_container(container)
    assert await status_of(container.execute_item_batch([("read", ("t1",))], partition_key="t1")) == (404, 1003)
    await cosmos_client.delete_database(database)


# Queries


@pytest.mark.parametrize("flows", [None, {"name": "x"}, "x", 7, True, [None, 7, "x"]])
async def test_a_loop_over_a_value_that_is_not_a_list_finds_nothing(items: ContainerProxy, flows: Any) -> None:
    """Such an item has no results in JOIN, EXISTS and FROM … IN. All other items are found."""
    await items.create_item(tenant("good"))
    await items.create_item(tenant("odd", flows=flows))
    await items.create_item({"id": "bare", "tenantId": "bare"})
    assert await found(items, "SELECT VALUE c.id FROM c JOIN f IN c.flows WHERE f.enabled") == ["good"]
    assert await found(items, "SELECT VALUE f.name FROM f IN c.flows WHERE f.enabled") == ["home-depot→builder-prime"]
    assert await where(items, "EXISTS (SELECT VALUE f FROM f IN c.flows WHERE f.enabled)") == ["good"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("IS_ARRAY(c.flows)", ["a", "b"]),
        ("NOT IS_ARRAY(c.flows)", ["c"]),
        ("IS_DEFINED(c.name)", ["a", "c"]),
        ("IS_STRING(c.name)", ["a"]),
        ("IS_BOOL(c.on)", ["a"]),
        ("IS_NULL(c.name)", ["c"]),
        ("LENGTH(c.name) = 4", ["a"]),
        ("ENDSWITH(c.name, 'e')", ["a"]),
        ("STARTSWITH(c.name, 'A')", ["a"]),
        ("LOWER(c.name) = 'acme'", ["a"]),
        ("SUBSTRING(c.name, 1, 2) = 'cm'", ["a"]),
        ("CONTAINS(c.name, 'cm')", ["a"]),
        ("ARRAY_LENGTH(c.flows) = 1", ["a"]),
        ("ARRAY_LENGTH(c.flows) > 0 OR c.number < 0", ["a"]),
        ("c.number >= 2 AND c.number <= 3", ["b", "c"]),
        ("c.number > '1'", []),
        ("c.on = true", ["a"]),
        ("c.flows[0].name = 'home-depot→builder-prime'", ["a"]),
        ("c.id IN ('a', 'c')", ["a", "c"]),
        ("ARRAY_CONTAINS(c.flows, {enabled: true}, true)", ["a"]),
    ],
)
async def test_conditions_have_the_same_results_as_on_azure(
    items: ContainerProxy, condition: str, expected: list[str]
) -> None:
    """These are the functions that queries of this app may use. A comparison of different types is never true."""
    await items.create_item(tenant("a", name="Acme", on=True, number=1))
    await items.create_item(tenant("b", flows=[], number=2))
    await items.create_item(tenant("c", flows={}, name=None, on="true", number=3))
    assert await where(items, condition) == expected


CHANGED_OR_DUE = (
    "SELECT * FROM c WHERE c._ts >= @since OR "
    "EXISTS(SELECT VALUE f FROM f IN c.flows WHERE f.enabled = true AND f.nextRunUtc <= @horizon)"
)


async def test_items_are_found_by_the_time_of_their_last_change(items: ContainerProxy) -> None:
    """`_ts` is the second of the last write or patch. `>=` includes that second."""
    first = (await items.create_item(tenant("old")))["_ts"]
    old = (await items.create_item(tenant("patched")))["_ts"]

    async def next_second() -> bool:
        now = (await items.upsert_item(tenant("clock")))["_ts"]
        return bool(now > old)

    await wait_until(next_second, description="the server's clock shows the next second")
    since = (await items.patch_item("patched", "patched", [setting("/name", "Acme")]))["_ts"]
    assert isinstance(since, int)
    assert since > old

    async def changed(moment: int) -> set[str]:
        parameters = [{"name": "@since", "value": moment}]
        return set(await found(items, "SELECT VALUE c.id FROM c WHERE c._ts >= @since", parameters=parameters))

    assert await changed(since + 1) == set()
    assert await changed(since) - {"clock"} == {"patched"}
    assert await changed(first) == {"old", "patched", "clock"}


@pytest.mark.parametrize(
    "flows",
    [
        {},
        {"flows": None},
        {"flows": "due"},
        {"flows": 7},
        {"flows": {"enabled": True, "nextRunUtc": NEXT_RUN}},
        {"flows": []},
        {"flows": [None, "due", 7, True, [{"enabled": True, "nextRunUtc": NEXT_RUN}]]},
        {"flows": [{"enabled": True}, {"nextRunUtc": NEXT_RUN}]},
        {"flows": [{"enabled": True, "nextRunUtc": None}, {"enabled": True, "nextRunUtc": 0}]},
        {"flows": [{"enabled": True, "nextRunUtc": False}, {"enabled": True, "nextRunUtc": [NEXT_RUN]}]},
        {"flows": [{"enabled": True, "nextRunUtc": {"at": NEXT_RUN}}]},
        {"flows": [{"enabled": "true", "nextRunUtc": NEXT_RUN}, {"enabled": 1, "nextRunUtc": NEXT_RUN}]},
        {
            "flows": [
                {"enabled": False, "nextRunUtc": NEXT_RUN},
                {"enabled": True, "nextRunUtc": "2025-08-23T01:00:01Z"},
            ]
        },
    ],
)
async def test_items_are_found_by_their_due_entries(items: ContainerProxy, flows: dict[str, Any]) -> None:
    """An entry is due if it is enabled and its time is a string up to the horizon. Other entries are not found."""
    due = {"name": "weather", "enabled": True, "nextRunUtc": NEXT_RUN}
    await items.create_item(tenant("due", flows=[None, {"enabled": False}, due]))
    await items.create_item({"id": "odd", "tenantId": "odd", **flows})

    async def ids(since: int) -> list[str]:
        parameters = [{"name": "@since", "value": since}, {"name": "@horizon", "value": NEXT_RUN}]
        return sorted([item["id"] for item in await found(items, CHANGED_OR_DUE, parameters=parameters)])

    assert await ids(since=2**33) == ["due"]
    assert await ids(since=0) == ["due", "odd"]


async def test_queries_can_sort_limit_and_count(items: ContainerProxy) -> None:
    """ORDER BY, TOP, COUNT and parameters work in one partition and across partitions."""
    for number in range(6):
        await items.create_item(tenant(f"i{number}", tenant_id=f"p{number % 2}", number=number))
    numbers = "SELECT VALUE c.number FROM c"
    assert await found(items, f"{numbers} ORDER BY c.number DESC") == [5, 4, 3, 2, 1, 0]
    assert await found(items, "SELECT TOP 2 VALUE c.number FROM c ORDER BY c.number") == [0, 1]
    assert await found(items, f"{numbers} WHERE c.number > 2 ORDER BY c.number", partition_key="p1") == [3, 5]
    assert await found(items, "SELECT VALUE COUNT(1) FROM c") == [6]
    above = [{"name": "@least", "value": 4}]
    assert sorted(await found(items, f"{numbers} WHERE c.number >= @least", parameters=above)) == [4, 5]


async def test_a_query_of_one_partition_finds_only_its_items(items: ContainerProxy) -> None:
    """The partition key can differ from the id of a tenant."""
    await items.create_item(tenant("watermark", tenant_id="@fleet", type="Watermark", since=7))
    await items.create_item(tenant("problem", tenant_id="@fleet", type="Problem"))
    await items.create_item(tenant("run", tenant_id="acme", type="Problem"))
    ids = "SELECT VALUE c.id FROM c"
    assert sorted(await found(items, ids, partition_key="@fleet")) == ["problem", "watermark"]
    assert await found(items, f"{ids} WHERE c.type = 'Problem'", partition_key="@fleet") == ["problem"]
    assert await found(items, "SELECT VALUE COUNT(1) FROM c", partition_key="@fleet") == [2]
    assert await found(items, f"{ids} WHERE c._ts >= 0 AND c.since = 7", partition_key="@fleet") == ["watermark"]
    assert await found(items, ids, partition_key="@nobody") == []


async def test_an_invalid_query_is_refused(items: ContainerProxy) -> None:
    """The answer is 400."""
    assert await status_of(found(items, "SELECT FROM WHERE")) == (400, None)


async def test_results_have_pages(items: ContainerProxy) -> None:
    """A page has the requested number of items, 100 by default. A continuation token continues after a page."""
    await asyncio.gather(*(items.create_item(tenant(f"i{number}")) for number in range(150)))

    async def sizes(**options: Any) -> list[int]:
        pages = query(items, "SELECT c.id FROM c", **options).by_page()
        return [len([item async for item in page]) async for page in pages]

    assert await sizes() == [100, 50]
    assert await sizes(max_item_count=60) == [60, 60, 30]
    in_order = query(items, "SELECT VALUE c.id FROM c ORDER BY c.id", max_item_count=149)
    pages = cast("AsyncPageIterator[str]", in_order.by_page())
    first = [item async for item in await anext(pages)]
    rest = in_order.by_page(pages.continuation_token)
    assert len(first) == 149
    assert [item async for page in rest async for item in page] == ["i99"]


async def test_items_can_be_changed_between_pages(items: ContainerProxy) -> None:
    """If the items of each page are patched, later pages neither miss nor repeat an item."""
    await asyncio.gather(*(items.create_item(tenant(f"i{number}", due=True)) for number in range(30)))
    seen: list[str] = []
    async for page in query(items, "SELECT VALUE c.id FROM c WHERE c.due", max_item_count=7).by_page():
        ids = [item async for item in page]
        await asyncio.gather(*(items.patch_item(each, each, [setting("/due", value=False)]) for each in ids))
        seen += ids
    assert sorted(seen) == sorted(f"i{number}" for number in range(30))


async def test_a_scan_can_be_split_by_feed_range(items: ContainerProxy) -> None:
    """All feed ranges together have each item once."""
    for number in range(5):
        await items.create_item(tenant(f"i{number}"))
    ranges = [each async for each in items.read_feed_ranges()]
    parts = [await found(items, "SELECT VALUE c.id FROM c", feed_range=each) for each in ranges]
    assert sorted(item for part in parts for item in part) == ["i0", "i1", "i2", "i3", "i4"]


async def test_two_thousand_documents_and_64_requests_at_once(items: ContainerProxy) -> None:
    """Writes, queries and counts of this size succeed."""
    numbers = iter(range(2000))

    async def write() -> None:
        for number in numbers:
            await items.create_item(tenant(f"t{number}"))

    await asyncio.gather(*(write() for _ in range(64)))
    assert await found(items, "SELECT VALUE COUNT(1) FROM c JOIN f IN c.flows WHERE f.enabled") == [2000]
    assert len({item["id"] for item in await found(items, "SELECT c.id FROM c")}) == 2000


# Containers


async def test_items_expire_after_their_time_to_live(items: ContainerProxy) -> None:
    """If the container's default is -1, only items with a `ttl` of their own expire."""
    await items.create_item(tenant("temporary", ttl=1))
    await items.create_item(tenant("permanent"))

    async def left() -> bool:
        return await where(items, "true") == ["permanent"]

    await wait_until(left, description="the item with a ttl of one second has expired")


async def test_an_indexing_policy_is_stored(cosmos_client: CosmosClient) -> None:
    """A container keeps the indexing policy that it was created with, with its tuple paths."""
    policy: dict[str, Any] = {
        "indexingMode": "consistent",
        "automatic": True,
        "includedPaths": [{"path": "/type/?"}, {"path": "/flows/[]/{enabled, nextRunUtc}/?"}],
        "excludedPaths": [{"path": "/*"}],
    }
    database = await cosmos_client.create_database(f"test-{uuid.uuid4().hex[:12]}")
    container = await database.create_container("indexed", PartitionKey("/tenantId"), indexing_policy=policy)
    read = (await container.read())["indexingPolicy"]
    await cosmos_client.delete_database(database)
    assert read["indexingMode"] == "consistent"
    assert read["automatic"] is True
    assert read["includedPaths"] == policy["includedPaths"]
    assert {"path": "/*"} in read["excludedPaths"]


async def test_replacing_a_container_keeps_its_items(cosmos_client: CosmosClient, items: ContainerProxy) -> None:
    """The time to live of a container in use can be changed."""
    await items.create_item(tenant())
    (database,) = [
        cosmos_client.get_database_client(each["id"])
        async for each in cosmos_client.list_databases()
        if f"/{each['id']}/" in f"/{items.container_link}/"
    ]
    await database.replace_container(items, PartitionKey("/tenantId"), default_ttl=3600)
    assert (await items.read())["defaultTtl"] == 3600
    assert (await items.read_item("t1", "t1"))["id"] == "t1"


# The account


async def test_a_wrong_key_is_refused(database: Database) -> None:
    """A request with another key gets 401, as on Azure."""
    client = CosmosClient(database.endpoint, KEY.replace("C2y6", "D3z7"))
    with pytest.raises(CosmosHttpResponseError) as caught:
        await client.__aenter__()
    await client.close()  # a failed __aenter__ does not close it
    assert caught.value.status_code == 401


@pytest.mark.parametrize("authorization", [None, "nonsense", "type%3Dmaster%26sig%3D", "%"])
async def test_a_request_without_a_signature_is_refused(database: Database, authorization: str | None) -> None:
    """A request without an authorization, or with one that cannot be read, gets 401."""
    async with httpx.AsyncClient(base_url=database.endpoint) as stranger:
        answer = await stranger.get("/dbs", headers={"Authorization": authorization} if authorization else {})
    assert answer.status_code == 401
    assert answer.json()["code"] == "Unauthorized"


async def test_an_identity_has_access_to_items_over_https(certificates: Certificates, vault: KeyVault) -> None:
    """With certificates, an Entra ID token gives access to items. As with Azure's roles, it cannot create databases."""
    async with (
        cosmos(tls=certificates) as database,
        DefaultAzureCredential() as identity,
        CosmosClient(database.endpoint, identity) as client,
        CosmosClient.from_connection_string(database.connection_string) as with_key,
    ):
        made = await with_key.create_database("d")
        await made.create_container("c", PartitionKey("/tenantId"))
        items = client.get_database_client("d").get_container_client("c")
        await items.create_item(tenant())
        assert await where(items, "true") == ["t1"]
        assert (await status_of(client.create_database("e")))[0] == 403


async def test_a_port_in_use_is_reported_and_nothing_is_left(database: Database) -> None:
    """The error for a port in use names the part and the port. The port is closed after the block."""
    taken = port_of(database.endpoint)
    with pytest.raises(PortTaken, match=f"Cosmos DB cannot listen on port {taken}"):
        async with cosmos(port=taken):
            pytest.fail("Cosmos DB listens on a port in use")
    async with cosmos() as other:
        port = port_of(other.endpoint)
        assert await answers(port)
    assert not await answers(port)
