"""All the services that the app needs, on this machine."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from datasync.settings import Settings
from localdev.azurite import Storage, azurite
from localdev.children import scratch_folder
from localdev.cosmos import Database, cosmos
from localdev.data import DataFolder
from localdev.demo_apis import DemoApis, demo_apis
from localdev.keyvault import KeyVault, key_vault
from localdev.ports import Ports
from localdev.provision import provision
from localdev.tls import create_certificates


@dataclass(frozen=True, slots=True)
class Stack:
    """The running services, and the settings with which the app reaches them."""

    storage: Storage
    database: Database
    vault: KeyVault
    demo: DemoApis
    environ: dict[str, str]
    """The settings, as environment variables of the app."""

    @property
    def settings(self) -> Settings:
        """The settings as the app reads them, with this process's environment. Raises SettingsInvalid."""
        return Settings.from_environ({**os.environ, **self.environ})


@asynccontextmanager
async def stack(
    ports: Ports | None = None, settings: Mapping[str, str] | None = None, *, data: DataFolder | None = None
) -> AsyncGenerator[Stack]:
    """Run storage, Cosmos DB, Key Vault and the demo APIs, and create the database, containers and queues.

    `settings` are added to `environ`. Without `data`, everything is in memory. Raises NodeMissing, PortTaken,
    DataDamaged or StartFailed.
    """
    at = ports or Ports()
    with scratch_folder() as folder:
        tls = create_certificates(folder)
        async with (
            azurite(
                queue_port=at.queue, blob_port=at.blob, table_port=at.table, folder=data.storage if data else None
            ) as storage,
            cosmos(port=at.cosmos, file=data.cosmos if data else None) as database,
            key_vault(
                {}, tls=tls, port=at.vault, identity_port=at.identity, file=data.secrets if data else None
            ) as keys,
            demo_apis(port=at.demo) as demo,
        ):
            environ = {
                "FUNCTIONS_WORKER_RUNTIME": "python",
                "AzureWebJobsStorage": storage.connection_string,
                "COSMOS_CONNECTION_STRING": database.connection_string,
                **keys.environ,
                **(settings or {}),
            }
            running = Stack(storage, database, keys, demo, environ)
            await provision(running.settings)
            yield running
