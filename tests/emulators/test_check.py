"""`python -m datasync check`, with real services."""

import asyncio
import json
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient

from datasync import FlowRegistry
from datasync.cli.tenants import TenantsReport
from datasync.errors import ServiceUnavailable
from datasync.health import ping as ping_services
from datasync.services import Services
from datasync.settings import Settings
from localdev.cosmos import cosmos
from localdev.hosting import ROOT
from localdev.keyvault import KeyVault
from tests.documents import document, entry
from tests.stages import does_nothing
from tests.world import World

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
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
        return {service: each.text for service, each in (await ping_services(services)).items()}
    finally:
        await services.close()


def service_names(world: World) -> list[str]:
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

    assert [line.split("   ")[0].rstrip() for line in lines] == service_names(world)
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
    assert [*answers] == service_names(world)
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


async def test_a_misspelt_setting_is_a_warning(world: World) -> None:
    """The services are checked all the same, and the exit code is 0."""
    code, lines = await check(**{**world.environ, "ORCHESTRATOR_LOOK_AHEAD": "3600"})

    assert lines[0].startswith("warning: ORCHESTRATOR_LOOK_AHEAD: unknown, and has no effect; did you mean")
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
    assert code == 4


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


async def test_a_refused_key_has_an_exit_code_of_its_own(world: World) -> None:
    """As in the other commands: 4."""
    key = re.search("AccountKey=([^;]+)", world.environ["AzureWebJobsStorage"])
    assert key
    wrong = world.environ["AzureWebJobsStorage"].replace(key[1], "YWJj")

    code, lines = await check(**{**world.environ, "AzureWebJobsStorage": wrong, "KEY_VAULT_URI": ""})

    assert (code, sum("refused the request (403)" in line for line in lines)) == (4, 2)


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    """Create a folder with the package `declaring`, whose flows declare secrets. Return the folder."""
    package = tmp_path / "declaring"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "registry.py").write_text("from datasync import FlowRegistry\n\nregistry = FlowRegistry()\n")
    (package / "flows.py").write_text(
        "import msgspec\nfrom declaring.registry import registry\n\n\n"
        "class Rules(msgspec.Struct):\n    total: int = 0\n\n\n"
        "secrets = ('source--token', 'shared--geocoder--key')\n\n\n"
        "@registry.flow('orders', aliases=('old',), settings=Rules, secrets=secrets)\n"
        "async def orders(tenant_id, kv): ...\n\n\n"
        "@registry.flow('plain')\nasync def plain(tenant_id, kv): ...\n"
    )
    return tmp_path


async def check_tenants(world: World, flows: Path, **environ: str) -> tuple[int, list[str]]:
    """Check the tenants with the flows of the package `declaring`. Return the exit code and the lines about tenants."""
    environ = {**world.environ, "PYTHONPATH": str(flows), **environ}
    code, lines = await check("--tenants", "--flows", "declaring", **environ)
    return code, lines[len(service_names(world)) :]


def add(name: str) -> str:
    return f"Add it: python -m localdev secret set {name} <value>"


class Rules(msgspec.Struct):
    total: int = 0


def orders_registry() -> FlowRegistry:
    """Return a registry with the flow `orders` of the package `declaring`."""
    registry = FlowRegistry()
    secrets = ("source--token", "shared--geocoder--key")
    registry.flow("orders", aliases=("old",), settings=Rules, secrets=secrets)(does_nothing)
    return registry


