"""`status`, `flows` and `incidents`: the problems of the fleet, with real services."""

import json
import shlex
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from azure.core.exceptions import ServiceRequestError

from datasync.cli import local_settings
from datasync.errors import GiveUp, TenantUnknown
from datasync.model.failure import Failure
from datasync.model.lease import Lease
from datasync.model.run import Attempt, Outcome
from datasync.model.state import FlowState
from datasync.operate import incidents as incidents_module
from datasync.operate.action import Ask
from datasync.operate.dead import DeadFilter, retry
from datasync.operate.flows import Health, flows
from datasync.operate.incidents import Incident, incidents
from datasync.operate.runs import ErrorLine
from datasync.operate.status import FlowCounts, status
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.operating import FEED, HOUR, NEXT, Fleet, command, settings_file
from tests.runs import job
from tests.world import World

DAY = timedelta(days=1)


async def health(fleet: Fleet, after: timedelta = timedelta()) -> dict[str, Health]:
    """Return the health of each flow, some time after noon. `/` stands for a whole document."""
    found = await flows(fleet.services, fleet.registry, NOW + after)
    return {f"{line.tenant_id}/{line.flow_name or ''}": line.health for line in found}


class TestFlows:
    async def test_each_entry_has_its_health(self, world: World, fleet: Fleet) -> None:
        """New, well, failing, disabled, deferred, running, and with a problem."""
        await fleet.add("new", "well", "bad")
        await fleet.add("off", enabled=False)
        await fleet.add("wrong", cron="0 * * * *")
        await fleet.add("busy")
        await fleet.tick()
        fleet.ends["bad"] = ValueError("no such city")
        await fleet.run("well", "r-1")
        await fleet.run("bad", "r-2", attempts=5)
        lease = Lease(until=(NOW + HOUR / 30).timestamp(), nonce="n", started_utc=NOW)
        await world.runs.upsert_item(FlowState(tenant_id="busy", flow_name="weather", lease=lease).document())

        assert await health(fleet) == {
            "new/weather": Health.NEW,
            "well/weather": Health.WELL,
            "bad/weather": Health.FAILING,
            "off/weather": Health.DISABLED,
            "wrong/weather": Health.PROBLEM,
            "busy/weather": Health.RUNNING,
        }

    async def test_a_flow_that_allows_overlapping_runs_is_running_while_one_is_going_on(
        self, world: World, fleet: Fleet
    ) -> None:
        """Also in the numbers of the fleet."""
        seen: list[tuple[Health, int]] = []

        @fleet.registry.flow("side", overlap="allow")
        async def side(tenant_id: str, kv: object) -> None:
            counts = (await status(fleet.services, fleet.registry, NOW)).flows
            seen.append(((await health(fleet))["t/side"], counts.running if counts else 0))

        await world.put(document("t", entry("side", nextRunUtc=NEXT)), document("u", entry("side", nextRunUtc=NEXT)))
        await fleet.run("t", "r-1", flow="side")

        assert seen == [(Health.RUNNING, 1)]
        assert (await health(fleet))["t/side"] is Health.WELL

    async def test_a_flow_is_late_when_two_occurrences_and_a_tick_have_passed_without_a_success(
        self, fleet: Fleet
    ) -> None:
        """The last success at noon covers the run of noon. Those of 13:00 and 14:00 are missed at the tick of 15:00."""
        await fleet.add("t")
        await fleet.run("t", "r-1")
        for hours in (1, 2, 3):
            await fleet.tick(HOUR * hours)

        assert await health(fleet, 3 * HOUR) == {"t/weather": Health.WELL}
        assert await health(fleet, 3 * HOUR + timedelta(seconds=1)) == {"t/weather": Health.LATE}
        (line,) = await flows(fleet.services, fleet.registry, NOW + 3 * HOUR + timedelta(seconds=1))
        assert line.late_since_utc == NOW + 3 * HOUR

    async def test_a_flow_that_two_ticks_have_not_enqueued_is_late(self, fleet: Fleet) -> None:
        """Also if it has never run. A tick may start five minutes late."""
        await fleet.add("t")

        assert await health(fleet, 3 * HOUR + timedelta(minutes=5)) == {"t/weather": Health.NEW}
        assert await health(fleet, 3 * HOUR + timedelta(minutes=6)) == {"t/weather": Health.LATE}

    async def test_a_disabled_flow_is_neither_failing_nor_late(self, fleet: Fleet) -> None:
        """Nobody has to look into it."""
        fleet.ends["t"] = GiveUp("no contract")
        await fleet.add("t", enabled=True)
        await fleet.run("t", "r-1")
        await fleet.add("t", enabled=False)

        (line,) = await flows(fleet.services, fleet.registry, NOW + DAY)
        assert (line.health, line.is_failing, line.late_since_utc) == (Health.DISABLED, False, None)
        assert line.consecutive_failures == 1

    async def test_an_entry_under_an_alias_has_the_state_of_its_flow(self, world: World, fleet: Fleet) -> None:
        """The state is stored under the flow's own name. `--flow` finds the entry under both."""
        await world.put(document("t", entry("forecast", nextRunUtc=None)))
        await fleet.run("t", "r-1", flow="forecast")

        for name in (None, "weather", "forecast"):
            (line,) = await flows(fleet.services, fleet.registry, NOW, flow=name)
            assert (line.flow_name, line.last_success_utc) == ("forecast", NOW)

    async def test_a_document_that_cannot_be_used_is_one_line(self, world: World, fleet: Fleet) -> None:
        """With the field, the value, and the time of the tick that found it."""
        await world.put({"id": "t", "tenantId": "t", "type": "Tenant", "flows": "weather"})
        await fleet.tick()

        (line,) = await flows(fleet.services, fleet.registry, NOW)
        assert (line.flow_name, line.health) == (None, Health.PROBLEM)
        assert line.problem == 'flows: expected a list of flow entries, got "weather"'
        assert line.problem_since_utc == "2025-08-23T12:00:00Z"

    async def test_an_entry_that_cannot_be_read_is_a_line(self, world: World, fleet: Fleet) -> None:
        """The others of the document have theirs."""
        await world.put(document("t", entry(nextRunUtc=None), entry(FEED, enabled="yes")))
        await fleet.tick()

        assert await health(fleet) == {"t/weather": Health.NEW, f"t/{FEED}": Health.PROBLEM}

    async def test_a_state_that_cannot_be_read_is_a_problem(self, world: World, fleet: Fleet) -> None:
        """The text names the document and the remedy."""
        await fleet.add("t")
        await fleet.run("t", "r-1")
        state = await world.runs.read_item("state-weather", partition_key="t")
        await world.runs.upsert_item({**state, "consecutiveFailures": "many"})

        (line,) = await flows(fleet.services, fleet.registry, NOW)
        assert line.problem is not None
        assert "flow state id='state-weather' of tenant 't'" in line.problem
        assert "delete the document" in line.problem

    async def test_one_tenant_is_read_alone(self, fleet: Fleet) -> None:
        """A tenant without a document is an error."""
        await fleet.add("t", "u")

        found = await flows(fleet.services, fleet.registry, NOW, tenant_id="u")
        assert [line.tenant_id for line in found] == ["u"]
        with pytest.raises(TenantUnknown):
            await flows(fleet.services, fleet.registry, NOW, tenant_id="v")


