import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity.aio import DefaultAzureCredential
from azure.keyvault.secrets.aio import SecretClient

from localdev.errors import PortTaken
from localdev.keyvault import KeyVault, key_vault
from localdev.tls import Certificates
from tests.localdev.ports import answers, port_of

NAME = "tenants--t1--homedepot--api-token"

PROGRAM = """
import asyncio, os
from azure.identity.aio import DefaultAzureCredential
from azure.keyvault.secrets.aio import SecretClient

async def main():
    async with (
        DefaultAzureCredential() as identity,
        SecretClient(os.environ["KEY_VAULT_URI"], identity, verify_challenge_resource=False) as client,
    ):
        print((await client.get_secret("shared--greeting")).value)

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def own_vault(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[KeyVault]:
    """Run a vault for one test, with one secret. This process has access to it."""
    async with key_vault({NAME: "first"}, tls=certificates) as running:
        for name, value in running.environ.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest_asyncio.fixture
async def client(own_vault: KeyVault) -> AsyncGenerator[SecretClient]:
    """Make a client as an app does, with the identity of an app."""
    async with (
        DefaultAzureCredential() as identity,
        SecretClient(own_vault.uri, identity, verify_challenge_resource=False) as connected,
    ):
        yield connected


async def test_an_identity_reads_a_secret(own_vault: KeyVault, client: SecretClient) -> None:
    """The real credential and the real client work unchanged. One token serves many reads, and each read is counted."""
    assert (await client.get_secret(NAME)).value == "first"
    assert (await client.get_secret(NAME.upper())).value == "first"
    assert own_vault.reads == {NAME: 2}
    assert own_vault.identity.issued == 1


async def test_secrets_change_while_the_vault_runs(own_vault: KeyVault, client: SecretClient) -> None:
    """A read without a version returns the newest one. A deleted secret is not found."""
    first = await client.get_secret(NAME)
    own_vault.set_secret(NAME, "second")
    assert (await client.get_secret(NAME)).value == "second"
    assert (await client.get_secret(NAME, first.properties.version)).value == "first"
    own_vault.delete_secret(NAME)
    with pytest.raises(ResourceNotFoundError, match="SecretNotFound"):
        await client.get_secret(NAME)


async def test_a_client_sets_a_secret(client: SecretClient) -> None:
    """A secret can also be set with the client."""
    await client.set_secret("shared--key", "grün")
    assert (await client.get_secret("shared--key")).value == "grün"


async def test_a_client_deletes_a_secret(client: SecretClient) -> None:
    """It is gone at once, and its name can be used again. Another delete finds nothing."""
    assert (await client.delete_secret(NAME)).name == NAME
    with pytest.raises(ResourceNotFoundError, match="SecretNotFound"):
        await client.get_secret(NAME)
    with pytest.raises(ResourceNotFoundError, match="SecretNotFound"):
        await client.delete_secret(NAME)
    await client.set_secret(NAME, "again")
    assert (await client.get_secret(NAME)).value == "again"


async def test_a_refused_read_is_an_error(own_vault: KeyVault, client: SecretClient) -> None:
    """The client does not repeat a request that was answered with 403."""
    own_vault.fail_next(403)
    with pytest.raises(HttpResponseError, match="Forbidden") as caught:
        await client.get_secret(NAME)
    assert caught.value.status_code == 403
    assert own_vault.reads == {NAME: 1}


async def test_the_client_repeats_throttled_requests(own_vault: KeyVault, client: SecretClient) -> None:
    """A request that was answered with 429 and Retry-After is repeated by the client itself."""
    own_vault.fail_next(429, times=2, retry_after=0.05)
    assert (await client.get_secret(NAME)).value == "first"
    assert own_vault.reads == {NAME: 3}


@pytest.mark.parametrize("token", [None, "Bearer nonsense", "Bearer a.b.c"])
async def test_a_request_without_a_valid_token_gets_a_challenge(
    own_vault: KeyVault, certificates: Certificates, token: str | None
) -> None:
    """The answer is 401, with the header from which clients read the authority and the resource."""
    async with httpx.AsyncClient(verify=certificates.client_context()) as anyone:
        headers = {"Authorization": token} if token else {}
        answer = await anyone.get(f"{own_vault.uri}secrets/{NAME}", params={"api-version": "7.6"}, headers=headers)
    assert answer.status_code == 401
    assert 'resource="https://vault.azure.net"' in answer.headers["WWW-Authenticate"]
    assert own_vault.reads == {}


async def test_the_token_endpoint_needs_the_secret_header(own_vault: KeyVault) -> None:
    """A request with another header gets 401, as on App Service. A request without a resource gets 400."""
    endpoint = own_vault.environ["IDENTITY_ENDPOINT"]
    async with httpx.AsyncClient() as anyone:
        wrong = await anyone.get(endpoint, params={"resource": "https://vault.azure.net"})
        right = {"X-IDENTITY-HEADER": own_vault.environ["IDENTITY_HEADER"]}
        vague = await anyone.get(endpoint, headers=right)
    assert (wrong.status_code, vague.status_code) == (401, 400)
    assert own_vault.identity.issued == 0


async def test_invalid_secret_names_are_refused(own_vault: KeyVault) -> None:
    """Azure accepts letters, digits and dashes only."""
    with pytest.raises(ValueError, match="'a_b' is not a valid secret name"):
        own_vault.set_secret("a_b", "x")


async def test_a_child_process_needs_only_the_settings(own_vault: KeyVault) -> None:
    """With `environ` in its environment, a program trusts the vault and has access to it."""
    own_vault.set_secret("shared--greeting", "hello")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, env={**os.environ, **own_vault.environ}, stdout=PIPE, stderr=PIPE
    )
    output, errors = await child.communicate()
    assert output.decode().strip() == "hello", errors.decode()


async def test_nothing_is_left_and_a_port_in_use_is_reported(certificates: Certificates) -> None:
    """Both servers stop at the end of the block. The error for a port in use names the part."""
    async with key_vault({}, tls=certificates) as first:
        ports = [port_of(first.uri), port_of(first.environ["IDENTITY_ENDPOINT"])]
        with pytest.raises(PortTaken, match=f"Key Vault cannot listen on port {ports[0]}"):
            async with key_vault({}, tls=certificates, port=ports[0]):
                pytest.fail("Key Vault listens on a port in use")
        assert all([await answers(port) for port in ports])
    assert not any([await answers(port) for port in ports])
