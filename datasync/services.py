"""The lazy graph of the process: each part is made at its first use, and closed at the end."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Protocol

import httpx

from datasync.clients import CosmosAccount, Credential, container_client, queue_client, secret_client
from datasync.clock import Clock
from datasync.errors import RequestRefused, ServiceUnavailable
from datasync.flow import http
from datasync.flow.secrets import Vault
from datasync.flow.watchdog import Watchdog
from datasync.model.state import Leased
from datasync.model.times import utc_text
from datasync.settings import Settings
from datasync.stores.audit import AuditStore
from datasync.stores.claims import Claims
from datasync.stores.cosmos import Container
from datasync.stores.fleet import FleetStore
from datasync.stores.jobs import JobQueue
from datasync.stores.overview import Overview
from datasync.stores.runs import RunStore
from datasync.stores.tenants import TenantStore
from datasync.telemetry.spans import Spans

if TYPE_CHECKING:
    from datasync.stores.recordings import RecordingStore

RECORDINGS = "datasync-recordings"
"""The container of the recordings."""


class Pingable(Protocol):
    """A client of a service outside the process."""

    async def ping(self) -> None:
        """Try the service once. Raises ServiceUnavailable."""


@dataclass(frozen=True, slots=True)
class ExternalService:
    """A service outside the process."""

    name: str
    setting: str
    """The app setting that names it."""
    client: Callable[[], Pingable]
    """Makes the client, or returns the one that exists. Raises an error of the SDK where the setting is malformed."""


class Outages:
    """The services that are away, as far as this process knows."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def note(self, error: ServiceUnavailable, now: datetime) -> datetime:
        """Note that a service is away at `now` (aware). Returns since when. One that refuses a request is not away."""
        if isinstance(error, RequestRefused):
            return now
        return self._since.setdefault(error.service, now)

    def end(self, *services: str) -> None:
        """Note that services answer."""
        for service in services:
            self._since.pop(service, None)

    def __str__(self) -> str:
        """Render as `Cosmos DB since 2025-08-23T12:00:00Z`; empty if no service is away."""
        return ", ".join(f"{service} since {utc_text(since)}" for service, since in sorted(self._since.items()))


class Services:
    """The clients and stores that the stages use. Nothing connects before its first use."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or Clock()
        self.held: list[Leased] = []
        """The documents whose leases this process holds."""
        self.running: Counter[str] = Counter()
        """Runs that are going on in this process, by tenant."""
        self.outages = Outages()
        self._open = AsyncExitStack()

    @cached_property
    def tenants(self) -> TenantStore:
        """The tenants container."""
        return TenantStore(self._container(self.settings.tenants_container))

    @cached_property
    def runs(self) -> RunStore:
        """The states and records in the runs container."""
        return RunStore(self._runs_container, self.settings.run_retention)

    @cached_property
    def fleet(self) -> FleetStore:
        """The partition `@fleet` of the runs container."""
        return FleetStore(self._runs_container, self.settings.run_retention)

    @cached_property
    def overview(self) -> Overview:
        """The runs container, for people."""
        return Overview(self._runs_container)

    @cached_property
    def audits(self) -> AuditStore:
        """The audits of the actions of operators."""
        return AuditStore(self._runs_container, self.settings.run_retention)

    @cached_property
    def claims(self) -> Claims:
        """The tenants that use their ids."""
        claims = Claims(self.fleet, self.tenants, self.clock.sleep)
        self._open.push_async_callback(claims.close)
        return claims

    @cached_property
    def jobs(self) -> JobQueue:
        """The job queue."""
        return self._queue(self.settings.queue_name)

    @cached_property
    def poison(self) -> JobQueue:
        """The queue of the jobs that failed for the last time."""
        return self._queue(self.settings.poison_queue_name)

    @cached_property
    def recordings(self) -> "RecordingStore":
        """The recordings of failed attempts."""
        from datasync.stores.recordings import RecordingStore  # noqa: PLC0415 - it needs the SDK of the blobs

        client = container_client(self.settings.recordings, RECORDINGS, self._credential)
        self._open.push_async_callback(client.close)
        return RecordingStore(client)

    @cached_property
    def vault(self) -> Vault:
        """The secrets."""
        vault = Vault(
            partial(secret_client, self.settings, self._credential), self.clock.now, self.settings.secret_cache
        )
        self._open.push_async_callback(vault.close)
        return vault

    @cached_property
    def watchdog(self) -> Watchdog:
        """Notices that a flow blocks the event loop."""
        watchdog = Watchdog(self.clock)
        self._open.callback(watchdog.stop)
        return watchdog

    @cached_property
    def http_transport(self) -> httpx.AsyncBaseTransport:
        """The connections of the flows."""
        transport = http.new_transport()
        self._open.push_async_callback(transport.aclose)
        return transport

    @cached_property
    def spans(self) -> Spans:
        """The spans of ticks, messages and runs."""
        if not self.settings.traces:
            return Spans()
        from datasync.telemetry.opentelemetry_spans import OpenTelemetrySpans  # noqa: PLC0415 - off, it is not imported

        return OpenTelemetrySpans()

    @property
    def external(self) -> list[ExternalService]:
        """The services outside the process. Key Vault is left out where none is configured."""
        settings = self.settings
        database, cosmos, storage = settings.cosmos_database, settings.cosmos.setting, settings.storage.setting
        external = [
            ExternalService(f"Cosmos DB {database}/{settings.tenants_container}", cosmos, lambda: self.tenants),
            ExternalService(f"Cosmos DB {database}/{settings.runs_container}", cosmos, lambda: self.runs),
            ExternalService(f"queue {settings.queue_name}", storage, lambda: self.jobs),
            ExternalService(f"queue {settings.poison_queue_name}", storage, lambda: self.poison),
        ]
        if settings.record_failures:
            blobs = settings.recordings.setting
            external.append(ExternalService(f"blob container {RECORDINGS}", blobs, lambda: self.recordings))
        if settings.key_vault_url:
            external.append(ExternalService(f"Key Vault {settings.key_vault_url}", "KEY_VAULT_URI", lambda: self.vault))
        return external

    async def principal(self) -> str | None:
        """Return the name of the identity that Cosmos DB knows; None where a key is used, or the name is unknown."""
        account = self.settings.cosmos
        return None if account.connection_string else await self._credential.principal(account.url or "")

    async def close(self) -> None:
        """Close everything that was made."""
        await self._open.aclose()

    @cached_property
    def _credential(self) -> Credential:
        credential = Credential()
        self._open.push_async_callback(credential.close)
        return credential

    @cached_property
    def _cosmos(self) -> CosmosAccount:
        account = CosmosAccount(self.settings.cosmos, self._credential)
        self._open.push_async_callback(account.close)
        return account

    @cached_property
    def _runs_container(self) -> Container:
        return self._container(self.settings.runs_container)

    def _container(self, name: str) -> Container:
        return Container(name, partial(self._cosmos.container, self.settings.cosmos_database, name), self.clock.sleep)

    def _queue(self, name: str) -> JobQueue:
        client = queue_client(self.settings.storage, name, self._credential)
        self._open.push_async_callback(client.close)
        return JobQueue(client, self.clock.now, partial(self.spans.send, name))


@cache
def shared_services() -> Services:
    """Return the services of this process.

    Raises:
        SettingsInvalid: an app setting is missing or malformed. The next call reads the settings again.

    """
    return Services(Settings.from_environ(os.environ))
