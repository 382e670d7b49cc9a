"""One chaos test: the app behind faulty proxies, its tenants, and the evidence."""

import asyncio
import json
import os
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosAccessConditionFailedError
from azure.storage.queue.aio import QueueClient

from tests.chaos.evidence import Execution, Flow, Occurrence, Run, Verdict, executions_of, judge, runs_of
from tests.chaos.hosts import Host, supervised
from tests.chaos.proxies import Fault, Kind, Proxy
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World

DUE = "2025-08-23T01:00:00Z"
YEARLY = "0 0 0 1 1 *"
"""The cron of the entries, and of the timer: due once in a test, unless the test says otherwise."""

NO_RUNS = {"AzureWebJobs.run_flow.Disabled": "true"}
"""The app setting of a host that ticks, and leaves the messages to others."""

QUEUES = "AzureFunctionsJobHost__extensions__queues__"
"""The start of the app settings that replace `extensions.queues` of host.json."""

MOST_DELIVERIES = f"{QUEUES}maxDequeueCount"
"""The app setting for the number of deliveries, after which the host moves a message to the poison queue."""

HIDING = 2
"""The time in seconds for which a message of a killed process stays hidden."""

_PAUSE = 0.25  # seconds between two looks at the queues and states, which take CPU time from the app


@dataclass(eq=False, kw_only=True, repr=False)
class Arena:
    """The app of one test, everything around it, and the numbers of faults."""

    world: World
    app: Path
    effects: Path
    """The log of effects."""
    environ: Mapping[str, str]
    """The settings of the app, with the addresses of the proxies."""
    random: Random
    scale: int
    """The factor by which the numbers of the test are multiplied."""
    cosmos: Proxy
    queue: Proxy
    vault: Proxy
    set_secret: Callable[[str, str], None]
    actions: Counter[str] = field(default_factory=Counter)
    """The faults that the test itself has caused."""
    deaths: dict[int, float] = field(default_factory=dict)
    frozen: dict[int, float] = field(default_factory=dict)
    """The time (monotonic) at which a process was frozen, by its id."""
    expected: set[Occurrence] = field(default_factory=set)
    hosts: list[Host] = field(default_factory=list)
    functions: list[dict[str, Any]] = field(default_factory=list)
    """The functions of the app, as a host lists them."""

    def host(self, settings: Mapping[str, str] | None = None, *, clock: float = 0) -> AbstractAsyncContextManager[Host]:
        """Run the app in a host of its own, until the block ends. `clock` is the offset of its clock in seconds."""
        environ = {**self.environ, "CHAOS_CLOCK": str(clock), **(settings or {})}
        made = Host(self.app, environ, self.actions, self.deaths, patience=30 * self.scale)
        self.hosts.append(made)
        return supervised(made)

    async def seed(
        self,
        count: int,
        *flows: str,
        prefix: str = "tenant",
        schedule: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Store tenants, each with these flows and settings. They are due once, or have another `schedule`.

        Returns the ids of the tenants.
        """
        tenants = [f"{prefix}-{number}" for number in range(count)]
        times = schedule or {"cron": YEARLY, "nextRunUtc": DUE}
        entries = [entry(name, settings=settings, **times) for name in flows]
        for tenant in tenants:
            self.set_secret(f"tenants--{tenant}--api--token", "a secret of the test")
        for start in range(0, count, 40):
            await asyncio.gather(
                *[self.world.put(document(tenant, *entries)) for tenant in tenants[start : start + 40]]
            )
        if not schedule:
            due = datetime.fromisoformat(DUE)
            self.expected |= {(tenant, name, due) for tenant in tenants for name in flows}
        return tenants

    async def enqueue(self) -> None:
        """Run one tick in a host that does not run flows."""
        async with self.host(NO_RUNS) as host:
            await host.tick_to_its_end()

    async def is_scheduled(self) -> bool:
        """Return whether no entry is due any more."""
        query = "SELECT f.nextRunUtc FROM c JOIN f IN c.flows"
        return all([item["nextRunUtc"] > DUE async for item in self.world.tenants.query_items(query)])

    async def change_settings(self, tenants: Sequence[str], **settings: Any) -> None:
        """Change the settings of all entries of tenants."""
        for tenant in tenants:
            found = await self.world.document(tenant)
            for each in found["flows"]:
                each["settings"] = settings
            await self.world.put(found)

    @asynccontextmanager
    async def editing(self, tenants: Sequence[str]) -> AsyncGenerator[None]:
        """Save documents again and again during the block, as people do to change another field."""

        async def edit() -> None:
            while True:
                found = await self.world.document(self.random.choice(tenants))
                found["note"] = self.random.random()
                with suppress(CosmosAccessConditionFailedError):
                    await self.world.tenants.replace_item(
                        found["id"], found, etag=found["_etag"], match_condition=MatchConditions.IfNotModified
                    )
                    self.actions["edits"] += 1

        editor = asyncio.create_task(edit())
        try:
            yield
        finally:
            editor.cancel()
            with suppress(asyncio.CancelledError):
                await editor

    async def send(self, body: str) -> None:
        """Put a message on the job queue."""
        async with QueueClient.from_connection_string(
            self.world.environ["AzureWebJobsStorage"], self.world.settings.queue_name
        ) as queue:
            await queue.send_message(b64encode(body.encode()).decode(), time_to_live=-1)

    def executions(self) -> list[Execution]:
        """Return the executions so far."""
        return executions_of(self.effects, self.deaths)

    async def replay(self) -> None:
        """Send each dead letter again: those on the poison queue, and runs that are recorded as dead."""
        async for message in self.world.poison.receive_messages():
            job = json.loads(b64decode(message.content))
            job["priorAttempts"] = job.get("priorAttempts", 0) + int(self.environ[MOST_DELIVERIES])
            await self.send(json.dumps(job))
            await self.world.poison.delete_message(message)
        for record in await self.world.records():
            if record["outcome"] == "dead" and "attempt" not in record:
                names = ("tenantId", "flowName", "scheduledUtc", "runId")
                await self.send(json.dumps({**{name: record[name] for name in names}, "redrive": 1}))

    async def runs(self) -> list[Run]:
        """Return the runs that have records."""
        return runs_of(await self.world.records())

    async def states(self) -> list[dict[str, Any]]:
        """Return the states of all flows."""
        query = "SELECT * FROM c WHERE c.type = 'FlowState'"
        return [dict(item) async for item in self.world.runs.query_items(query)]

    async def left(self) -> dict[str, Any]:
        """Return what the services hold: it explains a test that has failed."""
        queues = {queue.queue_name: await _length(queue) for queue in (self.world.jobs, self.world.poison)}
        visible = [*await self.world.messages(), *await self.world.poisoned()]
        requests = {proxy.service: proxy.requests for proxy in (self.cosmos, self.queue, self.vault)}
        return {"queues": queues, "visible": visible, "requests": requests, "states": await self.states()}

    async def queued(self) -> int:
        """Return the number of messages on the job queue, including hidden messages."""
        return await _length(self.world.jobs)

    async def more(self, measure: Callable[[], Awaitable[int]], by: int) -> None:
        """Wait until a number has grown."""
        before = await measure()

        async def has_grown() -> bool:
            return await measure() >= before + by

        await wait_until(
            has_grown, description=f"{measure.__name__} is {by} more than {before}", seconds=30 * self.scale
        )

    async def started(self) -> int:
        """Return the number of executions that have begun."""
        return len(self.executions())

    async def ended(self) -> int:
        """Return the number of executions that have returned."""
        return sum(each.how == "returned" for each in self.executions())

    async def outage(self, proxy: Proxy, seconds: float) -> None:
        """Let a service answer 503 for some time."""
        over = time.monotonic() + seconds
        with proxy.causing(Fault(kind=Kind.ANSWER, status=503)):
            await wait_until(lambda: time.monotonic() > over, description="the outage is over", seconds=seconds + 1)

    async def until_quiet(self, seconds: float = 30) -> None:
        """Wait until nothing is left to do: no messages, and no live lease. Gives up after some time."""
        with suppress(TimeoutError):
            await wait_until(
                self.is_quiet, description="nothing is left to do", seconds=seconds * self.scale, pause=_PAUSE
            )

    async def is_quiet(self) -> bool:
        """Return whether nothing is left to do. The poison queue counts if a function of the app reads it."""
        poison = [self.world.poison] if await self._reads_poison() else []
        # The poison queue is read twice: a message may be on its way from one queue to the other.
        for queue in (*poison, self.world.jobs, *poison):
            if await _length(queue):
                return False
        return not any(_is_leased(state) for state in await self.states())

    async def _reads_poison(self) -> bool:
        """Return whether a function of the app reads the poison queue."""
        if not self.functions:

            async def ask() -> bool:
                for running in [host.running for host in self.hosts if host.running]:
                    with suppress(aiohttp.ClientError):
                        self.functions = await _functions(running.url)
                return bool(self.functions)

            await wait_until(ask, description="a host says which functions the app has")
        queues = [str(binding.get("queueName")) for each in self.functions for binding in each["config"]["bindings"]]
        return any(name.endswith("-poison") for name in queues)

    async def verdict(self, *, must_succeed: Collection[Flow] | None = None) -> Verdict:
        """Judge the evidence, and print it with the faults. All expected flows have to succeed by default."""
        if must_succeed is None:
            must_succeed = {(tenant, flow) for tenant, flow, _ in self.expected}
        verdict = judge(
            self.executions(),
            await self.runs(),
            expected=self.expected,
            must_succeed=must_succeed,
            left_on_queues=await _length(self.world.jobs) + await _length(self.world.poison),
            frozen=self.frozen,
        )
        self.report(f"injected: {self.injected()}\nfound:    {verdict}")
        return verdict

    def report(self, text: str) -> None:
        """Print lines for the summary. They begin with `injected:` or `found:`."""
        print(text)  # noqa: T201 - pytest keeps it

    def injected(self) -> dict[str, int]:
        """Return the number of faults of each kind."""
        return dict(self.actions + self.cosmos.injected + self.queue.injected + self.vault.injected)

    def freeze(self, pid: int) -> None:
        """Note that a process has been frozen. It runs for some milliseconds more after the signal was sent."""
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        self.frozen[pid] = time.monotonic()


async def _functions(url: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/admin/functions") as answer:
        functions: list[dict[str, Any]] = await answer.json()
        return functions


async def _length(queue: QueueClient) -> int:
    return (await queue.get_queue_properties()).approximate_message_count or 0


def _is_leased(state: Mapping[str, Any]) -> bool:
    lease = state.get("lease") or {}
    return bool(lease.get("until", 0) > time.time())
