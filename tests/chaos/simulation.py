"""Processes that die, freeze and lose answers, on the real services, and the part of the Functions host.

The stages of the app run in tasks. Each task belongs to a `Process`, whose requests pass through a `FaultyTransport`.
Time is virtual: it passes when the simulation or the app's clock says so. Cosmos DB and the queue are the local
servers. Every message that the app sends reaches the queue. The simulation keeps a copy, and acts as the Functions
host: it delivers the message, hides it, delivers it again, and moves it to the poison queue.
"""

import asyncio
import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from html import unescape
from itertools import count
from typing import Any, override

from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.cosmos.exceptions import CosmosResourceNotFoundError

from datasync.clock import Clock
from datasync.model.job import QueueMessage
from tests.faults import Killed

MOST_DELIVERIES = 5
"""`maxDequeueCount` of host.json."""

RETRY_DELAY = timedelta(minutes=1)
"""`visibilityTimeout` of host.json."""

HIDING = timedelta(minutes=10)
"""How long the host hides a message that it delivers. It renews that while the function runs."""

_CHUNK = timedelta(seconds=45)  # shorter than the time between two renewals of a lease


class Kind(StrEnum):
    KILL_BEFORE = "killed before a request"
    KILL_AFTER = "killed after a request"
    FREEZE_BEFORE = "frozen before a request"
    FREEZE_AFTER = "frozen after a request"
    LOSE = "lost the answer"
    REFUSE = "was refused"
    STALE = "read an old record"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one process, at its n-th request from now. An old record is read at the first occasion."""

    kind: Kind
    at: int


class Service(StrEnum):
    COSMOS = "docs"
    QUEUE = "messages"


@dataclass(slots=True, eq=False)
class Message:
    """A message in a queue of the host."""

    id: str
    body: bytes
    inserted: datetime
    visible_at: datetime | None
    """None while a living process has it."""
    poison: bool = False
    deliveries: int = 0


@dataclass(slots=True, eq=False)
class Process:
    """A process that runs one invocation: a tick, a delivery, or a delivery of a poison message."""

    simulation: "Simulation"
    skew: timedelta
    fault: Fault | None = None
    fate: Any = None
    """Given to the flow. The simulation does not use it."""
    message: Message | None = None
    receipt: int = 0
    """Its delivery of the message. A later delivery takes the message away from this process."""
    requests: int = 0
    is_dead: bool = False
    is_frozen: bool = False
    is_held: bool = False
    """Whether its flow waits for `release`."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[Any] | None = None
    number: int = field(default_factory=count(1).__next__)

    @property
    def is_running(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def now(self) -> datetime:
        return self.simulation.time + self.skew

    def __str__(self) -> str:
        return f"process {self.number}"

    def freeze(self) -> None:
        self.simulation.note(f"{self} freezes")
        self.is_frozen = True
        self.thawed.clear()
        self._let_message_go(HIDING)

    async def gate(self) -> None:
        """Wait while the process is frozen. Raises Killed once it is dead."""
        while self.is_frozen and not self.is_dead:
            await self.thawed.wait()
        if self.is_dead:
            raise Killed

    async def hold(self) -> None:
        """Let the flow wait for its release."""
        self.released.clear()
        self.is_held = True
        await self.released.wait()
        self.is_held = False
        await self.gate()

    def die(self, hidden: timedelta) -> None:
        self.simulation.note(f"{self} is killed")
        self.is_dead, self.is_frozen = True, False
        self.thawed.set()
        self._let_message_go(hidden)
        if self.task:
            self.task.cancel()

    def _let_message_go(self, hidden: timedelta) -> None:
        if self.message and self.has_message and self.message.visible_at is None:
            self.message.visible_at = self.simulation.time + hidden

    @property
    def has_message(self) -> bool:
        message = self.message
        return message is not None and message.deliveries == self.receipt and message in self.simulation.messages

    async def pass_on(self, request: Any, send: Callable[[], Awaitable[Any]]) -> Any:
        service = next((each for each in Service if f"/{each}" in request.url), None)
        if service is None:  # properties of the account and the containers
            return await send()
        await self.gate()
        kind = self._fault_of_next_request(request)
        if self.simulation.away is service:
            self.simulation.injected["was refused, while a service was away"] += 1
        if self.simulation.away is service or kind is Kind.REFUSE:
            raise ServiceRequestError("connection refused")
        await self._stop(is_killed=kind is Kind.KILL_BEFORE, is_frozen=kind is Kind.FREEZE_BEFORE)
        self.simulation.in_flight += 1
        try:
            answer = await send()
        finally:
            self.simulation.in_flight -= 1
        self.simulation.answered(self, service, request, answer)
        await self._stop(is_killed=kind is Kind.KILL_AFTER, is_frozen=kind is Kind.FREEZE_AFTER)
        if kind is Kind.LOSE:
            raise ServiceResponseError("the connection broke before the answer came")
        is_lagging = self.fault is not None and self.fault.kind is Kind.STALE
        return self._stale(request, answer) if is_lagging else answer

    def _fault_of_next_request(self, request: Any) -> Kind | None:
        self.requests += 1
        if self.fault is None or self.fault.kind is Kind.STALE or self.fault.at != self.requests:
            return None
        self.simulation.injected[self.fault.kind] += 1
        self.simulation.note(f"{self}: {self.fault.kind} {request.method} {_last_part(request.url)}")
        return self.fault.kind

    async def _stop(self, *, is_killed: bool, is_frozen: bool) -> None:
        if is_killed:
            self.die(self.simulation.hiding)
        if is_frozen:
            self.freeze()
        await self.gate()

    def _stale(self, request: Any, answer: Any) -> Any:
        record = _last_part(request.url)
        versions = self.simulation.versions.get(record, [])
        if request.method != "GET" or not record.startswith("run-") or not versions:
            return answer
        self.fault = None
        self.simulation.injected[Kind.STALE] += 1
        self.simulation.note(f"{self} reads an old version of {record}")
        if len(versions) == 1:
            raise CosmosResourceNotFoundError(status_code=404, message="not replicated yet")  # type: ignore[no-untyped-call]
        return _Stale(answer, versions[-2])


_current: ContextVar[Process] = ContextVar("_current")


class _Stale:
    """An answer with the content of an older document."""

    def __init__(self, answer: Any, document: dict[str, Any]) -> None:
        self._answer = answer
        self._content = json.dumps(document).encode()

    def body(self) -> bytes:
        return self._content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)


