"""Ticks, deliveries, edits and faults in any order that Hypothesis finds, on the real services.

After each step, the documents, the queues and the executions of the flows are compared with a model. At the end of each
history everything heals, and all messages are delivered. If a history fails, Hypothesis looks for a shorter one.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from itertools import count, product
from typing import Any, ClassVar

import httpx
import msgspec
import pytest
import pytest_asyncio
from azure.cosmos.exceptions import CosmosResourceNotFoundError
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from datasync import FlowRegistry, FlowRun, GiveUp, RetryLater, TenantSecretClient, clients
from datasync.errors import Continue
from datasync.flow import connections
from datasync.model.job import JobMessage, QueueMessage, Trigger, run_id
from datasync.model.run import Outcome
from datasync.model.times import utc_text
from datasync.run.bury import bury
from datasync.run.pipeline import run_message
from datasync.services import Services
from datasync.stores.claims import Claims
from datasync.tick.tick import tick
from tests.chaos.simulation import (
    Fault,
    FaultyTransport,
    Kind,
    Message,
    Process,
    Service,
    Simulation,
    VirtualClock,
    current_process,
)
from tests.documents import document, entry
from tests.world import World

STEPS = 50
"""The most steps of one history."""

HISTORIES = 6
"""Histories of the short form."""

LONG_HISTORIES = 40
"""Histories of the long form, for each unit of its scale."""

FEWEST_STEPS = 1000
"""The fewest steps of the long form that do something, for each unit of its scale."""

START = datetime(2025, 8, 23, 12, 0, 7, tzinfo=UTC)
PAST = ("2025-08-23T01:00:00Z", "2025-08-23T02:30:00Z")
EVERY = timedelta(minutes=5)
CRONS = ("0 0 * * * *", "0 */5 * * * *", "0 */20 * * * *")
FLOWS = ("orders", "stock")
"""The first sends one more run for those that it skipped; the second does not."""

PROVIDER = "shop"
"""The API that the flows call."""

CLOSED = timedelta(minutes=15)
"""The time for which it asks not to be called."""

DEFERRAL = timedelta(minutes=20)

LARGEST_SKEW = timedelta(seconds=15)
"""The clocks of two processes differ by up to this time."""


MOST_RECORDED = 20
"""The attempts that a record has at most."""

NEVER = datetime.min.replace(tzinfo=UTC)


def instant(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else NEVER


@dataclass(frozen=True, slots=True)
class Fate:
    """The behaviour of a flow in one attempt."""

    end: str
    held: str | None = None
    """Where it waits until it is released: `before` or `after` its effect."""
    checkpoint: bool = False
    closes: bool = False
    """Whether the provider asks not to be called for a time."""


class Rules(msgspec.Struct):
    """The settings of the flows."""

    limit: int = 1


@dataclass(slots=True, eq=False)
class Execution:
    """One execution of a flow."""

    flow: str
    run_id: str
    nonce: str
    """Identifies the attempt."""
    redrive: int
    process: Process
    start: datetime | None
    done: datetime | None = None
    """End of the window, as far as the execution has done it."""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """A run that waits, since its flow was deferred."""

    run_id: str
    until: datetime


@dataclass(slots=True)
class Entry:
    """A flow entry, and the decisions to run that its `nextRunUtc` stands for."""

    next_run: str | None
    own: str | None = None
    """The value that the app has written last."""
    moves: int = 0
    """How often the app has moved it."""
    asked: set[tuple[str, int]] = field(default_factory=set)
    """The times that a person has set, each with the number of moves before."""
    forced: set[tuple[str, int]] = field(default_factory=set)
    """Those of them that a tick has served."""
    scheduled: set[str] = field(default_factory=set)
    """The occurrences that a tick has served."""

    def set_by_person(self, value: str | None) -> None:
        if value != self.next_run and value not in (None, self.own):
            self.asked.add((value, self.moves))
        self.next_run = value

    def observe(self, value: str | None) -> None:
        """Note a value that only the app can have written."""
        if value == self.next_run:
            return
        if self.next_run is not None:
            if self.next_run == self.own:
                self.scheduled.add(self.next_run)
            else:
                self.forced.add((self.next_run, self.moves))
        self.moves += 1
        self.next_run = self.own = value


_DONE = ("succeeded", "continued")


def _last(record: dict[str, Any], outcome: str) -> datetime:
    """Return when the last attempt of a run with an outcome ended."""
    found = [instant(each["finishedUtc"]) for each in record["attempts"] if each["outcome"] == outcome]
    return max(found, default=NEVER)


def _follow_ups(record: dict[str, Any]) -> Iterator[str]:
    """Yield the ids of the runs that may follow a skipped run: one for each of its legs."""
    run = record["runId"]
    yield run_id("once more", run)
    for redrive, deferral in product(range(record.get("redrive", 0) + 1), range(record["attemptCount"] + 1)):
        yield run_id("once more", f"{run}~{redrive}.{deferral}")


def only_if(holds: Callable[[Any], object]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Do nothing in a rule unless a condition holds.

    A precondition would do for a history that is exactly repeatable, which the order of real requests is not.
    """

    def decorate(act: Callable[..., None]) -> Callable[..., None]:
        @wraps(act)
        def guarded(self: Any, **choices: Any) -> None:
            if holds(self):
                act(self, **choices)

        return guarded

    return decorate


