"""The command line of the host.

The first line on standard output says that the host is ready, for which functions, and at which address. All log lines
go to standard error. Ctrl-C or SIGTERM stops the host with exit code 0: running functions may finish, for a bounded
time. A second signal cancels them. The exit code is 1 when the host cannot start or continue.
"""

import argparse
import asyncio
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from localdev.errors import LocalPartError
from localdev.host import console, standby, worker
from localdev.host.host import DEFAULT_PORT, Host


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m localdev.host", description="Run a function app on this machine.")
    parser.add_argument("--app", type=Path, default=Path(), help="directory of the app (default: the current one)")
    parser.add_argument(
        "--port",
        type=int,
        help="port for HTTP functions and admin calls, 0 for a free one "
        f"(default: LocalHttpPort of local.settings.json, {DEFAULT_PORT})",
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=10,
        metavar="SECONDS",
        help="time that running functions have to finish (default: 10)",
    )
    parser.add_argument(
        "--stdin-from-parent",
        action="store_true",
        help="stop at a line on standard input, and at once at its end, and so with the parent process",
    )
    parser.add_argument(
        "--standby",
        action="store_true",
        help="import the libraries of the app, and wait for a line on standard input before anything else",
    )
    parser.add_argument("--objects", action="store_true", help="write log records as JSON objects, one on each line")
    parser.add_argument(
        "--trace", action="store_true", help="turn OpenTelemetry on in the app, and log a line for each span"
    )
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    host = Host(arguments.app, port=arguments.port, drain=timedelta(seconds=arguments.drain))
    loop = asyncio.get_running_loop()

    def call(action: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the host has stopped
            loop.call_soon_threadsafe(action)

    # Windows does not have loop.add_signal_handler.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: call(host.interrupt))
    if arguments.stdin_from_parent:

        def watch() -> None:
            try:
                while os.read(0, 1024):
                    call(host.stop)
            finally:
                call(host.stop_now)

        threading.Thread(target=watch, name="stdin", daemon=True).start()
    await host.run()


def _read_line() -> None:
    """Read a line of standard input, and no more than that. The process ends if the input ends."""
    while (read := os.read(0, 1)) != b"\n":
        if not read:
            os._exit(0)


def main() -> NoReturn:
    """Run the host, and end the process."""
    arguments = _arguments()
    console.configure(objects=arguments.objects)
    worker.quieten()
    if arguments.standby:
        line = threading.Thread(target=_read_line, name="stdin", daemon=True)
        line.start()
        standby.import_libraries(arguments.app)
        line.join()
        importlib.invalidate_caches()
    if arguments.trace:
        from localdev.host import spans  # noqa: PLC0415 - without it, nothing imports the SDK

        spans.configure()
    if not sys.flags.safe_path:
        # `-m` put the current directory first. The app is imported from its own directory only.
        del sys.path[0]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # functions' output appears at once
    code = 1
    try:
        asyncio.run(_run(arguments))
        code = 0
    except LocalPartError as error:
        print(error, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - after any error, threads of the app must not keep the process alive
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # The app's event loop and threads are abandoned, as when Azure ends a worker: they must not delay the exit.
    os._exit(code)
