"""The SecretClient of a flow, against a Key Vault over HTTPS with a managed identity."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceNotFoundError
from azure.identity.aio import DefaultAzureCredential
from azure.keyvault.secrets.aio import SecretClient

from datasync import TenantSecretClient
from datasync.errors import SecretNotFound, SecretRefused, ServiceUnavailable, SettingsInvalid
from datasync.flow.secrets import Vault
from datasync.services import Services
from datasync.settings import Settings
from localdev.keyvault import KeyVault
from tests.stages import FakeClock
from tests.waiting import wait_until
from tests.world import World

TOKEN = "tenants--acme--homedepot--api-token"

type MakeVault = Callable[..., Vault]


@pytest_asyncio.fixture
async def make_vault(vault: KeyVault) -> AsyncGenerator[MakeVault]:
    """Make a Vault on the running Key Vault, with the real client and the real credential."""
    vault.set_secret(TOKEN, "s3cret")
    vault.reads.clear()
    credential = DefaultAzureCredential()
    made: list[Vault] = []

    def connect() -> SecretClient:
        return SecretClient(vault.uri, credential, verify_challenge_resource=False, retry_total=0)

    def make(**options: Any) -> Vault:
        made.append(Vault(connect, **options))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    await credential.close()


@pytest.fixture
def kv(make_vault: MakeVault) -> TenantSecretClient:
    """Give the client of a run of tenant `acme`."""
    return TenantSecretClient("acme", make_vault(), lambda *_: None)


async def test_a_flow_reads_its_tenants_secrets(kv: TenantSecretClient, vault: KeyVault) -> None:
    """It is a SecretClient; the short form returns the value alone."""
    secret = await kv.get_secret(TOKEN)

    assert isinstance(kv, SecretClient)
    assert (secret.name, secret.value) == (TOKEN, "s3cret")
    assert await kv.secret("homedepot", "api-token") == "s3cret"
    assert kv.vault_url == vault.uri.rstrip("/")


async def test_a_flow_reads_shared_secrets(kv: TenantSecretClient, vault: KeyVault) -> None:
    """`shared--…` is for what belongs to no tenant."""
    vault.set_secret("shared--geocoder--key", "g")

    assert (await kv.get_secret("shared--geocoder--key")).value == "g"


@pytest.mark.parametrize(
    "name",
    [
        "tenants--other--homedepot--api-token",
        "tenants--acme2--homedepot--api-token",
        "tenants--acme-homedepot--api-token",
        "homedepot--api-token",
        "TENANTS--acme--homedepot--api-token",
    ],
)
async def test_a_flow_reads_nobody_elses_secrets(kv: TenantSecretClient, vault: KeyVault, name: str) -> None:
    """The name and the two allowed beginnings are in the message, and the vault is never asked."""
    with pytest.raises(SecretRefused, match=f"secret '{name}': .* start with 'tenants--acme--' or 'shared--'"):
        await kv.get_secret(name)

    assert not vault.reads


async def test_what_else_a_secret_client_can_do_is_refused(kv: TenantSecretClient) -> None:
    """Writing and listing would reach beyond the tenant."""
    for operation in ("set_secret", "delete_secret", "list_properties_of_secrets", "send_request"):
        with pytest.raises(SecretRefused, match=rf"kv.{operation}: .* for tenant 'acme'"):
            getattr(kv, operation)("tenants--other--x")


@pytest.mark.parametrize("tenant_id", ["acme--eu", "-acme", "acme-"])
async def test_a_tenant_id_that_blurs_a_secrets_name_is_refused(make_vault: MakeVault, tenant_id: str) -> None:
    """Tenant `a` must not reach the secrets of a tenant `a--b`, so no id contains `--`."""
    kv = TenantSecretClient(tenant_id, make_vault(), lambda *_: None)

    with pytest.raises(SecretRefused, match=f"the tenant id '{tenant_id}' cannot be part of a secret's name"):
        await kv.secret("homedepot", "api-token")


@pytest.mark.parametrize("tenant_id", ["acme_1", "acme 1", "acme.1", "Bäder", "x" * 120])
async def test_a_tenant_id_that_key_vault_does_not_take_is_refused(make_vault: MakeVault, tenant_id: str) -> None:
    """The message says what a name may consist of, instead of the vault's bare 400."""
    kv = TenantSecretClient(tenant_id, make_vault(), lambda *_: None)

    with pytest.raises(SecretRefused, match="Key Vault takes names of 1 to 127 letters, digits and '-'"):
        await kv.secret("homedepot", "api-token")