class Machine(RuleBasedStateMachine):
    """The app, its users and the host. Each example has a tenant of its own."""

    world: World
    services: list[Services]
    """One for each of two hosts."""
    loop: asyncio.AbstractEventLoop
    present: "Machine"
    """The machine of the present example."""
    steps = 0
    executed = 0
    recorded = 0
    injected: ClassVar = Counter[str]()
    numbers = count(1)

    def __init__(self) -> None:
        super().__init__()
        self.tenant = f"tenant-{next(self.numbers)}"
        self.simulation = Simulation(START, self.world.settings.queue_name)
        self.registry = FlowRegistry()
        self.registry.flow("orders", settings=Rules, provider=PROVIDER)(self.flow)
        self.registry.flow("stock", overlap="skip", settings=Rules, provider=PROVIDER)(self.flow)
        self.entries = {name: Entry(PAST[0], asked={(PAST[0], 0)}) for name in FLOWS}
        self.executions: list[Execution] = []
        self.posted: list[str] = []
        """Run ids of the messages that were posted by hand."""
        self.violations: list[str] = []
        self.ticks: set[Process] = set()
        self.deleted: dict[str, Any] | None = None
        """The tenant document, while it is deleted."""
        self.closed: dict[Process, datetime] = {}
        """Until when the provider was closed as each delivery began."""
        type(self).present = self

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a step, and check its results."""
        self.loop.run_until_complete(work)
        self.loop.run_until_complete(self._check())
        type(self).steps += 1

    @initialize(lookahead=st.sampled_from([timedelta(), timedelta(minutes=10)]))
    def begin(self, lookahead: timedelta) -> None:
        for services in self.services:
            services.settings = replace(services.settings, lookahead=lookahead)
        entries = [entry(name, cron=CRONS[1], nextRunUtc=PAST[0]) for name in FLOWS]
        self.run(self.world.put(document(self.tenant, *entries)))

    # --- the flow

    async def flow(self, _tenant_id: str, _kv: TenantSecretClient, run: FlowRun) -> None:
        process = current_process()
        execution = await self.started(process, run)
        try:
            await self.behave(process, process.fate, execution, run)
        finally:
            execution.ended = True

    async def behave(self, process: Process, fate: Fate, execution: Execution, run: FlowRun) -> None:
        if fate.held == "before":
            await process.hold()
        await run.http.post("https://api.example/orders")
        if fate.checkpoint:
            run.cursor = len(self.executions)
            await run.checkpoint()
            self.acts(execution, "keeps a cursor")
        if fate.held == "after":
            await process.hold()
        if fate.end == "fails":
            raise ValueError("the source is broken")
        if fate.end == "defers":
            raise RetryLater(DEFERRAL)
        if fate.end == "gives up":
            raise GiveUp
        start, end = run.window.start, run.window.end
        if fate.end == "continues":
            raise Continue
        if fate.end == "continues halfway" and start:
            execution.done = start + (end - start) / 2
            raise Continue(execution.done)
        execution.done = end

    def effect(self) -> httpx.Response:
        """Answer a request of a flow."""
        process = current_process()
        execution = next(each for each in reversed(self.executions) if each.process is process)
        self.acts(execution, "sends a request")
        if not process.fate.closes:
            return httpx.Response(200)
        self.simulation.injected["the provider was closed"] += 1
        return httpx.Response(429, headers={"Retry-After": str(CLOSED.seconds)})

    def acts(self, execution: Execution, what: str) -> None:
        self.simulation.note(f"{execution.process}: run {execution.run_id} {what}")
        newest = [each for each in self.executions if each.flow == execution.flow][-1]
        if newest is not execution:
            self.violations.append(
                f"run {execution.run_id} {what} after run {newest.run_id} of {execution.flow} has started"
            )

    async def started(self, process: Process, run: FlowRun) -> Execution:
        state = await self.read(f"state-{run.flow_name}")
        record = await self.read(f"run-{run.run_id}")
        lease = (state or {}).get("lease") or {}
        if lease.get("message", {}).get("runId") != run.run_id:
            self.violations.append(f"run {run.run_id} starts without the lease: {lease}")
        if record and self.is_over(record) and lease["message"].get("redrive", 0) <= record.get("redrive", 0):
            self.violations.append(f"run {run.run_id} is executed again after it has {record['outcome']}")
        if not self.is_asked_for(lease.get("message", {})):
            pause = self.pause(run.flow_name, await self.stored_records())
            if pause and pause.run_id != run.run_id and pause.until > process.now:
                self.violations.append(f"run {run.run_id} of {run.flow_name} starts at {process.now} during {pause}")
        for other in self.executions:
            if other.flow == run.flow_name and not (other.ended or other.process.is_dead or other.process.is_frozen):
                self.violations.append(f"runs {other.run_id} and {run.run_id} of {run.flow_name} overlap")
        if run.window.end > max(process.now, run.window.start or process.now):
            self.violations.append(f"the window of run {run.run_id} ends in the future, at {run.window.end}")
        if self.closed.get(process, NEVER) > process.now:
            self.violations.append(f"run {run.run_id} starts at {process.now}, and the provider is closed")
        redrive = lease.get("message", {}).get("redrive", 0)
        execution = Execution(run.flow_name, run.run_id, lease.get("nonce", ""), redrive, process, run.window.start)
        self.executions.append(execution)
        self.simulation.note(f"{process}: run {run.run_id} of {run.flow_name} starts, {process.fate}")
        return execution

    def is_asked_for(self, job: dict[str, Any]) -> bool:
        """Return whether a person has asked for a run, and it was not deferred since."""
        return job.get("trigger", "schedule") != "schedule" and not job.get("deferral")

    def pause(self, flow: str, records: Iterable[dict[str, Any]]) -> Pause | None:
        """Return the run of a flow that was deferred last, unless it has gone on since, or another one has succeeded.

        Its deferral may be over.
        """
        ended = [found for found in self._attempts(flow, records) if found[1]["outcome"] in ("deferred", *_DONE)]
        if not ended:
            return None
        record, attempt = ended[-1]
        is_pending = attempt == record["attempts"][-1] and attempt["outcome"] == "deferred"
        return Pause(record["runId"], instant(record["next"][0]["visibleAt"])) if is_pending else None

    def _attempts(self, flow: str, records: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the attempts of a flow that had the lease, each with the record of its run, in their order."""
        found = [
            (record, attempt)
            for record in records
            if record["flowName"] == flow
            for attempt in record["attempts"]
            if attempt.get("token")
        ]
        return sorted(found, key=lambda each: each[1]["token"])

    async def stored_records(self) -> list[dict[str, Any]]:
        query = "SELECT * FROM c WHERE c.type = 'Run'"
        return [dict(each) async for each in self.world.runs.query_items(query, partition_key=self.tenant)]

    def is_over(self, record: dict[str, Any]) -> bool:
        """Return whether a run has ended. One that was skipped may still run."""
        outcome = Outcome(record["outcome"])
        return outcome.is_final and outcome not in (Outcome.SKIPPED_DISABLED, Outcome.SKIPPED_RESCHEDULED)

    async def read(self, document_id: str) -> dict[str, Any] | None:
        try:
            return dict(await self.world.runs.read_item(document_id, partition_key=self.tenant))
        except CosmosResourceNotFoundError:
            return None

    # --- strategies

    skews = st.sampled_from([timedelta(), LARGEST_SKEW / 3, LARGEST_SKEW])
    hosts = st.sampled_from([0, 1])
    numbers_of_choice = st.integers(0, 7)
    faults = st.none() | st.builds(Fault, st.sampled_from([*Kind, Kind.FREEZE_AFTER]), st.integers(1, 9))
    fates = st.builds(
        Fate,
        end=st.sampled_from(["succeeds", "succeeds", "fails", "defers", "continues", "continues halfway", "gives up"]),
        held=st.sampled_from([None, None, "before", "after"]),
        checkpoint=st.booleans(),
        closes=st.sampled_from([False] * 7 + [True]),
    )
    events = st.lists(
        st.sampled_from(["the same message again", "a delivery", "a tick", "a kill"]), min_size=1, max_size=4
    )
    flows = st.sampled_from(FLOWS)

    # --- time, ticks and people

    @rule(seconds=st.sampled_from([1, 20, 70, 200, 400, 700, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.run(self.simulation.pass_time(timedelta(seconds=seconds)))

    @rule(host=hosts, skew=skews, fault=faults)
    def a_tick(self, host: int, skew: timedelta, fault: Fault | None) -> None:
        self.run(self._ticks([(host, skew, fault)]))

    @rule(skews=st.tuples(skews, skews), fault=faults)
    def two_ticks_at_once(self, skews: tuple[timedelta, timedelta], fault: Fault | None) -> None:
        self.run(self._ticks([(0, skews[0], fault), (1, skews[1], None)]))

    async def _ticks(self, ticks: list[tuple[int, timedelta, Fault | None]]) -> None:
        for host, skew, fault in ticks:
            process = Process(self.simulation, skew, fault)
            self.ticks.add(process)
            self.simulation.start(process, tick(self._services(host), self.registry))
        await self.simulation.settle()

    def _services(self, host: int) -> Services:
        """Return the services of a process. It has the clients of a host, and its own claims.

        Otherwise, processes would share a request for a claim, and wait until a frozen process gets the answer.
        """
        own = copy(self.services[host])
        own.claims = Claims(own.fleet, own.tenants, own.clock.sleep)
        return own

    @rule()
    def a_person_edits_another_field(self) -> None:
        def rename(tenant: dict[str, Any]) -> None:
            tenant["name"] = f"Acme {type(self).steps}"

        self.run(self._edit(rename))

    @rule(flow=flows, value=st.sampled_from([PAST[0], PAST[0], PAST[1], None, "ahead"]))
    def a_person_sets_the_next_run(self, flow: str, value: str | None) -> None:
        if value == "ahead":
            value = utc_text(self.simulation.time + timedelta(minutes=7))

        def set_next(tenant: dict[str, Any]) -> None:
            self._entry(tenant, flow)["nextRunUtc"] = value

        self.entries[flow].set_by_person(value)
        self.run(self._edit(set_next))

    @rule(flow=flows)
    def a_person_switches_a_flow(self, flow: str) -> None:
        def switch(tenant: dict[str, Any]) -> None:
            found = self._entry(tenant, flow)
            found["enabled"] = not found["enabled"]

        self.run(self._edit(switch))

    @rule(flow=flows, cron=st.sampled_from(CRONS))
    def a_person_changes_a_schedule(self, flow: str, cron: str) -> None:
        def change(tenant: dict[str, Any]) -> None:
            self._entry(tenant, flow)["cron"] = cron

        self.run(self._edit(change))

    @rule(how=st.sampled_from(["deleted", "invalid"]), events=events, number=numbers_of_choice, host=hosts, fate=fates)
    @only_if(lambda self: self.simulation.away is None)
    def a_tenant_is_broken_for_a_while(
        self, *, how: str, events: list[str], number: int, host: int, fate: Fate
    ) -> None:
        self.simulation.injected[f"the tenant was {how} for a while"] += 1
        self.run(self._hold(self.chosen([*FLOWS], number), host))
        self.run(self._break_tenant(how, self._events(events, number, host, fate)))

    async def _hold(self, flow: str, host: int) -> None:
        """Post a message, and deliver it to a process in which the flow waits, unless a process waits already."""
        if not self.held():
            self._post(flow)
            process = Process(self.simulation, timedelta(), None, Fate("succeeds", held="before"))
            await self._deliver_message(self.simulation.messages[-1], host, process)

    async def _break_tenant(self, how: str, events: Coroutine[Any, Any, None]) -> None:
        self.simulation.note(f"the tenant's document is {how}")
        tenant = await self.world.document(self.tenant)
        if how == "deleted":
            self.deleted = tenant
            await self.world.tenants.delete_item(self.tenant, partition_key=self.tenant)
            await events
            self.deleted = None
            await self.world.put(tenant)
        else:
            await self._edit(lambda tenant: tenant.update(timezone=5))
            await events
            await self._edit(lambda changed: changed.update(timezone=tenant["timezone"]))
        self.simulation.note("the tenant's document is as before")

    @rule(flow=flows, events=events, number=numbers_of_choice, host=hosts, fate=fates)
    @only_if(lambda self: self.simulation.away is None)
    def settings_do_not_fit_for_a_while(
        self, *, flow: str, events: list[str], number: int, host: int, fate: Fate
    ) -> None:
        self.simulation.injected["settings did not fit for a while"] += 1
        self.run(self._hold(flow, host))
        self.run(self._break_settings(flow, self._events(events, number, host, fate)))

    async def _break_settings(self, flow: str, events: Coroutine[Any, Any, None]) -> None:
        self.simulation.note(f"the settings of {flow} do not fit")
        await self._edit(lambda tenant: self._entry(tenant, flow).update(settings={"limit": "many"}))
        await events
        await self._edit(lambda tenant: self._entry(tenant, flow).update(settings={}))
        self.simulation.note(f"the settings of {flow} fit")

    async def _events(self, events: list[str], number: int, host: int, fate: Fate) -> None:
        """Let something happen while a document is not in order."""
        for event in events:
            process = Process(self.simulation, timedelta(), None, fate)
            if event == "a tick":
                await self._ticks([(host, timedelta(), None)])
            elif event == "a delivery" and self.simulation.messages:
                await self._deliver(number, host, process)
            elif event == "the same message again" and self.with_message():
                await self._deliver_again(self.chosen(self.with_message(), number), host, process)
            elif event == "a kill" and self.held():
                await self.simulation.kill(self.chosen(self.held(), number))
            await self._check()

    async def _edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        tenant = await self.world.document(self.tenant)
        change(tenant)
        await self.world.tenants.replace_item(self.tenant, tenant)

    def _entry(self, tenant: dict[str, Any], flow: str) -> dict[str, Any]:
        return next(each for each in tenant["flows"] if each["name"] == flow)

    @rule(flow=flows)
    def a_person_posts_a_message(self, flow: str) -> None:
        self._post(flow)

    def dead(self) -> list[dict[str, Any]]:
        return [each for each in self._records().values() if each["outcome"] in ("dead", "gave_up")]

    @rule(number=numbers_of_choice)
    @only_if(lambda self: self.dead())
    def a_person_starts_a_dead_run_again(self, number: int) -> None:
        record = self.chosen(self.dead(), number)
        message = JobMessage(
            tenant_id=self.tenant,
            flow_name=record["flowName"],
            scheduled_utc=instant(record["scheduledUtc"]),
            run_id=record["runId"],
            redrive=record.get("redrive", 0) + 1,
            part=record.get("part", 1),
        )
        self.simulation.post(message.encode().encode())

    # --- the host

    @rule(number=numbers_of_choice, host=hosts, skew=skews, fault=faults, fate=fates)
    @only_if(lambda self: self.simulation.messages and self.simulation.away is not Service.QUEUE)
    def a_delivery(self, number: int, host: int, skew: timedelta, fault: Fault | None, fate: Fate) -> None:
        process = Process(self.simulation, skew, fault, fate)
        self.run(self._deliver(number, host, process))
        if process.task is None:  # no message was visible
            type(self).steps -= 1

    async def _deliver(self, number: int, host: int, process: Process) -> None:
        upcoming = self.simulation.next_visible()
        if upcoming and upcoming > self.simulation.time:
            await self.simulation.pass_time(min(upcoming - self.simulation.time, timedelta(minutes=15)))
        if visible := self.simulation.visible():
            await self._deliver_message(self.chosen(visible, number), host, process)

    async def _deliver_message(self, message: Message, host: int, process: Process) -> None:
        services = self._services(host)
        self.closed[process] = await self._closed_until()

        def invoke(delivered: QueueMessage) -> Any:
            return (bury if message.poison else run_message)(services, self.registry, delivered)

        await self.simulation.deliver(message, process, invoke)

    async def _closed_until(self) -> datetime:
        return instant((await self.read(f"cooldown-{PROVIDER}") or {}).get("untilUtc"))

    def repeatable(self) -> list[Message]:
        """Return the messages whose copies are messages of the same run."""
        return [each for each in self.simulation.messages if b"runId" in each.body]

    @rule(number=numbers_of_choice)
    @only_if(lambda self: self.repeatable())
    def a_message_is_duplicated(self, number: int) -> None:
        type(self).steps += 1
        message = self.chosen(self.repeatable(), number)
        self.simulation.post(message.body, poison=message.poison)

    @rule(number=numbers_of_choice, host=hosts, skew=skews, fate=fates)
    @only_if(lambda self: self.simulation.sent and self.simulation.away is None)
    def a_duplicate_meets_a_lagging_replica(self, number: int, host: int, skew: timedelta, fate: Fate) -> None:
        _, body = self.chosen(self.simulation.sent[-8:], number)
        self.simulation.post(body)
        process = Process(self.simulation, skew, Fault(Kind.STALE, 1), fate)
        self.run(self._deliver(len(self.simulation.visible()) - 1, host, process))

    def with_message(self) -> list[Process]:
        """Return the processes whose flows wait, and whose messages were not delivered to others since."""
        return [each for each in self.held() if each.has_message]

    @rule(number=numbers_of_choice, host=hosts, skew=skews, fault=faults, fate=fates)
    @only_if(lambda self: self.with_message() and self.simulation.away is not Service.QUEUE)
    def a_message_is_delivered_again_while_it_runs(
        self, *, number: int, host: int, skew: timedelta, fault: Fault | None, fate: Fate
    ) -> None:
        self.simulation.injected["a message was delivered again while it ran"] += 1
        process = Process(self.simulation, skew, fault, fate)
        self.run(self._deliver_again(self.chosen(self.with_message(), number), host, process))

    async def _deliver_again(self, running: Process, host: int, process: Process) -> None:
        assert running.message
        await self._deliver_message(running.message, host, process)

    # --- the provider

    @rule(flow=flows, host=hosts, skew=skews, fates=st.lists(fates, min_size=1, max_size=3))
    @only_if(lambda self: self.simulation.away is None)
    def the_schedule_goes_on_while_the_provider_is_closed(
        self, *, flow: str, host: int, skew: timedelta, fates: list[Fate]
    ) -> None:
        fates = [Fate("succeeds", closes=True), *fates]
        self.run(self._go_on(flow, host, [Process(self.simulation, skew, None, fate) for fate in fates]))

    @rule()
    @only_if(lambda self: f"cooldown-{PROVIDER}" in self.simulation.versions)
    def a_person_opens_the_provider(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        self.closed.clear()
        self.simulation.versions.pop(f"cooldown-{PROVIDER}")
        await self.world.runs.delete_item(f"cooldown-{PROVIDER}", partition_key=self.tenant)

    # --- deferred runs

    def pauses(self) -> dict[str, Pause]:
        """Return the deferred runs whose time has not come, by flow."""
        records = self._records().values()
        found = {flow: pause for flow in FLOWS if (pause := self.pause(flow, records))}
        return {flow: pause for flow, pause in found.items() if pause.until > self.simulation.time}

    @rule(flow=flows, host=hosts, skew=skews, fault=faults, fates=st.lists(fates, min_size=1, max_size=3))
    @only_if(lambda self: self.simulation.away is None)
    def the_schedule_goes_on_during_a_deferral(
        self, *, flow: str, host: int, skew: timedelta, fault: Fault | None, fates: list[Fate]
    ) -> None:
        first = [] if flow in self.pauses() else [Fate("defers")]
        processes = [Process(self.simulation, skew, None, fate) for fate in (*first, *fates)]
        processes[-1].fault = fault
        self.run(self._go_on(flow, host, processes))

    async def _go_on(self, flow: str, host: int, processes: list[Process]) -> None:
        """Let the schedule send one occurrence of a flow after another, and deliver each to a process."""
        for process in processes:
            await self.simulation.pass_time(EVERY)
            await self._ticks([(host, process.skew, None)])
            await self._check()
            if message := next(self._visible(flow, Trigger.SCHEDULE), None):
                await self._deliver_message(message, host, process)
            await self._check()

    def _visible(self, flow: str, trigger: Trigger) -> Iterator[Message]:
        for message in self.simulation.visible():
            job = msgspec.json.decode(message.body, type=JobMessage)
            if (job.flow_name, job.trigger, message.poison) == (flow, trigger, False):
                yield message

    @rule(number=numbers_of_choice, host=hosts, skew=skews, fault=faults, fate=fates)
    @only_if(lambda self: self.pauses() and self.simulation.away is None)
    def a_person_forces_a_run_during_a_deferral(
        self, number: int, host: int, skew: timedelta, fault: Fault | None, fate: Fate
    ) -> None:
        flow = self.chosen([*self.pauses()], number)
        self.entries[flow].set_by_person(PAST[0])
        self.run(self._force(flow, host, Process(self.simulation, skew, fault, fate)))

    async def _force(self, flow: str, host: int, process: Process) -> None:
        await self._edit(lambda tenant: self._entry(tenant, flow).update(nextRunUtc=PAST[0]))
        await self._ticks([(host, process.skew, None)])
        if message := next(self._visible(flow, Trigger.FORCED), None):
            await self._deliver_message(message, host, process)

    @rule(number=numbers_of_choice, host=hosts, skew=skews, fate=fates)
    @only_if(lambda self: self.pauses() and self.simulation.away is None)
    def a_person_posts_a_message_during_a_deferral(self, number: int, host: int, skew: timedelta, fate: Fate) -> None:
        flow = self.chosen([*self.pauses()], number)
        self._post(flow)
        self.run(self._deliver_posted(flow, host, Process(self.simulation, skew, None, fate)))

    async def _deliver_posted(self, flow: str, host: int, process: Process) -> None:
        """Deliver the message that was posted last. Its run must start, unless something else than a pause forbids it.

        A tenant has a limited number of runs in one process, and the simulated hosts freeze many of them.
        """
        is_enabled = self._entry(await self.world.document(self.tenant), flow)["enabled"]
        state, services = await self.read(f"state-{flow}") or {}, self.services[host]
        is_free = services.running[self.tenant] < services.settings.concurrency_per_tenant
        is_open = await self._closed_until() <= process.now
        before = len(self.executions)
        await self._deliver_message(self.simulation.messages[-1], host, process)
        may_start = is_enabled and is_free and is_open and not state.get("lease")
        if may_start and len(self.executions) == before:
            self.violations.append(f"the posted run {self.posted[-1]} of {flow} did not start during a deferral")

    # --- processes

    def held(self) -> list[Process]:
        return [each for each in self.simulation.processes if each.is_held and not each.is_frozen]

    def frozen(self) -> list[Process]:
        return [each for each in self.simulation.processes if each.is_frozen]

    def chosen[T](self, options: list[T], number: int) -> T:
        return options[number % len(options)]

    @rule(number=numbers_of_choice)
    @only_if(lambda self: self.held())
    def a_run_goes_on(self, number: int) -> None:
        self.run(self.simulation.release(self.chosen(self.held(), number)))

    @rule(number=numbers_of_choice)
    @only_if(lambda self: self.held())
    def a_run_freezes(self, number: int) -> None:
        type(self).steps += 1
        self.simulation.injected["frozen while its flow runs"] += 1
        self.chosen(self.held(), number).freeze()

    @rule(number=numbers_of_choice)
    @only_if(lambda self: self.simulation.processes)
    def a_process_is_killed(self, number: int) -> None:
        self.run(self.simulation.kill(self.chosen(self.simulation.processes, number)))

    @rule(number=numbers_of_choice, goes_on=st.booleans())
    @only_if(lambda self: self.frozen())
    def a_process_thaws(self, number: int, *, goes_on: bool) -> None:
        self.run(self._thaw(self.chosen(self.frozen(), number), goes_on=goes_on))

    async def _thaw(self, process: Process, *, goes_on: bool) -> None:
        if goes_on:
            process.released.set()
        await self.simulation.thaw(process)

    @rule(service=st.sampled_from(Service), hidden=st.sampled_from([30, 240, 600]))
    def a_service_is_away_or_back(self, service: Service, hidden: int) -> None:
        type(self).steps += 1
        self.simulation.away = None if self.simulation.away else service
        self.simulation.hiding = timedelta(seconds=hidden)

    # --- invariants

    async def _check(self) -> None:
        tenant = self.deleted or await self.world.document(self.tenant)
        for found in tenant["flows"]:
            self.entries[found["name"]].observe(found["nextRunUtc"])
        async for found in self.world.runs.query_items("SELECT * FROM c", partition_key=self.tenant):
            versions = self.simulation.versions.setdefault(found["id"], [])
            if not versions or versions[-1]["_etag"] != found["_etag"]:
                if versions:
                    self._check_change(versions[-1], found)
                versions.append(dict(found))
        for flow in FLOWS:
            self.violations += self._several_waiting(flow)
        self.violations += self._ended_too_early()
        self.violations += [repr(each) for each in self.simulation.unexpected]
        self.violations += [f"lost: {body!r}" for body in self.simulation.lost]
        if self.violations:
            self._fail(self.violations)

    def _fail(self, violations: list[str]) -> None:
        if violations:
            raise AssertionError("\n".join([*self.simulation.story, *violations]))

    def _several_waiting(self, flow: str) -> Iterator[str]:
        """Yield the runs that the schedule has sent and that are all deferred, with no run of a person among them.

        The time of the first of them may have come by the clock of the process that runs the second one.
        """
        jobs = [msgspec.json.decode(each.body, type=JobMessage) for each in self.simulation.messages]
        on_queue = {job.run_id for job in jobs if job.deferral}
        waiting: list[Pause] = []
        for record, attempt in self._attempts(flow, self._records().values()):
            if record.get("trigger", "schedule") != "schedule":
                waiting.clear()
            elif attempt == record["attempts"][-1] and attempt["outcome"] == "deferred":
                pause = Pause(record["runId"], instant(record["next"][0]["visibleAt"]))
                if pause.run_id in on_queue and pause.until > self.simulation.time + LARGEST_SKEW:
                    waiting.append(pause)
        if len(waiting) > 1:
            yield f"{len(waiting)} runs of {flow} wait: {waiting}"

    def _ended_too_early(self) -> Iterator[str]:
        """Yield the runs that have ended, although one of their executions goes on or is not on record."""
        records = self._records()
        for execution in self.executions:
            record = records.get(execution.run_id)
            if not record or not self.is_over(record) or record.get("redrive", 0) < execution.redrive:
                continue
            recorded = {attempt["id"] for attempt in record["attempts"]}
            if execution.nonce not in recorded and record["attemptCount"] <= MOST_RECORDED:
                yield f"run {execution.run_id} has {record['outcome']}, and an execution is not on record: {record}"

    def _check_change(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        name = new["id"]
        if new["type"] == "FlowState":
            if new.get("token", 0) < old.get("token", 0):
                self.violations.append(f"the token of {name} went from {old['token']} to {new['token']}")
            if instant(new.get("windowEndUtc")) < instant(old.get("windowEndUtc")):
                self.violations.append(f"the window of {name} moved back")
        else:
            before, after = old.get("attempts", []), new.get("attempts", [])
            if new.get("attemptCount", 0) <= MOST_RECORDED and after[: len(before)] != before:
                self.violations.append(f"{name} lost attempts: {before} became {after}")
            if old.get("outcome") == "succeeded" != new.get("outcome"):
                self.violations.append(f"{name} succeeded, and has {new['outcome']} now")

    # --- the end

    def teardown(self) -> None:
        try:
            if not self.violations:
                self.loop.run_until_complete(self._drain())
                self.loop.run_until_complete(self._check())
                self._fail([*self._final_violations()])
        finally:
            type(self).executed += len(self.executions)
            type(self).recorded += len(self._records())
            self.injected.update(self.simulation.injected)
            self.loop.run_until_complete(self._clean())

    async def _drain(self) -> None:
        """Heal everything, run each flow once more, and deliver until all queues are empty."""
        simulation = self.simulation
        simulation.away = None
        while simulation.processes:
            await self._thaw(simulation.processes[0], goes_on=True)
            await self._check()
        await self._edit(lambda tenant: [each.update(enabled=True) for each in tenant["flows"]])
        await self._ticks([(0, timedelta(), None)])
        await self._check()
        await self._deliver_all()
        records = [each for each in self._records().values() if each["flowName"] == "orders"]
        success = max((_last(each, "succeeded") for each in records), default=NEVER)
        self.violations += [skip for at, skip in self._not_followed() if success > at + LARGEST_SKEW]
        self.violations += self._left_wanted()
        for flow in FLOWS:  # an attempt that nobody has missed yet is missed by the next run
            self._post(flow)
            await self._deliver_all()

    def _left_wanted(self) -> Iterator[str]:
        """Yield the runs that states still want, although no message is left whose run will send them."""
        for flow in FLOWS:
            if wanted := self.simulation.versions.get(f"state-{flow}", [{}])[-1].get("wanted"):
                yield f"run {wanted['runId']} of {flow} is wanted, and nobody sends it"

    async def _deliver_all(self) -> None:
        simulation = self.simulation
        for _ in range(300):
            if not simulation.messages:
                return
            await self._deliver(0, 0, Process(simulation, timedelta(), None, Fate("succeeds")))
            await self._check()
        raise AssertionError(f"the queues never become empty: {simulation.messages}")

    def _post(self, flow: str) -> None:
        self.simulation.post(JobMessage(tenant_id=self.tenant, flow_name=flow).encode().encode())
        self.posted.append(run_id(self.simulation.messages[-1].id))

    def _records(self) -> dict[str, dict[str, Any]]:
        return {each[-1]["runId"]: each[-1] for each in self.simulation.versions.values() if each[-1]["type"] == "Run"}

    def _final_violations(self) -> Iterator[str]:
        records = self._records()
        yield from self._decisions()
        yield from (skip for _, skip in self._not_followed())
        for run in {*self._run_ids(), *self.posted}:
            if run not in records or not Outcome(records[run]["outcome"]).is_final:
                yield f"run {run} has no terminal record: {records.get(run)}"
        attempts = {attempt["id"]: attempt["outcome"] for each in records.values() for attempt in each["attempts"]}
        for execution in self.executions:
            record = records[execution.run_id]
            if execution.nonce not in attempts and record["attemptCount"] <= MOST_RECORDED:
                yield f"an execution of run {execution.run_id} is not recorded: {record}"
        for flow in FLOWS:
            yield from self._state(flow, [each for each in records.values() if each["flowName"] == flow])

    def _run_ids(self) -> Iterator[str]:
        for _, body in self.simulation.sent:
            yield msgspec.json.decode(body, type=JobMessage).run_id or "?"

    def _decisions(self) -> Iterator[str]:
        planned: dict[tuple[str, Trigger | None, str], set[str]] = {}
        for process, body in self.simulation.sent:
            if process in self.ticks:
                job = msgspec.json.decode(body, type=JobMessage)
                assert job.scheduled_utc
                key = (job.flow_name, job.trigger, utc_text(job.scheduled_utc))
                planned.setdefault(key, set()).add(job.run_id or "?")
        for flow, known in self.entries.items():
            for at in known.scheduled:
                if not planned.get((flow, Trigger.SCHEDULE, at)):
                    yield f"occurrence {at} of {flow} has no run"
            for value in {value for value, _ in known.asked}:
                asked, served = (
                    len([1 for each, _ in found if each == value]) for found in (known.asked, known.forced)
                )
                # A time that no tick has passed yet is an occurrence of the schedule.
                runs = {run for trigger in Trigger for run in planned.get((flow, trigger, value), ())}
                if not served <= len(runs) <= asked:
                    yield f"{value} of {flow} was set {asked} times and served {served} times, and has the runs {runs}"
        for (flow, trigger, at), runs in planned.items():
            if trigger is Trigger.SCHEDULE and len(runs) > 1:
                yield f"occurrence {at} of {flow} has {len(runs)} runs: {runs}"

    def _state(self, flow: str, records: list[dict[str, Any]]) -> Iterator[str]:
        state = self.simulation.versions.get(f"state-{flow}", [{}])[-1]
        if state.get("lease") or state.get("wanted"):
            yield f"the state of {flow} is not at rest: {state}"
        attempts = sorted(
            ((each["token"], each) for record in records for each in record["attempts"] if each.get("token")),
            key=lambda each: each[0],
        )
        if len({token for token, _ in attempts}) < len(attempts):
            yield f"two attempts of {flow} have the same token"
        executions = {each.nonce: each for each in self.executions}
        end, failures, last_success = None, 0, None
        for _, attempt in attempts:
            execution, outcome = executions.get(attempt["id"]), attempt["outcome"]
            if outcome in ("succeeded", "continued"):
                assert execution
                if execution.start != end:
                    yield f"run {execution.run_id} of {flow} starts its window at {execution.start}, not at {end}"
                end = max(filter(None, (end, execution.done)), default=None)
                failures = 0
            failures += outcome in ("failed", "dead", "gave_up")
            if outcome == "succeeded":
                last_success = attempt["finishedUtc"]
        without_lease = [
            each
            for record in records
            for each in record["attempts"]
            if not each.get("token") and each["outcome"] in ("failed", "dead")
        ]
        stored = state.get("windowEndUtc")
        if (stored and datetime.fromisoformat(stored)) != end:
            yield f"the state of {flow} has the window end {stored}, and the runs have {end}"
        counted = state.get("consecutiveFailures", 0)
        if not without_lease and counted != failures:
            yield f"the state of {flow} counts {counted} failures in a row, and the records have {failures}"
        if state.get("lastSuccessUtc") != last_success:
            yield f"the last success of {flow} is {last_success}, and the state has {state.get('lastSuccessUtc')}"

    def _not_followed(self) -> Iterator[tuple[datetime, str]]:
        """Yield the skipped runs of `orders` for which no further run was sent, with their times.

        The run that is sent for the last of several skipped ones follows all of them.
        """
        records = [each for each in self._records().values() if each["flowName"] == "orders"]
        sent = {*self._run_ids()}
        skips = [(_last(each, "skipped_overlap"), each) for each in records]
        followed = max((at for at, record in skips if sent & {*_follow_ups(record)}), default=NEVER)
        for at, record in skips:
            if at > followed + LARGEST_SKEW:
                yield at, f"run {record['runId']} of orders was skipped at {at}, and no run was sent for it"

    async def _clean(self) -> None:
        for process in [*self.simulation.processes]:
            await self.simulation.kill(process)
        if self.deleted is None:
            await self.world.tenants.delete_item(self.tenant, partition_key=self.tenant)
        for partition in (self.tenant, "@fleet"):
            found = [each async for each in self.world.runs.query_items("SELECT c.id FROM c", partition_key=partition)]
            for each in found:
                await self.world.runs.delete_item(each["id"], partition_key=partition)


@pytest_asyncio.fixture
async def machine(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the class of the machine, connected to the services."""

    class Connected(Machine):
        pass

    async def effect(_request: httpx.Request) -> httpx.Response:
        return Connected.present.effect()

    monkeypatch.setattr(clients, "new_transport", FaultyTransport)
    monkeypatch.setattr(connections, "AiohttpTransport", lambda **_: httpx.MockTransport(effect))
    hosts = [Services(world.settings, VirtualClock()) for _ in range(2)]
    for services in hosts:
        await services.tenants.ping()
        await services.runs.ping()
        await services.jobs.ping()
        of_all_processes = (services.poison, services.fleet, services.vault, services.watchdog, services.http_transport)
        assert all(each is not None for each in of_all_processes)

    Connected.world, Connected.services, Connected.loop = world, hosts, asyncio.get_running_loop()
    yield Connected
    for services in hosts:
        await services.close()


def test_any_history_fits_the_model(
    machine: type[Machine], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each decision to run has one run, each run one record, and no two executions of a flow overlap."""
    scale = request.config.getoption("--chaos-scale")
    profile = settings(
        max_examples=HISTORIES if scale == 1 else LONG_HISTORIES * scale,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=scale == 1,
        suppress_health_check=[*HealthCheck],
        phases=[Phase.generate] if scale == 1 else [Phase.generate, Phase.shrink],  # shrinking takes minutes
    )
    chosen = machine if scale == 1 else seed(request.config.getoption("--chaos-seed"))(machine)
    try:
        run_state_machine_as_test(chosen, settings=profile)
    finally:
        with capsys.disabled():
            sys.stdout.write(f"\n{machine.steps} steps\n")
        sys.stdout.write(f"injected: {', '.join(f'{kind} {n}' for kind, n in sorted(machine.injected.items()))}\n")
        sys.stdout.write(f"found: steps {machine.steps}, executions {machine.executed}, runs {machine.recorded}\n")
    assert scale == 1 or machine.steps >= FEWEST_STEPS * scale
