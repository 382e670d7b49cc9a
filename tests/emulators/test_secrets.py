"""The SecretClient of a flow, with a Key Vault over HTTPS and a managed identity."""

import asyncio
import threading
from datetime import timedelta

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.identity.aio import DefaultAzureCredential
from azure.keyvault.secrets.aio import SecretClient

from datasync import TenantSecretClient
from datasync.clock import Clock
from datasync.errors import SecretNotFound, SecretRefused, ServiceUnavailable, SettingsInvalid
from datasync.flow.secrets import Vault, command_to_delete, command_to_set
from datasync.services import Services
from datasync.settings import Settings
from localdev.keyvault import KeyVault
from tests.emulators.conftest import TOKEN, MakeVault
from tests.stages import FakeClock
from tests.waiting import wait_until
from tests.world import World


@pytest.fixture
def kv(make_vault: MakeVault) -> TenantSecretClient:
    """Return the client of a run of tenant `acme`."""
    return TenantSecretClient("acme", make_vault(), lambda *_: None)


async def test_a_flow_reads_its_tenants_secrets(kv: TenantSecretClient, vault: KeyVault) -> None:
    """The client is a SecretClient. Its short form `secret` returns only the value."""
    secret = await kv.get_secret(TOKEN)

    assert isinstance(kv, SecretClient)
    assert (secret.name, secret.value) == (TOKEN, "s3cret")
    assert await kv.secret("homedepot", "api-token") == "s3cret"
    assert kv.vault_url == vault.uri.rstrip("/")


async def test_a_flow_reads_shared_secrets(kv: TenantSecretClient, vault: KeyVault) -> None:
    """Any tenant can read secrets whose names start with `shared--`."""
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
async def test_a_flow_cannot_read_other_secrets(kv: TenantSecretClient, vault: KeyVault, name: str) -> None:
    """The error contains the name and the two allowed prefixes. No request is sent to the vault."""
    with pytest.raises(SecretRefused, match=f"secret '{name}': .* start with 'tenants--acme--' or 'shared--'"):
        await kv.get_secret(name)

    assert not vault.reads


@pytest.mark.parametrize("version", ["..", ".", "../other", "a/b", "a?b", "%2e%2e", "a b", "x" * 128, "1\n"], ids=repr)
async def test_a_version_is_checked_like_a_name(kv: TenantSecretClient, vault: KeyVault, version: str) -> None:
    """`..` would reach another address of the vault. No request is sent."""
    with pytest.raises(SecretRefused, match=rf"secret '{TOKEN}': .* is not a version"):
        await kv.get_secret(TOKEN, version)

    assert not vault.reads


async def test_a_version_of_a_secret_is_read(kv: TenantSecretClient) -> None:
    """Without a version, or with an empty one, it is the newest."""
    version = (await kv.get_secret(TOKEN)).properties.version

    assert (await kv.get_secret(TOKEN, version)).value == "s3cret"
    assert (await kv.get_secret(TOKEN, "")).value == "s3cret"


async def test_other_operations_are_rejected(kv: TenantSecretClient) -> None:
    """Operations that write or list are rejected, since they would affect other tenants."""
    for operation in ("set_secret", "delete_secret", "list_properties_of_secrets", "send_request"):
        with pytest.raises(SecretRefused, match=rf"kv.{operation}: .* for tenant 'acme'"):
            getattr(kv, operation)("tenants--other--x")


@pytest.mark.parametrize("tenant_id", ["acme--eu", "-acme", "acme-"])
async def test_a_tenant_id_with_an_ambiguous_name_is_rejected(make_vault: MakeVault, tenant_id: str) -> None:
    """An id with `--` is rejected: tenant `a` could otherwise read the secrets of tenant `a--b`."""
    kv = TenantSecretClient(tenant_id, make_vault(), lambda *_: None)

    with pytest.raises(SecretRefused, match=f"the tenant id '{tenant_id}' cannot be part of a secret's name"):
        await kv.secret("homedepot", "api-token")


@pytest.mark.parametrize("tenant_id", ["acme_1", "acme 1", "acme.1", "Bäder", "x" * 120])
async def test_a_tenant_id_that_key_vault_does_not_accept_is_rejected(make_vault: MakeVault, tenant_id: str) -> None:
    """The error describes the allowed names. Key Vault itself would answer only with status 400."""
    kv = TenantSecretClient(tenant_id, make_vault(), lambda *_: None)

    with pytest.raises(SecretRefused, match="Key Vault takes names of 1 to 127 letters, digits and '-'"):
        await kv.secret("homedepot", "api-token")


