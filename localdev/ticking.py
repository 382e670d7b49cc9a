"""`make tick`: runs the timer of the app that `make start` runs, waits for the runs that it starts, and shows them.

A run of the tick is recognised by its entry, whose `nextRunUtc` the tick has moved, and by its record, which has the
time before as `scheduledUtc`, and did not exist before.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape

from datasync.flow.registry import FlowRegistry
from datasync.model.run import Outcome, RunRecord
from datasync.model.tick import TickRecord
from datasync.model.times import read_utc, utc_text
from datasync.services import Services
from datasync.settings import Settings
from datasync.stores.overview import RunFilter
from localdev.errors import StartFailed
from localdev.hosting import invoke
from localdev.results import cell, print_errors, print_problems, runs_table

RELOAD = timedelta(seconds=15)
"""The longest time for which a host that is started again does not answer, or does not run the timer."""

_SOON = timedelta(seconds=10)
"""A run whose next attempt is further away is not waited for."""

_PAUSE = timedelta(milliseconds=200)
_OVERLAP = timedelta(seconds=2)  # queries compare texts with and without fractions of a second
_MOST = 10_000  # runs


async def tick(url: str, settings: Settings, registry: FlowRegistry, console: Console, wait: timedelta) -> bool:
    """Run the timer now, wait for its runs, at most for `wait`, and show them. Return whether all went well.

    A flow file that could not be loaded counts as a failure, too. If the task is cancelled, the runs so far are shown.

    Raises:
        StartFailed: the host does not answer, or does not run the timer.
        ServiceUnavailable: Cosmos DB cannot be used.

    """
    services = Services(settings)
    try:
        return await _Tick(services, registry, console).run(url, wait)
    finally:
        await services.close()


@dataclass(frozen=True, slots=True)
class _Due:
    """An entry of which the tick has made a run."""

    tenant: str
    flow: str
    at: datetime


type _Entries = dict[tuple[str, str], dict[str, Any]]
"""Entries of tenant documents, by tenant and flow."""


class _Tick:
    def __init__(self, services: Services, registry: FlowRegistry, console: Console) -> None:
        self._services = services
        self._registry = registry
        self._console = console
        self._since = services.clock.now()
        self._due: list[_Due] = []
        self._ended: dict[_Due, RunRecord] = {}
        """The last record of each run that has ended an attempt."""

    async def run(self, url: str, wait: timedelta) -> bool:
        before, known = await self._entries(), {record.run_id for record in await self._records()}
        ticked = await self._run_timer(url)
        after = await self._entries()
        self._due = [*_due(before, after, ticked)]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait.total_seconds()):
                    await self._wait(known)
        finally:
            self._show(after)
        await self._show_others(before, after, ticked)
        is_whole = ticked.failure is None and not ticked.tally.get("broken")
        return is_whole and all(self._is_well(each) for each in self._due)

    async def _run_timer(self, url: str) -> TickRecord:
        """Run the timer, and return the record of the tick when it has ended."""
        known = {tick.started_utc for tick in await self._ticks()}
        try:
            async with asyncio.timeout(RELOAD.total_seconds()):
                await self._invoke(url)
                while not (found := [tick for tick in await self._ticks() if tick.started_utc not in known]):
                    await self._services.clock.sleep(_PAUSE)
        except TimeoutError:
            raise StartFailed(f"the host at {url} does not run the timer. The lines of `make start` say why") from None
        while found[-1].ended_utc is None:
            await self._services.clock.sleep(_PAUSE)
            found = [tick for tick in await self._ticks() if tick.started_utc == found[-1].started_utc] or found
        return found[-1]

    async def _invoke(self, url: str) -> None:
        """Make the host run the timer, as soon as it answers: it may be starting again."""
        while True:
            try:
                return await invoke(url, "orchestrator")
            except aiohttp.ClientError:
                await self._services.clock.sleep(_PAUSE)

    async def _ticks(self) -> list[TickRecord]:
        return await self._services.fleet.ticks_since(self._since - _OVERLAP, _MOST)

    async def _entries(self) -> _Entries:
        found: _Entries = {}
        async for page in self._services.tenants.all():
            for document in page:
                for entry in document.get("flows") or ():
                    with suppress(KeyError, TypeError):  # a problem of the document, which the tick has found
                        found[document["tenantId"], entry["name"]] = entry
        return found

    async def _records(self) -> list[RunRecord]:
        wanted = RunFilter(since=self._since - _OVERLAP)
        return (await self._services.overview.records(wanted, _MOST)).records

    async def _wait(self, known: set[str]) -> None:
        """Wait until every run has ended, or waits for long. Tell the first error of each at once."""
        told = set[_Due]()
        while not all(each in self._ended and self._is_settled(self._ended[each]) for each in self._due):
            await self._services.clock.sleep(_PAUSE)
            records = [record for record in await self._records() if record.run_id not in known]
            for each in self._due:
                for record in records:
                    if self._is_of(each, record):
                        await self._keep(each, record)
            again = {each: record for each, record in self._ended.items() if record.outcome is Outcome.FAILED}
            for each, record in again.items():
                if each not in told and record.error:
                    why = escape(record.error.message)
                    self._console.print(f"{_name(each)} failed, and is attempted again: {why}", soft_wrap=True)
            told |= again.keys()

    async def _keep(self, due: _Due, record: RunRecord) -> None:
        """Keep the record of a run, with its attempts, if it has ended another one."""
        before = self._ended.get(due)
        if record.attempt_count > (before.attempt_count if before else 0):
            whole = await self._services.runs.record(record.tenant_id, record.run_id)
            self._ended[due] = whole or record

    def _is_of(self, due: _Due, record: RunRecord) -> bool:
        is_flow = record.flow_name in self._registry.names_of(due.flow)
        return is_flow and (record.tenant_id, record.scheduled_utc) == (due.tenant, due.at)

    def _is_settled(self, record: RunRecord) -> bool:
        if record.outcome is None or record.outcome.is_final:
            return record.outcome is not None
        return any(job.visible_at > self._services.clock.now() + _SOON for job in record.next)

    def _is_well(self, due: _Due) -> bool:
        record = self._ended.get(due)
        return record is not None and record.outcome is not None and not record.outcome.is_failing

    def _show(self, after: _Entries) -> None:
        if not self._due:
            return
        records = [self._ended[each] for each in self._due if each in self._ended]
        unfinished = [(each.tenant, each.flow) for each in self._due if each not in self._ended]
        next_runs = {place: entry.get("nextRunUtc") for place, entry in after.items()}
        self._console.print(runs_table(records, next_runs, unfinished))
        print_errors(self._console, records, is_started=True)

    async def _show_others(self, before: _Entries, after: _Entries, ticked: TickRecord) -> None:
        """Show why entries have no run."""
        if ticked.failure:
            self._console.print(f"[red]•[/] tick: {escape(ticked.failure)}", soft_wrap=True)
        print_problems(self._console, sorted(str(each.problem) for each in await self._services.fleet.problems()))
        for (tenant, flow), entry in after.items():
            if entry.get("nextRunUtc") and (before.get((tenant, flow)) or entry).get("nextRunUtc") is None:
                self._console.print(
                    f"{cell(tenant)}/{cell(flow)}: nextRunUtc was null, and is {entry['nextRunUtc']} now. With a time "
                    "in the past, the next tick runs the flow",
                    soft_wrap=True,
                )
        if not self._due:
            self._console.print(f"Nothing was due. {self._next_run(after)}".rstrip())

    def _next_run(self, entries: _Entries) -> str:
        now = utc_text(self._services.clock.now())
        times = [
            (at, f"{cell(tenant)}/{cell(flow)}")
            for (tenant, flow), entry in entries.items()
            if entry.get("enabled") and now < (at := str(entry.get("nextRunUtc") or ""))
        ]
        return "Next is {1}, at {0}.".format(*min(times)) if times else ""


def _due(before: _Entries, after: _Entries, ticked: TickRecord) -> Iterator[_Due]:
    """Yield the entries that the tick has moved, with the time that was due."""
    for place, entry in before.items():
        is_moved = (after.get(place) or entry).get("planned") != entry.get("planned")
        text = entry.get("nextRunUtc")
        if text and is_moved and (at := read_utc(text)) <= (ticked.ended_utc or at):
            yield _Due(*place, at)


def _name(due: _Due) -> str:
    return f"{cell(due.tenant)}/{cell(due.flow)}"
