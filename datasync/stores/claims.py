"""Claims: of tenant ids that differ only in case, one may be used, since Key Vault does not distinguish them."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from async_lru import alru_cache

from datasync.errors import ServiceUnavailable
from datasync.stores.fleet import FleetStore
from datasync.stores.tenants import TenantStore
from datasync.tries import MOST, tries

TIME_TO_LIVE = timedelta(minutes=5)
"""How long a claim is kept in memory: as long as the values of secrets."""

_CACHED = 20_000


class Claims:
    """The tenants that use their ids, as far as this process has asked. A claim is kept for five minutes."""

    def __init__(self, fleet: FleetStore, tenants: TenantStore, sleep: Callable[[timedelta], Awaitable[None]]) -> None:
        self._fleet = fleet
        self._sleep = sleep
        self._tenants = tenants
        # Concurrent callers share one request; a failure is not kept.
        self._claimed = alru_cache(maxsize=_CACHED, ttl=TIME_TO_LIVE.total_seconds(), key=str.casefold)(self._claim)

    async def holder(self, tenant_id: str) -> str:
        """Return the spelling of a tenant's id that may be used: this one, unless another tenant was first.

        The first spelling that is asked for is claimed. The claim of a tenant that was deleted is taken over.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        holder = await self._claimed(tenant_id)
        if holder != tenant_id:  # perhaps it was deleted meanwhile
            self._claimed.cache_invalidate(tenant_id)
            holder = await self._claimed(tenant_id)
        return holder

    async def present(self, tenant_id: str) -> str:
        """Return what `holder` would, without a claim: nothing is written.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        claim = await self._fleet.claim(tenant_id)
        return claim.tenant if claim and await self._is_another(claim.tenant, tenant_id) else tenant_id

    async def close(self) -> None:
        """Forget every claim."""
        await self._claimed.cache_close()

    async def _claim(self, tenant_id: str) -> str:
        async for _ in tries(self._sleep):
            claim = await self._fleet.claim(tenant_id)
            if claim and (claim.tenant == tenant_id or await self._is_another(claim.tenant, tenant_id)):
                return claim.tenant
            if await self._fleet.save_claim(tenant_id, claim):
                return tenant_id
        raise ServiceUnavailable(f"the claim of tenant {tenant_id!r} was changed by others in each of {MOST} tries")

    async def _is_another(self, holder: str, tenant_id: str) -> bool:
        """Return whether a claim counts: that of a tenant that exists, unless the claim was edited."""
        return holder.casefold() == tenant_id.casefold() and await self._tenants.exists(holder)
