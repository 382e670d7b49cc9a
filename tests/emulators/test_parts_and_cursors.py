"""Cursors, and runs that continue in parts, with real services."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRun, RetryLater
from datasync.errors import Continue, CursorInvalid, FlowFailed
from datasync.model.run import RunRecord
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, message, registered
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.stages import deliver, run_job
from tests.world import World

type FlowFunction = Callable[[str, SecretClient, FlowRun], Awaitable[None]]

LARGEST = 16_384


def ending(cursor: Any, error: Exception | None = None, *, checkpoint: bool = False) -> FlowFunction:
    """Return a flow that sets its cursor, may keep it, and may raise an error."""

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        run.cursor = cursor
        if checkpoint:
            await run.checkpoint()
            run.cursor = "changed after the checkpoint"
        if error:
            raise error

    return flow


async def cursor_of(services: Services) -> Any:
    return (await services.runs.state("t", ["flow"])).cursor


class TestCursors:
    @pytest.mark.parametrize(
        "cursor",
        ["page-7", 7, 1.5, True, [1, [2]], {"a": {"b": None}}, "é→😀", "x" * (LARGEST - 2), "é" * (LARGEST // 2 - 1)],
        ids=lambda value: str(value)[:20],
    )
    async def test_a_cursor_is_kept_if_the_run_succeeds(self, world: World, services: Services, cursor: Any) -> None:
        """The next run starts with it. Any JSON value of up to 16 KB can be kept."""
        await world.put(document("t", entry("flow")))
        seen = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            seen.append(run.cursor)

        await run_job(services, registered(ending(cursor)), message(), NOW)
        await run_job(services, registered(flow), message(run_id="r-2"), NOW)

        assert seen == [cursor]
        assert await cursor_of(services) == cursor, "a run that does not assign it leaves it as it is"

    @pytest.mark.parametrize("error", [OSError("down"), RetryLater(timedelta(minutes=1))], ids=repr)
    @pytest.mark.parametrize("checkpoint", [False, True])
    async def test_a_run_that_does_not_succeed_keeps_its_checkpoint_only(
        self, world: World, wire: Wire, services: Services, error: Exception, *, checkpoint: bool
    ) -> None:
        """The next attempt goes on there."""
        await world.put(document("t", entry("flow")))
        await run_job(services, registered(ending("before")), message(run_id="r-0"), NOW)
        host = Deliveries(services, wire, registered(ending("half", error, checkpoint=checkpoint)))
        host.post()
        await host.next()
        seen = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            seen.append(run.cursor)

        host.registry = registered(flow)
        await host.all()

        assert seen == ["half" if checkpoint else "before"]

    async def test_a_checkpoint_is_kept_if_the_process_dies(self, world: World, wire: Wire, services: Services) -> None:
        """The attempt after the interrupted one goes on there."""
        await world.put(document("t", entry("flow")))
        seen = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            seen.append(run.cursor)
            if len(seen) == 1:
                run.cursor = "half"
                await run.checkpoint()
                wire.killed = True

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()

        assert (seen, host.kills) == ([None, "half"], 1)

    @pytest.mark.parametrize("end", ["fails", "is killed", "is deferred"])
    async def test_counts_are_kept_with_a_checkpoint(
        self, world: World, wire: Wire, services: Services, end: str
    ) -> None:
        """The next attempt goes on counting there. The work after the checkpoint is done and counted again."""
        await world.put(document("t", entry("flow")))
        seen = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            seen.append((run.cursor, dict(run.counts)))
            run.count(pages=1)
            run.cursor = (run.cursor or 0) + 1
            await run.checkpoint()
            if len(seen) == 1:
                run.count(pages=1)
                wire.killed = end == "is killed"
                raise RetryLater(timedelta(minutes=1)) if end == "is deferred" else OSError("down")

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()
        host.post(run_id="r-2")
        await host.all()

        assert seen == [(None, {}), (1, {"pages": 1}), (2, {})]
        assert [record["counts"] for record in await world.records()] == [{"pages": 2}, {"pages": 1}]
        assert "checkpoint" not in await world.runs.read_item("state-flow", partition_key="t")

    @pytest.mark.parametrize("checkpoint", [False, True])
    @pytest.mark.parametrize(
        ("cursor", "problem"),
        [
            ("x" * (LARGEST - 1), "run.cursor has 16,385 bytes as JSON, and 16,384 are kept"),
            ({1, 2}, "run.cursor is not a JSON value"),
            (float("nan"), "run.cursor is not a JSON value"),
            (datetime(2025, 1, 1, tzinfo=UTC), "run.cursor is not a JSON value"),
            ({(1, 2): 3}, "run.cursor is not a JSON value"),
            ("\ud800", "run.cursor is not a JSON value"),
            (b"page", "run.cursor is not a JSON value"),
        ],
        ids=lambda value: repr(value)[:30],
    )
    async def test_a_cursor_that_cannot_be_kept_is_refused(
        self, world: World, services: Services, cursor: Any, problem: str, *, checkpoint: bool
    ) -> None:
        """The attempt fails with an error that states the rule. The cursor before is kept."""
        await world.put(document("t", entry("flow")))
        await run_job(services, registered(ending("before")), message(run_id="r-0"), NOW)

        with pytest.raises(FlowFailed, match=problem):
            await run_job(services, registered(ending(cursor, checkpoint=checkpoint)), message(), NOW)

        assert await cursor_of(services) == "before"
        record = await services.runs.record("t", "r-1")
        assert record
        assert record.outcome == "failed"

    async def test_a_flow_may_go_on_after_a_refused_checkpoint(self, world: World, services: Services) -> None:
        """The error is raised in the flow."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            run.cursor = {1, 2}
            with pytest.raises(CursorInvalid):
                await run.checkpoint()
            run.cursor = [1, 2]

        assert (await run_job(services, registered(flow), message(), NOW)).outcome == "succeeded"
        assert await cursor_of(services) == [1, 2]

    async def test_a_record_keeps_a_short_cursor(self, world: World, services: Services) -> None:
        """It has the cursor before and after, each of up to 1 KB."""
        await world.put(document("t", entry("flow")))
        records = [
            await run_job(services, registered(ending(cursor)), message(run_id=f"r-{number}"), NOW)
            for number, cursor in enumerate(["short", "x" * 1100, 5])
        ]

        assert [(record.cursor_before, record.cursor_after) for record in records] == [
            (None, "short"),
            ("short", None),
            (None, 5),
        ]

    async def test_an_edit_of_the_state_during_a_run_is_kept(self, world: World, services: Services) -> None:
        """A checkpoint and the settlement write the state as it is, and change their own fields only."""
        await world.put(document("t", entry("flow")))

        async def touch(note: str) -> None:
            state = dict(await world.runs.read_item("state-flow", partition_key="t"))
            await world.runs.upsert_item({**state, note: True})

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            await touch("first")
            run.cursor = 1
            await run.checkpoint()
            await touch("second")
            run.cursor = 2

        await run_job(services, registered(flow), message(), NOW)

        state = dict(await world.runs.read_item("state-flow", partition_key="t"))
        assert (state["first"], state["second"], state["cursor"]) == (True, True, 2)