async def test_the_forms_of_a_long_secret_are_made_in_a_thread(make_vault: MakeVault, vault: KeyVault) -> None:
    """For 25 KB, that takes a tenth of a second, in which the event loop serves other runs."""
    threads = dict[str, threading.Thread]()
    kv = TenantSecretClient("acme", make_vault(), lambda name, _: threads.update({name: threading.current_thread()}))
    vault.set_secret("tenants--acme--crm--key", "k" * 25_000)

    await kv.secret("crm", "key")
    await kv.secret("homedepot", "api-token")

    assert threads["crm--key"] is not threading.current_thread()
    assert threads["homedepot--api-token"] is threading.current_thread()


async def test_a_secret_is_read_once_for_many_runs(make_vault: MakeVault, vault: KeyVault) -> None:
    """Concurrent runs share one request, and later runs use the cached value."""
    shared = make_vault()
    runs = [TenantSecretClient("acme", shared, lambda *_: None) for _ in range(50)]

    values = await asyncio.gather(*[kv.secret("homedepot", "api-token") for kv in runs])
    await runs[0].secret("homedepot", "api-token")

    assert set(values) == {"s3cret"}
    assert vault.reads[TOKEN] == 1


async def test_a_cancelled_run_does_not_cancel_the_request_of_others(make_vault: MakeVault) -> None:
    """If one of several waiting runs is cancelled, their shared request continues."""
    shared = make_vault()
    first, second = (
        asyncio.create_task(TenantSecretClient("acme", shared, lambda *_: None).secret("homedepot", "api-token"))
        for _ in range(2)
    )
    await asyncio.sleep(0)
    first.cancel()

    assert await second == "s3cret"


async def test_a_rotated_secret_is_read_when_the_cached_one_expires(make_vault: MakeVault, vault: KeyVault) -> None:
    """A value is cached for its time to live, and then read again."""
    kv = TenantSecretClient("acme", make_vault(time_to_live=timedelta(milliseconds=50)), lambda *_: None)
    assert await kv.secret("homedepot", "api-token") == "s3cret"
    vault.set_secret(TOKEN, "rotated")

    async def rotated() -> bool:
        return await kv.secret("homedepot", "api-token") == "rotated"

    await wait_until(rotated, description="the new value is read")


@pytest.mark.parametrize(("value", "seconds"), [("", 300), ("0", 0), ("7", 7)])
def test_the_time_for_which_a_secret_is_kept_is_a_setting(world: World, value: str, seconds: int) -> None:
    """It is five minutes by default."""
    settings = Settings.from_environ({**world.environ, "SECRET_CACHE_SECONDS": value})

    assert settings.secret_cache == timedelta(seconds=seconds)


async def test_a_secret_that_is_not_kept_is_read_each_time(make_vault: MakeVault, vault: KeyVault) -> None:
    """With a time to live of zero, a run that starts after a change has the new value."""
    shared = make_vault(time_to_live=timedelta())
    for value in ("first", "second", "third"):
        vault.set_secret(TOKEN, value)
        assert await TenantSecretClient("acme", shared, lambda *_: None).secret("homedepot", "api-token") == value


async def test_the_times_of_the_reads_are_known(make_vault: MakeVault, vault: KeyVault) -> None:
    """For each secret that a run has read, its client has the name and the time at which the vault was asked."""
    vault.set_secret("shared--geocoder--key", "geocode")
    clock = FakeClock()
    shared = make_vault(clock)
    noon = clock.now()
    first, second = (TenantSecretClient("acme", shared, lambda *_: None) for _ in range(2))
    assert first.reads == {}

    await first.secret("homedepot", "api-token")
    clock.time += timedelta(minutes=3)
    await second.secret("homedepot", "api-token")
    await second.get_secret("shared--geocoder--key")

    assert first.reads == {"homedepot--api-token": noon}
    assert second.reads == {"homedepot--api-token": noon, "shared--geocoder--key": noon + timedelta(minutes=3)}


async def test_a_secret_that_an_api_refused_is_read_again(make_vault: MakeVault, vault: KeyVault) -> None:
    """The attempt after the refusal reads the vault. Later reads, of any run, use the value that it has read."""
    clock = FakeClock()
    shared = make_vault(clock)
    await TenantSecretClient("acme", shared, lambda *_: None).secret("homedepot", "api-token")
    vault.set_secret(TOKEN, "rotated")
    clock.time += timedelta(seconds=30)
    refused = clock.now()
    clock.time += timedelta(minutes=1)
    kv = TenantSecretClient("acme", shared, lambda *_: None, fresh_after=refused)

    assert [await kv.secret("homedepot", "api-token") for _ in range(3)] == ["rotated"] * 3
    assert await TenantSecretClient("acme", shared, lambda *_: None).secret("homedepot", "api-token") == "rotated"
    assert vault.reads[TOKEN] == 2
    assert kv.reads == {"homedepot--api-token": clock.now()}


