"""The benchmarks, with small numbers."""

from benchmarks import large_tenant, simulation, tick_documents, transport
from tests.world import World


async def test_ticks_read_the_documents_that_are_due_or_changed(world: World) -> None:
    """A complete scan, its notes, four due documents, their writes, three edits, their notes, no work twice."""
    rows = await tick_documents.measure(world.settings, tick_documents.Fleet(tenants=120, due=4, edited=3))

    assert [row.transferred for row in rows] == [120, 120, 4, 4, 3, 3, 0, 0]
    assert [row.expected for row in rows] == [row.transferred for row in rows]
    assert len(await world.messages()) == 4


async def test_a_tick_with_a_large_tenant_is_measured(world: World) -> None:
    """The tick sends the jobs of one tenant with twelve flows, and of three with one flow each."""
    result = await large_tenant.measure(world.settings, flows=12, tenants=3)

    assert result.jobs == 15
    assert min(result.small, result.large, result.cpu) > 0


async def test_each_transport_runs_all_operations(world: World) -> None:
    """Each transport runs five operations in a round that is not measured, and in one that is measured."""
    measured = await transport.measure(world.settings, operations=5, at_once=2, rounds=1)

    assert len(await world.messages()) == 20
    for rounds in measured.values():
        assert len(rounds) == 1
        assert rounds[0].cpu > 0


def test_each_condition_of_a_simulation_is_measured() -> None:
    """A tenant with ten flows, of which six are due within the hour. One of them is due after its first tick."""
    jobs = {name: jobs for name, _, jobs in simulation.measure(entries=10, hours=1)}

    assert len(jobs) == 5
    assert (jobs["hourly ticks"], jobs["ticks each 5 min"]) == (5, 12 + 12 + 12 + 4 + 1 + 1)
    assert jobs["precise mode"] == 360 + 60 + 12 + 4 + 1 + 1