class TestParts:
    async def test_a_year_is_caught_up_in_weeks(self, world: World, wire: Wire, services: Services) -> None:
        """Each part settles its week, and the next part starts there. The ids count the parts."""
        await world.put(document("t", entry("flow")))
        start = NOW - timedelta(days=365)
        await world.runs.upsert_item(
            {
                "id": "state-flow",
                "tenantId": "t",
                "flowName": "flow",
                "type": "FlowState",
                "windowEndUtc": start.isoformat(),
            }
        )
        weeks = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            assert run.window.start
            end = min(run.window.start + timedelta(days=7), run.window.end)
            weeks.append((run.run_id, run.part, run.window.start, end))
            if end < run.window.end:
                raise Continue(window_end=end)

        host = Deliveries(services, wire, registered(flow))
        host.post(enqueued_utc=NOW, trigger="schedule")
        await host.all()

        assert [week[0] for week in weeks] == ["r-1", *(f"r-1.{part}" for part in range(2, 54))]
        assert [week[1] for week in weeks] == [*range(1, 54)]
        assert weeks[0][2] == start
        assert [week[3] for week in weeks[:-1]] == [week[2] for week in weeks[1:]]
        assert weeks[-1][3] == (await services.runs.state("t", ["flow"])).window_end_utc

    async def test_without_a_window_end_only_the_cursor_is_kept(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The next part has the same window start."""
        await world.put(document("t", entry("flow")))
        seen = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            seen.append((run.cursor, run.window.start))
            run.cursor = run.part
            if run.part < 3:
                raise Continue

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()
        between = await services.runs.state("t", ["flow"])
        await host.all()

        assert seen == [(None, None), (1, None), (2, None)]
        assert (between.window_end_utc, between.last_success_utc, between.last_outcome) == (None, None, "continued")

    async def test_a_window_end_beyond_the_window_is_refused(self, world: World, services: Services) -> None:
        """The window would skip the data in between."""
        await world.put(document("t", entry("flow")))
        error = Continue(window_end=NOW + timedelta(seconds=1))

        with pytest.raises(FlowFailed, match=r"Continue\(window_end=.*\): the run's window ends at"):
            await run_job(services, registered(ending(None, error)), message(), NOW)

    async def test_a_part_that_fails_is_attempted_again(self, world: World, wire: Wire, services: Services) -> None:
        """Each part has its own attempts."""
        await world.put(document("t", entry("flow")))
        attempts = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            attempts.append((run.run_id, run.attempt))
            if run.attempt == 1 and run.part == 2:
                raise OSError("down")
            if run.part < 3:
                raise Continue

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()

        assert attempts == [("r-1", 1), ("r-1.2", 1), ("r-1.2", 2), ("r-1.3", 1)]

    async def test_a_chain_beyond_its_limit_is_dead(self, world: World, wire: Wire, services: Services) -> None:
        """The last part is recorded as dead, with the limit and the remedy. The cursor is kept."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            run.cursor = run.part
            raise Continue

        host = Deliveries(services, wire, registered(flow, parts=3))
        host.post()
        await host.all()

        records = {record["runId"]: record for record in await world.records()}
        assert [record["outcome"] for record in records.values()] == ["continued"] * 3 + ["dead"]
        assert "the run did not end in 3 parts" in records["r-1.4"]["error"]["message"]
        assert await cursor_of(services) == 3

    async def test_the_next_part_is_sent_if_the_worker_was_killed_before(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The duplicate of the part sends its successor again, before it is dropped."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            if run.part < 2:
                raise Continue

        host = Deliveries(services, wire, registered(flow))
        host.post()
        wire.kill_before(to("POST", "/messages"))
        await host.next()
        assert [job.run_id for job in host.jobs] == ["r-1"]
        await host.all()

        assert host.kills == 1
        assert {record["runId"]: record["outcome"] for record in await world.records()} == {
            "r-1": "continued",
            "r-1.2": "succeeded",
        }
        assert await deliver(services, host.registry, message(3, id="m-1"), NOW) is None
        await host.all()
        assert len(await world.records()) == 2

    async def test_the_longest_posted_run_id_continues(self, world: World, wire: Wire, services: Services) -> None:
        """The id of a part is accepted by the app itself."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            if run.part < 12:
                raise Continue

        host = Deliveries(services, wire, registered(flow))
        host.post(run_id="x" * 200)
        await host.all()

        records = await world.records()
        assert sorted(record.get("part", 1) for record in records) == [*range(1, 13)]
        assert len({record["runId"].rpartition(".")[0] for record in records}) == 2

    async def test_a_redriven_part_goes_on_with_the_chain(self, world: World, wire: Wire, services: Services) -> None:
        """The parts after it are redriven, too: their records may have ended before."""
        await world.put(document("t", entry("flow")))
        parts: list[tuple[int, RunRecord | None]] = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            parts.append((run.part, None))
            if run.part < 3:
                raise Continue

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()
        host.post(redrive=1, run_id="r-1.2", part=2)
        await host.all()

        assert [part for part, _ in parts] == [1, 2, 3, 2, 3]

    async def test_a_posted_message_does_not_take_the_place_of_a_part(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """Part 2 of run `r` has the id `r.2`. A message with that id is kept with the reason, and the part runs."""
        await world.put(document("t", entry("flow")))
        parts = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            parts.append((run.run_id, run.part))
            if run.run_id == "r":
                raise Continue

        host = Deliveries(services, wire, registered(flow))
        for run in ("r.2", "r"):
            host.post(run_id=run)
            await host.all()

        letters = [each async for each in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        assert parts == [("r", 1), ("r.2", 2)]
        assert ["is the id of part 2 of run 'r'" in letter["why"] for letter in letters] == [True]
