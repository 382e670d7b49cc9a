"""Duplicates with real services: one run for each decision, however many messages ask for it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, RetryLater
from datasync.model.times import utc_text
from datasync.services import Services
from datasync.settings import Settings
from localdev.keyvault import KeyVault
from tests.deliveries import NOW, Deliveries, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Killed, Wire, to
from tests.stages import FLOWS, FakeClock, deliver, does_nothing, registry_of, run_job, tick
from tests.world import World

SENT = to("POST", "/messages")


@pytest_asyncio.fixture
async def other(world: World, vault: KeyVault, wire: Wire) -> AsyncGenerator[Services]:
    """Return the services of another process, with a clock of its own."""
    services = Services(world.settings, FakeClock())
    yield services
    await services.close()


def counting(executions: list[int]) -> Callable[[str, SecretClient], Awaitable[None]]:
    async def flow(tenant_id: str, kv: SecretClient) -> None:
        executions.append(1)

    return flow


class TestMessages:
    """Several messages, or several deliveries of one, ask for the same run."""

    @pytest.mark.parametrize("duplicate", [{"delivery": 2}, {"id": "m-2"}], ids=str)
    async def test_a_run_that_has_ended_is_not_repeated(
        self, world: World, services: Services, caplog: pytest.LogCaptureFixture, duplicate: dict[str, Any]
    ) -> None:
        """The message is dropped with a log line. Nothing is written."""
        caplog.set_level("INFO")
        await world.put(document("t", entry("flow")))
        executions: list[int] = []
        await run_job(services, registered(counting(executions)), message(), NOW)
        before = [item async for item in world.runs.query_items("SELECT * FROM c")]

        assert await deliver(services, registered(counting(executions)), message(**duplicate), NOW) is None

        assert executions == [1]
        assert [item async for item in world.runs.query_items("SELECT * FROM c")] == before
        (line,) = [
            text for each in caplog.records if (text := each.getMessage()).startswith("DUPLICATE t/flow dropped")
        ]
        assert "succeeded" in line

    async def test_the_state_knows_the_last_runs_if_the_record_is_read_too_early(
        self, world: World, services: Services
    ) -> None:
        """A read may not show yet the last write of another process. The state is read under the lease."""
        await world.put(document("t", entry("flow")))
        executions: list[int] = []
        flow = registered(counting(executions))
        for number in range(24):
            await run_job(services, flow, message(run_id=f"r-{number}"), NOW)
        await world.runs.delete_item("run-r-0", partition_key="t")

        assert await deliver(services, flow, message(id="m-2", run_id="r-0"), NOW) is None

        assert len(executions) == 24
        assert (await services.runs.state("t", ["flow"])).lease is None
        assert (await run_job(services, flow, message(run_id="r-24"), NOW)).outcome == "succeeded"

    @pytest.mark.parametrize("overlap", ["once", "skip", "allow"])
    async def test_a_run_that_ends_after_its_record_was_read_is_not_repeated(
        self, world: World, wire: Wire, services: Services, overlap: str
    ) -> None:
        """The document with the lease shows it."""
        await world.put(document("t", entry("flow")))
        executions: list[int] = []
        flow = registered(counting(executions), overlap=overlap)
        wire.after(to("GET", "run-r-1"), lambda: run_job(services, flow, message(), NOW))

        assert await deliver(services, flow, message(id="m-2"), NOW) is None

        assert executions == [1]
        (record,) = await world.records()
        assert [attempt["outcome"] for attempt in record["attempts"]] == ["succeeded"]
        assert record.get("lease") is None

    @pytest.mark.parametrize("flows", [[entry("flow", enabled=False)], [], [entry("flow", settings=5)]], ids=str)
    async def test_a_run_that_ends_before_it_is_skipped_is_not_changed(
        self, world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture, flows: list[Any]
    ) -> None:
        """A duplicate reads a document that does not let the run start, and another message has ended the run."""
        caplog.set_level("INFO")
        await world.put(document("t", *flows))

        async def edit_and_run() -> None:
            await world.put(document("t", entry("flow")))
            await run_job(services, registered(succeed), message(), NOW)

        wire.after(to("GET", "run-r-1"), edit_and_run)
        assert await deliver(services, registered(succeed), message(id="m-2"), NOW) is None

        (record,) = await world.records()
        assert (record["outcome"], record["attemptCount"]) == ("succeeded", 1)
        assert "DUPLICATE t/flow dropped: the run has ended already (succeeded)" in caplog.text

    async def test_a_posted_message_has_one_run(self, world: World, services: Services) -> None:
        """A message without a run id gets one from its own id, so a second delivery is a duplicate."""
        await world.put(document("t", entry("flow")))
        posted: dict[str, Any] = {"run_id": None, "scheduled_utc": None}
        first = await run_job(services, registered(succeed), message(**posted), NOW)

        assert await deliver(services, registered(succeed), message(2, **posted), NOW) is None
        second = await run_job(services, registered(succeed), message(id="m-2", **posted), NOW)

        assert first.trigger == second.trigger == "message"
        assert first.run_id != second.run_id

    @pytest.mark.parametrize("bad", ["a/b", "r 1", 'r"1', "r~1.0", "x" * 201, ""])
    async def test_a_foreign_run_id_that_cannot_be_stored_is_refused(
        self, world: World, services: Services, caplog: pytest.LogCaptureFixture, bad: str
    ) -> None:
        """The message is kept as a dead letter, and the error names the field."""
        assert await deliver(services, registered(succeed), message(run_id=bad), NOW) is None

        assert "runId: expected up to 200 letters, digits, and any of _ . : -" in caplog.text
        letters = [item async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        assert [letter["id"] for letter in letters] == ["letter-m-1"]


class TestRedrives:
    """A run that is dead is attempted again."""

    async def test_a_redrive_runs_once(self, world: World, services: Services) -> None:
        """A record ends only messages whose number is not greater than its own. The failures are counted again."""
        await world.put(document("t", entry("flow")))
        results: list[BaseException | None] = [LookupError("down")] * 5 + [LookupError("still down"), None]

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            if error := results.pop(0):
                raise error

        host_errors = 0
        for delivery in range(1, 6):
            try:
                await run_job(services, registered(flow), message(delivery), NOW)
            except Exception:  # noqa: BLE001 - the host counts it
                host_errors += 1
        dead = await services.runs.record("t", "r-1")
        assert (await deliver(services, registered(flow), message(id="m-2"), NOW), host_errors) == (None, 4)

        with pytest.raises(Exception, match="still down"):
            await run_job(services, registered(flow), message(id="m-3", redrive=1), NOW)
        failed = await services.runs.record("t", "r-1")
        succeeded = await run_job(services, registered(flow), message(2, id="m-3", redrive=1), NOW)

        assert dead
        assert failed
        assert [(each.outcome, each.failures, each.redrive) for each in (dead, failed, succeeded)] == [
            ("dead", 5, 0),
            ("failed", 1, 1),
            ("succeeded", 1, 1),
        ]
        assert (succeeded.attempt_count, succeeded.trigger) == (7, "redrive")
        for older in ({"redrive": 1}, {"redrive": 0}):
            assert await deliver(services, registered(flow), message(id="m-4", **older), NOW) is None
        again = await run_job(services, registered(succeed), message(id="m-5", redrive=2), NOW)
        assert (again.outcome, again.redrive) == ("succeeded", 2)

    async def test_a_redrive_that_is_killed_is_attempted_again(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The run has ended before, but not for the redriven message."""
        await world.put(document("t", entry("flow")))
        await run_job(services, registered(succeed), message(), NOW)

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            wire.killed = True

        with pytest.raises(Killed):
            await run_job(services, registered(flow), message(id="m-2", redrive=1), NOW)
        wire.heal()
        later = NOW + timedelta(minutes=10)
        await run_job(services, registered(succeed), message(id="m-3", run_id="r-2"), later)
        interrupted = await services.runs.record("t", "r-1")
        run = await run_job(services, registered(succeed), message(2, id="m-2", redrive=1), later)

        assert interrupted
        assert interrupted.outcome == "interrupted"
        assert [attempt.outcome for attempt in run.attempts] == ["succeeded", "interrupted", "succeeded"]


