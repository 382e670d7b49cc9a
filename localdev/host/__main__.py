"""`python -m localdev.host [--app DIR] [--port 7071]`: run a function app on this machine.

One line on standard output says that it is ready, and where; everything logged goes to standard error. It stops at
Ctrl-C or SIGTERM (again: at once) with exit code 0, and with 1 when it cannot start or go on.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
import traceback
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from localdev.errors import LocalPartError
from localdev.host import console, worker
from localdev.host.host import DEFAULT_PORT, Host


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m localdev.host", description="Run a function app on this machine.")
    parser.add_argument("--app", type=Path, default=Path(), help="the app's directory (default: this one)")
    parser.add_argument(
        "--port",
        type=int,
        help=f"for admin calls; 0 takes a free one (default: local.settings.json's LocalHttpPort, or {DEFAULT_PORT})",
    )
    parser.add_argument(
        "--drain", type=float, default=10, metavar="SECONDS", help="how long a stop waits for functions (default: 10)"
    )
    parser.add_argument(
        "--stop-on-stdin-eof", action="store_true", help="stop when standard input ends, so as not to outlive a parent"
    )
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    host = Host(arguments.app, port=arguments.port, drain=timedelta(seconds=arguments.drain))
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(host.stop)

    # Not loop.add_signal_handler, which Windows has not.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if arguments.stop_on_stdin_eof:

        def watch() -> None:
            try:
                while os.read(0, 1024):
                    pass
            finally:
                stop()

        threading.Thread(target=watch, name="stdin", daemon=True).start()
    await host.run()


def main() -> NoReturn:
    """Run the host, and end the process."""
    arguments = _arguments()
    console.configure()
    worker.quieten()
    if not sys.flags.safe_path:
        # `-m` put the current directory first; an app is imported from its own, and only from there.
        del sys.path[0]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what functions print is for now
    code = 1
    try:
        asyncio.run(_run(arguments))
        code = 0
    except LocalPartError as error:
        print(error, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - whatever it is, threads of the app must not keep the process alive
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # The app's loop and threads are left as they are, as when Azure ends a worker: none may keep the process alive.
    os._exit(code)


if __name__ == "__main__":
    main()
