"""The states of flows, kept in step with the entries of tenant documents: when each flow should have succeeded."""

import asyncio
from collections.abc import Awaitable, Collection, Iterator, Mapping
from hashlib import sha256
from itertools import batched

import msgspec

from datasync.errors import FlowUnknown
from datasync.flow.registry import FlowRegistry
from datasync.model.state import FlowState
from datasync.model.tenant import Tenant
from datasync.schedule import Expectation
from datasync.services import Services
from datasync.tick.turns import Turn

_AT_ONCE = 10
_IN_A_TRANSACTION = 50  # Cosmos DB allows 100

type _Revs = Mapping[str, str | None]
"""`schedule_rev` of the states of a tenant, by the name under which each is stored."""


class _Entries(msgspec.Struct, frozen=True):
    """The entries of a tenant that can be scheduled."""

    expected: dict[tuple[str, ...], Expectation]
    """The expectations of the enabled ones, by the names of their flows, the flow's own first."""
    left: frozenset[str]
    """The names of flows whose entries have to be corrected. Their states stay as they are."""

    @property
    def rev(self) -> str:
        """A hash that changes with anything that the states depend on."""
        parts = [*sorted((*names, each.rev) for names, each in self.expected.items()), tuple(sorted(self.left))]
        return sha256(msgspec.json.encode(parts)).hexdigest()[:16]


class ExpectedStates:
    """Creates, changes and retires the states of flows whose entries were edited.

    An entry that never ran has a state too, and becomes late. A disabled or removed one does not.

    A tenant document has a note (`scheduleRev`) of the entries that its states are in step with, so that a tick makes
    no request for a document without an edit. A complete scan does not rely on the notes, and compares all states.
    """

    def __init__(self, services: Services, registry: FlowRegistry, stored: Mapping[str, _Revs] | None = None) -> None:
        """Take the states of all tenants if the tick is a complete scan."""
        self._services = services
        self._registry = registry
        self._stored = stored

    async def update(self, tenant: Tenant, turn: Turn) -> str | None:
        """Bring the states of a tenant in step with its document, in the turns of the tenant.

        Killed at any request, it can be repeated. States are changed by conditional patches of these fields alone, so
        that a run which holds one loses nothing.

        Returns:
            The ETag of the document; None if somebody has edited it meanwhile.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached. ExceptionGroup has several of them.

        """
        entries = await self._entries(tenant, turn)
        rev = entries.rev
        if self._stored is not None:
            stored = self._stored.get(tenant.id, {})
        elif tenant.schedule_rev == rev:
            return tenant.etag
        else:
            await turn.spend(1)
            stored = (await self._services.runs.schedules(tenant.id)).revs.get(tenant.id, {})
        await self._make(self._changes(tenant.id, entries, stored), turn)
        if tenant.schedule_rev == rev:
            return tenant.etag
        await turn.spend(1)
        return await self._services.tenants.note_schedules(tenant, rev)

    async def retire_others(self, tenants: Collection[str], turn: Turn) -> None:
        """Retire the states of tenants that a complete scan has not found. Raises as `update` does."""
        gone = (
            self._services.runs.retire(tenant_id, name, self._services.clock.now())
            for tenant_id, revs in (self._stored or {}).items()
            if tenant_id not in tenants
            for name, rev in revs.items()
            if rev is not None
        )
        await self._make(gone, turn)

    async def _entries(self, tenant: Tenant, turn: Turn) -> _Entries:
        expected: dict[tuple[str, ...], Expectation] = {}
        left = {problem.flow for problem in tenant.problems if problem.flow}
        for entry in tenant.flows:
            await turn.pause()
            if not entry.enabled:
                continue
            expectation = Expectation.of(tenant, entry, self._services.settings.schedule)
            try:
                names = self._registry.resolve(entry.name).names
            except FlowUnknown:
                left.add(entry.name)
                continue
            if expectation.is_readable:
                expected.setdefault(names, expectation)
            else:
                left.update(names)
        return _Entries(expected=expected, left=frozenset(left))

    def _changes(self, tenant_id: str, entries: _Entries, stored: _Revs) -> Iterator[Awaitable[object]]:
        """Yield the requests that are needed."""
        # Not the start of the tick: a run that has started since may have read an older version of the document.
        runs, now, kept = self._services.runs, self._services.clock.now(), set(entries.left)
        new: list[FlowState] = []
        for names, expectation in entries.expected.items():
            name = next((each for each in names if each in stored), None)  # as a run finds the state
            kept.add(name or names[0])
            if name is None or stored[name] != expectation.rev:
                state = FlowState(
                    tenant_id=tenant_id,
                    flow_name=name or names[0],
                    stale_utc=expectation.stale_after(now),
                    schedule_rev=expectation.rev,
                    schedule_since_utc=now,
                )
                if name is None:
                    new.append(state)
                else:
                    yield runs.expect(state)
        for states in batched(new, _IN_A_TRANSACTION, strict=False):
            yield runs.expect_first(states)
        for name, rev in stored.items():
            if rev is not None and name not in kept:
                yield runs.retire(tenant_id, name, now)

    async def _make(self, requests: Iterator[Awaitable[object]], turn: Turn) -> None:
        for group in batched(requests, _AT_ONCE, strict=False):
            await turn.spend(len(group))
            await turn.pause()
            async with asyncio.TaskGroup() as tasks:
                for request in group:
                    tasks.create_task(_made(request))


async def _made(request: Awaitable[object]) -> None:
    await request