class TestDeferrals:
    async def test_a_chain_of_deferrals_does_not_multiply(self, world: World, wire: Wire, services: Services) -> None:
        """Each send loses its answer and is repeated. Older numbers are dropped, so the flow runs once for each."""
        await world.put(document("t", entry("flow")))
        executions = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            executions.append(1)
            if len(executions) < 5:
                wire.lose_answer(SENT)
                raise RetryLater(timedelta(minutes=1))

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()

        assert len(executions) == 5
        (record,) = await world.records()
        assert [attempt["outcome"] for attempt in record["attempts"]] == ["deferred"] * 4 + ["succeeded"]
        assert record["deferrals"] == 4

    async def test_an_older_message_is_dropped_while_the_chain_goes_on(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """Its successor was sent again by its own message alone."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            raise RetryLater(timedelta(minutes=1))

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()
        await deliver(services, host.registry, message(id="m-x"), NOW)
        assert [job.deferral for job in host.jobs] == [1]
        await deliver(services, host.registry, message(2, id="m-1"), NOW)
        assert [job.deferral for job in host.jobs] == [1, 1]
        await host.next()
        await host.next()

        (record,) = await world.records()
        assert (record["attemptCount"], record["deferrals"]) == (2, 2)


DUE = "2025-08-23T12:00:00Z"
NOON = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)


class TestOccurrences:
    """Several ticks decide about the same occurrence."""

    @staticmethod
    async def edit(world: World, **fields: Any) -> None:
        """Edit the first entry as a person does, and keep the rest."""
        found = await world.document("t")
        await world.put({**found, "flows": [{**found["flows"][0], **fields}, *found["flows"][1:]]})

    @pytest.mark.parametrize("planned", [True, False], ids=["planned by the app", "set by a person"])
    @pytest.mark.parametrize("edit", ["name", "settings", "index", "timezone"])
    async def test_two_ticks_at_once_with_an_edit_in_between(
        self, world: World, wire: Wire, services: Services, other: Services, edit: str, *, planned: bool
    ) -> None:
        """Both enqueue the occurrence under the same run id."""
        due = NOW if planned else NOW - timedelta(seconds=30)  # which is not a time of the schedule
        stored = "2025-08-23T11:00:00Z" if planned else utc_text(due)
        await world.put(document("t", entry("weather", nextRunUtc=stored)))
        if planned:
            await tick(services, NOON - timedelta(hours=1))
        host = Deliveries(services, wire, FLOWS)

        async def edit_and_tick() -> None:
            found = await world.document("t")
            if edit == "index":
                found["flows"].insert(0, entry("second", nextRunUtc="2030-01-01T00:00:00Z"))
            elif edit == "settings":
                found["flows"][0]["settings"] = {"a": 1}
            else:
                found[edit] = "Europe/Berlin"
            await world.put(found)
            await tick(other, NOON + timedelta(seconds=5))

        wire.after(SENT, edit_and_tick)
        await tick(services, NOON)

        assert len(host.jobs) >= 1
        assert len({job.run_id for job in host.jobs}) == 1
        assert [job.scheduled_utc for job in host.jobs] == [due] * len(host.jobs)
        assert host.jobs[0].trigger == ("schedule" if planned else "forced")

    @pytest.mark.parametrize("planned", [True, False], ids=["planned by the app", "without a note from the start"])
    async def test_the_note_is_removed_after_a_tick_was_killed(
        self, world: World, wire: Wire, services: Services, other: Services, *, planned: bool
    ) -> None:
        """Somebody saves the document from a file, before `nextRunUtc` has moved. The occurrence has the same run."""
        await world.put(document("t", entry("weather", nextRunUtc=None if planned else DUE)))
        if planned:
            await tick(services, NOON - timedelta(hours=1))
        host = Deliveries(services, wire, FLOWS)
        wire.kill_before(to("PATCH", "/docs/t", "/nextRunUtc"))
        with pytest.raises((Killed, BaseExceptionGroup)):
            await tick(services, NOON)
        wire.heal()
        found = await world.document("t")
        del found["flows"][0]["planned"]
        await world.put(found)
        await tick(other, NOON + timedelta(minutes=5))

        assert [job.trigger for job in host.jobs] == ["schedule"] * 2
        assert len({job.run_id for job in host.jobs}) == 1

    @pytest.mark.parametrize("due", ["2025-08-23T11:59:59Z", "2025-08-21T12:00:00Z"], ids=["off schedule", "long ago"])
    async def test_a_time_that_a_document_without_notes_forces_again_is_a_run_again(
        self, world: World, wire: Wire, services: Services, due: str
    ) -> None:
        """Somebody saves a document from a file, which has no note, each time to force a run."""
        host = Deliveries(services, wire, FLOWS)
        for minutes in (0, 5):
            await world.put(document("t", entry("weather", nextRunUtc=due)))
            await tick(services, NOON + timedelta(minutes=minutes))

        assert [job.trigger for job in host.jobs] == ["forced"] * 2
        assert len({job.run_id for job in host.jobs}) == 2

    async def test_the_entry_gets_the_new_name_of_its_flow_after_a_tick_was_killed(
        self, world: World, wire: Wire, services: Services, other: Services
    ) -> None:
        """The flow was published under the new name, with the old one as an alias. The run id is the same in both."""
        published, renamed = registry_of("old"), FlowRegistry()
        renamed.flow("new", aliases=("old",))(does_nothing)
        await world.put(document("t", entry("old", nextRunUtc=None)))
        await tick(services, NOON - timedelta(hours=1), published)
        host = Deliveries(services, wire, renamed)
        for process in (services, services):
            wire.kill_before(to("PATCH", "/docs/t", "/nextRunUtc"))
            with pytest.raises((Killed, BaseExceptionGroup)):
                await tick(process, NOON, published if not host.jobs else renamed)
            wire.heal()
        await self.edit(world, name="new")
        await tick(other, NOON + timedelta(minutes=5), renamed)

        assert [job.flow_name for job in host.jobs] == ["old", "old", "new"]
        assert len({job.run_id for job in host.jobs}) == 1

    @pytest.mark.parametrize("next_run", [DUE, None], ids=["set by a person", "removed by a person"])
    async def test_an_occurrence_that_was_planned_ahead_and_is_overdue_later(
        self, world: World, wire: Wire, services: Services, next_run: str | None
    ) -> None:
        """A tick that is killed before it has moved `nextRunUtc` leaves it to one that finds it overdue."""
        ahead = Services(_with_lookahead(world), FakeClock())
        await world.put(document("t", entry("weather", nextRunUtc=next_run)))
        host = Deliveries(services, wire, FLOWS)
        before = NOON - timedelta(minutes=20)
        if next_run is None:
            await tick(services, before)  # fills it in
        wire.kill_before(to("PATCH", "/docs/t", "/nextRunUtc"))
        with pytest.raises((Killed, BaseExceptionGroup)):
            await tick(ahead, before)
        wire.heal()
        await ahead.close()
        await tick(services, NOON)

        assert len(host.jobs) == 2
        assert len({job.run_id for job in host.jobs}) == 1

    async def test_an_occurrence_that_is_planned_again_after_next_run_was_removed(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The run was planned ahead. A person removes `nextRunUtc`, and the next tick plans the same occurrence."""
        ahead = Services(_with_lookahead(world), FakeClock())
        await world.put(document("t", entry("weather", nextRunUtc=None)))
        host = Deliveries(services, wire, FLOWS)
        await tick(services, NOON - timedelta(hours=1, minutes=20))
        await tick(ahead, NOON - timedelta(minutes=40))
        await self.edit(world, nextRunUtc=None)
        await tick(ahead, NOON - timedelta(minutes=20))
        await ahead.close()

        at_noon = [job.run_id for job in host.jobs if job.scheduled_utc == NOW]
        assert (len(at_noon), len(set(at_noon))) == (2, 1)

    async def test_the_same_past_time_set_again_is_a_run_again(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """A person forces a run by a past time, and later another one by the same time."""
        await world.put(document("t", entry("weather", nextRunUtc=DUE)))
        host = Deliveries(services, wire, FLOWS)
        for minutes in (0, 5, 10):
            await self.edit(world, nextRunUtc=DUE)
            await tick(services, NOON + timedelta(minutes=minutes))

        assert [job.scheduled_utc for job in host.jobs] == [NOW] * 3
        assert len({job.run_id for job in host.jobs}) == 3

    async def test_the_cron_is_edited_after_a_run_was_planned_ahead(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The planned run is skipped at its time."""
        ahead = Services(_with_lookahead(world), FakeClock())
        await world.put(document("t", entry("weather", nextRunUtc=DUE)))
        host = Deliveries(services, wire, FLOWS)
        await tick(ahead, NOON - timedelta(minutes=20))
        await ahead.close()
        await self.edit(world, cron="0 30 * * * *")
        await host.all()

        records = await world.records()
        assert [(record["outcome"], record["scheduledUtc"]) for record in records] == [("skipped_rescheduled", DUE)]


def _with_lookahead(world: World) -> Settings:
    return replace(world.settings, lookahead=timedelta(hours=1))
