"""Runs commands of `python -m localdev` in this process."""

import asyncio

import pytest
from click.testing import CliRunner

from localdev.cli.main import cli


async def run(*arguments: str, stdin: str | None = None) -> tuple[int, str]:
    """Run a command in a thread, because it starts an event loop. Returns its exit code and its output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *_: None)  # only the main thread can set signal handlers
        result = await asyncio.to_thread(CliRunner().invoke, cli, arguments, input=stdin)
    return result.exit_code, result.output
