"""The runs container: what is remembered from run to run, and a record of every attempt."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from azure.core import MatchConditions
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)
from msgspec.structs import replace

from datasync.errors import ServiceUnavailable
from datasync.model import FlowState, Run
from datasync.stores.cosmos import RETRY_WRITE, explained, properties


class RunStore:
    """Flow states and run records, partitioned by `/tenantId`."""

    def __init__(self, container: ContainerProxy, retention: timedelta) -> None:
        self._container = container
        self._retention = retention

    async def ping(self) -> None:
        """Try the container. Raises ServiceUnavailable if it is not there, or not as it has to be."""
        if "defaultTtl" not in await properties(self._container):
            raise ServiceUnavailable(
                f"container {self._container.id!r} keeps run records for ever: "
                "turn its time to live on, with no default (--ttl -1)"
            )

    async def state(self, tenant_id: str, names: Sequence[str]) -> FlowState:
        """Return what is remembered of a flow of a tenant; an empty state where it never ran.

        The first of `names` is the flow's own; where nothing is kept under it, what an alias left is taken over.
        """
        for name in names:
            empty = FlowState(tenant_id=tenant_id, flow_name=name)
            with explained(f"while reading the state of {tenant_id}/{name}"):
                try:
                    document = await self._container.read_item(empty.id, partition_key=tenant_id)
                except CosmosResourceNotFoundError:
                    continue
            state = FlowState.from_document(document)
            return state if name == names[0] else replace(state, flow_name=names[0], etag=None)
        return FlowState(tenant_id=tenant_id, flow_name=names[0])

    async def finish(self, run: Run, window_end: datetime, names: Sequence[str]) -> None:
        """Bring a flow's state up to date with a run that ended, then record the run. `names` are as for `state`."""
        while not await self._save((await self.state(run.tenant_id, names)).after(run, window_end)):
            pass  # another run of the flow ended in between: apply this one on top
        await self.record(run)

    async def record(self, run: Run) -> None:
        """Record a run. The same attempt, recorded twice, is one record."""
        with explained(f"while recording a run of {run.tenant_id}/{run.flow_name}"):
            await self._container.upsert_item(run.document(self._retention), no_response=True, retry_write=RETRY_WRITE)

    async def _save(self, state: FlowState) -> bool:
        """Write a state where nobody else has written since it was read; tell whether that was so."""
        with explained(f"while keeping the state of {state.tenant_id}/{state.flow_name}"):
            try:
                if state.etag is None:
                    await self._container.create_item(state.document(), no_response=True, retry_write=RETRY_WRITE)
                else:
                    await self._container.replace_item(
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
                return False  # somebody deleted it
        return True
