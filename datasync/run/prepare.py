"""prepare: makes the objects that a flow is called with, for an attempt with a lease or without one."""

from collections import Counter
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from datasync.flow.connections import StandIn
from datasync.flow.context import FlowRun, Window
from datasync.flow.http import new_client
from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.flow.registry import Flow
from datasync.flow.secrets import Holder, TenantSecretClient
from datasync.flow.tail import Tail
from datasync.flow.usage import HttpUsage
from datasync.model.display import shown
from datasync.model.job import Job
from datasync.model.state import FlowState
from datasync.model.tenant import FlowEntry, Tenant
from datasync.services import Services

if TYPE_CHECKING:
    from datasync.flow.recording import Recording


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """The facts with which an attempt begins."""

    job: Job
    flow: Flow
    tenant: Tenant
    entry: FlowEntry
    """Its entry for the flow."""
    settings: Any
    """The settings of the entry, as the flow declares them."""
    attempt: int
    """1 at the first."""
    state: FlowState | None
    """The state of the flow; None if the flow allows overlapping runs, which have neither window nor cursor."""
    window: Window
    refused_at: datetime | None = None
    """When an API refused the credentials of an attempt last. Older values of secrets are read again."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A flow that can be called, and the objects that it is given."""

    given: Given
    started: datetime
    """The present time (aware)."""
    run: FlowRun
    kv: TenantSecretClient
    redact: Redaction
    """Removes the secrets that the flow has read."""
    usage: HttpUsage
    tail: Tail
    recording: "Recording | None"
    """The HTTP exchanges; None if they are not recorded."""

    @property
    def subject(self) -> str:
        """`tenant/flow`."""
        return subject_of(self.given)

    async def function(self) -> None:
        """Call the flow."""
        flow, tenant_id = self.given.flow, self.given.tenant.id
        await (flow.function(tenant_id, self.kv, self.run) if flow.takes_run else flow.function(tenant_id, self.kv))


def prepare(
    services: Services,
    given: Given,
    holder: Holder,
    *,
    before_unsafe: Callable[[], Awaitable[None]] | None = None,
    stand_in: StandIn | None = None,
    recording: "Recording | None" = None,
) -> Prepared:
    """Make the objects for a call of a flow.

    Args:
        services: The services of the process.
        given: The facts with which the attempt begins.
        holder: Returns the spelling of a tenant's id that may read its secrets.
        before_unsafe: Called before each request that may change data, as `new_client` does.
        stand_in: Answers these requests in place of the APIs, as `new_client` does.
        recording: Records the HTTP exchanges, without the secrets. None records nothing.

    """
    redact, usage, tail = Redaction(), HttpUsage(services.clock), Tail(services.clock)
    job, tenant, state = given.job, given.tenant, given.state
    run = FlowRun(
        run_id=job.run_id,
        tenant=tenant,
        flow_name=given.flow.name,
        settings=given.settings,
        scheduled_utc=job.scheduled_utc,
        attempt=given.attempt,
        part=job.part,
        window=given.window,
        http=new_client(services.http_transport, usage, before_unsafe, stand_in, recording),
        log=RunLog(subject_of(given), {"run": job.run_id, "attempt": given.attempt}, redact, tail),
        cursor=deepcopy(state and state.cursor),
        counts=Counter(state.counts_of(job.run_id) if state else {}),
    )
    on_read = partial(_note_secret, redact, recording) if recording else redact.add
    kv = TenantSecretClient(tenant.id, services.vault, on_read, given.refused_at, holder)
    started = services.clock.now()
    return Prepared(given, started, run=run, kv=kv, redact=redact, usage=usage, tail=tail, recording=recording)


def _note_secret(redact: Redaction, recording: "Recording", name: str, value: str | None) -> None:
    redact.add(name, value)
    recording.add_secret(name, value)


def subject_of(given: Given) -> str:
    """Return `tenant/flow`."""
    return f"{shown(given.tenant.id)}/{given.flow.name}"
