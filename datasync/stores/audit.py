"""The audits of actions, in partition `@fleet` of the runs container."""

from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
from azure.core import MatchConditions
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

from datasync.errors import StateInvalid
from datasync.model.audit import Audit, audit_id
from datasync.model.decode import FieldError
from datasync.model.tenant import FLEET
from datasync.model.times import utc_text
from datasync.stores.cosmos import RETRY_WRITE, Container, explained

_ON_TENANT = "(c.tenant = @tenant OR ARRAY_CONTAINS(c.tenants, @tenant))"


class Audits(msgspec.Struct, frozen=True):
    """Audits, the newest first."""

    audits: list[Audit]
    unreadable: list[str]
    """Sentences about those that were edited and cannot be read."""


class AuditStore:
    """The audits. They expire as the records of runs do.

    Every method raises ServiceUnavailable if Cosmos DB refused or could not be reached.
    """

    def __init__(self, container: Container, retention: timedelta) -> None:
        self._container = container
        self._retention = retention

    async def get(self, action_id: str) -> Audit | None:
        """Return the audit of an action; None where there is none. Raises StateInvalid if it cannot be read."""
        container = await self._container.open()
        with explained(f"while reading the audit of action {action_id}"), suppress(CosmosResourceNotFoundError):
            document = await container.read_item(audit_id(action_id), partition_key=FLEET)
            try:
                return Audit.from_document(document)
            except FieldError as error:
                raise StateInvalid(
                    f"audit id={document.get('id')!r} in partition {FLEET}: {error}. Use another action id"
                ) from None
        return None

    async def begin(self, audit: Audit) -> Audit | None:
        """Store the intent of an action; None if its id is stored already, perhaps by a try whose answer was lost."""
        container = await self._container.open()
        with explained(f"while storing the audit of action {audit.action_id}"):
            try:
                stored = await container.create_item(audit.document(self._retention), retry_write=RETRY_WRITE)
            except CosmosResourceExistsError:
                return None
        return msgspec.structs.replace(audit, etag=stored["_etag"])

    async def save(self, audit: Audit) -> Audit | None:
        """Replace the audit that was read under its ETag; None if somebody else has changed it meanwhile."""
        container = await self._container.open()
        with explained(f"while storing the audit of action {audit.action_id}"):
            try:
                stored = await container.replace_item(
                    audit.id,
                    audit.document(self._retention),
                    etag=audit.etag,
                    match_condition=MatchConditions.IfNotModified,
                    retry_write=RETRY_WRITE,
                )
            except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
                return None
        return msgspec.structs.replace(audit, etag=stored["_etag"])

    async def list(self, tenant_id: str | None, since: datetime | None, most: int) -> Audits:
        """Return up to `most` audits of actions that started at `since` (aware) or later, the newest first.

        With a tenant, those of actions on it, alone or among others.
        """
        where, values = "c.type = 'Audit' AND c.startedUtc >= @since", {"@since": utc_text(since) if since else ""}
        if tenant_id is not None:
            where, values = f"{where} AND {_ON_TENANT}", {**values, "@tenant": tenant_id}
        container = await self._container.open()
        audits: list[Audit] = []
        unreadable: list[str] = []
        with explained("while looking for audits"):
            found = container.query_items(
                f"SELECT TOP {most:d} * FROM c WHERE {where} ORDER BY c.startedUtc DESC",  # noqa: S608 - texts of our own
                parameters=[{"name": name, "value": value} for name, value in values.items()],
                partition_key=FLEET,
            )
            async for document in found:
                try:
                    audits.append(Audit.from_document(document))
                except FieldError as error:
                    unreadable.append(f"audit id={document.get('id')!r} in partition {FLEET}: {error}")
        return Audits(audits=audits, unreadable=unreadable)
