"""Runs the work of a command."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import click

from datasync.errors import DataSyncError
from localdev.errors import LocalPartError
from localdev.interrupt import INTERRUPTED


async def until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Run a command that Ctrl-C ends. Its exit code is then 0, so that `make` reports no error."""
    try:
        await work
    except asyncio.CancelledError:
        click.echo("Stopped.")


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command, and report its errors. SIGTERM stops it as Ctrl-C does.

    The first Ctrl-C stops the command's parts one after the other, and running functions may finish. The second one
    kills them. The exit code is 130, except after the first Ctrl-C of `until_interrupted`.
    """
    # The handler is set explicitly: a process that a shell starts in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        asyncio.run(work)
    except (LocalPartError, DataSyncError) as error:
        raise click.ClickException(str(error)) from None
    except TimeoutError:
        raise click.ClickException("the queue was not empty in time; the log lines above may show why") from None
    except KeyboardInterrupt:
        click.echo("Stopped.")
        sys.exit(INTERRUPTED)