class TestTenants:
    """`--tenants` also checks the stored documents, and looks for the declared secrets in the vault."""

    async def test_missing_secrets_are_listed(self, world: World, vault: KeyVault, flows: Path) -> None:
        """Each line names the tenant, the flow and the secret. Disabled entries lack nothing."""
        for name in ("tenants--both--source--token", "tenants--half--source--token"):
            vault.set_secret(name, "s3cret-value")
        vault.set_secret("shared--geocoder--key", "s3cret-value")
        await world.put(
            document("both", entry("orders"), entry("plain")),
            document("half", entry("old")),
            document("none", entry("plain"), entry("orders")),
            document("off", entry("orders", enabled=False)),
        )

        code, lines = await check_tenants(world, flows)
        vault.delete_secret("shared--geocoder--key")
        without_shared, more = await check_tenants(world, flows)

        address = vault.uri.rstrip("/")
        missing = f"none/orders: secret 'tenants--none--source--token' is not in {address}. "
        assert lines == [
            missing + add("tenants--none--source--token"),
            "4 tenants, 6 declared secrets, 1 missing, 0 problems",
        ]
        assert more[-1] == "4 tenants, 6 declared secrets, 4 missing, 0 problems"
        assert f"half/old: secret 'shared--geocoder--key' is not in {address}. {add('shared--geocoder--key')}" in more
        assert (code, without_shared) == (1, 1)
        assert "s3cret-value" not in "\n".join(lines + more)

    async def test_nothing_missing_gives_exit_code_0(self, world: World, vault: KeyVault, flows: Path) -> None:
        """Each secret is read once, however many entries declare it."""
        vault.set_secret("shared--geocoder--key", "x")
        for number in range(120):
            vault.set_secret(f"tenants--t{number}--source--token", "x")
        await world.put(*(document(f"t{number}", entry("orders")) for number in range(120)))
        vault.reads.clear()

        code, lines = await check_tenants(world, flows)

        assert (code, lines) == (0, ["120 tenants, 240 declared secrets, 0 missing, 0 problems"])
        del vault.reads["shared--datasync-check"]
        assert len(vault.reads) == 121
        assert set(vault.reads.values()) == {1}

    async def test_problems_of_documents_are_listed(self, world: World, vault: KeyVault, services: Services) -> None:
        """They are those that a tick reports. Secrets of an entry that cannot run are not read."""
        await world.put(
            document("acme", entry("orders", settings={"total": "5"}), entry("lost")),
            document("bad", flows="none"),
            document("with_line", entry("orders")),
        )
        vault.reads.clear()
        report = TenantsReport(services, orders_registry(), NOW)

        lost, orders, bad, with_line = sorted([str(each) async for each in report.findings()])

        assert lost.startswith("acme/lost flows[1].name: no flow is named 'lost'")
        assert orders == 'acme/orders flows[0].settings.total: expected a whole number, got "5"'
        assert bad == 'bad flows: expected a list of flow entries, got "none"'
        assert with_line.startswith("with_line/orders flows[0]: secret 'tenants--with_line--source--token': Key Vault")
        assert report.summary() == "3 tenants, 0 declared secrets, 0 missing, 4 problems"
        assert not vault.reads

    async def test_ids_that_differ_only_in_case_are_listed(self, world: World, services: Services) -> None:
        """Each of the two is named."""
        await world.put(document("acme", flows=[]), document("ACME", flows=[]))

        lines = [str(each) async for each in TenantsReport(services, orders_registry(), NOW).findings()]

        assert len(lines) == 2
        assert {"'acme'" in line and "'ACME'" in line for line in lines if " id: " in line} == {True}

    async def test_warnings_are_listed_and_are_not_problems(self, world: World, services: Services) -> None:
        """They are those that a tick logs."""
        await world.put(document("acme", entry("orders", tz="UTC", enabled=False)))
        report = TenantsReport(services, orders_registry(), NOW)

        lines = [str(each) async for each in report.findings()]

        assert lines == ["acme/orders flows[0].tz: warning: unknown field, ignored; did you mean 'timezone'?"]
        assert (report.problems, report.summary()) == (
            0,
            "1 tenant, 0 declared secrets, 0 missing, 0 problems, 1 warning",
        )

    async def test_a_flow_file_that_cannot_be_loaded_is_a_problem(self, world: World, flows: Path) -> None:
        """Its flows are unknown, so their secrets cannot be checked."""
        (flows / "declaring" / "broken.py").write_text("import no_such_library\n")

        code, lines = await check_tenants(world, flows)

        cause = "ModuleNotFoundError: No module named 'no_such_library' (broken.py, line 1)"
        assert f"declaring.broken: cannot be loaded; its flows cannot run: {cause}" in lines
        assert (code, lines[-1]) == (1, "0 tenants, 0 declared secrets, 0 missing, 1 problem")

    async def test_a_vault_that_refuses_is_one_sentence(self, world: World, vault: KeyVault, flows: Path) -> None:
        """The tenants are checked only if every service answers."""
        vault.fail_next(403)
        await world.put(document("acme", entry("orders")))

        code, lines = await check_tenants(world, flows)

        assert (code, lines) == (1, ["the tenants were not checked: correct the services above first"])

    async def test_a_secret_that_the_vault_refuses_ends_the_check(
        self, world: World, vault: KeyVault, services: Services
    ) -> None:
        """A disabled secret, for example. The error names the secret and the remedy."""
        await world.put(document("acme", entry("orders")))
        vault.set_secret("shared--geocoder--key", "x")
        await services.vault.get("shared--geocoder--key")
        vault.fail_next(403)

        with pytest.raises(
            ServiceUnavailable, match="refused to give 'tenants--acme--source--token'.*Enable the secret"
        ):
            [str(each) async for each in TenantsReport(services, orders_registry(), NOW).findings()]

    async def test_a_shared_secret_is_missing_for_each_entry(
        self, world: World, vault: KeyVault, services: Services
    ) -> None:
        """The name of the entry is printed, which may be an alias. The vault is read once for each name."""
        tenants = [f"lacks-{number}" for number in range(3)]
        for tenant in tenants:
            vault.set_secret(f"tenants--{tenant}--source--token", "x")
        with suppress(KeyError):
            vault.delete_secret("shared--geocoder--key")
        await world.put(*(document(tenant, entry("old")) for tenant in tenants))
        vault.reads.clear()
        report = TenantsReport(services, orders_registry(), NOW)

        lines = [str(each) async for each in report.findings()]

        assert sorted(line.partition(" is not in ")[0] for line in lines) == [
            f"{tenant}/old: secret 'shared--geocoder--key'" for tenant in tenants
        ]
        assert (report.missing, report.summary()) == (3, "3 tenants, 6 declared secrets, 3 missing, 0 problems")
        assert vault.reads["shared--geocoder--key"] == 1

    async def test_without_a_vault_declared_secrets_cannot_be_checked(self, world: World, flows: Path) -> None:
        """The sentence names the setting."""
        await world.put(document("acme", entry("orders")))

        code, lines = await check_tenants(world, flows, KEY_VAULT_URI="")

        assert code == 1
        assert lines[0].startswith("the tenants were not checked to the end: KEY_VAULT_URI: missing")

    async def test_the_settings_file_is_used(self, world: World, flows: Path, tmp_path: Path) -> None:
        """`--settings` and `--tenants` work together."""
        await world.put(document("acme", entry("plain")))
        file = tmp_path / "local.settings.json"
        file.write_text(json.dumps({"IsEncrypted": False, "Values": world.environ}))

        code, lines = await check("--tenants", "--flows", "declaring", "--settings", str(file), PYTHONPATH=str(flows))

        assert (code, lines[-1]) == (0, "1 tenant, 0 declared secrets, 0 missing, 0 problems")
