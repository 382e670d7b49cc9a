"""Jobs: requests to run one flow of one tenant, in the message and in the app."""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from datasync.model import times
from datasync.model.decode import NO_SURROGATES, Text
from datasync.model.stored import LenientEnum, Stored

HEAD_START = timedelta(seconds=2)
"""How early a job that was planned ahead appears on the queue: as long as the host may take to look (host.json,
`maxPollingInterval`). The run waits for its instant."""

LONGEST_DELAY = timedelta(days=7)
"""The longest time for which the queue hides a message."""


class Trigger(LenientEnum):
    """The origin of a run."""

    SCHEDULE = "schedule"
    FORCED = "forced"
    """A person set `nextRunUtc`."""
    MESSAGE = "message"
    """A message was posted by hand."""
    MANUAL = "manual"
    """An operator asked for it, in the command line or the dashboard."""
    REDRIVE = "redrive"
    """A run that was dead is attempted again."""
    HAND = "hand"
    """A person runs it in a process of their own, by `python -m datasync run`."""


MOST_COUNTED = 1_000_000
"""A count in a message does not grow beyond this. Only a message that was posted by hand comes so far."""

_COUNTS = ("redrive", "deferral", "outages", "spread", "rounds")
_MOST_NONCES = 10  # the first ones of more are those of leases that are over by now
_LONGEST_BASE = 190
"""The length of a run id to which the number of a part can be added."""

type _RunId = Annotated[str, Meta(pattern="^[0-9A-Za-z_.:-]{1,200}$")]
type _MessageId = Annotated[str, Meta(pattern=NO_SURROGATES, min_length=1, max_length=200)]
type _Nonce = Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="32 hexadecimal digits")]
type _Rev = Annotated[str, Meta(pattern=NO_SURROGATES)]
type _Count = Annotated[int, Meta(ge=0, le=MOST_COUNTED, description="a whole number")]
type _Time = Annotated[datetime | None, Meta(description=times.EXPECTED)]


class JobMessage(Stored, frozen=True, rename="camel", omit_defaults=True):
    """The body of a queue message. `{tenantId, flowName}` alone is complete."""

    tenant_id: Text
    flow_name: Text
    scheduled_utc: _Time = None
    """The occurrence (aware, UTC); None in a message posted by hand."""
    run_id: Annotated[_RunId | None, Meta(description="up to 200 letters, digits, and any of _ . : -")] = None
    """The same in every message for the same decision; None in a message posted by hand."""
    rev: Annotated[_Rev | None, Meta(description="a text")] = None
    """`Tenant.revision_of` the entry at the time of planning."""
    trigger: Annotated[Trigger | None, Meta(description=f"one of {', '.join(Trigger)}")] = None
    enqueued_utc: _Time = None
    """When the job was put on the queue first (aware, UTC); None in a message posted by hand."""
    message_id: Annotated[_MessageId | None, Meta(description="a text of up to 200 characters")] = None
    """In a copy that was put back: the id of the first message, which this one stands for."""
    redrive: _Count = 0
    """How often the run was started again after it had ended."""
    part: Annotated[int, Meta(ge=1, le=MOST_COUNTED, description="a whole number from 1 to 1,000,000")] = 1
    """Number of the part, in a run that continues in parts."""
    deferral: _Count = 0
    """How often the run was deferred before this message."""
    outages: _Count = 0
    """How often in a row this message was put back because a service was away, or its flow's state changed all the
    time."""
    spread: _Count = 0
    """Interrupted attempts of the run after which its message was put back."""
    rounds: _Count = 0
    """How often the message was sent again from the poison queue."""
    unstarted: Annotated[tuple[_Nonce, ...], Meta(description="a list of nonces")] = ()
    """The nonces of leases of which one may have been taken for the message, and whose attempts did not start."""
    traceparent: Any = None
    """The span that has sent the message, if OpenTelemetry is on. Another value than
    https://www.w3.org/TR/trace-context/#traceparent-header is ignored."""

    def encode(self) -> str:
        """Return the message body: JSON, before the queue's base64."""
        return msgspec.json.encode(self.content()).decode()


class PlannedJob(Stored, frozen=True, rename="camel"):
    """A message to put on the queue, and the instant at which it appears there (aware)."""

    message: JobMessage
    visible_at: datetime


class QueueMessage(msgspec.Struct, frozen=True):
    """A message as the queue trigger delivers it."""

    id: str
    body: bytes
    dequeue_count: int
    """1 at the first delivery."""
    inserted: datetime
    """When it was put on the queue (aware)."""