class FaultyTransport(AioHttpTransport):  # type: ignore[misc]
    """The transport of one client, with the faults of the process that uses it."""

    def __init__(self) -> None:
        super().__init__(use_env_settings=False)

    @override
    async def send(self, request: Any, **options: Any) -> Any:
        async def send() -> Any:
            return await super(FaultyTransport, self).send(request, **options)

        process = _current.get(None)
        return await (process.pass_on(request, send) if process else send())

    @override
    async def sleep(self, duration: float) -> None:
        """Do not wait before the SDK repeats a request."""
        await asyncio.sleep(0)


class VirtualClock(Clock):
    """The clock of the process that asks for the time."""

    @override
    def now(self) -> datetime:
        process = _current.get(None)
        return process.now if process else super().now()

    @override
    async def sleep(self, duration: timedelta) -> None:
        process = _current.get()
        await process.gate()
        await process.simulation.pass_time(duration)
        await process.gate()

    @override
    async def pause(self, duration: timedelta) -> None:
        process = _current.get()
        simulation, end = process.simulation, process.simulation.time + duration
        while simulation.time < end or process.is_frozen:
            await simulation.changed()


def _last_part(url: str) -> str:
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]


def current_process() -> Process:
    """Return the process that runs the calling flow."""
    return _current.get()


