"""`enqueue`, `pause`, `resume`, `next-run` and `audit`, and the rules of all actions, with real services."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from datasync.errors import (
    ActionInvalid,
    ChangedMeanwhile,
)
from datasync.operate.action import Ask, Done
from datasync.operate.edits import pause, resume, set_next_run
from datasync.operate.enqueue import enqueue, run_of
from datasync.services import Services
from localdev.hosting import ROOT
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.faults import Killed, Wire, to
from tests.operating import FEED, HOUR, NEXT, Fleet, command
from tests.waiting import wait_until
from tests.world import World

MINUTE = timedelta(minutes=1)

pytestmark = pytest.mark.usefixtures("two")


def ask(action_id: str = "a-1", who: str = "Ada") -> Ask:
    return Ask(action_id=action_id, who=who, at=NOW)


async def audits(world: World) -> list[dict[str, Any]]:
    found = [dict(item) async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'Audit'")]
    return sorted(found, key=lambda each: (each["startedUtc"], each["actionId"]))


async def switches(world: World, tenant: str = "t") -> dict[str, dict[str, Any]]:
    """Return the fields of each entry that pause and resume change."""
    names = ("enabled", "pauseReason", "pausedWithTenant")
    stored = await world.document(tenant)
    return {each["name"]: {name: each[name] for name in names if name in each} for each in stored["flows"]}


@pytest_asyncio.fixture
async def two(fleet: Fleet) -> Fleet:
    """Store a tenant with two enabled entries, and one that is disabled."""
    three = (entry(nextRunUtc=NEXT), entry(FEED, nextRunUtc=NEXT), entry("old", enabled=False))
    await fleet.world.put(document("t", *three))
    return fleet


class TestPauseAndResume:
    async def test_a_paused_flow_says_why(self, world: World) -> None:
        """In its entry, in `why`, and in the audit. Other entries stay as they are."""
        paused = await command(world, "pause", "t", "weather", "--reason", "no contract", "--as", "Ada")
        explained = await command(world, "why", "t", "weather")

        assert (paused.exit_code, paused.stdout) == (0, "t/weather: paused\n")
        assert await switches(world) == {
            "weather": {"enabled": False, "pauseReason": "no contract"},
            FEED: {"enabled": True},
            "old": {"enabled": False},
        }
        assert explained.stdout.splitlines()[0] == "t/weather: the entry is disabled: no contract"
        assert "next: python -m datasync resume t weather" in explained.stdout
        (audit,) = await audits(world)
        assert (audit["who"], audit["via"], audit["tenant"], audit["flow"], audit["end"]) == (
            "key: Ada",
            "command line",
            "t",
            "weather",
            "done",
        )
        assert (audit["before"], audit["after"]) == (
            {"enabled": True},
            {"enabled": False, "pauseReason": "no contract"},
        )
        assert audit["ttl"] == world.settings.run_retention.total_seconds()

    async def test_a_resumed_tenant_has_the_entries_that_were_enabled_before(self, world: World) -> None:
        """An entry that was disabled before, or is paused by itself meanwhile, stays disabled."""
        paused = await command(world, "pause", "t", "--json")
        assert [each["name"] for each in json.loads(paused.stdout)["before"]] == ["weather", FEED]
        await command(world, "pause", "t", FEED, "--reason", "by itself")

        resumed = await command(world, "resume", "t")

        assert resumed.stdout == "tenant t: 1 entry resumed\n"
        assert await switches(world) == {
            "weather": {"enabled": True},
            FEED: {"enabled": False, "pauseReason": "by itself"},
            "old": {"enabled": False},
        }
        again = await command(world, "resume", "t")
        assert (again.exit_code, "was paused with the whole tenant" in again.stderr) == (1, True)

    async def test_a_tenant_that_has_changed_since_it_was_seen_is_neither_paused_nor_resumed(
        self, world: World, two: Fleet
    ) -> None:
        """The operator looks again, and then it is."""
        services, registry = two.services, two.registry
        seen = {"_etag": (await world.document("t"))["_etag"]}
        await world.put(document("t", entry(enabled=False)))
        with pytest.raises(ChangedMeanwhile, match="tenant t: it was changed since you looked"):
            await pause(services, registry, ask("a"), tenant_id="t", flow=None, reason="", seen=seen)
        with pytest.raises(ChangedMeanwhile, match="tenant t: it was changed since you looked"):
            await resume(services, registry, ask("b"), tenant_id="t", flow=None, seen=seen)

        assert (await switches(world))["weather"] == {"enabled": False}
        await world.put(document("t", entry()))
        seen = {"_etag": (await world.document("t"))["_etag"]}
        await pause(services, registry, ask("c"), tenant_id="t", flow=None, reason="", seen=seen)
        assert (await switches(world))["weather"]["pausedWithTenant"]

    async def test_an_entry_that_a_person_has_enabled_is_paused_by_itself(self, world: World) -> None:
        """It was paused with the tenant, and enabled in the portal. Resuming the tenant does not enable it again."""
        await command(world, "pause", "t")
        stored = await world.document("t")
        stored["flows"][0]["enabled"] = True
        await world.put(stored)
        await command(world, "pause", "t", "weather", "--reason", "by itself")

        await command(world, "resume", "t")

        assert (await switches(world))["weather"] == {"enabled": False, "pauseReason": "by itself"}

    async def test_a_resumed_flow_runs_once_for_all_missed_times(self, world: World, two: Fleet) -> None:
        """One run, at the next tick. The command says so."""
        await command(world, "pause", "t", "weather")
        await two.tick(5 * HOUR)
        await world.take()

        resumed = await command(world, "resume", "t", "weather", after=5 * HOUR)
        await two.tick(5 * HOUR + MINUTE)

        assert resumed.stdout == (
            f"t/weather: resumed. It runs once at the next tick, since its run of {NEXT} was due\n"
        )
        assert [json.loads(each)["scheduledUtc"] for each in await world.take()] == [NEXT]

    async def test_a_pause_reason_is_a_known_field(self, world: World, two: Fleet) -> None:
        """A tick has no warning about it."""
        await command(world, "pause", "t", "--reason", "why not")
        await two.tick(MINUTE)

        assert await two.services.fleet.problems() == []

    async def test_what_is_so_already_is_said(self, world: World) -> None:
        """Nothing is written to the document."""
        before = await world.document("t")
        assert (await command(world, "pause", "t", "old")).stdout == "t/old: it was disabled already\n"
        assert (await command(world, "resume", "t", "weather")).stdout.startswith("t/weather: it is enabled already")
        assert await world.document("t") == before

    async def test_an_entry_that_cannot_be_read_is_paused_and_resumed(self, world: World) -> None:
        """Its `enabled` is a text, or missing. An entry that is disabled already gets the reason."""
        without = {name: value for name, value in entry(FEED).items() if name != "enabled"}
        await world.put(document("t", entry(enabled="yes"), without, entry("old", enabled=False)))
        said = [
            (await command(world, *words)).stdout.partition(".")[0].strip()
            for words in (
                ("pause", "t", "weather"),
                ("resume", "t", FEED),
                ("pause", "t", "old", "--reason", "not any more"),
            )
        ]

        assert said == [
            "t/weather: paused",
            f"t/{FEED}: resumed",
            "t/old: it was disabled already, and the reason is noted",
        ]
        stored = await switches(world)
        assert (stored["weather"]["enabled"], stored[FEED]["enabled"]) == (False, True)
        assert stored["old"] == {"enabled": False, "pauseReason": "not any more"}


class TestNextRun:
    async def test_a_time_in_the_past_runs_at_the_next_tick(self, world: World, two: Fleet) -> None:
        """And null gives the next time of the cron."""
        await two.tick()
        shown = await command(world, "next-run", "t", "weather", "2025-08-23T11:59:00Z")
        await two.tick(MINUTE)
        (message,) = [json.loads(each) for each in await world.take()]

        assert shown.stdout == "t/weather: the next run is at 2025-08-23T11:59:00Z\n"
        assert (message["scheduledUtc"], message["trigger"]) == ("2025-08-23T11:59:00Z", "forced")
        await command(world, "next-run", "t", "weather", "2030-01-01T00:00:00+01:00")
        assert (await world.document("t"))["flows"][0]["nextRunUtc"] == "2029-12-31T23:00:00Z"
        await command(world, "next-run", "t", "weather", "null")
        await two.tick(2 * MINUTE)
        assert (await world.document("t"))["flows"][0]["nextRunUtc"] == NEXT

    async def test_a_time_that_was_changed_since_the_operator_looked_stays(self, world: World) -> None:
        """`--seen` has it, or null. Exit code 5."""
        words = ("next-run", "t", "weather", "2025-08-23T18:00:00Z", "--seen")
        refused = [await command(world, *words, seen) for seen in ("2025-08-23T14:00:00Z", "null")]
        kept = (await world.document("t"))["flows"][0]["nextRunUtc"]
        done = await command(world, *words, "2025-08-23T15:00:00+02:00")

        assert ([each.exit_code for each in refused], kept, done.exit_code) == ([5, 5], NEXT, 0)
        assert (await command(world, *words, "soon")).exit_code == 2

    async def test_what_the_operator_saw_has_to_be_still_so(self, two: Fleet) -> None:
        """Times in different forms are the same if they are one instant."""
        services, registry = two.services, two.registry
        saw: dict[str, Any] = {"nextRunUtc": "2025-08-23T14:00:00Z"}
        with pytest.raises(ChangedMeanwhile, match="nextRunUtc is '2025-08-23T13:00:00Z' now"):
            await set_next_run(services, registry, ask("a-0"), tenant_id="t", flow="weather", at=None, seen=saw)

        saw = {"nextRunUtc": "2025-08-23T15:00:00+02:00", "enabled": True}
        await set_next_run(services, registry, ask(), tenant_id="t", flow="weather", at=None, seen=saw)
        assert (await two.world.document("t"))["flows"][0]["nextRunUtc"] is None


class TestEnqueue:
    async def test_a_run_is_put_on_the_queue_now(self, world: World, two: Fleet) -> None:
        """The schedule does not change. The entry is found by an alias, too."""
        shown = await command(world, "enqueue", "t", "forecast", "--json")

        assert shown.exit_code == 3  # the flow files of this machine do not have this alias
        shown = await command(world, "enqueue", "t", "weather", "--json")
        (message,) = [json.loads(each) for each in await world.take()]
        assert (message["flowName"], message["trigger"]) == ("weather", "manual")
        assert json.loads(shown.stdout)["after"] == {"runId": message["runId"]}
        assert f"show {message['runId']} --tenant t" in shown.stderr
        await enqueue(two.services, two.registry, ask(), tenant_id="t", flow="forecast")
        assert [json.loads(each)["flowName"] for each in await world.take()] == ["weather"]

    async def test_a_disabled_entry_is_refused(self, world: World) -> None:
        """Its run would be skipped."""
        await command(world, "pause", "t", "weather", "--reason", "no contract")

        shown = await command(world, "enqueue", "t", "weather")

        assert shown.exit_code == 1
        assert "t/weather is disabled (no contract), and its run would be skipped: resume it first" in shown.stderr
        assert await world.drained()

    @pytest.mark.parametrize(
        ("end", "code", "line"), [(None, 0, "attempt 1: succeeded"), (KeyError("city"), 1, "attempt 5: dead: KeyError")]
    )
    async def test_the_end_of_the_run_can_be_waited_for(
        self, world: World, two: Fleet, end: Exception | None, code: int, line: str
    ) -> None:
        """The exit code says whether it has succeeded."""
        if end:
            two.ends["t"] = end
        waiting = asyncio.create_task(command(world, "enqueue", "t", "weather", "--wait", "--action-id", "w"))
        await wait_until(world.messages, description="the run is enqueued")
        (body,) = await world.take()
        for delivery in range(1, 6 if end else 2):
            await two.deliver(body, delivery)
        shown = await waiting

        assert shown.exit_code == code
        assert line in shown.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
async def test_an_interrupted_wait_leaves_the_run_alone(world: World) -> None:
    """Ctrl-C ends the waiting with exit code 130, and the message says how to follow the run."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "datasync", "enqueue", "t", "weather", "--wait"),
        cwd=ROOT,
        env={**os.environ, **world.environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert started.stderr is not None
    first = (await started.stderr.readline()).decode()
    started.send_signal(signal.SIGINT)
    output, errors = await started.communicate()
    (message,) = [json.loads(each) for each in await world.take()]

    assert first == f"t/weather: run {message['runId']} is enqueued\n"
    assert (started.returncode, output) == (130, b"")
    assert errors.decode() == (f"The run goes on. Follow it: python -m datasync show {message['runId']} --tenant t\n")


ACTIONS: dict[str, Callable[[Services, Any, Ask], Awaitable[Done]]] = {
    "enqueue": lambda services, registry, asked: enqueue(services, registry, asked, tenant_id="t", flow="weather"),
    "pause": lambda services, registry, asked: pause(
        services, registry, asked, tenant_id="t", flow="weather", reason="r"
    ),
    "pause a tenant": lambda services, registry, asked: pause(
        services, registry, asked, tenant_id="t", flow=None, reason="r"
    ),
    "next run": lambda services, registry, asked: set_next_run(
        services, registry, asked, tenant_id="t", flow="weather", at=NOW
    ),
}
"""Actions of each kind."""


async def effects(world: World) -> tuple[Any, set[str]]:
    """Return the effects of actions: the entries, and the runs on the queue."""
    stored = await world.document("t")
    return stored["flows"], {json.loads(each)["runId"] for each in await world.messages()}


@pytest.mark.parametrize("name", ACTIONS)
class TestOnce:
    async def test_a_repeat_does_nothing_and_returns_the_first_result(
        self, world: World, two: Fleet, name: str
    ) -> None:
        """Also after somebody has changed the entry back."""
        first = await ACTIONS[name](two.services, two.registry, ask())
        await world.put({**await world.document("t"), "flows": [entry(nextRunUtc=NEXT), entry(FEED)]})
        before = await effects(world)
        again = await ACTIONS[name](two.services, two.registry, ask(who="Bob"))

        assert await effects(world) == before
        assert (first.is_repeat, again.is_repeat) == (False, True)
        assert (again.message, again.who, again.after) == (first.message, "Ada", first.after)
        assert len(await audits(world)) == 1

    async def test_two_requests_at_the_same_time_are_one_action(self, world: World, two: Fleet, name: str) -> None:
        """A double click."""
        both = await asyncio.gather(*(ACTIONS[name](two.services, two.registry, ask()) for _ in range(2)))
        _, runs = await effects(world)

        assert both[0].after == both[1].after
        assert [each["end"] for each in await audits(world)] == ["done"]
        assert len(runs) == (name == "enqueue")

    @pytest.mark.parametrize("answered", [False, True])
    async def test_a_kill_at_any_request_loses_neither_the_change_nor_its_audit(
        self, world: World, two: Fleet, wire: Wire, name: str, *, answered: bool
    ) -> None:
        """Each change has an audit. The repeat completes it, and changes nothing a second time."""
        await connect(two.services)
        untouched = await effects(world)
        for number in range(1, 20):
            asked = ask(f"a-{number}")
            wire.kill_at(number, answered=answered)
            try:
                await ACTIONS[name](two.services, two.registry, asked)
            except Killed:
                wire.heal()
            else:
                assert number > 4
                wire.heal()
                break
            known = [each for each in await audits(world) if each["actionId"] == asked.action_id]
            assert known or await effects(world) == untouched
            done = await ACTIONS[name](two.services, two.registry, asked)
            changed = await effects(world)
            assert changed != untouched
            assert changed[1] == ({run_of(asked)} if name == "enqueue" else set())
            (audit,) = [each for each in await audits(world) if each["actionId"] == asked.action_id]
            assert (audit["end"], audit["after"]) == ("done", done.after)
            await world.take()
            await world.put(document("t", entry(nextRunUtc=NEXT), entry(FEED, nextRunUtc=NEXT)))
            untouched = await effects(world)
        else:
            pytest.fail("it was killed each time")

    async def test_lost_answers_change_nothing(self, world: World, two: Fleet, wire: Wire, name: str) -> None:
        """Each write is done once, and the result is that of an action without trouble."""
        for lost in (
            to("POST", "/docs", "Audit"),
            to("PUT", "/docs/t"),
            to("PUT", "/docs/audit-"),
            to("POST", "/mess"),
        ):
            wire.lose_answer(lost)
        done = await ACTIONS[name](two.services, two.registry, ask())

        assert wire.stop_losing() == 1  # there is either a document or a message
        (audit,) = await audits(world)
        assert (audit["end"], audit["message"], audit["after"]) == ("done", done.message, done.after)
        assert len({*(await effects(world))[1]}) == (name == "enqueue")


class TestOthers:
    async def test_a_tick_at_the_same_time_does_not_disturb(self, world: World, two: Fleet, wire: Wire) -> None:
        """Both changes are made."""

        async def moved() -> None:
            stored = await world.document("t")
            stored["flows"][0]["nextRunUtc"] = "2025-08-23T14:00:00Z"
            await world.put(stored)

        wire.after(to("GET", "/docs/t"), moved)
        wire.after(to("GET", "/docs/t"), moved)
        await pause(two.services, two.registry, ask(), tenant_id="t", flow="weather", reason="r")

        first = (await world.document("t"))["flows"][0]
        assert (first["enabled"], first["nextRunUtc"]) == (False, "2025-08-23T14:00:00Z")

    async def test_two_operators_at_once_both_have_their_change(self, world: World, two: Fleet) -> None:
        """They write the same document. Neither overwrites the change of the other."""
        await asyncio.gather(
            pause(two.services, two.registry, ask("a"), tenant_id="t", flow="weather", reason="Ada"),
            pause(two.services, two.registry, ask("b", "Bob"), tenant_id="t", flow=FEED, reason="Bob"),
        )

        assert {name: each.get("pauseReason") for name, each in (await switches(world)).items()} == {
            "weather": "Ada",
            FEED: "Bob",
            "old": None,
        }

    async def test_an_action_is_not_completed_over_a_later_one(self, world: World, two: Fleet, wire: Wire) -> None:
        """Ada's pause was killed, and Bob has resumed. Ada's repeat is refused, each time with the same reason.

        The reason does not claim that nothing was done.
        """
        await connect(two.services)
        wire.after(to("PUT", "/docs/t"), lambda: wire_kill(wire))
        with pytest.raises(Killed):
            await pause(two.services, two.registry, ask("a"), tenant_id="t", flow="weather", reason="r")
        wire.heal()
        assert not (await switches(world))["weather"]["enabled"]
        await resume(two.services, two.registry, ask("b", "Bob"), tenant_id="t", flow="weather")

        for _ in range(2):
            with pytest.raises(ChangedMeanwhile, match="changed by another action .* may have been done .* audit"):
                await pause(two.services, two.registry, ask("a"), tenant_id="t", flow="weather", reason="r")

        assert (await switches(world))["weather"]["enabled"]
        assert [each["end"] for each in await audits(world)] == ["changed", "done"]

    async def test_an_id_is_not_used_for_two_actions(self, two: Fleet) -> None:
        """The second is refused."""
        await pause(two.services, two.registry, ask(), tenant_id="t", flow="weather", reason="r")
        with pytest.raises(ActionInvalid, match=r"was used for another action \(pause t/weather\)"):
            await pause(two.services, two.registry, ask(), tenant_id="t", flow=FEED, reason="r")


class TestRefusals:
    async def test_a_refused_action_has_an_audit(self, world: World) -> None:
        """With its name and the reason. A repeat is refused as well, also when it would be possible by then."""
        await command(world, "pause", "t", "weather", "--reason", "no contract")
        words = ("enqueue", "t", "weather", "--as", "Bob", "--action-id", "b")
        refused = await command(world, *words, after=HOUR)
        await command(world, "resume", "t", "weather")
        again = await command(world, *words, after=HOUR)

        assert (refused.exit_code, again.exit_code, again.stderr) == (1, 1, refused.stderr)
        (audit,) = [each for each in await audits(world) if each["actionId"] == "b"]
        assert (audit["who"], audit["end"]) == ("key: Bob", "refused")
        assert audit["message"].startswith("t/weather is disabled (no contract)")
        assert await world.drained()

    async def test_what_an_operator_saw_wrongly_is_in_the_audit_without_values_of_settings(
        self, world: World, two: Fleet
    ) -> None:
        """As an action that was changed meanwhile."""
        await world.put(document("t", entry(settings={"units": "own-value"})))
        with pytest.raises(ChangedMeanwhile, match="settings was changed since you looked"):
            await pause(
                two.services, two.registry, ask(), tenant_id="t", flow="weather", reason="", seen={"settings": {}}
            )

        (audit,) = await audits(world)
        assert (audit["end"], audit["who"], "own-value" in str(audit)) == ("changed", "Ada", False)


class TestAudit:
    async def test_actions_are_listed_newest_first(self, world: World, two: Fleet) -> None:
        """By tenant and time, as lines and as JSON."""
        await two.add("other")
        await command(world, "pause", "t", "weather", "--as", "Ada")
        await command(world, "enqueue", "other", "weather", "--as", "Bob", after=HOUR)
        shown = await command(world, "audit", after=HOUR)
        of_tenant = await command(world, "audit", "--tenant", "t", "--since", "2h", "--json", after=HOUR)
        late = await command(world, "audit", "--since", "30m", "--json", after=HOUR)

        rows = [line.split() for line in shown.stdout.splitlines()]
        assert [row[1:3] for row in rows[1:]] == [["key:", "Bob"], ["key:", "Ada"]]
        (own,) = json.loads(of_tenant.stdout)["actions"]
        assert (own["action"], own["flowName"], own["end"]) == ("pause", "weather", "done")
        assert [each["tenantId"] for each in json.loads(late.stdout)["actions"]] == ["other"]

    async def test_an_action_that_is_not_finished_is_shown_as_such(self, world: World, two: Fleet, wire: Wire) -> None:
        """Its process was killed after the change. The command can be repeated with the id."""
        await connect(two.services)
        wire.kill_before(to("PUT", "/docs/audit-"))
        with pytest.raises(Killed):
            await pause(two.services, two.registry, ask("a"), tenant_id="t", flow="weather", reason="")
        wire.heal()

        before = await command(world, "audit")
        repeated = await command(world, "pause", "t", "weather", "--action-id", "a")

        assert "not finished" in before.stdout
        assert "an earlier request with this action id has done it" in repeated.stdout
        assert "not finished" not in (await command(world, "audit")).stdout

    async def test_a_name_or_reason_cannot_forge_a_line(self, world: World) -> None:
        """Characters that nobody sees are escaped in lines and in JSON. A name has none."""
        hostile = "x\x1b[2J\u202e\nt   Ada   pause"
        refused = await command(world, "pause", "t", "weather", "--as", hostile)
        paused = await command(world, "pause", "t", "weather", "--reason", hostile)
        listed, value = await command(world, "audit"), await command(world, "audit", "--json")
        explained = await command(world, "why", "t", "weather")

        assert (refused.exit_code, paused.exit_code) == (2, 0)
        assert len(listed.stdout.splitlines()) == 2
        for shown in (refused.stderr, listed.stdout, value.stdout, explained.stdout):
            assert not {"\x1b", "\u202e"} & {*shown}
        assert json.loads(value.stdout)["actions"][0]["arguments"] == {"reason": hostile}

    async def test_an_audit_that_cannot_be_read_does_not_hide_the_others(self, world: World) -> None:
        """It is named on standard error."""
        await command(world, "pause", "t", "weather", "--action-id", "broken")
        await command(world, "pause", "t", FEED)
        stored = await world.runs.read_item("audit-broken", partition_key="@fleet")
        await world.runs.upsert_item({**stored, "who": 7})

        shown = await command(world, "audit")

        assert len(shown.stdout.splitlines()) == 2
        assert "audit id='audit-broken' in partition @fleet: who: expected a text, got 7" in shown.stderr


class TestEveryAction:
    @pytest.mark.parametrize(
        "words",
        [
            ("pause", "nobody"),
            ("pause", "t", "nothing"),
            ("resume", "nobody"),
            ("resume", "t", "nothing"),
            ("next-run", "t", "nothing", "null"),
            ("enqueue", "nobody", "weather"),
            ("enqueue", "t", "nothing"),
        ],
        ids=" ".join,
    )
    async def test_what_does_not_exist_is_not_found(self, world: World, words: tuple[str, ...]) -> None:
        """Exit code 3, and no audit."""
        shown = await command(world, *words)

        assert (shown.exit_code, shown.stdout) == (3, "")
        assert await audits(world) == []

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (("next-run", "t", "weather", "soon"), "expected an ISO 8601 time"),
            (("pause", "t", "--reason", "x" * 501), "the reason has 501 characters"),
            (("pause", "t", "--action-id", "a/b"), "expected up to 100 letters"),
            (("pause", "t", "--as", ""), "cannot name an operator"),
        ],
    )
    async def test_wrong_arguments_have_exit_code_2(self, world: World, words: tuple[str, ...], error: str) -> None:
        """Nothing is done."""
        shown = await command(world, *words)

        assert (shown.exit_code, shown.stdout) == (2, "")
        assert error in shown.stderr
        assert await audits(world) == []

    async def test_an_action_that_may_have_been_done_can_be_repeated(self, world: World) -> None:
        """The queue is away: the error names the id, and the repeat completes the action."""
        away = await command(world, "enqueue", "t", "weather", "--action-id", "a", QUEUE_NAME="no-such-queue")
        again = await command(world, "enqueue", "t", "weather", "--action-id", "a")

        assert away.exit_code == 1
        assert "repeat the command with --action-id a" in away.stderr
        assert again.exit_code == 0
        assert len(await world.messages()) == 1


async def connect(services: Services) -> None:
    """Send the requests that a client sends at its first use only."""
    await asyncio.gather(services.tenants.ping(), services.runs.ping(), services.jobs.ping())


async def wire_kill(wire: Wire) -> None:
    wire.killed = True
    raise Killed