class TestStatus:
    async def test_the_numbers_of_a_fleet(self, world: World, fleet: Fleet) -> None:
        """Also the last tick and the queues."""
        await fleet.add("well", "bad")
        await fleet.add("off", enabled=False)
        await fleet.add("wrong", cron="0 * * * *")
        await fleet.tick()
        fleet.ends["bad"] = GiveUp("no contract")
        await fleet.run("well", "r-1")
        await fleet.run("bad", "r-2")
        await world.poison.send_message("bm90IGEgam9i")

        found = await status(fleet.services, fleet.registry, NOW + HOUR)

        assert found.tick is not None
        assert (found.tick.started_utc, found.tick.is_missing) == (NOW, False)
        assert found.queue is not None
        assert found.queue.length == 0
        assert found.poison is not None
        assert found.poison.length == 1
        assert found.flows == FlowCounts(
            tenants=4, enabled=3, disabled=1, failing=1, late=0, unusual=0, problems=1, running=0
        )
        assert not found.is_well

    @pytest.mark.parametrize(("schedule", "minutes"), [("0 0 * * * *", 120), ("0 */5 * * * *", 10), ("00:30:00", 120)])
    async def test_a_tick_is_missing_when_two_have_not_started(
        self, world: World, fleet: Fleet, schedule: str, minutes: int
    ) -> None:
        """By ORCHESTRATOR_SCHEDULE, with five minutes for a late start. A time span of the host counts as an hour."""
        await fleet.tick()

        async def last_tick(after: timedelta) -> str:
            shown = await command(world, "status", after=after, ORCHESTRATOR_SCHEDULE=schedule)
            return shown.stdout.splitlines()[0]

        late = timedelta(minutes=minutes + 5)
        assert "missing" not in await last_tick(late)
        assert "The next ones are missing" in await last_tick(late + timedelta(seconds=1))

    async def test_the_next_command_begins_like_this_one(self, world: World, fleet: Fleet) -> None:
        """The program of `bin/datasync` says its name to the command line."""
        await fleet.add("wrong", cron="0 * * * *")
        await fleet.tick()

        shown = await command(world, "status", DATASYNC_COMMAND="datasync")

        assert shown.stdout.splitlines()[-1] == "problems     1: datasync flows --problems"

    async def test_a_fleet_without_a_tick_is_not_well(self, world: World) -> None:
        """The line names the function that should run."""
        shown = await command(world, "status")

        assert shown.stdout.splitlines()[0] == (
            "last tick    none so far: is the function orchestrator running? Its schedule is 0 0 * * * *: "
            "python -m datasync ticks"
        )
        assert shown.exit_code == 1

    async def test_everything_that_can_be_read_is_shown(self, fleet: Fleet, wire: Wire) -> None:
        """The queues are away; the flows are counted."""
        await fleet.add("t")
        await fleet.tick()
        wire.before_each(to("GET", "-poison"), _refuse)

        found = await status(fleet.services, fleet.registry, NOW)

        assert found.poison is None
        assert found.queue is not None
        assert found.flows is not None
        assert (found.flows.enabled, found.is_well) == (1, False)
        assert "could not be reached" in found.unavailable[0]

    async def test_a_fleet_that_is_well_has_exit_code_0(self, world: World, fleet: Fleet) -> None:
        """Each line names its part. Nothing is on standard error."""
        await fleet.add("t")
        await fleet.tick()
        await fleet.run("t", "r-1")
        queue = world.settings.queue_name

        shown = await command(world, "status", after=timedelta(minutes=14))

        assert shown.stdout.splitlines() == [
            "last tick    2025-08-23T12:00:00Z, 14 min ago",
            f"queue        {queue}: 0 messages",
            f"poison       {queue}-poison: 0 messages",
            "flows        1 enabled, 0 disabled, 0 running, of 1 tenant",
            "failing      0",
            "late         0",
            "unusual      0",
            "problems     0",
        ]
        assert (shown.stderr, shown.exit_code) == ("", 0)


