"""The runs container: the state of each flow of each tenant, and a record of each attempt."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from random import random

from azure.core import MatchConditions
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)
from msgspec.structs import replace

from datasync.errors import ServiceUnavailable
from datasync.model.run import RunRecord
from datasync.model.state import FlowState
from datasync.stores.cosmos import RETRY_WRITE, Container, explained

_TRIES = 20
_LONGEST_PAUSE = timedelta(milliseconds=200)


class RunStore:
    """Flow states and run records, partitioned by `/tenantId`."""

    def __init__(
        self, container: Container, retention: timedelta, sleep: Callable[[timedelta], Awaitable[None]]
    ) -> None:
        self._container = container
        self._retention = retention
        self._sleep = sleep

    async def ping(self) -> None:
        """Try the container. Raises ServiceUnavailable if it is missing, or is not set up as it must be."""
        if "defaultTtl" not in await self._container.properties():
            raise ServiceUnavailable(
                f"container {self._container.name!r} keeps run records for ever: "
                "turn its time to live on, without a default (--ttl -1)"
            )

    async def state(self, tenant_id: str, names: Sequence[str]) -> FlowState:
        """Return the state of a flow of a tenant; an empty state where the flow never ran.

        The first of `names` is the flow's own. Where no state is stored under it, the state under an alias is used.
        """
        container = await self._container.open()
        for name in names:
            empty = FlowState(tenant_id=tenant_id, flow_name=name)
            with explained(f"while reading the state of {tenant_id}/{name}"):
                try:
                    document = await container.read_item(empty.id, partition_key=tenant_id)
                except CosmosResourceNotFoundError:
                    continue
            state = FlowState.from_document(document)
            return state if name == names[0] else replace(state, flow_name=names[0], etag=None)
        return FlowState(tenant_id=tenant_id, flow_name=names[0])

    async def apply(self, attempt: RunRecord, window_end: datetime | None, delivery: str, names: Sequence[str]) -> None:
        """Bring a flow's state up to date with an attempt that ended. `names` are as for `state`.

        Applying a delivery twice changes nothing, so a write whose answer was lost is safe to repeat.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached, or others changed the state every time.

        """
        for _ in range(_TRIES):
            state = await self.state(attempt.tenant_id, names)
            changed = state.after(attempt, window_end, delivery)
            if changed is state or await self._save(changed):
                return
            # Another attempt of the flow ended at the same time: apply this one on top.
            await self._sleep(_LONGEST_PAUSE * random())  # noqa: S311 - spreads tries, protects nothing
        raise ServiceUnavailable(
            f"the state of {attempt.tenant_id}/{names[0]} was changed by others in each of {_TRIES} tries. "
            "It will be tried again"
        )

    async def record(self, attempt: RunRecord) -> None:
        """Record an attempt. The same attempt, recorded twice, is one record."""
        container = await self._container.open()
        with explained(f"while recording a run of {attempt.tenant_id}/{attempt.flow_name}"):
            await container.upsert_item(attempt.document(self._retention), no_response=True, retry_write=RETRY_WRITE)

    async def _save(self, state: FlowState) -> bool:
        """Write a state unless somebody else has written since it was read; return whether it was written."""
        container = await self._container.open()
        with explained(f"while saving the state of {state.tenant_id}/{state.flow_name}"):
            try:
                if state.etag is None:
                    await container.create_item(state.document(), no_response=True, retry_write=RETRY_WRITE)
                else:
                    await container.replace_item(
                        state.id,
                        state.document(),
                        etag=state.etag,
                        match_condition=MatchConditions.IfNotModified,
                        no_response=True,
                        retry_write=RETRY_WRITE,
                    )
            except (CosmosAccessConditionFailedError, CosmosResourceExistsError):
                return False
            except CosmosResourceNotFoundError:
                if state.etag is None:
                    raise
                return False  # it was deleted meanwhile
        return True
