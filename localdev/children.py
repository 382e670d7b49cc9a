"""Child processes that end with this process, also when it is killed.

Each child reads its standard input, and exits when that ends. The operating system closes the pipe when this process
ends, for any reason. Each child has a process group of its own: Ctrl-C in a terminal then reaches this process only,
which stops its children one after the other.
"""

import asyncio
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from localdev.errors import StartFailed

OWN_GROUP: dict[str, Any] = {
    "start_new_session": True,
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # only Windows has it, and needs it
}
"""Arguments that start a child in a process group of its own."""

_KEEP_FOLDER = """
import sys, tempfile

with tempfile.TemporaryDirectory(prefix="datasync-") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


async def stop(process: Process, seconds: float) -> None:
    """Close a child's standard input and wait until it has ended. Kills it after `seconds`, or when cancelled."""
    if process.stdin is None:
        raise AssertionError("the child has no pipe for its standard input")
    process.stdin.close()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextmanager
def scratch_folder() -> Generator[Path]:
    """Yield a temporary folder. A child process creates it, and removes it after the block. Raises StartFailed."""
    child = subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-I", "-X", "utf8", "-c", _KEEP_FOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        **OWN_GROUP,
    )
    with child:  # closes the pipes at its end, and waits for the child
        if child.stdout is None:
            raise AssertionError("the child has no pipe for its standard output")
        if not (folder := child.stdout.readline().rstrip("\n")):
            raise StartFailed("No temporary folder could be created. The reason is in the lines above.")
        yield Path(folder)
