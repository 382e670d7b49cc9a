"""`dead list`, `dead show`, `dead retry` and `dead purge`, with real services."""

import asyncio
import json
import os
import pty
import signal
import sys
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from datasync.errors import ActionInvalid, ActionRefused, ChangedMeanwhile, GiveUp, RetryLater
from datasync.operate import dead as dead_module
from datasync.operate.action import Ask
from datasync.operate.dead import DeadFilter, purge, retry
from localdev.hosting import ROOT
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.faults import Killed, Wire, to
from tests.operating import FEED, HOUR, Fleet, command
from tests.world import World

pytestmark = pytest.mark.usefixtures("died")


def ask(action_id: str = "a-1") -> Ask:
    return Ask(action_id=action_id, who="Ada", at=NOW)


@pytest_asyncio.fixture
async def died(fleet: Fleet, wire: Wire) -> Fleet:
    """Run three tenants: two die of the same error, and in one the flow gives up. A fourth succeeds."""
    await fleet.add("a", "b", "c", "well")
    fleet.ends = {"a": KeyError("city"), "b": KeyError("city"), "c": GiveUp("no contract")}
    for tenant in ("a", "b", "c", "well"):
        await fleet.run(tenant, f"r-{tenant}", attempts=5)
    return fleet


async def listed(world: World, *arguments: str) -> list[str]:
    shown = await command(world, "dead", "list", *arguments, "--json")
    return sorted(each["runId"] for each in json.loads(shown.stdout)["runs"])


async def sent(world: World) -> str:
    """Take the only message from the queue."""
    (body,) = await world.take()
    return body


async def fingerprint(world: World) -> str:
    """Return the fingerprint of the error of two tenants."""
    return str((await world.records("a"))[0]["error"]["fingerprint"])


class TestList:
    async def test_dead_runs_are_listed_and_counted(self, world: World) -> None:
        """By fingerprint, tenant, flow and time. Exit code 1, as somebody has to look."""
        shown = await command(world, "dead", "list", "--limit", "2")

        assert shown.exit_code == 1
        assert len(shown.stdout.splitlines()) == 5
        assert shown.stdout.splitlines()[-1] == "3 dead runs, of which 1 are not listed"
        assert await listed(world) == ["r-a", "r-b", "r-c"]
        assert await listed(world, "--fingerprint", await fingerprint(world)) == ["r-a", "r-b"]
        assert await listed(world, "--tenant", "a", "--flow", "weather") == ["r-a"]
        assert await listed(world, "--since", "2025-08-23T12:00:01Z") == []
        assert (await command(world, "dead", "list", "--tenant", "well")).exit_code == 0

    async def test_one_is_shown_as_a_run(self, world: World) -> None:
        """With its attempts."""
        shown = await command(world, "dead", "show", "r-a", "--tenant", "a")

        assert (shown.exit_code, "attempt 5   dead" in shown.stdout) == (0, True)


