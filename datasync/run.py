"""Stage 2, each message: find the flow, run it for its tenant, and record how that ended.

The worker may be killed at any await: the message then comes back, and the attempt is made again.
"""

import asyncio
import logging
from collections import Counter
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from datasync import log
from datasync.context import FlowRun, Window
from datasync.errors import DataSyncError, FlowFailed, FlowSignal, GiveUp, RetryLater, TenantInvalid
from datasync.http import new_client
from datasync.model import FlowConfig, Job, Message, Outcome, Run, Tenant
from datasync.registry import Flow, FlowRegistry
from datasync.schedule import rev
from datasync.secrets import TenantSecretClient
from datasync.services import Services
from datasync.stores.jobs import LEAD

_LONGEST_HEAD_START = 2 * LEAD + timedelta(seconds=1)  # the queue counts in whole seconds, by a clock of its own


async def run_job(services: Services, registry: FlowRegistry, message: Message, now: datetime) -> Run:
    """Run the job in a message, which was received at `now` (aware), and record how that ended.

    Returns:
        The record, when the message is done with.

    Raises:
        JobInvalid: the body is not a job. Nothing can be recorded; the poison queue keeps it.
        FlowFailed: the attempt failed, and is recorded. The host delivers the message again, or poisons it.
        FlowUnknown, TenantUnknown, TenantInvalid: the job cannot be run as things are; treated the same way.
        ServiceUnavailable: Cosmos DB or the queue could not be used; treated the same way, as far as it goes.

    """
    try:
        job = Job.decode(message)
    except DataSyncError as error:
        log.event(logging.ERROR, f"FAIL {error}", error=type(error).__name__, attempt=message.dequeue_count)
        raise
    return await _Attempt(services, registry, message, job, now).make()


class _Ending(NamedTuple):
    """How an attempt ended."""

    outcome: Outcome
    why: str | None = None
    """Unless it succeeded."""
    again: timedelta | None = None
    """After what delay the job is to come back, where the flow asked for that."""