async def _refuse() -> None:
    raise ServiceRequestError("no route")


class TestIncidents:
    async def test_failures_with_one_fingerprint_are_one_incident(self, fleet: Fleet) -> None:
        """The one with the most tenants is the first."""
        await fleet.add("a", "b", "c", "well")
        fleet.ends = {"a": KeyError("city"), "b": KeyError("zip"), "c": GiveUp("no contract")}
        for number, tenant in enumerate(("a", "b", "c", "well")):
            await fleet.run(tenant, f"r-{tenant}", timedelta(minutes=number), attempts=5)

        found = (await incidents(fleet.services, fleet.registry, NOW + HOUR, NOW - DAY)).incidents

        assert [(each.tenants, each.failing, each.dead) for each in found] == [(2, 2, 2), (1, 1, 1)]
        assert found[0].error is not None
        assert found[0].error.message == "KeyError: 'zip'"
        assert (found[0].since_utc, found[0].last_utc) == (NOW, NOW + timedelta(minutes=1))
        assert (found[0].example_tenant_id, found[0].example_run_id) == ("b", "r-b")
        assert found[0].flows == ("weather",)

    async def test_an_incident_lasts_since_the_first_failure_after_the_last_success(self, fleet: Fleet) -> None:
        """Also if its runs are older than the time that was asked for."""
        await fleet.add("t")
        fleet.ends["t"] = GiveUp("one")
        await fleet.run("t", "r-1")
        del fleet.ends["t"]
        await fleet.run("t", "r-2", HOUR)
        for number, text in enumerate(("two", "three"), start=2):
            fleet.ends["t"] = GiveUp(text)
            await fleet.run("t", f"r-{number + 1}", HOUR * number)

        (found,) = (await incidents(fleet.services, fleet.registry, NOW + DAY, NOW + DAY)).incidents

        assert (found.since_utc, found.last_utc, found.dead) == (NOW + 2 * HOUR, NOW + 3 * HOUR, 0)
        assert found.error is not None
        assert "three" in found.error.message

    async def test_a_run_that_died_counts_after_its_flow_has_recovered(self, fleet: Fleet) -> None:
        """For the time that was asked for."""
        await fleet.add("t")
        fleet.ends["t"] = ValueError("broken")
        await fleet.run("t", "r-1", attempts=5)
        del fleet.ends["t"]
        await fleet.run("t", "r-2", HOUR)

        (found,) = (await incidents(fleet.services, fleet.registry, NOW + HOUR, NOW)).incidents
        assert (found.tenants, found.failing, found.dead, found.since_utc) == (1, 0, 1, NOW)
        assert (await incidents(fleet.services, fleet.registry, NOW + HOUR, NOW + HOUR)).incidents == ()

    @pytest.mark.parametrize("shared_second", [False, True])
    async def test_of_too_many_dead_runs_the_newest_are_counted_and_can_be_attempted_again(
        self, world: World, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, *, shared_second: bool
    ) -> None:
        """The answer says since when they are counted. A retry since then meets this number."""
        monkeypatch.setattr(incidents_module, "MOST_DEAD", 1 if shared_second else 2)
        await fleet.add("a", "b", "c", "d")
        for number, tenant in enumerate("abcd"):
            fleet.ends[tenant] = GiveUp("no contract")
            second = min(number, 2) if shared_second else number
            await fleet.run(tenant, f"r-{tenant}", timedelta(seconds=second, milliseconds=100 * number))

        found = await incidents(fleet.services, fleet.registry, NOW + HOUR, NOW - DAY)
        (own,) = found.incidents
        ask = Ask(action_id="a-1", who="Ada", at=NOW)
        wanted = DeadFilter(fingerprint=own.fingerprint, since=found.since_utc)
        await retry(fleet.services, fleet.registry, ask, wanted, count=own.dead, spread=timedelta())

        assert (own.dead, found.has_more) == (2, True)
        assert sorted(json.loads(each)["runId"] for each in await world.take()) == ["r-c", "r-d"]

    async def test_the_requests_do_not_grow_with_the_failing_flows(
        self, world: World, fleet: Fleet, wire: Wire
    ) -> None:
        """A provider that is down makes thousands of flows fail. Their states have the errors."""
        names = [f"flow-{number}" for number in range(200)]
        await world.put(document("t", *(entry(name, nextRunUtc=NEXT) for name in names)))
        error = Failure("OSError: down", "OSError", "f-1", host="api.example.com")
        failed = Attempt(id="a-1", outcome=Outcome.DEAD, started_utc=NOW, finished_utc=NOW + HOUR, error=error)

        async def fail(few: Sequence[str]) -> None:
            states = [FlowState(tenant_id="t", flow_name=name).after(failed, job(), None, None) for name in few]
            batch = [("upsert", (state.document(),)) for state in states]
            await world.runs.execute_item_batch(batch, partition_key="t")

        async def look() -> tuple[int, Incident]:
            before = len(wire.requests)
            (found,) = (await incidents(fleet.services, fleet.registry, NOW + HOUR, NOW - DAY)).incidents
            return len(wire.requests) - before, found

        await fail(names[:2])
        await look()  # finds the partitions of the containers
        few, of_few = await look()
        await fail(names[:100])
        await fail(names[100:])
        many, of_many = await look()

        assert (of_few.failing, of_many.failing) == (2, 200)
        assert many == few
        assert (of_many.fingerprint, of_many.since_utc, of_many.last_utc) == ("f-1", NOW, NOW + HOUR)
        assert (of_many.error, of_many.example_run_id) == (ErrorLine.of(error), "r-1")

    async def test_the_error_of_a_failing_flow_outlives_its_record(self, world: World, fleet: Fleet) -> None:
        """Records expire. The state of the flow does not."""
        await fleet.add("t")
        fleet.ends["t"] = GiveUp("no contract")
        await fleet.run("t", "r-1")
        await world.runs.delete_item("run-r-1", partition_key="t")

        (found,) = (await incidents(fleet.services, fleet.registry, NOW, NOW - DAY)).incidents
        assert (found.failing, found.dead, found.since_utc, found.example_run_id) == (1, 0, NOW, "r-1")
        assert found.error is not None
        assert found.error.message == "no contract"

    async def test_failures_under_an_earlier_version_are_found_in_the_records(self, world: World, fleet: Fleet) -> None:
        """Its states have no errors. The next failure brings the error, and the first record is still asked for."""
        await fleet.add("t")
        fleet.ends["t"] = GiveUp("one")
        await fleet.run("t", "r-1")
        await fleet.run("t", "r-2", HOUR)
        await _forget_error(world)

        async def look() -> Incident:
            (found,) = (await incidents(fleet.services, fleet.registry, NOW + DAY, NOW + DAY)).incidents
            return found

        found = await look()
        assert (found.since_utc, found.last_utc, found.example_run_id) == (NOW, NOW + HOUR, "r-2")
        fleet.ends["t"] = GiveUp("three")
        await fleet.run("t", "r-3", 2 * HOUR)
        found = await look()
        assert (found.since_utc, found.last_utc, found.example_run_id) == (NOW, NOW + 2 * HOUR, "r-3")
        assert found.error is not None
        assert found.error.message == "three"

    async def test_a_failure_without_error_and_record_is_counted(self, world: World, fleet: Fleet) -> None:
        """It was under an earlier version, and its record has expired."""
        await fleet.add("t")
        fleet.ends["t"] = GiveUp("no contract")
        await fleet.run("t", "r-1")
        await world.runs.delete_item("run-r-1", partition_key="t")
        await _forget_error(world)

        (found,) = (await incidents(fleet.services, fleet.registry, NOW, NOW - DAY)).incidents
        assert (found.fingerprint, found.failing, found.error, found.since_utc) == ("", 1, None, None)


