"""The app of the chaos tests, in local hosts that are killed and started again."""

import asyncio
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from localdev import hosting
from localdev.hosting import ROOT
from tests.waiting import wait_until

FLOWS = Path(__file__).parent / "flows"

SECONDS: Mapping[str, Mapping[str, float]] = {
    "datasync/model/lease.py": {"DURATION": 3, "MARGIN": 0.5},
    "datasync/flow/watchdog.py": {"every": 1},
    "datasync/run/lease.py": {"RENEWAL": 0.7, "_RENEW_AGAIN": 0.5, "_SHORTEST_RENEWAL": 0.5},
    "datasync/run/execute.py": {"GRACE": 0.5},  # twice this is left of a lease when an attempt gives it up
    "datasync/run/admit.py": {"_SPREAD": 8},
    "datasync/run/bury.py": {"_AGAIN": 2},
    "datasync/run/settle.py": {"_LONGEST_OUTAGE_PAUSE": 2, "PATIENCE": 3, "SHORTEST_DEFERRAL_AT_LAST": 1},
}
"""Shorter times for the tests, in place of the constants and the default arguments of the app."""

LASTING: Mapping[str, Mapping[str, float]] = {
    **SECONDS,
    "datasync/model/lease.py": {"DURATION": 30, "MARGIN": 0.5},
    "datasync/run/lease.py": {"RENEWAL": 7, "_RENEW_AGAIN": 0.5, "_SHORTEST_RENEWAL": 2},
    "datasync/run/settle.py": {**SECONDS["datasync/run/settle.py"], "PATIENCE": 120},
}
"""The same with leases that last, as those of the app do, for longer than a client tries to send a request.

An attempt does not give up to record its end either, while a few requests in a row lose their answers.
"""


def create_app(folder: Path, times: Mapping[str, Mapping[str, float]]) -> None:
    """Copy the app to a folder, with the flows of these tests, and with other times (seconds)."""
    shutil.copytree(ROOT / "dashboard", folder / "dashboard", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "datasync", folder / "datasync", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(FLOWS, folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "flows" / "registry.py", folder / "flows")
    shutil.copy(ROOT / "host.json", folder)
    shutil.copy(ROOT / "function_app.py", folder)
    _replace(folder / "function_app.py", r'((?:delay|minimum|maximum)_interval=)"[^"]*"', r'\1"00:00:01"')
    for name, constants in times.items():
        for constant, seconds in constants.items():
            _replace(
                folder / name,
                rf"^( *{constant}(?:: timedelta)? = )timedelta\(.*\)(,?)$",
                rf"\1timedelta(seconds={seconds})\2",
            )


def _replace(file: Path, pattern: str, by: str) -> None:
    text, found = re.subn(pattern, by, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert found, f"{file} has nothing like {pattern}"
    file.write_text(text, encoding="utf-8")


@dataclass(eq=False, repr=False)
class Host:
    """A host that is started again whenever its process ends."""

    app: Path
    environ: Mapping[str, str]
    injected: Counter[str]
    deaths: dict[int, float]
    """The time (monotonic) at which each process ended, by its id."""
    patience: float
    """The longest time in seconds to wait for something."""
    log: list[str] = field(default_factory=list)
    starts: int = 0
    running: hosting.RunningHost | None = None

    async def keep_running(self) -> None:
        """Start the app, and start it again whenever its process ends."""
        while True:
            async with hosting.host(self.environ, app=self.app, on_line=self.log.append) as running:
                self.running = running
                self.starts += 1
                try:
                    if await running.process.wait() >= 0:
                        self.injected["processes ended by a flow"] += 1
                finally:
                    self.deaths[running.process.pid] = time.monotonic()
                    self.running = None

    async def tick(self) -> None:
        """Run the timer function now. Does not wait for its end."""
        await (await self._ready()).invoke("orchestrator")

    async def tick_to_its_end(self) -> None:
        """Run the timer function, and wait until it has ended."""
        before = self.count("TICK tenants=")
        await self.tick()
        await wait_until(
            lambda: self.count("TICK tenants=") > before, description="the tick has ended", seconds=self.patience
        )

    async def kill(self) -> None:
        """Kill the process with SIGKILL, and wait until the next one is ready."""
        starts = self.starts
        await self.signal(signal.SIGKILL)
        await wait_until(lambda: self.starts > starts, description="the host has started again")

    async def signal(self, number: signal.Signals) -> int:
        """Send a signal to the process. Returns the id of the process."""
        running = await self._ready()
        running.process.send_signal(number)
        self.injected[number.name] += 1
        return running.process.pid

    def count(self, text: str) -> int:
        """Return the number of log lines that contain a text."""
        return sum(text in line for line in self.log)

    async def _ready(self) -> hosting.RunningHost:
        await wait_until(lambda: self.running, description="the host is ready")
        if self.running is None:
            raise AssertionError("the host has just been ready")
        return self.running


@asynccontextmanager
async def supervised(host: Host) -> AsyncGenerator[Host]:
    """Keep a host running during the block. Its last process is killed."""
    running = asyncio.create_task(host.keep_running())
    try:
        await wait_until(lambda: host.starts or running.done(), description="the host is ready")
        if running.done():
            running.result()
        yield host
    finally:
        if host.running and host.running.process.returncode is None:
            host.running.process.kill()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
