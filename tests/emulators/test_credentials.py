"""Credentials that an API refuses, with a real API and Key Vault: the record names them, and they are read again."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from http import HTTPStatus

import pytest
import pytest_asyncio

from datasync import FlowRegistry, FlowRun, TenantSecretClient
from datasync.errors import FlowFailed
from datasync.model.job import QueueMessage
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.deliveries import NOW, message
from tests.documents import document, entry
from tests.emulators.conftest import Api
from tests.stages import FakeClock, deliver, run_job
from tests.world import World

TOKEN, KEY = "tenants--t--crm--token", "shared--geocoder--key"
OLD, NEW = "the-old-token", "the-new-token"
NOON = "2025-08-23T12:00:00Z"
RETRY = NOW + timedelta(minutes=1)
"""The time of the next attempt."""


@pytest.fixture
def registry(api: Api) -> FlowRegistry:
    """Return a registry with two flows that call the API with a token, and read another secret."""
    registry = FlowRegistry()

    async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        await kv.get_secret(KEY)
        token = await kv.secret("crm", "token")
        response = await run.http.get(api.url, headers={"Authorization": f"Bearer {token}"})
        response.raise_for_status()

    registry.flow("flow")(flow)
    registry.flow("beside")(flow)
    return registry


@pytest_asyncio.fixture
async def tenant(world: World, vault: KeyVault) -> AsyncGenerator[str]:
    """Store a tenant with both flows, and its secrets."""
    await world.put(document("t", entry("flow"), entry("beside")))
    vault.set_secret(TOKEN, OLD)
    vault.set_secret(KEY, "the-key")
    vault.reads.clear()
    yield "t"
    vault.delete_secret(TOKEN)
    vault.delete_secret(KEY)


@pytest_asyncio.fixture
async def other(world: World, vault: KeyVault) -> AsyncGenerator[Services]:
    """Connect the services of another process, with a cache of its own."""
    made = Services(world.settings, FakeClock())
    yield made
    await made.close()


async def refuse(services: Services, registry: FlowRegistry, api: Api, posted: QueueMessage | None = None) -> None:
    """Make an attempt at noon whose credentials the API refuses."""
    api.status = HTTPStatus.UNAUTHORIZED
    with pytest.raises(FlowFailed):
        await deliver(services, registry, posted or message(), NOW)
    api.heal()


@pytest.mark.usefixtures("tenant")
class TestRecords:
    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_refusal_is_recorded_with_the_secrets_that_were_used(
        self, world: World, services: Services, registry: FlowRegistry, api: Api, status: int
    ) -> None:
        """The error has the status, the host and the body, and says when each secret was read. No value is in it."""
        api.status, api.body = status, {"error": f"token {OLD} has expired"}
        with pytest.raises(FlowFailed):
            await deliver(services, registry, message(), NOW)

        (stored,) = await world.records()
        error = stored["error"]
        assert (error["class"], error["status"], error["host"]) == ("HTTPStatusError", status, "127.0.0.1")
        assert "has expired" in error["body"]
        assert error["message"].endswith(
            f". Secrets used: crm--token (read from the vault at {NOON}), {KEY} (read from the vault at {NOON})"
        )
        assert stored["attempts"][0]["error"] == error
        assert stored["attempts"][0]["secrets"] == {"crm--token": NOON, KEY: NOON}
        assert OLD not in str(stored)

    async def test_the_same_refusal_has_the_same_fingerprint(
        self, services: Services, registry: FlowRegistry, api: Api
    ) -> None:
        """In another run too. Another status has another fingerprint."""
        found = []
        for number, status in enumerate([401, 401, 403]):
            api.status = status
            with pytest.raises(FlowFailed):
                await deliver(services, registry, message(id=f"m-{number}", run_id=f"r-{number}"), NOW)
            record = await services.runs.record("t", f"r-{number}")
            assert record is not None
            assert record.error is not None
            found.append(record.error.fingerprint)

        assert found[0]
        assert (found[0] == found[1], found[0] == found[2]) == (True, False)

    async def test_the_time_is_that_of_the_vault_and_not_of_the_cache(
        self, services: Services, registry: FlowRegistry, api: Api
    ) -> None:
        """A value that another run has read a minute before is as old as that."""
        await run_job(services, registry, message(id="m-0", flow_name="beside", run_id="r-0"), NOW)
        api.status = 401
        with pytest.raises(FlowFailed, match=rf"crm--token \(read from the vault at {NOON}\)"):
            await deliver(services, registry, message(), RETRY)

    @pytest.mark.parametrize("status", [400, 404, 200])
    async def test_another_answer_does_not_name_the_secrets_in_its_error(
        self, world: World, services: Services, registry: FlowRegistry, api: Api, status: int
    ) -> None:
        """The attempt lists them all the same."""
        api.status = status
        try:
            await deliver(services, registry, message(), NOW)
        except FlowFailed as error:
            assert "Secrets used" not in str(error)  # noqa: PT017 - a success raises nothing

        (stored,) = await world.records()
        assert stored["attempts"][0]["secrets"] == {"crm--token": NOON, KEY: NOON}


@pytest.mark.usefixtures("tenant")
class TestNextAttempt:
    async def test_it_reads_all_its_secrets_again(
        self, services: Services, registry: FlowRegistry, api: Api, vault: KeyVault
    ) -> None:
        """So a secret that was replaced in the vault is used at once, and not only when the cached one expires."""
        await refuse(services, registry, api)
        vault.set_secret(TOKEN, NEW)
        record = await run_job(services, registry, message(2), RETRY)

        assert [attempt.outcome for attempt in record.attempts] == ["failed", "succeeded"]
        assert api.tokens == [f"Bearer {OLD}", f"Bearer {NEW}"]
        assert vault.reads == {TOKEN: 2, KEY: 2}
        assert record.attempts[-1].secrets == {"crm--token": RETRY, KEY: RETRY}

    async def test_in_another_process_it_reads_them_again(
        self, services: Services, other: Services, registry: FlowRegistry, api: Api, vault: KeyVault
    ) -> None:
        """That process has the old value in its cache."""
        await run_job(other, registry, message(id="m-0", flow_name="beside", run_id="r-0"), NOW)
        await refuse(services, registry, api)
        vault.set_secret(TOKEN, NEW)
        await run_job(other, registry, message(2), RETRY)

        assert api.tokens == [f"Bearer {OLD}", f"Bearer {OLD}", f"Bearer {NEW}"]
        assert vault.reads[TOKEN] == 3

    async def test_other_runs_use_the_cached_values(
        self, services: Services, registry: FlowRegistry, api: Api, vault: KeyVault
    ) -> None:
        """A wrong token of one flow does not make all flows ask the vault."""
        await refuse(services, registry, api)
        for number in range(3):
            again = message(id=f"m-{number}", flow_name="beside", run_id=f"r-0{number}")
            await run_job(services, registry, again, RETRY)

        assert vault.reads == {TOKEN: 1, KEY: 1}

    async def test_after_another_failure_it_uses_the_cached_values(
        self, services: Services, registry: FlowRegistry, api: Api, vault: KeyVault
    ) -> None:
        """A fault of the API says nothing about the secrets."""
        api.status = 404
        with pytest.raises(FlowFailed):
            await deliver(services, registry, message(), NOW)
        api.heal()
        await run_job(services, registry, message(2), RETRY)

        assert vault.reads == {TOKEN: 1, KEY: 1}

    async def test_while_the_vault_refuses_it_waits(
        self, services: Services, other: Services, registry: FlowRegistry, api: Api, vault: KeyVault
    ) -> None:
        """That is an outage, not a failure. The attempt after it still knows of the refusal, in any process."""
        await run_job(other, registry, message(id="m-0", flow_name="beside", run_id="r-0"), NOW)
        await refuse(services, registry, api)
        vault.set_secret(TOKEN, NEW)
        vault.fail_next(403)
        waiting = await run_job(services, registry, message(2), RETRY)
        assert (waiting.outcome, waiting.failures, waiting.retry_laters) == ("deferred", 1, 0)
        (planned,) = waiting.next
        assert planned.visible_at == RETRY + timedelta(seconds=15)

        again = QueueMessage("m-2", planned.message.encode().encode(), 1, RETRY)
        record = await run_job(other, registry, again, planned.visible_at)
        assert (record.outcome, record.failures) == ("succeeded", 1)
        assert api.tokens[-1] == f"Bearer {NEW}"