class Job(msgspec.Struct, frozen=True):
    """A job with all its fields, for one delivery. The fields are those of JobMessage."""

    tenant_id: str
    flow_name: str
    scheduled_utc: datetime
    run_id: str
    trigger: Trigger
    enqueued_utc: datetime
    message_id: str
    delivery: int
    """1 at the first delivery of this message."""
    is_copy: bool = False
    """Whether the message stands for an earlier one, which was put back."""
    rev: str | None = None
    redrive: int = 0
    part: int = 1
    deferral: int = 0
    outages: int = 0
    spread: int = 0
    rounds: int = 0
    unstarted: tuple[str, ...] = ()
    traceparent: str | None = None
    unknown: dict[str, Any] = {}

    @classmethod
    def of(cls, message: JobMessage, delivery: int = 1, *, is_copy: bool = False) -> Self:
        """Return the job of a message that has all fields.

        Raises:
            ValueError: it lacks one.

        """
        fields = msgspec.structs.asdict(message)
        optional = ("rev", "traceparent")
        if missing := [name for name, value in fields.items() if value is None and name not in optional]:
            raise ValueError(f"the message lacks {', '.join(missing)}")
        return cls(**fields, delivery=delivery, is_copy=is_copy)

    @property
    def planned_ahead(self) -> bool:
        """Whether the occurrence was still in the future when the job was put on the queue."""
        return self.scheduled_utc > self.enqueued_utc

    def queued(self, now: datetime) -> timedelta | None:
        """Return how long a job that is due has been on the queue at `now` (aware).

        None if its message was hidden meanwhile, so that this time says nothing about the queue: in a later delivery,
        and if the job was put back, deferred or started again. Also None if it has no message.
        """
        if self.is_by_hand:
            return None
        was_hidden = self.delivery > 1 or self.is_copy or self.deferral > 0 or self.redrive > 0
        return None if was_hidden else max(now - max(self.enqueued_utc, self.scheduled_utc), timedelta())

    @property
    def is_asked_for(self) -> bool:
        """Whether a person has asked for the run, and it was not deferred since."""
        return self.trigger is not Trigger.SCHEDULE and self.deferral == 0

    @property
    def is_by_hand(self) -> bool:
        """Whether a person runs it in a process of their own: it has no message on the queue, and one attempt."""
        return self.trigger is Trigger.HAND

    @property
    def leg(self) -> str:
        """The run id. After a redrive or a deferral, which begin another leg of the run, with their numbers."""
        return f"{self.run_id}~{self.redrive}.{self.deferral}" if self.redrive or self.deferral else self.run_id

    @property
    def next_leg(self) -> str:
        """The leg that begins when the run is deferred now."""
        return replace(self, deferral=self.deferral + 1).leg

    def copy(self, **changes: Any) -> JobMessage:
        """Return a message that stands for this one, with some fields changed.

        Its outages are those of `changes`, or none: where a message is put back otherwise, the services have answered.
        """
        fields = {name: getattr(self, name) for name in JobMessage.__struct_fields__} | {"outages": 0} | changes
        return JobMessage(**fields | {name: min(fields[name], MOST_COUNTED) for name in _COUNTS})

    def after_outage(self, unstarted: str | None) -> JobMessage:
        """Return the message that asks for the run again after a service was away.

        Args:
            unstarted: The nonce of a lease that may have been taken meanwhile.

        """
        nonces = (*self.unstarted, unstarted)[-_MOST_NONCES:] if unstarted else self.unstarted
        return self.copy(outages=self.outages + 1, unstarted=nonces)

    def next_deferral(self) -> JobMessage:
        """Return the message that asks for the run again after it was deferred."""
        return self.copy(message_id=None, deferral=self.deferral + 1, spread=0, rounds=0, unstarted=())

    def next_part(self, now: datetime) -> JobMessage:
        """Return the message that asks for the next part of a run, sent at `now`."""
        run = self.run_id.removesuffix(f".{self.part}") if self.part > 1 else self.run_id
        if len(run) > _LONGEST_BASE:  # a posted id, to which no number can be added
            run = run_id(run)
        return JobMessage(
            tenant_id=self.tenant_id,
            flow_name=self.flow_name,
            scheduled_utc=self.scheduled_utc,
            run_id=f"{run}.{self.part + 1}",
            trigger=self.trigger,
            enqueued_utc=max(now, self.enqueued_utc),
            redrive=self.redrive,
            part=self.part + 1,
        )

    def once_more(self, now: datetime) -> JobMessage:
        """Return the message of the run that follows one that was skipped at `now`, since another was going on.

        It is scheduled for that time: the occurrence has its run already, the skipped one.
        """
        return JobMessage(
            tenant_id=self.tenant_id,
            flow_name=self.flow_name,
            scheduled_utc=now,
            run_id=run_id("once more", self.leg),
            trigger=self.trigger,
            enqueued_utc=now,
        )


def run_id(*parts: str) -> str:
    """Hash the parts of a decision to run: the same decision, taken twice, gives the same id."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