async def test_a_secret_is_read_once_however_many_runs_ask(make_vault: MakeVault, vault: KeyVault) -> None:
    """Concurrent runs share one request, and later runs are served from memory."""
    shared = make_vault()
    runs = [TenantSecretClient("acme", shared, lambda *_: None) for _ in range(50)]

    values = await asyncio.gather(*[kv.secret("homedepot", "api-token") for kv in runs])
    await runs[0].secret("homedepot", "api-token")

    assert set(values) == {"s3cret"}
    assert vault.reads[TOKEN] == 1


async def test_a_cancelled_run_does_not_take_the_others_secret_away(make_vault: MakeVault) -> None:
    """The request that several runs wait for goes on when one of them is cancelled."""
    shared = make_vault()
    first, second = (
        asyncio.create_task(TenantSecretClient("acme", shared, lambda *_: None).secret("homedepot", "api-token"))
        for _ in range(2)
    )
    await asyncio.sleep(0)
    first.cancel()

    assert await second == "s3cret"


async def test_a_rotated_secret_arrives_when_the_cached_one_expires(make_vault: MakeVault, vault: KeyVault) -> None:
    """A value is served from memory for its time to live, then read again."""
    kv = TenantSecretClient("acme", make_vault(time_to_live=timedelta(milliseconds=50)), lambda *_: None)
    assert await kv.secret("homedepot", "api-token") == "s3cret"
    vault.set_secret(TOKEN, "rotated")

    async def rotated() -> bool:
        return await kv.secret("homedepot", "api-token") == "rotated"

    await wait_until(rotated, description="the new value is read")


async def test_a_secret_that_does_not_exist_is_named_with_the_remedy(kv: TenantSecretClient, vault: KeyVault) -> None:
    """The error is the SDK's ResourceNotFoundError too, and is not remembered: once added, the secret is found."""
    name = "tenants--acme--crm--api-token"
    with pytest.raises(SecretNotFound, match=f"secret '{name}' is not in https://.*az keyvault secret set") as missing:
        await kv.secret("crm", "api-token")
    assert isinstance(missing.value, ResourceNotFoundError)

    vault.set_secret(name, "now")
    assert await kv.secret("crm", "api-token") == "now"
    vault.delete_secret(name)


async def test_a_vault_that_refuses_is_named_with_the_remedy(kv: TenantSecretClient, vault: KeyVault) -> None:
    """A missing role is what a 403 means."""
    vault.fail_next(403)

    with pytest.raises(ServiceUnavailable, match=f"Key Vault .* refused to give '{TOKEN}'.*Key Vault Secrets User"):
        await kv.get_secret(TOKEN)


async def test_an_unreachable_vault_is_named_with_its_setting(vault: KeyVault) -> None:
    """The message says what could not be reached, and which setting says where it is."""
    credential = DefaultAzureCredential()
    unreachable = Vault(lambda: SecretClient("https://127.0.0.1:1/", credential, retry_total=0))
    kv = TenantSecretClient("acme", unreachable, lambda *_: None)

    with pytest.raises(ServiceUnavailable, match="https://127.0.0.1:1 could not be reached .* Check KEY_VAULT_URI"):
        await kv.get_secret(TOKEN)
    await unreachable.close()
    await credential.close()


async def test_without_a_vault_the_first_read_names_the_setting(world: World) -> None:
    """An app whose flows read no secret needs no vault; one that does is told which setting is missing."""
    services = Services(Settings.from_environ({**world.environ, "KEY_VAULT_URI": ""}), FakeClock())
    kv = TenantSecretClient("acme", services.vault, lambda *_: None)

    with pytest.raises(SettingsInvalid, match="KEY_VAULT_URI: missing, and a flow reads a secret"):
        await kv.secret("homedepot", "api-token")
    await services.close()
