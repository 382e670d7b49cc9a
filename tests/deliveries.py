"""The queue and the poison queue as the Functions host delivers them, by the clock of the test."""

import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry
from datasync.model.job import JobMessage, QueueMessage
from datasync.run.bury import bury
from datasync.run.pipeline import run_message
from datasync.services import Services
from tests.faults import Wire, to
from tests.stages import FakeClock

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)

_HIDDEN = timedelta(minutes=10)
"""How long the host hides a message that it delivers. The message of a killed worker appears again after this time."""
_LONGEST_VISIBILITY_TIMEOUT = 7 * 86_400


def registered(function: Callable[..., Awaitable[None]], **options: Any) -> FlowRegistry:
    """Return a registry with one flow, `flow`."""
    registry = FlowRegistry()
    registry.flow("flow", **options)(function)
    return registry


def message(delivery: int = 1, *, id: str = "m-1", **fields: Any) -> QueueMessage:  # noqa: A002 - as in QueueMessage
    """Return a delivery of the message `m-1` for the run `r-1` of `t/flow`, or with other fields."""
    job = JobMessage(**{"tenant_id": "t", "flow_name": "flow", "scheduled_utc": NOW, "run_id": "r-1", **fields})
    return QueueMessage(id, job.encode().encode(), delivery, NOW)


async def succeed(tenant_id: str, kv: SecretClient) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Waiting:
    """A message on one of the two queues."""

    id: str
    body: bytes
    visible_at: datetime
    inserted: datetime
    deliveries: int = 0
    is_poison: bool = False

    @property
    def job(self) -> JobMessage:
        """The body, decoded."""
        return msgspec.json.decode(self.body, type=JobMessage)


class Deliveries:
    """Delivers the messages that the app sends, and those that a test posts, one after the other.

    The app's messages also reach the real queue. They are read on the wire, where their delay is known.
    """

    def __init__(self, services: Services, wire: Wire, registry: FlowRegistry) -> None:
        assert isinstance(services.clock, FakeClock)
        self.registry = registry
        self.waiting: list[Waiting] = []
        self.present: Waiting | None = None
        """The message that is being delivered."""
        self.kills = 0
        self.errors: list[BaseException] = []
        """The exceptions that the stages raised for the host."""
        self._services = services
        self.clock = services.clock
        self._wire = wire
        self._ids = count(1)
        wire.before_each(to("POST", "/messages"), self._receive)

    @property
    def jobs(self) -> list[JobMessage]:
        """The bodies of the waiting messages, decoded."""
        return [each.job for each in self.waiting]

    def post(self, *, is_poison: bool = False, deliveries: int = 0, **fields: Any) -> Waiting:
        """Put a job on the queue."""
        job = JobMessage(**{"tenant_id": "t", "flow_name": "flow", "scheduled_utc": NOW, "run_id": "r-1", **fields})
        return self.post_body(job.encode().encode(), is_poison=is_poison, deliveries=deliveries)

    def post_body(self, body: bytes, *, is_poison: bool = False, deliveries: int = 0) -> Waiting:
        """Put a message on the queue, or on the poison queue."""
        now = self.clock.now()
        waiting = Waiting(f"m-{next(self._ids)}", body, now, now, deliveries, is_poison)
        self.waiting.append(waiting)
        return waiting

    async def next(self) -> Waiting:
        """Deliver the message that appears first, at that time. Returns it as it was delivered."""
        due = min(self.waiting, key=lambda each: each.visible_at)
        self.waiting.remove(due)
        self.clock.time = max(self.clock.now(), due.visible_at)
        if due.deliveries >= self._services.settings.max_attempts:
            self._poison(due)
            return due
        due = replace(due, deliveries=due.deliveries + 1)
        self.present = due
        message = QueueMessage(due.id, due.body, due.deliveries, due.inserted)
        try:
            await (bury if due.is_poison else run_message)(self._services, self.registry, message)
        except BaseException as error:
            if self._wire.killed:
                self._wire.heal()
                self.kills += 1
                self.waiting.append(replace(due, visible_at=self.clock.now() + _HIDDEN))
            elif isinstance(error, Exception) and not isinstance(error, AssertionError):
                self.errors.append(error)
                if due.deliveries >= self._services.settings.max_attempts:
                    self._poison(due)
                else:
                    delay = self._services.settings.retry_delay
                    self.waiting.append(replace(due, visible_at=self.clock.now() + delay))
            else:
                raise
        return due

    async def all(self, most: int = 100) -> int:
        """Deliver messages until both queues are empty. Returns the number of deliveries."""
        for number in range(most):
            if not self.waiting:
                return number
            await self.next()
        raise AssertionError(f"messages still wait after {most} deliveries: {self.waiting}")

    def _poison(self, due: Waiting) -> None:
        assert not due.is_poison, f"{due.body!r} would be lost: the poison queue has no poison queue"
        self.post_body(due.body, is_poison=True)

    async def _receive(self) -> None:
        _, url, body = self._wire.requests[-1]
        parts = urlsplit(url)
        hidden = int(parse_qs(parts.query).get("visibilitytimeout", ["0"])[0])
        assert hidden <= _LONGEST_VISIBILITY_TIMEOUT
        assert parse_qs(parts.query)["messagettl"] == ["-1"], "a message that expires is lost"
        (text,) = re.findall("<MessageText>(.*?)</MessageText>", body)
        sent = self.post_body(b64decode(text), is_poison="-poison/messages" in parts.path)
        self.waiting[self.waiting.index(sent)] = replace(sent, visible_at=sent.visible_at + timedelta(seconds=hidden))
