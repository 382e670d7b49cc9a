"""The tenants container: documents that people edit, of which the app only ever moves `nextRunUtc`."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from azure.core import MatchConditions
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosAccessConditionFailedError, CosmosResourceNotFoundError
from msgspec.structs import replace

from datasync.errors import TenantUnknown
from datasync.model import FORBIDDEN_IN_IDS, Tenant
from datasync.schedule import Advance
from datasync.stores.cosmos import RETRY_WRITE, explained, properties

PATCH_LIMIT = 10
"""Operations in one patch: https://learn.microsoft.com/azure/cosmos-db/partial-document-update-faq"""

_PAGE = 100

# It may select too much, never too little: schedule.plan decides. Times as the app writes them compare as text;
# any other form, and whatever needs a person's attention, is selected every time.
_DUE = """
SELECT * FROM c
WHERE c.type = 'Tenant' AND NOT IS_ARRAY(c.flows)
OR NOT IS_STRING(c.type) AND IS_DEFINED(c.flows)
OR c.type != 'Tenant' AND LOWER(c.type) = 'tenant'
OR c.type = 'Tenant' AND EXISTS (
    SELECT VALUE f FROM f IN c.flows
    WHERE NOT IS_BOOL(f.enabled)
    OR f.enabled AND f.nextRunUtc <= @horizon
    OR f.enabled AND NOT IS_STRING(f.nextRunUtc)
    OR f.enabled AND LENGTH(f.nextRunUtc) != 20
    OR f.enabled AND SUBSTRING(f.nextRunUtc, 4, 1) != '-'
    OR f.enabled AND SUBSTRING(f.nextRunUtc, 7, 1) != '-'
    OR f.enabled AND SUBSTRING(f.nextRunUtc, 10, 1) != 'T'
    OR f.enabled AND SUBSTRING(f.nextRunUtc, 13, 1) != ':'
    OR f.enabled AND SUBSTRING(f.nextRunUtc, 16, 1) != ':'
    OR f.enabled AND NOT ENDSWITH(f.nextRunUtc, 'Z')
)
"""


class Advanced(msgspec.Struct, frozen=True):
    """What came of moving a tenant's flows forward."""

    tenant: Tenant
    """As it stands now."""
    flows: int
    """How many were moved; the others were edited meanwhile, and the edit stands."""
    conflicts: int
    """How often somebody else had written in between."""


class TenantStore:
    """Tenant documents, partitioned by `/tenantId`."""

    def __init__(self, container: ContainerProxy) -> None:
        self._container = container

    async def ping(self) -> None:
        """Try the container. Raises ServiceUnavailable if it is not there, or not as it has to be."""
        await properties(self._container)

    async def due(self, horizon: datetime) -> AsyncIterator[list[Mapping[str, Any]]]:
        """Yield the documents that have something to do up to an instant, page by page, as they are stored."""
        with explained("while looking for due tenants"):
            pages = self._container.query_items(
                _DUE, parameters=[{"name": "@horizon", "value": _utc_text(horizon)}], max_item_count=_PAGE
            ).by_page()
            async for page in pages:
                yield [document async for document in page]

    async def get(self, tenant_id: str) -> Tenant:
        """Return a tenant.

        Raises:
            TenantUnknown: there is no such document.
            TenantInvalid: it cannot be used as it is.

        """
        unknown = TenantUnknown(
            f"there is no tenant {tenant_id!r} in container {self._container.id!r}: "
            "create its document, or correct the tenantId"
        )
        if any(character in tenant_id for character in FORBIDDEN_IN_IDS):
            raise unknown
        with explained(f"while reading tenant {tenant_id!r}"):
            try:
                document = await self._container.read_item(tenant_id, partition_key=tenant_id)
            except CosmosResourceNotFoundError:
                raise unknown from None
        return Tenant.from_document(document)

    async def advance(self, tenant: Tenant, advances: Sequence[Advance]) -> Advanced:
        """Move `nextRunUtc` of up to PATCH_LIMIT flows, leaving everything else as it is.

        A flow whose `nextRunUtc` is no longer the one that was served stays as the person who changed it wants it.

        Raises:
            TenantUnknown, TenantInvalid: the document vanished, or was broken, meanwhile.

        """
        left = [*advances]
        conflicts = 0
        while left:
            with explained(f"while scheduling tenant {tenant.id!r}"):
                try:
                    document = await self._container.patch_item(
                        tenant.id,
                        partition_key=tenant.id,
                        patch_operations=[
                            {
                                "op": "set",
                                "path": f"/flows/{advance.flow.index}/nextRunUtc",
                                "value": _utc_text(advance.next_run),
                            }
                            for advance in left
                        ],
                        etag=tenant.etag,
                        match_condition=MatchConditions.IfNotModified,
                        retry_write=RETRY_WRITE,
                    )
                except CosmosAccessConditionFailedError:
                    conflicts += 1
                else:
                    return Advanced(tenant=Tenant.from_document(document), flows=len(left), conflicts=conflicts)
            tenant = await self.get(tenant.id)
            left = [*_still_as_served(tenant, left)]
        return Advanced(tenant=tenant, flows=0, conflicts=conflicts)


def _still_as_served(tenant: Tenant, advances: Sequence[Advance]) -> Iterator[Advance]:
    """Yield those advances whose flow nobody touched, with the flow as it stands now."""
    now = {flow.name: flow for flow in tenant.flows}
    for advance in advances:
        flow = now.get(advance.flow.name)
        if flow and flow.next_run_text == advance.flow.next_run_text:
            yield replace(advance, flow=flow)


def _utc_text(instant: datetime) -> str:
    """Write an instant as `nextRunUtc` holds it: whole seconds, with Z."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
