"""The benchmarks, with small numbers."""

from benchmarks import tick_documents, transport
from tests.world import World


async def test_ticks_read_the_documents_that_are_due_or_changed(world: World) -> None:
    """A complete scan, nothing to do, four due, the tick's own four writes, three edits, and twice nothing to do."""
    rows = await tick_documents.measure(world.settings, tick_documents.Fleet(tenants=120, due=4, edited=3))

    assert [row.transferred for row in rows] == [120, 0, 4, 4, 3, 0, 0]
    assert [row.expected for row in rows] == [row.transferred for row in rows]
    assert len(await world.messages()) == 4


async def test_each_transport_runs_all_operations(world: World) -> None:
    """A first round that is not counted, and one that is, of five operations with each transport."""
    measured = await transport.measure(world.settings, operations=5, at_once=2, rounds=1)

    assert len(await world.messages()) == 20
    for rounds in measured.values():
        assert len(rounds) == 1
        assert rounds[0].cpu > 0
