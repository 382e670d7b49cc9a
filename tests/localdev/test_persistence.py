"""The data of the local services outlive their processes, and damaged data are recognised."""

import os
import signal
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient, DatabaseProxy
from azure.storage.queue.aio import QueueClient

from datasync.cli import local_settings
from datasync.cli.local_settings import started_settings
from localdev.azurite import azurite
from localdev.cosmos import cosmos
from localdev.errors import DataDamaged
from localdev.keyvault import key_vault
from localdev.tls import Certificates
from tests.localdev.commands import run
from tests.localdev.processes import LOCALDEV, Started, alive, data_of, descendants, started
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("node")

POLICY: dict[str, Any] = {
    "indexingMode": "consistent",
    "automatic": True,
    "includedPaths": [{"path": "/type/?"}],
    "excludedPaths": [{"path": "/*"}],
}


# Cosmos DB


@asynccontextmanager
async def account(file: Path) -> AsyncGenerator[DatabaseProxy]:
    """Run a Cosmos DB account that is kept in a file, and open its database."""
    async with cosmos(file=file) as running, CosmosClient.from_connection_string(running.connection_string) as client:
        yield await client.create_database_if_not_exists("kept")


async def test_documents_keep_their_system_properties_and_their_order(tmp_path: Path) -> None:
    """Also the options of a container. A replaced document is the last one, as before the end of the process."""
    file = tmp_path / "cosmos" / "account.sqlite"
    async with account(file) as database:
        items = await database.create_container(
            "items", PartitionKey("/tenantId"), indexing_policy=POLICY, default_ttl=-1
        )
        for number in range(3):
            await items.create_item({"id": f"d{number}", "tenantId": "t"})
        await items.upsert_item({"id": "d0", "tenantId": "t", "text": "Bäder → 'x'"})
        await items.delete_item("d1", "t")
        await items.create_item({"id": "short", "tenantId": "t", "ttl": 1})
        before = [item async for item in items.query_items("SELECT * FROM c WHERE c.id != 'short'")]
        gone = await database.create_container("gone", PartitionKey("/tenantId"))
        await gone.create_item({"id": "d", "tenantId": "t"})
        await database.delete_container(gone)

    async with account(file) as database:
        assert [each["id"] async for each in database.list_containers()] == ["items"]
        items = database.get_container_client("items")
        properties = await items.read()
        assert properties["defaultTtl"] == -1
        assert properties["indexingPolicy"]["includedPaths"] == POLICY["includedPaths"]

        async def after() -> list[dict[str, Any]]:
            return [item async for item in items.query_items("SELECT * FROM c")]

        async def expired() -> bool:
            return await after() == before

        await wait_until(expired, description="the item with a ttl of one second has expired")
        made = await items.create_item({"id": "d1", "tenantId": "t"})
        assert made["_rid"] not in {item["_rid"] for item in before}


async def test_a_batch_is_kept_as_a_whole(tmp_path: Path) -> None:
    """One that failed has left nothing."""
    file = tmp_path / "account.sqlite"
    async with account(file) as database:
        items = await database.create_container("items", PartitionKey("/tenantId"))
        await items.execute_item_batch(
            [("create", ({"id": each, "tenantId": "t"},)) for each in ("a", "b")], partition_key="t"
        )
        with pytest.raises(Exception, match="conflict|exists"):
            await items.execute_item_batch(
                [("create", ({"id": each, "tenantId": "t"},)) for each in ("c", "a")], partition_key="t"
            )
    async with account(file) as database:
        items = database.get_container_client("items")
        assert [item["id"] async for item in items.query_items("SELECT c.id FROM c")] == ["a", "b"]


