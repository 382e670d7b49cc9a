"""Runs the host of `make start`, and starts it again when a file of the app has changed.

A process stands by for the next start, with the libraries of the app imported, so that a start takes a fraction of a
second. The old host is stopped first. Functions that are still running after DRAIN are interrupted: the app records
that, and their messages come back when their hiding time is over.
"""

import asyncio
import importlib.util
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localdev.errors import StartFailed
from localdev.hosting import ROOT, STOP_SECONDS, HostProcess
from localdev.lines import Lines
from localdev.watch import Changes, watching

DRAIN = 1.0
"""Seconds that running functions have to finish when the host is started again."""

_NAMED = 3  # changed files


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An app, and how to run it."""

    environ: Mapping[str, str]
    port: int
    lines: Lines
    """Shows the lines of the host and the app."""
    app: Path = ROOT
    trace: bool = False

    async def spawn(self, *, standby: bool) -> HostProcess:
        """Start the process of a host."""
        options = ["--objects", *["--trace"] * self.trace]
        return await HostProcess.spawn(
            self.environ, app=self.app, port=self.port, on_line=self.lines.line, options=options, standby=standby
        )


async def serve(served: Served, on_start: Callable[[str], None]) -> None:
    """Run the host. `on_start` gets its URL. Raises StartFailed if it does not start, or when it ends."""
    host = await served.spawn(standby=False)
    try:
        try:
            on_start(await host.started())
        except StartFailed:
            raise StartFailed("the local Functions host did not start: the lines above have the reason") from None
        raise StartFailed(f"the local Functions host ended with exit code {await host.process.wait()}")
    finally:
        await host.end()


async def serve_with_reload(served: Served, on_start: Callable[[str], None]) -> None:
    """Run the host as `serve` does, and start it again after each change of the app's files.

    A host that does not start, or that ends, is started by the next change. Raises StartFailed if changes cannot be
    noticed.
    """
    async with watching(served.app) as changes:
        await _Reloads(served, changes, on_start).run()


class _Reloads:
    def __init__(self, served: Served, changes: Changes, on_start: Callable[[str], None]) -> None:
        self._served = served
        self._lines = served.lines
        self._changes = changes
        self._on_start = on_start
        self._has_started = False
        self._began = time.perf_counter()
        self._spare: HostProcess | None = None

    async def run(self) -> None:
        try:
            while True:
                names = await self._run_until_changed()
                _forget_compiled(self._served.app / name for name in names)
        finally:
            if self._spare:
                await self._spare.end()

    async def _run_until_changed(self) -> list[str]:
        """Run the host until files have changed, and return their names."""
        host, self._spare = self._spare or await self._served.spawn(standby=True), None
        life, changed = asyncio.ensure_future(self._live(host)), asyncio.ensure_future(self._changes.next())
        grace = STOP_SECONDS
        try:
            await asyncio.wait({life, changed}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()
            names = await changed
            self._began, grace = time.perf_counter(), DRAIN
            there = [name for name in names if (self._served.app / name).exists()]  # editors write temporary files
            self._lines.say(f"Reloading: {_named(there or names)} changed")
        finally:
            life.cancel()
            changed.cancel()
            await asyncio.wait({life, changed})
            await host.end(grace)
        return names

    async def _live(self, host: HostProcess) -> None:
        """Start the host. Say how it started, and that it ended, if it does."""
        were_broken = self._lines.take_broken()
        host.go()
        try:
            url = await host.started()
        except StartFailed:
            self._lines.alarm("The host does not start, for the reason above. The next change starts it again")
            self._spare = await self._served.spawn(standby=True)
        else:
            self._started(url, were_broken)
            self._spare = await self._served.spawn(standby=True)
            code = await host.process.wait()
            self._lines.alarm(f"The host ended with exit code {code}. The next change starts it again")

    def _started(self, url: str, were_broken: set[str]) -> None:
        if self._has_started:
            self._lines.say(f"Host started again after {time.perf_counter() - self._began:.1f} s")
        else:
            self._has_started = True
            self._served = replace(self._served, port=int(url.rpartition(":")[2]))  # a free one stays the same
            self._on_start(url)
        for name in sorted(were_broken - self._lines.broken):
            if (self._served.app / name).exists():
                self._lines.say(f"{name} is loaded again")


def _named(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED} more files"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])


def _forget_compiled(files: Iterable[Path]) -> None:
    """Remove the compiled forms of files, which Python takes for present if a file has the same size and second."""
    for file in files:
        if file.suffix == ".py":
            Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)
