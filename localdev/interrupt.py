"""Handles Ctrl-C during the imports of a program. This module imports quickly itself."""

import os
import signal

INTERRUPTED = 130
"""The exit code of a program that was ended by Ctrl-C, as shells report it."""


def exit_at_once() -> None:
    """Make Ctrl-C end the process at once, without a traceback. Call it before anything needs closing."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