def files(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    file.write_bytes(b"\0garbage\xff" * 500)


def empty(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize("damage", [cut, overwrite, empty])
async def test_a_damaged_file_of_cosmos_db_is_recognised(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The account does not start, also not without data."""
    file = tmp_path / "account.sqlite"
    async with account(file) as database:
        await database.create_container("items", PartitionKey("/tenantId"))
    damage(file)

    with pytest.raises(DataDamaged, match="^Cosmos DB: "):
        async with cosmos(file=file):
            pytest.fail("the account has started")


# Azurite


@pytest.mark.parametrize(
    ("name", "damage", "error"),
    [
        ("__azurite_db_queue__.json", cut, "__azurite_db_queue__.json cannot be read: "),
        ("__azurite_db_blob__.json", overwrite, "__azurite_db_blob__.json cannot be read: "),
        ("__azurite_db_queue_extent__.json", empty, "__azurite_db_queue_extent__.json cannot be read: "),
        ("__azurite_db_table__.json", Path.unlink, "__azurite_db_table__.json cannot be read: "),
        ("__queuestorage__/*", empty, "__queuestorage__/.* is too short"),
        ("__queuestorage__/*", Path.unlink, "__queuestorage__/.* is too short"),
    ],
)
async def test_a_damaged_file_of_azurite_is_recognised(
    storage_with_a_message: Path, name: str, damage: Callable[[Path], None], error: str
) -> None:
    """Azurite itself starts without data if a file is empty or missing, and fails at each read of a lost message."""
    [file] = files(storage_with_a_message, name)
    damage(file)

    with pytest.raises(DataDamaged, match=f"^Azurite: {error}"):
        async with azurite(folder=storage_with_a_message):
            pytest.fail("Azurite has started")


@pytest.fixture(scope="module")
def kept_message() -> dict[str, bytes]:
    """Return a place for the files of Azurite with one message, so that it is started once."""
    return {}


@pytest.fixture
async def storage_with_a_message(tmp_path: Path, kept_message: dict[str, bytes]) -> Path:
    """Return the folder of an Azurite that holds one message."""
    folder = tmp_path / "storage"
    if not kept_message:
        async with (
            azurite(folder=folder) as storage,
            QueueClient.from_connection_string(storage.connection_string, "kept") as queue,
        ):
            await queue.create_queue()
            await queue.send_message("text")
        written = [each for each in files(folder, "**/*") if each.is_file()]
        kept_message |= {str(each.relative_to(folder)): each.read_bytes() for each in written}
    for name, content in kept_message.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# Key Vault


async def test_secrets_are_kept_with_their_versions(tmp_path: Path, certificates: Certificates) -> None:
    """Only the user can read the file."""
    file = tmp_path / "secrets.json"
    async with key_vault({"shared--a": "1"}, tls=certificates, file=file) as vault:
        vault.set_secret("shared--a", "2")
        vault.set_secret("shared--b", "1")
        vault.delete_secret("shared--b")
    assert file.stat().st_mode & 0o777 == 0o600
    assert files(tmp_path, "*") == [file]
    async with key_vault({}, tls=certificates, file=file) as vault:
        assert vault.values() == {"shared--a": "2"}
        vault.set_secret("shared--c", "3")
    async with key_vault({}, tls=certificates, file=file) as vault:
        assert vault.values() == {"shared--a": "2", "shared--c": "3"}


@pytest.mark.parametrize("content", [b"", b'{"shared--a": [{"id": "1", "value": "s3', b"\0\xff", b'{"a_b": []}', b"[]"])
async def test_a_damaged_file_of_secrets_is_recognised(
    tmp_path: Path, certificates: Certificates, content: bytes
) -> None:
    """The error contains no value."""
    file = tmp_path / "secrets.json"
    file.write_bytes(content)

    with pytest.raises(DataDamaged, match=r"^Key Vault: secrets\.json cannot be read: ") as found:
        async with key_vault({}, tls=certificates, file=file):
            pytest.fail("the vault has started")
    assert "s3" not in str(found.value)


# `make start`


async def kill(running: Started) -> None:
    """Kill a process and all its descendants at once."""
    pids = {running.process.pid, *await descendants(running.process.pid)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await running.process.wait()

    async def ended() -> bool:
        return not await alive(pids)

    await wait_until(ended, description="all processes are dead")


@asynccontextmanager
async def tenants_and_jobs(settings: Mapping[str, str]) -> AsyncGenerator[tuple[ContainerProxy, QueueClient]]:
    """Open the tenants and the queue of the services of a `start`."""
    async with (
        CosmosClient.from_connection_string(settings["COSMOS_CONNECTION_STRING"]) as client,
        QueueClient.from_connection_string(settings["AzureWebJobsStorage"], settings["QUEUE_NAME"]) as jobs,
    ):
        database = client.get_database_client(settings["COSMOS_DATABASE"])
        yield database.get_container_client(settings["COSMOS_TENANTS_CONTAINER"]), jobs


async def test_nothing_is_lost_by_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents, secrets and messages that are a second old are there after the next start.

    Then the data of a part are damaged. The next start says so, keeps all data aside, and begins without data.
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    data = data_of(temporary)
    monkeypatch.setattr(local_settings, "STARTED", data / "started.json")
    start = ("-c", LOCALDEV, "start", "--ports", "free", "--no-demo")

    async with started(temporary, *start) as running:
        await wait_until(lambda: running.has_written("Command line "), description="the app is running", seconds=120)
        async with tenants_and_jobs(started_settings()) as (tenants, jobs):
            await tenants.create_item({"id": "acme", "tenantId": "acme", "type": "Tenant", "flows": []})
            assert (await run("secret", "set", "shared--a", "s3cret"))[0] == 0
            sent = await jobs.send_message("later", visibility_timeout=3600)
            saved = data / "storage" / "__azurite_db_queue__.json"
            await wait_until(lambda: sent.id in saved.read_text(), description="Azurite has saved the message")
            await kill(running)

    async with started(temporary, *start) as running:
        await wait_until(lambda: running.has_written("Command line "), description="the app runs again", seconds=120)
        async with tenants_and_jobs(started_settings()) as (tenants, jobs):
            assert (await tenants.read_item("acme", "acme"))["tenantId"] == "acme"
            assert await run("secret", "list") == (0, "shared--a\n")
            await jobs.update_message(sent, visibility_timeout=3600, content="still there")
            await kill(running)

    cut(data / "secrets.json")
    async with started(temporary, *start) as running:
        await wait_until(lambda: running.has_written("Storage "), description="the services are running", seconds=120)
        running.interrupt()
        assert await running.exit_code() == 0
    said = "\n".join(running.output)
    assert f"The data in {data.name}/ cannot be used: Key Vault: secrets.json cannot be read: " in said
    [aside] = files(tmp_path, f"{data.name}.*")
    assert f"They are kept in {aside.name}/, and this start begins without data." in said
    assert (aside / "cosmos" / "account.sqlite").exists()
    assert "s3cret" not in said
