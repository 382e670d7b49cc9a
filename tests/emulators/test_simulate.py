"""`simulate` with stored tenants, and `validate` with the settings and the vault of an app."""

import json
from pathlib import Path

import pytest

from localdev.keyvault import KeyVault
from tests.documents import document, entry
from tests.operating import FEED, command
from tests.world import World


@pytest.mark.parametrize(("tenants", "jobs"), [([], 46), (["acme"], 23), (["acme", "zenith", "acme"], 46)])
async def test_the_schedule_of_stored_tenants_is_simulated(world: World, tenants: list[str], jobs: int) -> None:
    """Of those that are named, or of all, with the settings of the app. Other documents are left out."""
    due = entry(nextRunUtc="2025-08-23T13:00:00Z")
    await world.put(document("acme", due), document("zenith", due))
    await world.tenants.create_item({"id": "note", "tenantId": "note", "type": "Note"})

    result = await command(world, "simulate", *tenants, "--json", ORCHESTRATOR_SPREAD="60")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["jobs"], found["spreadSeconds"], found["unreadable"]) == (jobs, 60, 0)


async def test_an_unknown_tenant_has_exit_code_3(world: World) -> None:
    """The error names it."""
    result = await command(world, "simulate", "nobody")

    assert (result.exit_code, "'nobody'" in result.stderr) == (3, True)


@pytest.fixture
def arguments(world: World, tmp_path: Path) -> list[str]:
    """Return the arguments of `validate`, with a document and the settings of the app."""
    file, settings = tmp_path / "acme.json", tmp_path / "local.settings.json"
    file.write_text(json.dumps(document("acme", entry(FEED, nextRunUtc=None))), encoding="utf-8")
    settings.write_text(json.dumps({"IsEncrypted": False, "Values": world.environ}), encoding="utf-8")
    return ["validate", str(file), "--settings", str(settings)]


async def test_validate_counts_the_secrets_that_the_vault_lacks(
    world: World, vault: KeyVault, arguments: list[str]
) -> None:
    """With the schedule of the app. A missing secret is not a problem of the document."""
    for name in ("homedepot--api-base", "homedepot--api-token"):
        vault.set_secret(f"tenants--acme--{name}", "x")

    result = await command(world, *arguments, ORCHESTRATOR_SCHEDULE="0 */30 * * * *")

    assert result.stdout.splitlines() == [
        "1 document, 0 problems",
        f"acme/{FEED}: every hour; next 13:00 UTC; settings fit; secrets needed: 4 (2 missing)",
    ]
    assert result.exit_code == 0


async def test_validate_says_that_the_vault_could_not_be_read(
    world: World, vault: KeyVault, arguments: list[str]
) -> None:
    """The documents are checked all the same."""
    vault.fail_next(403)

    result = await command(world, *arguments)

    assert result.stdout.splitlines()[1].endswith("secrets needed: 4 (not checked)")
    assert result.stderr.startswith("the secrets were not checked: Key Vault ")
    assert result.exit_code == 1
