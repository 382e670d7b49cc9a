"""Azure Storage on this machine: Azurite."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from localdev.node import node_server
from localdev.tls import Certificates

# The default account of every Azurite, published in its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True, slots=True)
class Storage:
    """A running storage account. Each endpoint is a URL that ends with the account's name."""

    queue_endpoint: str
    blob_endpoint: str
    table_endpoint: str

    @property
    def connection_string(self) -> str:
        """The value of `AzureWebJobsStorage`: the account, its key and the three endpoints."""
        return (
            f"DefaultEndpointsProtocol={self.queue_endpoint.partition(':')[0]};"
            f"AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={self.blob_endpoint};"
            f"QueueEndpoint={self.queue_endpoint};"
            f"TableEndpoint={self.table_endpoint};"
        )


@asynccontextmanager
async def azurite(
    *,
    queue_port: int = 0,
    blob_port: int = 0,
    table_port: int = 0,
    tls: Certificates | None = None,
    folder: Path | None = None,
) -> AsyncGenerator[Storage]:
    """Run Azurite on 127.0.0.1. Port 0 means a free port.

    With `tls` it serves https, and accepts bearer tokens for Azure Storage besides its key. The claims of a token are
    checked, its signature is not.

    With `folder`, the data are kept there: a change is on the disk within half a second. Otherwise they are in memory.
    Raises NodeMissing, PortTaken, DataDamaged or StartFailed.
    """
    options = {
        "queuePort": queue_port,
        "blobPort": blob_port,
        "tablePort": table_port,
        "cert": str(tls.certificate) if tls else None,
        "key": str(tls.key) if tls else None,
        "folder": str(folder) if folder else None,
    }
    async with node_server("Azurite", "azurite.mjs", options) as bound:
        yield Storage(
            queue_endpoint=f"{bound['queue']}/{ACCOUNT}",
            blob_endpoint=f"{bound['blob']}/{ACCOUNT}",
            table_endpoint=f"{bound['table']}/{ACCOUNT}",
        )
