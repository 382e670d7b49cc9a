"""The commands of `python -m localdev` that talk to a running stack."""

import asyncio

import pytest
from click.testing import CliRunner

from localdev import cli as command
from localdev.keyvault import key_vault
from localdev.stack import Ports
from localdev.tls import Certificates


async def run(*arguments: str) -> tuple[int, str]:
    """Run a command in a thread, because it starts an event loop."""
    result = await asyncio.to_thread(CliRunner().invoke, command.cli, arguments)
    return result.exit_code, result.output


async def test_a_command_stores_a_secret_in_the_local_vault(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no certificates or tokens from its user. For an invalid name, the error shows the name."""
    async with key_vault({}, tls=certificates) as vault:
        monkeypatch.setattr(command, "PORTS", Ports(vault=int(vault.uri.rstrip("/").rpartition(":")[2])))
        monkeypatch.setattr("signal.signal", lambda *_: None)  # only the main thread can call it

        stored = await run("secret", "tenants--t--crm--token", "s3cret")
        refused = await run("secret", "tenants--t_1--crm", "s3cret")

    assert stored[0] == 0
    assert "Stored" in stored[1]
    assert refused[0] == 1
    assert "secret 'tenants--t_1--crm': " in refused[1]