async def _forget_error(world: World) -> None:
    """Make the state of a tenant's flow one of an earlier version."""
    state = await world.runs.read_item("state-weather", partition_key="t")
    del state["failingSinceUtc"], state["lastError"]
    await world.runs.replace_item("state-weather", state)


class TestCommands:
    async def test_lists_of_flows_are_columns_and_filters(self, world: World, fleet: Fleet) -> None:
        """Exit code 1 if a listed flow is wrong."""
        await fleet.add("bad", "well")
        await fleet.tick()
        fleet.ends["bad"] = GiveUp("no contract")
        await fleet.run("bad", "r-1")
        await fleet.run("well", "r-2")

        every = await command(world, "flows")
        assert every.stdout.splitlines() == [
            "tenant   flow      health    last success           next run               last outcome   failures",
            "bad      weather   failing   -                      2025-08-23T13:00:00Z   gave_up        1",
            "well     weather   well      2025-08-23T12:00:00Z   2025-08-23T13:00:00Z   succeeded      0",
            "",
            "2 flows",
            "next: python -m datasync why bad weather",
        ]
        assert every.exit_code == 1
        failing = await command(world, "flows", "--failing", "--json")
        assert [line["tenantId"] for line in msgspec.json.decode(failing.stdout)] == ["bad"]
        late = await command(world, "flows", "--late")
        assert (late.stdout, late.exit_code) == ("no flow\n", 0)
        well = await command(world, "flows", "--tenant", "well")
        assert well.exit_code == 0
        unknown = await command(world, "flows", "--tenant", "nobody")
        assert (unknown.stdout, unknown.exit_code) == ("", 3)
        assert "there is no tenant 'nobody'" in unknown.stderr

    async def test_an_incident_has_its_error_and_the_command_to_run_next(self, world: World, fleet: Fleet) -> None:
        """Exit code 1 while there is one."""
        fleet.ends["t"] = GiveUp("no contract")
        await fleet.add("t")
        await fleet.run("t", "r-1")

        shown = await command(world, "incidents", after=HOUR)
        error, numbers, example, again = shown.stdout.splitlines()

        assert error == "1 tenant, since 2025-08-23T12:00:00Z: no contract"
        assert numbers.startswith("  1 flow failing, 1 dead run; weather; fingerprint ")
        assert example == "  last at 2025-08-23T12:00:00Z: python -m datasync show r-1 --tenant t"
        fingerprint = numbers.rpartition(" ")[2]
        assert again == f"  attempt the dead again: python -m datasync dead retry --fingerprint {fingerprint}"
        assert shown.exit_code == 1

        await world.runs.delete_item("state-weather", partition_key="t")
        quiet = await command(world, "incidents", "--since", "30m", after=HOUR)
        assert (quiet.stdout, quiet.exit_code) == ("no incident\n", 0)


@pytest.mark.parametrize("option", ["--local", "--settings"])
async def test_commands_to_run_next_use_the_same_services(
    world: World, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """They have the option after the name of the command, also those of a group, and can be copied."""
    file = settings_file(tmp_path, world)
    monkeypatch.setattr(local_settings, "STARTED", Path(file))
    given = ("--local",) if option == "--local" else ("--settings", file)
    await fleet.add("bad")
    await fleet.add("wrong", cron="0 * * * *")
    await fleet.tick()
    fleet.ends["bad"] = ValueError("no such city")
    await fleet.run("bad", "r-1", attempts=5)

    for asked, names in (
        (("status",), ["incidents", "flows"]),
        (("incidents",), ["show", "dead retry"]),
        (("flows", "--problems"), ["why"]),
        (("why", "bad", "weather"), ["show"]),
        (("show", "r-1"), ["dead retry"]),
        (("show", "r-0"), ["runs"]),
        (("tenant", "get", "bad"), ["tenant put"]),
        (("enqueue", "bad", "weather"), ["show"]),
    ):
        shown = await command(world, *asked, *given)

        assert shown.output.count("python -m datasync ") == len(names)
        for name in names:
            assert f"python -m datasync {name} {shlex.join(given)}" in shown.output
