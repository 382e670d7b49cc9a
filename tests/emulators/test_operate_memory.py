"""`cursor`, `window` and `gate`, with real services."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from datasync.errors import ActionInvalid, ActionRefused, ChangedMeanwhile
from datasync.model.job import JobMessage
from datasync.operate.action import Ask
from datasync.operate.gates import gates, open_gate
from datasync.operate.memory import set_cursor, set_window
from tests.deliveries import NOW
from tests.faults import Killed, Wire, to
from tests.operating import HOUR, Fleet, command
from tests.world import World

pytestmark = pytest.mark.usefixtures("ran")

END = "2025-08-23T12:00:00Z"


def ask(action_id: str = "a-1") -> Ask:
    return Ask(action_id=action_id, who="Ada", at=NOW)


async def state(world: World) -> dict[str, Any]:
    return dict(await world.runs.read_item("state-weather", partition_key="t"))


@pytest_asyncio.fixture
async def ran(fleet: Fleet, wire: Wire) -> Fleet:
    """Run a flow that has kept a cursor."""
    await fleet.add("t")
    await fleet.run("t", "r-1")
    await fleet.world.runs.upsert_item({**await state(fleet.world), "cursor": {"page": 7}})
    return fleet


async def going_on(world: World, run: str, now: datetime) -> None:
    """Store the state with the lease of a run."""
    until = (now + timedelta(minutes=2)).timestamp()
    job = JobMessage(
        tenant_id="t",
        flow_name="weather",
        run_id=run,
        scheduled_utc=NOW,
        enqueued_utc=NOW,
        message_id="m",
    ).content()
    lease = {"until": until, "nonce": "n", "startedUtc": END, "message": {**job, "trigger": "schedule"}}
    await world.runs.upsert_item({**await state(world), "lease": lease})


class TestCommands:
    async def test_the_cursor_is_shown_set_and_reset(self, world: World) -> None:
        """As JSON. The rest of the state stays, and each change has an audit."""
        before = await state(world)
        shown = await command(world, "cursor", "show", "t", "weather")
        changed = await command(world, "cursor", "set", "t", "weather", '["next", 8]')
        after = await state(world)
        reset = await command(world, "cursor", "reset", "t", "weather")

        assert shown.stdout == '{"page":7}\n'
        assert changed.stdout == "t/weather: the cursor is set\n"
        assert {name for name in before if before[name] != after.get(name)} <= {"cursor", "_etag", "_ts"}
        assert after["cursor"] == ["next", 8]
        assert reset.stdout == "t/weather: the cursor is reset\n"
        assert (await command(world, "cursor", "show", "t", "weather", "--json")).stdout.count('"cursor": null') == 1
        actions = json.loads((await command(world, "audit", "--json")).stdout)["actions"]
        assert [(each["before"], each["after"]) for each in actions if each["action"] == "cursor-set"] == [
            ({"cursor": {"page": 7}}, {"cursor": ["next", 8]})
        ]

    async def test_the_window_is_shown_set_and_reset(self, world: World) -> None:
        """Not to a time in the future, with which the runs would fail."""
        shown = await command(world, "window", "show", "t", "weather")
        changed = await command(world, "window", "set", "t", "weather", "2025-08-20T02:00:00+02:00")
        after = await state(world)
        future = await command(world, "window", "set", "t", "weather", "2999-01-01T00:00:00Z")
        await command(world, "window", "reset", "t", "weather")

        assert shown.stdout == f"{END}\n"
        assert changed.stdout == "t/weather: the next window starts at 2025-08-20T00:00:00Z\n"
        assert after["windowEndUtc"] == "2025-08-20T00:00:00Z"
        assert (future.exit_code, "cannot end in the future" in future.stderr) == (2, True)
        assert (await command(world, "window", "show", "t", "weather")).stdout == "-\n"

    async def test_while_a_run_is_going_on_nothing_is_changed(self, world: World) -> None:
        """Its end would replace the value."""
        await going_on(world, "r-2", datetime.now(UTC))
        shown = await command(world, "cursor", "set", "t", "weather", "1")

        assert shown.exit_code == 1
        assert "run r-2 is going on" in shown.stderr
        assert (await state(world))["cursor"] == {"page": 7}

    @pytest.mark.parametrize(
        ("words", "code", "error"),
        [
            (("cursor", "set", "t", "weather", "{"), 2, "expected JSON"),
            (("cursor", "set", "t", "weather", json.dumps("x" * 20_000)), 2, "16,384 are kept"),
            (("cursor", "show", "t", "nothing"), 3, "has no entry"),
            (("window", "reset", "nobody", "weather"), 3, "there is no tenant"),
            (("window", "set", "t", "weather", "soon"), 2, "expected an ISO 8601 time"),
        ],
    )
    async def test_wrong_arguments(self, world: World, words: tuple[str, ...], code: int, error: str) -> None:
        """Have the exit codes of all commands."""
        shown = await command(world, *words)

        assert (shown.exit_code, shown.stdout) == (code, "")
        assert error in shown.stderr


def ready(shown: str) -> list[str]:
    """Return the last command that an answer prints, without the program."""
    return shlex.split(shown.splitlines()[-1].partition("python -m datasync ")[2])


class TestSeen:
    """`--seen` is the value that the operator saw. If it is another one by now, nothing is done."""

    @pytest.mark.parametrize(
        ("words", "wrong"),
        [(("cursor", "set"), '{"page":6}'), (("window", "set"), "2025-08-23T11:00:00Z")],
    )
    async def test_a_value_that_was_changed_meanwhile_stays(
        self, world: World, words: tuple[str, str], wrong: str
    ) -> None:
        """Exit code 5."""
        before = await state(world)
        value = "1" if words[0] == "cursor" else "2025-08-20T00:00:00Z"
        commands = [(*words, "t", "weather", value), (words[0], "reset", "t", "weather")]
        shown = [await command(world, *each, "--seen", seen) for each in commands for seen in (wrong, "null")]

        assert [each.exit_code for each in shown] == [5] * 4
        assert all("when you looked" in each.stderr for each in shown)
        assert await state(world) == before

    @pytest.mark.parametrize("name", ["cursor", "window"])
    async def test_the_command_that_is_printed_holds_until_the_value_changes(self, world: World, name: str) -> None:
        """It is printed beside the answer, with the value that was shown, also if there is none."""
        printed = await command(world, name, "show", "t", "weather")
        assert [(await command(world, *ready(printed.stderr))).exit_code for _ in range(2)] == [0, 5]

        empty = await command(world, name, "show", "t", "weather")
        assert ready(empty.stderr) == [name, "reset", "t", "weather", "--seen", "null"]
        assert (await command(world, *ready(empty.stderr))).exit_code == 0

    async def test_a_long_cursor_is_in_no_command(self, world: World) -> None:
        """Nobody could copy it."""
        await world.runs.upsert_item({**await state(world), "cursor": "x" * 1000})
        shown = await command(world, "cursor", "show", "t", "weather")

        assert (shown.exit_code, shown.stderr) == (0, "")

    async def test_a_provider_that_has_closed_for_longer_stays_closed(self, world: World, ran: Fleet) -> None:
        """The list prints the command that opens it."""
        now = datetime.now(UTC)
        await ran.services.runs.close("t", "homedepot", now + HOUR, now)
        listed = await command(world, "gate", "list")
        await ran.services.runs.close("t", "homedepot", now + 2 * HOUR, now)
        refused = await command(world, *ready(listed.stdout))
        again = await command(world, "gate", "list")
        opened = await command(world, *ready(again.stdout))

        assert ready(listed.stdout)[:4] == ["gate", "open", "homedepot", "t"]
        assert (refused.exit_code, "when you looked" in refused.stderr) == (5, True)
        assert (opened.exit_code, opened.stdout) == (0, "homedepot for tenant t is open\n")

    @pytest.mark.parametrize("words", [("cursor", "reset"), ("window", "reset")])
    async def test_a_value_of_another_form_is_a_wrong_argument(self, world: World, words: tuple[str, str]) -> None:
        """Exit code 2, before anything is read."""
        shown = await command(world, *words, "t", "weather", "--seen", "{")

        assert (shown.exit_code, "Invalid value for '--seen': expected" in shown.stderr) == (2, True)


class TestChanges:
    async def test_a_run_in_between_is_not_overwritten(self, world: World, ran: Fleet, wire: Wire) -> None:
        """It began after the operator had decided."""

        async def run() -> None:
            await world.runs.upsert_item({**await state(world), "cursor": {"page": 8}})

        wire.after(to("POST", "/docs", "Audit"), run)
        with pytest.raises(ChangedMeanwhile, match="was changed meanwhile"):
            await set_cursor(ran.services, ran.registry, ask(), tenant_id="t", flow="weather", cursor=1)

        assert (await state(world))["cursor"] == {"page": 8}

    async def test_what_the_operator_saw_has_to_be_still_so(self, world: World, ran: Fleet) -> None:
        """The cursor, or the window."""
        services, registry = ran.services, ran.registry
        with pytest.raises(ChangedMeanwhile, match="cursor is"):
            await set_cursor(
                services, registry, ask(), tenant_id="t", flow="weather", cursor=1, seen={"cursor": {"page": 6}}
            )
        await set_window(
            services, registry, ask("a-2"), tenant_id="t", flow="weather", end=NOW - HOUR, seen={"windowEndUtc": END}
        )

        assert (await state(world))["windowEndUtc"] == "2025-08-23T11:00:00Z"

    async def test_lost_answers_and_repeats_change_nothing(self, world: World, ran: Fleet, wire: Wire) -> None:
        """The value is set once. A repeat does not set it over a value that a run has kept since."""
        for lost in (to("POST", "/docs", "Audit"), to("POST", "/docs", "state-weather"), to("PUT", "/docs/audit-")):
            wire.lose_answer(lost)
        done = await set_cursor(ran.services, ran.registry, ask(), tenant_id="t", flow="weather", cursor=1)
        assert (wire.stop_losing(), (await state(world))["cursor"]) == (0, 1)
        await world.runs.upsert_item({**await state(world), "cursor": 2})
        again = await set_cursor(ran.services, ran.registry, ask(), tenant_id="t", flow="weather", cursor=1)

        assert (again.message, again.is_repeat, (await state(world))["cursor"]) == (done.message, True, 2)

    async def test_a_kill_after_the_change_is_completed_by_the_repeat(
        self, world: World, ran: Fleet, wire: Wire
    ) -> None:
        """And one after a run has changed the value is not done over it."""
        await ran.services.runs.ping()
        for action, value in (("a-1", 1), ("a-2", 2)):
            wire.kill_before(to("PUT", "/docs/audit-"))
            with pytest.raises(Killed):
                await set_cursor(ran.services, ran.registry, ask(action), tenant_id="t", flow="weather", cursor=value)
            wire.heal()
        await set_cursor(ran.services, ran.registry, ask("a-2"), tenant_id="t", flow="weather", cursor=2)
        with pytest.raises(ChangedMeanwhile):
            await set_cursor(ran.services, ran.registry, ask("a-1"), tenant_id="t", flow="weather", cursor=1)

        assert (await state(world))["cursor"] == 2

    async def test_a_cursor_that_cannot_be_kept_is_refused(self, ran: Fleet) -> None:
        """As one of a flow."""
        with pytest.raises(ActionInvalid, match="not stored exactly"):
            await set_cursor(ran.services, ran.registry, ask(), tenant_id="t", flow="weather", cursor=2**60)


class TestGates:
    async def test_closed_providers_are_listed_and_opened(self, world: World, ran: Fleet) -> None:
        """For a tenant, or for all."""
        until = datetime.now(UTC) + HOUR
        await ran.services.runs.close("t", "homedepot", until, NOW)
        await ran.services.runs.close("@fleet", "crm", until, NOW)
        listed = json.loads((await command(world, "gate", "list", "--json")).stdout)
        named = await command(world, "gate", "open", "homedepot")
        opened = await command(world, "gate", "open", "homedepot", "t")
        all_ = await command(world, "gate", "open", "crm")

        assert [(each["provider"], each["tenantId"]) for each in listed] == [("crm", None), ("homedepot", "t")]
        assert (named.exit_code, "is closed for t: name the tenant" in named.stderr) == (1, True)
        assert (opened.stdout, all_.stdout) == ("homedepot for tenant t is open\n", "crm for all tenants is open\n")
        assert await gates(ran.services, NOW) == []
        assert (await command(world, "gate", "open", "crm")).stdout == "crm for all tenants was not closed\n"
        assert (await command(world, "gate", "list")).stdout == "no provider is closed\n"

    async def test_a_provider_that_closes_again_stays_closed(self, world: World, ran: Fleet, wire: Wire) -> None:
        """It has asked for another pause since the operator looked."""
        services = ran.services
        await services.runs.close("t", "homedepot", NOW + HOUR, NOW)

        async def again() -> None:
            stored = await world.runs.read_item("cooldown-homedepot", partition_key="t")
            await world.runs.upsert_item({**stored, "untilUtc": "2025-08-23T15:00:00Z"})

        wire.after(to("POST", "/docs", "Audit"), again)
        with pytest.raises(ChangedMeanwhile, match="closed again meanwhile, until 2025-08-23T15:00:00Z"):
            await open_gate(services, ask(), provider="homedepot", tenant_id="t")

        assert await services.runs.cooldown("t", "homedepot") == NOW + 3 * HOUR

    async def test_a_lost_answer_and_a_repeat_open_once(self, ran: Fleet, wire: Wire) -> None:
        """The repeat does not open a provider that has closed again."""
        services = ran.services
        await services.runs.close("t", "homedepot", NOW + HOUR, NOW)
        wire.lose_answer(to("DELETE", "/docs/cooldown-homedepot"))
        await open_gate(services, ask(), provider="homedepot", tenant_id="t")
        await services.runs.close("t", "homedepot", NOW + HOUR, NOW)
        again = await open_gate(services, ask(), provider="homedepot", tenant_id="t")

        assert (wire.stop_losing(), again.is_repeat) == (0, True)
        assert await services.runs.cooldown("t", "homedepot") is not None

    async def test_a_document_that_cannot_be_read_is_listed_and_opened(self, world: World, ran: Fleet) -> None:
        """With the reason."""
        broken = {"id": "cooldown-x", "tenantId": "t", "type": "Cooldown", "untilUtc": "soon"}
        await world.runs.upsert_item(broken)
        listed = await command(world, "gate", "list")
        await command(world, "gate", "open", "x", "t")

        assert "untilUtc: expected an ISO 8601 time" in listed.stdout
        assert await gates(ran.services, NOW) == []

    async def test_a_document_of_no_tenant_is_listed(self, world: World, ran: Fleet) -> None:
        """It closes nothing, and hides no provider that is closed."""
        for number, until in enumerate(("soon", "2999-01-01T00:00:00Z")):
            await world.runs.upsert_item({"id": f"cooldown-{number}", "type": "Cooldown", "untilUtc": until})
        await ran.services.runs.close("t", "homedepot", NOW + HOUR, NOW)

        found = await gates(ran.services, NOW)

        assert [(each.provider, each.until_utc) for each in found[:2]] == [("0", None), ("1", None)]
        assert {each.why and each.why.partition(": ")[2] for each in found[:2]} == {
            "tenantId: expected a tenant, or @fleet. It closes nothing. Delete the document"
        }
        assert (found[2].provider, found[2].tenant_id, found[2].why) == ("homedepot", "t", None)

    async def test_a_refusal_is_audited(self, world: World, ran: Fleet) -> None:
        """Somebody has tried to change the cursor."""
        await going_on(world, "r-2", NOW)
        with pytest.raises(ActionRefused):
            await set_cursor(ran.services, ran.registry, ask(), tenant_id="t", flow="weather", cursor=1)

        audit = await ran.services.audits.get("a-1")
        assert audit is not None
        assert (audit.who, audit.end) == ("Ada", "refused")
        assert "run r-2 is going on" in (audit.message or "")