class _Attempt:
    """One delivery of one job."""

    def __init__(self, services: Services, registry: FlowRegistry, message: Message, job: Job, now: datetime) -> None:
        self._services = services
        self._registry = registry
        self._message = message
        self._job = job
        self._number = job.prior_attempts + message.dequeue_count
        self._names: tuple[str, ...] = (job.flow_name,)
        """Of the flow: its own first, then its aliases; as the job has it until the flow is found."""
        self._window: Window | None = None
        """None until the flow starts."""
        self._counts: Counter[str] = Counter()
        self._redact = log.Redaction()
        self._received_utc = now
        self._received = _seconds()

    async def make(self) -> Run:
        try:
            ending = await self._perform()
            run = await self._end(ending)
            if ending.again is not None:
                # Recorded first: killed in between, the message comes back, and the flow decides again.
                await self._services.jobs.send(replace(self._job, prior_attempts=self._number), ending.again)
        except Exception as error:
            await self._fail(error)
            raise
        return run

    async def _perform(self) -> _Ending:
        """Run the flow, if it is still wanted."""
        job, services = self._job, self._services
        await self._wait_for_its_time()
        flow = self._registry.resolve(job.flow_name)
        self._names = flow.names
        tenant = await services.tenants.get(job.tenant_id)
        entry = _entry(tenant, flow, job.flow_name)
        if entry is None:
            return _Ending(Outcome.SKIPPED_DISABLED, "the tenant's document has no such flow")
        if not entry.enabled:
            return _Ending(Outcome.SKIPPED_DISABLED, "the flow is off: enabled is false in the tenant's document")
        ahead = self._scheduled_utc > self._message.inserted
        if ahead and job.rev and job.rev != rev(tenant, entry):
            return _Ending(
                Outcome.SKIPPED_RESCHEDULED, "the flow's cron or timezone was changed after this run was planned"
            )
        state = await services.runs.state(tenant.id, flow.names)
        # Not the time of a message that was posted by hand for some later time: nothing up to then would be read.
        end = max(self._message.inserted, min(self._scheduled_utc, self._received_utc))
        self._window = Window(start=state.window_end_utc, end=max(end, state.window_end_utc or end))
        self._log(logging.INFO, f"START {self._subject}")
        return await self._call(flow, tenant, entry, self._window)

    async def _wait_for_its_time(self) -> None:
        """Wait out the head start that a job which was planned ahead has."""
        early = self._scheduled_utc - self._received_utc
        if timedelta() < early <= _LONGEST_HEAD_START:
            await asyncio.sleep(early.total_seconds())
            self._received_utc += early
            self._received = _seconds()

    async def _call(self, flow: Flow, tenant: Tenant, entry: FlowConfig, window: Window) -> _Ending:
        """Call the flow's function. Whatever it raises leaves here without a secret in it."""
        kv = TenantSecretClient(tenant.id, self._services.vault, self._redact.add)
        run = FlowRun(
            run_id=self._run_id,
            tenant=tenant,
            flow_name=flow.name,
            settings=entry.settings,
            scheduled_utc=self._scheduled_utc,
            attempt=self._number,
            window=window,
            http=new_client(self._services.http_transport),
            log=log.RunLog(self._subject, self._fields, self._redact),
            counts=self._counts,
        )
        bound = asyncio.timeout(flow.timeout.total_seconds())
        try:
            async with bound:
                await (flow.function(tenant.id, kv, run) if flow.takes_run else flow.function(tenant.id, kv))
        except BaseException as error:
            outside = isinstance(error, asyncio.CancelledError) and _being_cancelled()
            if outside or isinstance(error, KeyboardInterrupt):
                raise
            match _signal(error):
                case RetryLater() as signal:
                    return _Ending(Outcome.DEFERRED, str(signal), signal.delay)
                case GiveUp() as signal:
                    return _Ending(Outcome.GAVE_UP, str(signal))
            if not bound.expired():
                raise FlowFailed(self._redact.one_line(error), self._redact.traceback(error)) from None
        if bound.expired():  # also where the flow did not let itself be cancelled
            raise FlowFailed(
                f"{self._subject} was cancelled after {flow.timeout}: do less in one run, or register the flow "
                "with a longer timeout="
            )
        return _Ending(Outcome.SUCCEEDED)

    async def _fail(self, error: Exception) -> None:
        last = self._message.dequeue_count >= self._services.settings.max_attempts
        why = str(error) if isinstance(error, FlowFailed) else self._redact.one_line(error)
        try:
            await self._end(_Ending(Outcome.DEAD if last else Outcome.FAILED, why), getattr(error, "traceback", ""))
        except Exception as trouble:  # noqa: BLE001 - what the host has to hear of is the failure itself
            self._log(logging.ERROR, f"FAIL {self._subject}: {why}", getattr(error, "traceback", ""))
            self._log(logging.ERROR, f"the failure of {self._subject} could not be recorded: {trouble}")

    async def _end(self, ending: _Ending, traceback: str = "") -> Run:
        """Record how the attempt ended, and say it."""
        outcome, seconds = ending.outcome, _seconds() - self._received
        run = Run(
            tenant_id=self._job.tenant_id,
            flow_name=self._names[0],
            run_id=self._run_id,
            attempt=self._number,
            outcome=outcome,
            scheduled_utc=self._scheduled_utc,
            started_utc=self._received_utc,
            finished_utc=self._received_utc + timedelta(seconds=seconds),
            error=ending.why and self._redact.line(ending.why),
            counts=dict(self._counts),
        )
        if self._window:
            await self._services.runs.finish(run, self._window.end, self._names)
        else:
            await self._services.runs.record(run)
        if outcome is Outcome.SUCCEEDED:
            self._log(logging.INFO, f"DONE {self._subject} in {seconds:.1f}s")
        elif outcome in (Outcome.FAILED, Outcome.DEAD):
            self._log(logging.ERROR, f"FAIL {self._subject} after {seconds:.1f}s ({outcome}): {run.error}", traceback)
        else:
            self._log(logging.WARNING, f"{outcome.upper()} {self._subject} after {seconds:.1f}s: {run.error}")
        return run

    @property
    def _subject(self) -> str:
        return f"{self._job.tenant_id}/{self._names[0]}"

    @property
    def _run_id(self) -> str:
        return self._job.run_id or ""

    @property
    def _scheduled_utc(self) -> datetime:
        return self._job.scheduled_utc or self._message.inserted

    @property
    def _fields(self) -> dict[str, object]:
        return {"run": self._run_id, "attempt": self._number}

    def _log(self, level: int, sentence: str, traceback: str = "") -> None:
        log.event(level, sentence, traceback=traceback, **self._fields)


def _entry(tenant: Tenant, flow: Flow, name: str) -> FlowConfig | None:
    """Find a flow's entry in a tenant's document: under the name in the job, else under any the flow goes by."""
    entries = {entry.name: entry for entry in tenant.flows}
    for candidate in (name, *flow.names):
        if candidate in entries:
            return entries[candidate]
    for problem in tenant.problems:
        if problem.flow in flow.names:
            raise TenantInvalid(str(problem))
    return None


def _signal(error: BaseException) -> FlowSignal | None:
    """Return the signal that an error is; of a task group that ended with nothing but signals, the strongest."""
    if not isinstance(error, ExceptionGroup):
        return error if isinstance(error, FlowSignal) else None
    signals = [signal for each in error.exceptions if (signal := _signal(each))]
    if len(signals) < len(error.exceptions):
        return None
    return max(signals, key=lambda signal: signal.delay if isinstance(signal, RetryLater) else timedelta.max)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _seconds() -> float:
    return asyncio.get_running_loop().time()