class TestRetry:
    async def test_the_runs_of_an_error_are_attempted_again(self, world: World, died: Fleet) -> None:
        """With their ids and five attempts. The others stay dead."""
        error = await fingerprint(world)
        shown = await command(world, "dead", "retry", "--fingerprint", error, "--yes", "2", "--spread", "0m")
        died.ends = {}
        for body in await world.take():
            await died.deliver(body)

        assert shown.stdout == "2 dead runs attempted again\n"
        assert await listed(world) == ["r-c"]
        (record,) = await world.records("a")
        assert (record["outcome"], record["redrive"], record["trigger"]) == ("succeeded", 1, "redrive")
        (audit,) = json.loads((await command(world, "audit", "--json")).stdout)["actions"]
        assert (audit["action"], audit["arguments"]["count"], audit["end"]) == ("retry", 2, "done")

    @pytest.mark.parametrize("verb", ["retry", "purge"])
    async def test_it_is_among_the_actions_of_each_of_its_tenants(self, world: World, verb: str) -> None:
        """And of no other tenant."""
        await command(world, "dead", verb, "--fingerprint", await fingerprint(world), "--yes", "2")
        found = {each: json.loads((await command(world, "audit", "--tenant", each, "--json")).stdout) for each in "abc"}

        actions = {tenant: [each["action"] for each in answer["actions"]] for tenant, answer in found.items()}
        assert actions == {"a": [verb], "b": [verb], "c": []}
        (line,) = found["a"]["actions"]
        assert (line["tenantId"], line["tenantIds"]) == (None, ["a", "b"])
        shown = await command(world, "audit", "--tenant", "a")
        assert "a, b" in shown.stdout

    async def test_they_start_one_after_the_other(self, died: Fleet, wire: Wire) -> None:
        """Over the spread: the first at once."""
        await retry(died.services, died.registry, ask(), DeadFilter(), count=3, spread=timedelta(minutes=30))
        hidden = [url for method, url, _ in wire.requests if method == "POST" and "/messages" in url]

        assert sorted(url.partition("visibilitytimeout=")[2].partition("&")[0] for url in hidden) == ["", "1200", "600"]

    async def test_another_number_than_was_confirmed_is_refused(self, world: World) -> None:
        """Exit code 5, and nothing is sent."""
        shown = await command(world, "dead", "retry", "--yes", "2")

        assert (shown.exit_code, shown.stdout) == (5, "")
        assert "3 dead runs match now, and 2 were confirmed" in shown.stderr
        assert await world.drained()

    async def test_a_run_of_a_disabled_flow_is_left_out_and_stays_dead(self, world: World) -> None:
        """It would be skipped. The others are sent, and the reason and the remedy are named."""
        await command(world, "pause", "b", "weather", "--reason", "no contract")
        error = await fingerprint(world)
        shown = await command(world, "dead", "retry", "--fingerprint", error, "--yes", "2", "--spread", "0m")

        assert shown.stdout == (
            "1 dead run attempted again. 1 dead run stays dead: b/weather is disabled (no contract): resume it first\n"
        )
        assert [json.loads(each)["runId"] for each in await world.take()] == ["r-a"]
        assert "r-b" in await listed(world)

    async def test_runs_that_cannot_run_are_refused(self, world: World) -> None:
        """The tenant, or its entry, is gone. The refusal has an audit."""
        await world.tenants.delete_item("a", partition_key="a")
        await world.put(document("b", entry(FEED)))
        shown = await command(world, "dead", "retry", "--fingerprint", await fingerprint(world), "--yes", "2")

        assert (shown.exit_code, shown.stdout) == (1, "")
        assert "nothing was done: " in shown.stderr
        assert "there is no tenant 'a'" in shown.stderr
        assert "b/weather has no entry in the document: add it, or purge the run" in shown.stderr
        assert await listed(world) == ["r-a", "r-b", "r-c"]
        (audit,) = json.loads((await command(world, "audit", "--json")).stdout)["actions"]
        assert (audit["end"], audit["message"]) == ("refused", shown.stderr.strip().removeprefix("Error: "))

    @pytest.mark.parametrize("change", [{"enabled": False}, {"name": FEED}], ids=str)
    async def test_a_flow_that_is_disabled_after_the_retry_leaves_its_run_dead(
        self, world: World, died: Fleet, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
    ) -> None:
        """Its message comes too late. The run is listed, and a later retry attempts it."""
        await retry(died.services, died.registry, ask(), DeadFilter(tenant_id="a"), count=1, spread=timedelta())
        await world.put(document("a", entry(**change)))
        await died.deliver(await sent(world))

        assert await listed(world, "--tenant", "a") == ["r-a"]
        assert "REFUSED a/weather stays dead: the " in caplog.text
        await died.add("a")
        died.ends = {}
        await retry(died.services, died.registry, ask("a-2"), DeadFilter(tenant_id="a"), count=1, spread=timedelta())
        await died.deliver(await sent(world))
        assert [each["outcome"] for each in await world.records("a")] == ["succeeded"]

    async def test_a_run_that_is_disabled_between_its_attempts_is_dead_again(self, world: World, died: Fleet) -> None:
        """It has been attempted, and failed."""
        await retry(died.services, died.registry, ask(), DeadFilter(tenant_id="a"), count=1, spread=timedelta())
        body = await sent(world)
        await died.deliver(body)
        await died.add("a", enabled=False)
        await died.deliver(body, 2)

        assert await listed(world, "--tenant", "a") == ["r-a"]
        (record,) = await world.records("a")
        assert (record["redrive"], record["error"]["message"][:22]) == (1, "the flow is disabled: ")

    async def test_a_run_waits_for_another_one_of_its_flow(self, world: World, died: Fleet) -> None:
        """It is listed until then, and is attempted after the other's end."""
        await retry(died.services, died.registry, ask(), DeadFilter(tenant_id="a"), count=1, spread=timedelta())
        body = await sent(world)
        meanwhile: list[list[str]] = []

        async def met() -> None:
            await died.deliver(body)
            meanwhile.append(await listed(world, "--tenant", "a"))

        died.ends = {}
        died.during["a"] = met
        await died.run("a", "r-other")
        died.during = {}

        assert meanwhile == [["r-a"]]
        assert [each.outcome for each in [await died.services.runs.record("a", "r-other")] if each] == ["succeeded"]
        waiting = (await world.jobs.get_queue_properties()).approximate_message_count
        assert waiting == 1
        await died.deliver(body, 2, HOUR)
        assert {each["runId"]: each["outcome"] for each in await world.records("a")} == {
            "r-a": "succeeded",
            "r-other": "succeeded",
        }

    async def test_a_deferred_run_that_gives_way_to_another_one_is_dead_again(self, world: World, died: Fleet) -> None:
        """As a skipped run it would leave the list."""
        minute = timedelta(minutes=1)
        await retry(died.services, died.registry, ask(), DeadFilter(tenant_id="a"), count=1, spread=timedelta())
        body = await sent(world)
        died.ends["a"] = RetryLater(2 * minute, "busy")
        await died.deliver(body)
        died.ends["a"] = RetryLater(20 * minute, "busy")
        await died.deliver(json.dumps({**json.loads(body), "runId": "asked", "trigger": "manual", "redrive": 0}))
        await died.deliver(json.dumps({**json.loads(body), "deferral": 1}), 1, 3 * minute)

        assert await listed(world, "--tenant", "a") == ["r-a"]

    async def test_any_number_of_runs_is_sent_in_slices(
        self, died: Fleet, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Over the spread as a whole. Each run is sent once."""
        monkeypatch.setattr(dead_module, "SLICE", 2)
        done = await retry(died.services, died.registry, ask(), DeadFilter(), count=3, spread=timedelta(minutes=30))
        hidden = [url for method, url, _ in wire.requests if method == "POST" and "/messages" in url]

        assert (done.message, done.after) == ("3 dead runs attempted again over 0:30:00", {"runs": 3})
        assert sorted(url.partition("visibilitytimeout=")[2].partition("&")[0] for url in hidden) == ["", "1200", "600"]

    async def test_a_kill_between_two_slices_is_completed_by_the_repeat(
        self, world: World, died: Fleet, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The repeat has another number, and a later --since: both are those of the first request."""
        monkeypatch.setattr(dead_module, "SLICE", 1)
        services = died.services
        await asyncio.gather(services.runs.ping(), services.jobs.ping(), services.tenants.ping())
        numbers = iter(range(9))
        wire.kill_before(lambda request: "/messages" in request[1] and next(numbers) == 1)
        with pytest.raises((Killed, BaseExceptionGroup)):
            await retry(services, died.registry, ask(), DeadFilter(since=NOW), count=3, spread=timedelta())
        wire.heal()
        died.ends = {}
        await died.deliver(await sent(world))
        left = await listed(world)
        again = DeadFilter(since=NOW + HOUR)
        done = await retry(services, died.registry, ask(), again, count=2, spread=timedelta())

        assert (done.message, done.is_repeat) == ("3 dead runs attempted again", True)
        assert (len(left), sorted(json.loads(each)["runId"] for each in await world.take())) == (2, left)

    async def test_a_repeat_of_the_command_need_not_be_confirmed(self, world: World) -> None:
        """A relative --since, and the number of runs, differ by then."""
        words = ("dead", "purge", "--since", "1d", "--fingerprint", await fingerprint(world), "--action-id", "p")
        first = await command(world, *words, "--yes", "2")
        again = [await command(world, *words, *yes, after=HOUR) for yes in ((), ("--yes", "0"))]

        assert first.exit_code == 0
        assert {(each.exit_code, each.stdout) for each in again} == {
            (0, first.stdout.strip() + " (an earlier request with this action id has done it)\n")
        }

    async def test_a_repeat_sends_nothing_again(self, world: World, died: Fleet) -> None:
        """Also of runs that have died again."""
        first = await retry(died.services, died.registry, ask(), DeadFilter(tenant_id="a"), count=1, spread=timedelta())
        body = await sent(world)
        for delivery in range(1, 6):
            await died.deliver(body, delivery)
        again = await retry(died.services, died.registry, ask(), DeadFilter(tenant_id="a"), count=1, spread=timedelta())

        assert (again.message, again.is_repeat) == (first.message, True)
        assert await listed(world, "--tenant", "a") == ["r-a"]
        assert await world.drained()

    async def test_a_kill_half_way_loses_no_run_and_repeats_none(self, world: World, died: Fleet, wire: Wire) -> None:
        """The repeat sends the rest. A run that has died again before the repeat is left alone."""
        services, everything = died.services, DeadFilter()
        await asyncio.gather(services.runs.ping(), services.jobs.ping())
        wire.kill_before(to("PUT", "/docs/audit-"))
        with pytest.raises(Killed):
            await retry(services, died.registry, ask(), everything, count=3, spread=timedelta())
        wire.heal()
        bodies = {json.loads(each)["runId"]: each for each in await world.take()}
        assert sorted(bodies) == ["r-a", "r-b", "r-c"]
        for delivery in range(1, 6):
            await died.deliver(bodies["r-a"], delivery, HOUR)
        await retry(services, died.registry, ask(), everything, count=3, spread=timedelta())

        again = [json.loads(each) for each in await world.take()]
        assert sorted((each["runId"], each["redrive"]) for each in again) == [("r-b", 1), ("r-c", 1)]

    async def test_what_cannot_be_is_refused(self, died: Fleet) -> None:
        """No run, or a spread that is longer than the queue hides messages."""
        services, nobody = died.services, DeadFilter(tenant_id="nobody")
        with pytest.raises(ActionRefused, match="no dead run matches"):
            await retry(services, died.registry, ask(), nobody, count=0, spread=timedelta())
        with pytest.raises(ActionInvalid, match="a spread of 7 days"):
            await retry(services, died.registry, ask(), nobody, count=0, spread=timedelta(days=7))

    async def test_without_a_terminal_the_flag_is_named(self, world: World) -> None:
        """Exit code 2, after the runs were listed on standard error."""
        shown = await command(world, "dead", "retry", "--tenant", "a")

        assert (shown.exit_code, shown.stdout) == (2, "")
        assert "there is no terminal to confirm this on: use --yes 1" in shown.stderr
        assert "KeyError: 'city'" in shown.stderr

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminal")
    @pytest.mark.parametrize(("typed", "code", "sent"), [("3", 0, 3), ("4", 1, 0)])
    async def test_the_number_is_typed_at_a_terminal(self, world: World, typed: str, code: int, sent: int) -> None:
        """Another number is not a confirmation."""
        controller, terminal = pty.openpty()
        try:
            os.write(controller, f"{typed}\n".encode())
            started = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "datasync", "dead", "retry", "--spread", "0m"),
                cwd=ROOT,
                env={**os.environ, **world.environ},
                stdin=terminal,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            output, errors = await started.communicate()
        finally:
            os.close(controller)
            os.close(terminal)

        assert started.returncode == code, errors.decode()
        assert b"type their number" in errors
        assert len(await world.take()) == sent
        assert (b"3 dead runs attempted again" in output) == (sent > 0)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminal")
    async def test_ctrl_c_at_the_question_does_nothing(self, world: World) -> None:
        """Exit code 130, with one line, at once."""
        controller, terminal = pty.openpty()
        try:
            started = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "datasync", "dead", "retry"),
                cwd=ROOT,
                env={**os.environ, **world.environ},
                stdin=terminal,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert started.stderr
            await started.stderr.readuntil(b"type their number: ")
            started.send_signal(signal.SIGINT)
            output, errors = await started.communicate()
        finally:
            os.close(controller)
            os.close(terminal)

        assert (started.returncode, output, errors) == (130, b"", b"Interrupted\n")
        assert await world.drained()


