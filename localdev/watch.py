"""Notices changes of the app's files."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import override

from watchfiles import Change, DefaultFilter, awatch

from localdev.errors import StartFailed

FOLDERS = ("dashboard", "datasync", "flows")
FILES = ("function_app.py", "host.json", "local.settings.json")

_QUIET_MS = 50  # without a further change: a save, or a switch of branches, changes several files


class Changes:
    """The files of an app that have changed since somebody asked last."""

    def __init__(self) -> None:
        self._names = set[str]()
        self._some = asyncio.Event()
        self._failure: Exception | None = None

    async def next(self) -> list[str]:
        """Wait until files have changed, and return them, as `flows/x.py`. Raises StartFailed if nobody can watch."""
        await self._some.wait()
        if self._failure:
            raise StartFailed(f"changes of the app cannot be noticed ({self._failure}). Use --no-reload")
        names, self._names = sorted(self._names), set()
        self._some.clear()
        return names

    def add(self, *names: str) -> None:
        """Note that files have changed."""
        self._names.update(names)
        self._some.set()

    def fail(self, failure: Exception) -> None:
        """Note that nobody watches any more."""
        self._failure = failure
        self._some.set()


@asynccontextmanager
async def watching(app: Path) -> AsyncGenerator[Changes]:
    """Watch the folders, the entry and the settings of an app (an absolute path) until the end of the block."""
    changes = Changes()
    watches = [
        asyncio.create_task(_watch(app, changes, _folders(app), _InFolders(), recursive=True)),
        # The folder, not the files, because an editor replaces a file by another one.
        asyncio.create_task(_watch(app, changes, [app], _Beside(app), recursive=False)),
    ]
    try:
        await asyncio.sleep(0)  # until each task waits for changes
        yield changes
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.wait(watches)


def _folders(app: Path) -> list[Path]:
    return [folder for name in FOLDERS if (folder := app / name).is_dir()]


async def _watch(app: Path, changes: Changes, paths: list[Path], wanted: DefaultFilter, *, recursive: bool) -> None:
    try:
        async for found in awatch(*paths, watch_filter=wanted, step=_QUIET_MS, recursive=recursive):
            changes.add(*(Path(path).relative_to(app).as_posix() for _, path in found))
    except (OSError, RuntimeError) as failure:
        changes.fail(failure)


class _InFolders(DefaultFilter):
    """Leaves out caches, and the files that editors write beside a file that they save."""

    ignore_entity_patterns = (*DefaultFilter.ignore_entity_patterns, r"^[.#]", r"^\d+$", r"\.(tmp|temp|bak|orig|rej)$")

    @override
    def __call__(self, change: Change, path: str) -> bool:
        return super().__call__(change, path) and not Path(path).is_dir()


class _Beside(DefaultFilter):
    def __init__(self, app: Path) -> None:
        super().__init__()
        self._paths = {str(app / name) for name in FILES}

    @override
    def __call__(self, change: Change, path: str) -> bool:
        return path in self._paths