async def test_a_secret_read_just_after_the_refusal_by_another_clock_is_read_again(
    make_vault: MakeVault, vault: KeyVault
) -> None:
    """The clocks of two processes may differ by 15 seconds."""
    clock = FakeClock()
    shared = make_vault(clock)
    await TenantSecretClient("acme", shared, lambda *_: None).secret("homedepot", "api-token")
    refused = clock.now() - timedelta(seconds=10)
    clock.time += timedelta(minutes=1)

    await TenantSecretClient("acme", shared, lambda *_: None, fresh_after=refused).secret("homedepot", "api-token")

    assert vault.reads[TOKEN] == 2


async def test_failing_runs_do_not_flood_the_vault(make_vault: MakeVault, vault: KeyVault) -> None:
    """Concurrent runs share the new request, and a value that is at most ten seconds old is not read again."""
    clock = FakeClock()
    shared = make_vault(clock)
    await TenantSecretClient("acme", shared, lambda *_: None).secret("homedepot", "api-token")
    clock.time += timedelta(minutes=1)

    async def retry() -> None:
        kv = TenantSecretClient("acme", shared, lambda *_: None, fresh_after=clock.now())
        await kv.secret("homedepot", "api-token")

    await asyncio.gather(*[retry() for _ in range(50)])
    assert vault.reads[TOKEN] == 2

    clock.time += timedelta(seconds=10)
    await asyncio.gather(*[retry() for _ in range(50)])
    assert vault.reads[TOKEN] == 2

    clock.time += timedelta(seconds=1)
    await asyncio.gather(*[retry() for _ in range(50)])
    assert vault.reads[TOKEN] == 3


async def test_names_that_differ_only_in_case_share_a_value(kv: TenantSecretClient, vault: KeyVault) -> None:
    """Key Vault compares names without regard to case."""
    assert await kv.secret("homedepot", "api-token") == await kv.secret("HomeDepot", "API-token") == "s3cret"
    assert vault.reads[TOKEN] == 1


async def test_a_secret_that_does_not_exist_is_named_with_the_remedy(kv: TenantSecretClient, vault: KeyVault) -> None:
    """The error is also a ResourceNotFoundError of the SDK. It is not cached, so a secret added later is found."""
    name = "tenants--acme--crm--api-token"
    with pytest.raises(
        SecretNotFound, match=f"secret '{name}' is not in https://.*localdev secret set {name}"
    ) as missing:
        await kv.secret("crm", "api-token")
    assert isinstance(missing.value, ResourceNotFoundError)

    vault.set_secret(name, "now")
    assert await kv.secret("crm", "api-token") == "now"
    vault.delete_secret(name)


def test_the_command_for_a_secret_depends_on_the_vault() -> None:
    """A vault on this machine is that of `make start`."""
    assert command_to_set("shared--key", "https://acme.vault.azure.net/") == (
        "az keyvault secret set --vault-name <vault> --name shared--key --value <value>"
    )
    assert command_to_delete("shared--key", "https://acme.vault.azure.net/") == (
        "az keyvault secret delete --vault-name <vault> --name shared--key"
    )
    assert command_to_set("shared--key", "https://127.0.0.1:8443/") == (
        "python -m localdev secret set shared--key <value>"
    )
    assert command_to_delete("shared--key", "https://127.0.0.1:8443/") == (
        "python -m localdev secret delete shared--key"
    )


async def test_a_refused_request_is_named_with_the_remedy(kv: TenantSecretClient, vault: KeyVault) -> None:
    """The error for status 403 names the role that is missing."""
    vault.fail_next(403)

    with pytest.raises(ServiceUnavailable, match=f"Key Vault .* refused to give '{TOKEN}'.*Key Vault Secrets User"):
        await kv.get_secret(TOKEN)


async def test_an_unreachable_vault_is_named_with_its_setting(vault: KeyVault) -> None:
    """The error names the address of the vault and the setting that holds it."""
    credential = DefaultAzureCredential()
    unreachable = Vault(
        lambda: SecretClient("https://127.0.0.1:1/", credential, retry_total=0), Clock().now, timedelta()
    )
    kv = TenantSecretClient("acme", unreachable, lambda *_: None)

    with pytest.raises(ServiceUnavailable, match="https://127.0.0.1:1 could not be reached .* Check KEY_VAULT_URI"):
        await kv.get_secret(TOKEN)
    await unreachable.close()
    await credential.close()


async def test_without_a_vault_the_first_read_names_the_setting(world: World) -> None:
    """An app without a vault works until a flow reads a secret. The error names the missing setting."""
    services = Services(Settings.from_environ({**world.environ, "KEY_VAULT_URI": ""}), FakeClock())
    kv = TenantSecretClient("acme", services.vault, lambda *_: None)

    with pytest.raises(SettingsInvalid, match="KEY_VAULT_URI: missing, and a flow reads a secret"):
        await kv.secret("homedepot", "api-token")
    await services.close()
