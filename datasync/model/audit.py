"""Audits: the record of an action of an operator, from its intent to its end."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

import msgspec

from datasync.model.decode import decode, own_fields
from datasync.model.stored import Stored
from datasync.model.tenant import FLEET

MOST_TENANTS = 200
"""Tenants that the audit of an action on several of them names."""


class Verb(StrEnum):
    """The actions of an operator."""

    ENQUEUE = "enqueue"
    RUN = "run"
    PAUSE = "pause"
    RESUME = "resume"
    NEXT_RUN = "next-run"
    RETRY = "retry"
    PURGE = "purge"
    GATE_OPEN = "gate-open"
    CURSOR_SET = "cursor-set"
    CURSOR_RESET = "cursor-reset"
    WINDOW_SET = "window-set"
    WINDOW_RESET = "window-reset"
    TENANT_PUT = "tenant-put"
    TENANT_REMOVE = "tenant-remove"
    ADD_FLOW = "add-flow"


class End(StrEnum):
    """How an action ended."""

    DONE = "done"
    CHANGED = "changed"
    """Nothing was done, since something was changed meanwhile; or the message says that it may have been done."""
    REFUSED = "refused"
    """Nothing was done, since it was not possible any more."""


class Audit(Stored, frozen=True, rename="camel", omit_defaults=True):
    """An action. It is stored before anything is changed, so that neither the change nor its audit can be lost."""

    action_id: str
    """Chosen by the client. A repeat with the same id returns the result of the first."""
    action: str
    """A Verb, perhaps one of a later version."""
    who: str
    via: str
    """`command line` or `dashboard`."""
    started_utc: datetime
    tenant: str | None = None
    """None for an action on several tenants, or on none."""
    tenants: tuple[str, ...] = ()
    """The tenants of an action on several, up to MOST_TENANTS."""
    flow: str | None = None
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    """The arguments of the action, besides the tenant and the flow."""
    before: Any = None
    after: Any = None
    """The values that the action changes."""
    basis: Any = None
    """The facts about the state before the action that a repeat needs."""
    end: str | None = None
    """An End; None while the action is going on, or if the process that did it has died."""
    ended_utc: datetime | None = None
    message: str = ""
    """A sentence: the change that was made, or the reason why it was not made."""
    etag: str | None = None
    """None while nothing is stored."""

    @property
    def id(self) -> str:
        """The document's id within the partition `@fleet`."""
        return audit_id(self.action_id)

    def document(self, retention: timedelta) -> dict[str, Any]:
        """Return the document to store, which expires after `retention`."""
        content = self.content()
        content.pop("etag", None)
        ttl = int(retention.total_seconds())
        return {**content, "id": self.id, "tenantId": FLEET, "type": "Audit", "ttl": ttl}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a stored audit. Raises FieldError if it was edited and cannot be read."""
        return decode(cls, own_fields(document, "tenantId"))


def audit_id(action_id: str) -> str:
    """Return the id of the audit of an action."""
    return f"audit-{action_id}"
