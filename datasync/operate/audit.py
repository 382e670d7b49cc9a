"""The audit: the actions of operators."""

from datetime import datetime
from typing import Any, Self

import msgspec

from datasync.model.audit import Audit
from datasync.services import Services


class AuditLine(msgspec.Struct, frozen=True, rename="camel"):
    """An action of an operator."""

    action_id: str
    at_utc: datetime
    """When it was asked for first."""
    who: str
    via: str
    action: str
    tenant_id: str | None
    tenant_ids: tuple[str, ...]
    """The tenants of an action on several, up to 200."""
    flow_name: str | None
    arguments: dict[str, Any]
    before: Any
    after: Any
    end: str | None
    """`done`; `refused` if nothing was done; `changed` if nothing was done, or the message says that it may have been;
    None if it is not finished: it may have been done."""
    message: str

    @classmethod
    def of(cls, audit: Audit) -> Self:
        """Return the line of a stored audit."""
        return cls(
            action_id=audit.action_id,
            at_utc=audit.started_utc,
            who=audit.who,
            via=audit.via,
            action=audit.action,
            tenant_id=audit.tenant,
            tenant_ids=audit.tenants,
            flow_name=audit.flow,
            arguments=audit.arguments,
            before=audit.before,
            after=audit.after,
            end=audit.end,
            message=audit.message,
        )


class AuditLines(msgspec.Struct, frozen=True, rename="camel"):
    """The last actions, the newest first."""

    actions: tuple[AuditLine, ...]
    has_more: bool
    """Whether older ones were left out."""
    unreadable: tuple[str, ...]
    """Sentences about audits that were edited and cannot be read."""


async def audit(services: Services, *, tenant_id: str | None, since: datetime | None, most: int) -> AuditLines:
    """Return the last actions, up to `most`: of all tenants or of one, since an instant (aware).

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    found = await services.audits.list(tenant_id, since, most + 1)
    return AuditLines(
        actions=tuple(map(AuditLine.of, found.audits[:most])),
        has_more=len(found.audits) + len(found.unreadable) > most,
        unreadable=tuple(found.unreadable),
    )