class TestPurge:
    async def test_purged_runs_leave_the_list_and_keep_their_records(self, world: World) -> None:
        """Also in incidents. `show` says when."""
        error = await fingerprint(world)
        shown = await command(world, "dead", "purge", "--fingerprint", error, "--yes", "2")
        incidents = json.loads((await command(world, "incidents", "--json")).stdout)["incidents"]

        assert shown.stdout == "2 dead runs purged. Their records stay until they expire\n"
        assert await listed(world) == ["r-c"]
        assert {each["fingerprint"]: each["dead"] for each in incidents}[error] == 0
        assert "purged" in (await command(world, "show", "r-a", "--tenant", "a")).stdout

    async def test_a_run_that_was_started_again_meanwhile_is_not_purged(
        self, world: World, died: Fleet, wire: Wire
    ) -> None:
        """It has died again, of another error perhaps."""

        async def again() -> None:
            record = await world.runs.read_item("run-r-a", partition_key="a")
            await world.runs.upsert_item({**record, "redrive": 1})

        wire.before_each(to("PATCH", "/docs/run-r-a"), again)
        await purge(died.services, died.registry, ask(), DeadFilter(), count=3)

        assert await listed(world) == ["r-a"]

    async def test_a_purged_run_is_listed_when_it_dies_again(self, world: World, died: Fleet) -> None:
        """Somebody has posted it."""
        await purge(died.services, died.registry, ask(), DeadFilter(tenant_id="a"), count=1)
        for delivery in range(1, 6):
            await died.deliver(json.dumps({**_job((await world.records("a"))[0]), "redrive": 1}), delivery, HOUR)

        assert "r-a" in await listed(world)

    async def test_another_number_than_was_confirmed_is_refused(self, died: Fleet) -> None:
        """Nothing is purged."""
        with pytest.raises(ChangedMeanwhile, match="3 dead runs match now, and 4 were confirmed"):
            await purge(died.services, died.registry, ask(), DeadFilter(), count=4)


def _job(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("tenantId", "flowName", "scheduledUtc", "runId")}
