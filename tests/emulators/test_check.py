"""`python -m datasync check`, with real services."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from datasync.health import ping as ping_services
from datasync.services import Services
from datasync.settings import Settings
from localdev.cosmos import cosmos
from localdev.hosting import ROOT
from localdev.keyvault import KeyVault
from tests.world import World

NOWHERE = "AccountEndpoint=http://127.0.0.1:9;AccountKey=YWJj;"


async def check(*arguments: str, **environ: str) -> tuple[int, list[str]]:
    """Run the command in a process with only these settings. Return its exit code and output lines."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP", "SSL_CERT_FILE") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "datasync", "check", *arguments),
        cwd=ROOT,
        env={**kept, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode().splitlines()


async def ping(settings: Settings) -> dict[str, str]:
    """Ping the services of these settings."""
    services = Services(settings)
    try:
        return await ping_services(services)
    finally:
        await services.close()


def services(world: World) -> list[str]:
    database = world.settings.cosmos_database
    queue = world.settings.queue_name
    return [
        f"Cosmos DB {database}/tenants",
        f"Cosmos DB {database}/runs",
        f"queue {queue}",
        f"queue {queue}-poison",
        f"Key Vault {world.settings.key_vault_url}",
    ]


async def test_a_working_configuration_gives_exit_code_0(world: World) -> None:
    """Each service has a line that ends with `ok`, and the exit code is 0."""
    code, lines = await check(**world.environ)

    assert [line.split("   ")[0].rstrip() for line in lines] == services(world)
    assert all(line.endswith("   ok") for line in lines)
    assert code == 0


async def test_environment_variables_override_the_settings_file(world: World, tmp_path: Path) -> None:
    """`--settings` reads the Values of a local.settings.json. Environment variables take precedence, as with func."""
    file = tmp_path / "local.settings.json"
    file.write_text(json.dumps({"IsEncrypted": False, "Values": {**world.environ, "QUEUE_NAME": "from-the-file"}}))

    _, lines = await check("--settings", str(file))
    assert any(line.startswith("queue from-the-file ") and "does not exist" in line for line in lines)

    code, lines = await check("--settings", str(file), QUEUE_NAME=world.settings.queue_name)
    assert code == 0, lines


async def test_missing_parts_are_reported_with_the_remedy(world: World) -> None:
    """A missing container and a missing queue are reported. The other services are checked too."""
    await world.poison.delete_queue()
    try:
        code, lines = await check(**world.environ, COSMOS_RUNS_CONTAINER="no-such")
    finally:
        await world.poison.create_queue()

    wrong = {line.partition("   ")[0].rstrip(): line for line in lines if not line.endswith("   ok")}
    runs, poison = f"Cosmos DB {world.settings.cosmos_database}/no-such", f"queue {world.settings.queue_name}-poison"
    assert set(wrong) == {runs, poison}
    assert "Create the database and its containers" in wrong[runs]
    assert f"az storage queue create --name {world.settings.queue_name}-poison" in wrong[poison]
    assert len(lines) == 5
    assert code == 1


async def test_each_service_is_checked_separately(world: World, vault: KeyVault) -> None:
    """The queues are checked even if Cosmos DB cannot be reached and Key Vault refuses the request."""
    vault.fail_next(403)
    settings = Settings.from_environ({**world.environ, "COSMOS_CONNECTION_STRING": NOWHERE})

    answers = await ping(settings)

    tenants, runs, queue, poison, key_vault = answers.values()
    assert [*answers] == services(world)
    assert tenants == runs
    assert tenants.startswith("Cosmos DB could not be reached while connecting")
    assert "Check COSMOS_CONNECTION_STRING or COSMOS_ENDPOINT, and the network" in tenants
    assert (queue, poison) == ("ok", "ok")
    assert "give the app's identity the role Key Vault Secrets User" in key_vault
    assert not any("\n" in answer for answer in answers.values())


async def test_a_setting_that_no_client_accepts_is_reported(world: World) -> None:
    """An incomplete connection string gives a message, not a traceback."""
    settings = Settings.from_environ({**world.environ, "AzureWebJobsStorage": "AccountName=acme", "KEY_VAULT_URI": ""})

    wrong = [answer for answer in (await ping(settings)).values() if answer != "ok"]

    assert len(wrong) == 2
    for answer in wrong:
        assert answer.startswith("AzureWebJobsStorage cannot be used (")
        assert "Copy it again" in answer


async def test_a_container_with_wrong_options_is_reported(world: World) -> None:
    """A wrong partition key and a runs container without a time to live are reported with the remedy."""
    connection = world.environ["COSMOS_CONNECTION_STRING"]
    async with CosmosClient.from_connection_string(connection) as client:
        database = client.get_database_client(world.settings.cosmos_database)
        await database.create_container("by-id", PartitionKey(path="/id"))
        await database.create_container("forever", PartitionKey(path="/tenantId"))
    settings = Settings.from_environ(
        {**world.environ, "COSMOS_TENANTS_CONTAINER": "by-id", "COSMOS_RUNS_CONTAINER": "forever", "KEY_VAULT_URI": ""}
    )

    tenants, runs, *others = (await ping(settings)).values()

    assert "'by-id' is partitioned by /id" in tenants
    assert "create it again with the partition key /tenantId" in tenants
    assert "'forever' keeps run records for ever: turn its time to live on" in runs
    assert others == ["ok", "ok"]


async def test_an_account_with_multi_region_writes_is_reported(world: World) -> None:
    """The message has the account, its write regions, and the command that turns multi-region writes off."""
    async with cosmos(write_regions=["West Europe", "North Europe"]) as database:
        environ = {**world.environ, "COSMOS_CONNECTION_STRING": database.connection_string, "KEY_VAULT_URI": ""}
        tenants, runs, *others = (await ping(Settings.from_environ(environ))).values()

    assert tenants == runs
    assert tenants.startswith("the Cosmos DB account 127.0.0.1 has multi-region writes")
    assert "(write regions: West Europe, North Europe)" in tenants
    assert tenants.endswith(
        "az cosmosdb update --name 127.0.0.1 --resource-group <group> --enable-multiple-write-locations false"
    )
    assert others == ["ok", "ok"]


async def test_a_missing_vault_is_not_an_error(world: World) -> None:
    """Only flows that read secrets need a vault, so the exit code is 0."""
    code, lines = await check(**{**world.environ, "KEY_VAULT_URI": ""})

    assert lines[-1].startswith("Key Vault")
    assert "not configured (KEY_VAULT_URI is not set)" in lines[-1]
    assert code == 0


async def test_all_missing_settings_are_reported() -> None:
    """Without settings, each missing setting has a line."""
    code, lines = await check()

    text = "\n".join(lines)
    assert "AzureWebJobsStorage: missing" in text
    assert "COSMOS_CONNECTION_STRING: missing" in text
    assert code == 1


async def test_an_identity_without_a_token_is_reported_with_the_remedy(world: World) -> None:
    """The output has only the lines of the command, and no log lines of the SDK."""
    identity = {
        "COSMOS_CONNECTION_STRING": "",
        "COSMOS_ENDPOINT": "https://127.0.0.1:9/",
        "KEY_VAULT_URI": "",
        "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",  # the only credential, and its variables are not set
    }
    code, lines = await check(**{**world.environ, **identity})

    assert len(lines) == 5
    for line in lines[:2]:
        assert "the app's identity got no token" in line
        assert line.endswith("Sign in (az login), or give the Function App a managed identity")
    assert code == 1


async def test_a_wrong_storage_key_is_reported(world: World) -> None:
    """The message names the setting with the key."""
    key = re.search("AccountKey=([^;]+)", world.environ["AzureWebJobsStorage"])
    assert key
    wrong = world.environ["AzureWebJobsStorage"].replace(key[1], "YWJj")
    settings = Settings.from_environ({**world.environ, "AzureWebJobsStorage": wrong, "KEY_VAULT_URI": ""})

    tenants, runs, *queues = (await ping(settings)).values()

    assert (tenants, runs) == ("ok", "ok")
    assert len(queues) == 2
    for answer in queues:
        assert "refused the request (403)" in answer
        assert "Check the key in AzureWebJobsStorage" in answer
        assert "YWJj" not in answer