class Simulation:
    """The virtual time, the processes, and the queues of the host."""

    def __init__(self, start: datetime, queue: str) -> None:
        self.time = start
        self.queue = queue
        self.messages: list[Message] = []
        self.sent: list[tuple[Process, bytes]] = []
        """All messages that the app has sent, and the processes that sent them."""
        self.processes: list[Process] = []
        """Those that run."""
        self.away: Service | None = None
        self.hiding = HIDING
        """How long a message stays hidden after the death of its process."""
        self.in_flight = 0
        self.versions: dict[str, list[dict[str, Any]]] = {}
        """The versions of each document of the runs container, as they were after each step."""
        self.lost: list[bytes] = []
        """Messages that reached the poison queue of the poison queue."""
        self.unexpected: list[BaseException] = []
        self.injected = Counter[str]()
        """How often each fault has happened."""
        self.story: list[str] = []
        """The events, with their times."""
        self._ids = count(1)
        self._changes = asyncio.Event()

    def note(self, event: str) -> None:
        self.story.append(f"{self.time:%H:%M:%S} {event}")

    def answered(self, process: Process, service: Service, request: Any, answer: Any) -> None:
        """Note a message that the queue has accepted."""
        if service is Service.QUEUE and request.method == "POST" and answer.status_code == 201:
            content = request.content if hasattr(request, "content") else request.body
            text = content.decode() if isinstance(content, bytes) else str(content)
            found = re.search("<MessageText>(.*?)</MessageText>", text, re.DOTALL)
            assert found
            hidden = re.search(r"visibilitytimeout=(\d+)", request.url)
            body = b64decode(unescape(found[1]))
            self.sent.append((process, body))
            self.post(
                body,
                timedelta(seconds=int(hidden[1]) if hidden else 0),
                poison=f"{self.queue}-poison/" in request.url,
            )

    def post(self, body: bytes, hidden: timedelta = timedelta(), *, poison: bool = False) -> None:
        """Put a message on a queue of the host."""
        self.messages.append(Message(f"m{next(self._ids)}", body, self.time, self.time + hidden, poison))

    def visible(self) -> list[Message]:
        return [each for each in self.messages if each.visible_at and each.visible_at <= self.time]

    def next_visible(self) -> datetime | None:
        return min((each.visible_at for each in self.messages if each.visible_at), default=None)

    async def changed(self) -> None:
        """Wait until the time has passed, or a process has thawed."""
        await self._changes.wait()

    def wake(self) -> None:
        changes, self._changes = self._changes, asyncio.Event()
        changes.set()

    async def pass_time(self, duration: timedelta) -> None:
        """Let time pass, in steps in which the runs that go on can renew their leases."""
        while duration > timedelta():
            step = min(duration, _CHUNK) if self.processes else duration
            duration -= step
            self.time += step
            self.wake()
            if step >= timedelta(seconds=1):
                await self._calm()

    def start(self, process: Process, work: Coroutine[Any, Any, Any]) -> None:
        """Start an invocation. Call `settle` then."""
        context = copy_context()
        context.run(_current.set, process)
        process.task = asyncio.get_running_loop().create_task(work, context=context)
        self.processes.append(process)

    async def deliver(
        self, message: Message, process: Process, invoke: Callable[[QueueMessage], Coroutine[Any, Any, Any]]
    ) -> None:
        """Deliver a message, as the host does."""
        message.deliveries += 1
        message.visible_at = None
        self.note(f"{process} gets message {message.id} ({message.deliveries}) {message.body.decode()}")
        if message.deliveries > MOST_DELIVERIES:
            self._poison(message)
            return
        process.message, process.receipt = message, message.deliveries
        work = invoke(QueueMessage(message.id, message.body, message.deliveries, message.inserted))
        self.start(process, work)
        await self.settle()

    async def kill(self, process: Process) -> None:
        self.injected["killed while it waits"] += 1
        process.die(self.hiding)
        await self.settle()

    async def thaw(self, process: Process) -> None:
        self.note(f"{process} thaws")
        process.is_frozen = False
        if process.message and process.has_message:
            process.message.visible_at = None  # the host renews the message again
        process.thawed.set()
        self.wake()
        await self.settle()

    async def release(self, process: Process) -> None:
        process.released.set()
        await self.settle()

    async def settle(self) -> None:
        """Wait until each process has ended, is held, or is frozen."""
        async with asyncio.timeout(60):
            while any(not (each.is_held or each.is_frozen) for each in self.processes if each.is_running):
                await self._calm()
        await self._calm()
        for process in [each for each in self.processes if not each.is_running]:
            self.processes.remove(process)
            self._complete(process)

    async def _calm(self) -> None:
        """Wait until no request is under way."""
        quiet = 0
        while quiet < 25:
            await asyncio.sleep(0.0005 if self.in_flight else 0)
            quiet = 0 if self.in_flight else quiet + 1

    def _complete(self, process: Process) -> None:
        """End an invocation as the host does."""
        assert process.task
        error = None if process.task.cancelled() else process.task.exception()
        self.note(f"{process} ends{f': {error!r}' if error else ''}")
        if process.is_dead:
            return
        if error and not _is_expected(error):
            self.unexpected.append(error)
        message = process.message
        if message is None or not process.has_message:
            return
        if self.away is Service.QUEUE:  # the host can neither delete the message nor hide it
            message.visible_at = self.time + HIDING
        elif error is None:
            self.messages.remove(message)
        elif message.deliveries >= MOST_DELIVERIES:
            self._poison(message)
        else:
            message.visible_at = self.time + RETRY_DELAY

    def _poison(self, message: Message) -> None:
        self.messages.remove(message)
        if message.poison:
            self.lost.append(message.body)
        else:
            self.post(message.body, poison=True)


def _is_expected(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_expected, error.exceptions))
    return type(error).__name__ in (
        "FlowFailed",
        "ServiceUnavailable",
        "ServiceUnreachable",
        "LeaseLost",
        "TenantInvalid",
    )
