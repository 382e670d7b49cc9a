"""Azure Cosmos DB on this machine: @vercel/cosmosdb-server, corrected where it differs from Azure."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from localdev.node import node_server
from localdev.tls import Certificates

# The key of every Cosmos DB emulator, published in its documentation.
KEY = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="


@dataclass(frozen=True, slots=True)
class Database:
    """A running Cosmos DB account."""

    endpoint: str
    """A URL that ends with a slash."""

    key: str

    @property
    def connection_string(self) -> str:
        """The endpoint and the key, in the portal's form."""
        return f"AccountEndpoint={self.endpoint};AccountKey={self.key};"


@asynccontextmanager
async def cosmos(
    *,
    port: int = 0,
    tls: Certificates | None = None,
    write_regions: Sequence[str] = ("Local",),
    file: Path | None = None,
) -> AsyncGenerator[Database]:
    """Run a Cosmos DB account on 127.0.0.1. Port 0 means a free port.

    Its key gives access to everything. Any Entra ID token gives access to items only, as a data-plane role does: it
    cannot create databases and containers. Clients send tokens over https only, which needs `tls`. With more
    than one of `write_regions`, the account announces multi-region writes; all regions are this one server.

    With `file`, the data are kept there: a change is on the disk before it is answered. Otherwise they are in memory.
    Raises NodeMissing, PortTaken, DataDamaged or StartFailed.
    """
    if file:
        file.parent.mkdir(exist_ok=True)
    options = {
        "port": port,
        "key": KEY,
        "cert": str(tls.certificate) if tls else None,
        "certKey": str(tls.key) if tls else None,
        "writeRegions": list(write_regions),
        "file": str(file) if file else None,
    }
    async with node_server("Cosmos DB", "cosmos.mjs", options) as bound:
        yield Database(endpoint=bound["endpoint"], key=KEY)
