"""Azure Cosmos DB on this machine: @vercel/cosmosdb-server, in memory, its differences from Azure cured."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from localdev.node import node_server
from localdev.tls import Certificates

# The key every Cosmos DB emulator has, printed in its manual: no secret.
KEY = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="


@dataclass(frozen=True, slots=True)
class Database:
    """A running Cosmos DB account, empty at first."""

    endpoint: str
    """URL, with a slash at the end."""

    key: str

    @property
    def connection_string(self) -> str:
        """Endpoint and key in the portal's form."""
        return f"AccountEndpoint={self.endpoint};AccountKey={self.key};"


@asynccontextmanager
async def cosmos(*, port: int = 0, tls: Certificates | None = None) -> AsyncGenerator[Database]:
    """Run a Cosmos DB account on 127.0.0.1; a port of 0 takes a free one.

    It answers the holder of its key, and any Entra ID token (for items only, as data-plane roles do: creating
    databases and containers takes the key). Clients send tokens over https only, so that needs `tls`.
    Raises NodeMissing, PortTaken or StartFailed.
    """
    options = {
        "port": port,
        "key": KEY,
        "cert": str(tls.certificate) if tls else None,
        "certKey": str(tls.key) if tls else None,
    }
    async with node_server("Cosmos DB", "cosmos.mjs", options) as bound:
        yield Database(endpoint=bound["endpoint"], key=KEY)
