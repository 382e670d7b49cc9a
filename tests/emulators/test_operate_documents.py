"""`tenant`, `add-flow` and `secrets`, with real services."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from datasync import FlowRegistry
from datasync.errors import ActionRefused, ChangedMeanwhile, ServiceUnavailable
from datasync.model.lease import Lease
from datasync.model.state import FlowState
from datasync.operate.action import Ask
from datasync.operate.add_flow import Addition, AdditionLine, NewEntry, add_flow
from datasync.operate.documents import put_tenant, remove_tenant, secrets
from localdev.keyvault import KeyVault
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.faults import Killed, Wire, to
from tests.operating import FEED, NEXT, Fleet, command
from tests.world import World

OFF = entry(enabled=False, nextRunUtc=NEXT)
HOURLY = NewEntry("weather", "0 0 * * * *")


def ask(action_id: str = "a-1") -> Ask:
    return Ask(action_id=action_id, who="Ada", at=NOW)


def own(tenant_id: str, *entries: dict[str, Any]) -> dict[str, Any]:
    """Return a new document, without an ETag."""
    return {name: value for name, value in document(tenant_id, *entries).items() if name != "_etag"}


async def ids(world: World) -> set[str]:
    return {str(item["id"]) async for item in world.tenants.query_items("SELECT c.id FROM c")}


class TestGetAndPut:
    async def test_a_document_is_got_edited_and_put(self, world: World, tmp_path: Path) -> None:
        """It replaces the stored one, which is still the same. Everything else stays."""
        await world.put(document("t", entry(nextRunUtc=NEXT), notes="ours"))
        got = json.loads((await command(world, "tenant", "get", "t")).stdout)
        file = tmp_path / "t.json"
        file.write_text(json.dumps({**got, "name": "New name"}), encoding="utf-8")

        put = await command(world, "tenant", "put", str(file), "--as", "Ada")
        again = await command(world, "tenant", "put", str(file))

        stored = await world.document("t")
        assert put.stdout == "tenant t: replaced\n"
        assert (stored["name"], stored["notes"], stored["flows"]) == ("New name", "ours", got["flows"])
        assert (again.exit_code, "was changed or removed since it was read" in again.stderr) == (5, True)
        actions = json.loads((await command(world, "audit", "--json")).stdout)["actions"]
        assert {each["end"]: (each["before"], each["after"]) for each in actions} == {
            "done": ({"name": "Acme Cabinets"}, {"name": "New name"}),
            "changed": (None, None),
        }

    async def test_a_new_document_is_created_once(self, world: World, tmp_path: Path) -> None:
        """One of an existing tenant needs its `_etag`."""
        file = tmp_path / "t.json"
        file.write_text(json.dumps(own("t")), encoding="utf-8")
        first, second = [await command(world, "tenant", "put", str(file)) for _ in range(2)]

        assert first.stdout == "tenant t: created\n"
        assert (second.exit_code, "there is a tenant 't' already" in second.stderr) == (5, True)

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (json.dumps(own("t", entry(cron="0 * * * *"))), "t/weather flows[0].cron: cron '0 * * * *': 5 fields"),
            (json.dumps(own("t", entry("wether"))), "no flow is named 'wether'"),
            (json.dumps({"id": "t"}), "missing; expected"),
            ("[]", "is not a tenant document"),
            ("{", "is not JSON in UTF-8"),
        ],
    )
    async def test_a_document_with_a_problem_is_not_stored(
        self, world: World, tmp_path: Path, content: str, error: str
    ) -> None:
        """Exit code 2, with the problems that `validate` reports."""
        file = tmp_path / "t.json"
        file.write_text(content, encoding="utf-8")
        shown = await command(world, "tenant", "put", str(file))

        assert (shown.exit_code, shown.stdout) == (2, "")
        assert error in shown.stderr
        assert await ids(world) == set()

    async def test_a_lost_answer_and_a_repeat_store_it_once(self, world: World, fleet: Fleet, wire: Wire) -> None:
        """A repeat does not store it over a later version."""
        for lost in (to("POST", "/docs", "Audit"), to("POST", "/docs", "Acme"), to("PUT", "/docs/audit-")):
            wire.lose_answer(lost)
        done = await put_tenant(fleet.services, fleet.registry, ask(), own("t"))
        assert (wire.stop_losing(), done.message) == (0, "tenant t: created")
        await world.put({**await world.document("t"), "name": "Later"})
        again = await put_tenant(fleet.services, fleet.registry, ask(), own("t"))

        assert (again.is_repeat, (await world.document("t"))["name"]) == (True, "Later")

    async def test_tenants_are_listed(self, world: World) -> None:
        """With the documents that cannot be used. A name cannot leave its column."""
        await world.put(document("a", entry(), OFF | {"name": FEED}), document("b", name="x\x1b[2J\ny"))
        fine = await command(world, "tenant", "list")
        await world.put({"id": "bad", "tenantId": "bad", "type": "Tenant", "flows": 7})
        shown = await command(world, "tenant", "list")

        assert (fine.exit_code, shown.exit_code) == (0, 1)
        assert [line.split()[:1] for line in fine.stdout.splitlines()] == [["tenant"], ["a"], ["b"], [], ["2"]]
        assert "\x1b" not in fine.stdout
        assert shown.stdout.splitlines()[-1].startswith("problem of bad flows: expected a list of flow entries, got 7")


class TestRemove:
    async def test_a_paused_tenant_is_removed(self, world: World, fleet: Fleet, vault: KeyVault) -> None:
        """The document and the states. Records stay, and the secrets are listed with the command to delete them."""
        vault.set_secret("tenants--gone--crm--token", "s3cret")
        vault.set_secret("tenants--gone2--crm--token", "s3cret")
        await fleet.add("gone", "stays")
        await fleet.run("gone", "r-1")
        await command(world, "pause", "gone")
        removed = await command(world, "tenant", "remove", "gone", "--yes", "gone")

        assert removed.exit_code == 0, removed.stderr
        assert removed.stdout.splitlines() == [
            "tenant gone is removed",
            "1 state deleted. The records of its runs expire within 30 days",
            "1 secret in Key Vault, to delete with:",
            "python -m localdev secret delete tenants--gone--crm--token",
        ]
        assert await ids(world) == {"stays"}
        left = [item["type"] async for item in world.runs.query_items("SELECT * FROM c", partition_key="gone")]
        assert left == ["Run"]
        assert "s3cret" not in json.dumps(json.loads((await command(world, "audit", "--json")).stdout))
        vault.delete_secret("tenants--gone--crm--token")
        vault.delete_secret("tenants--gone2--crm--token")

    async def test_the_problems_of_a_removed_tenant_are_gone(self, world: World, fleet: Fleet) -> None:
        """At once, and not after the next complete scan. Those of other tenants stay."""
        await world.put(*(document(each, OFF, timezone="Mars/Olympus") for each in ("gone", "stays")))
        await fleet.tick()
        before = await fleet.services.fleet.problems()
        await remove_tenant(fleet.services, ask(), tenant_id="gone")

        assert sorted({each.tenant for each in before}) == ["gone", "stays"]
        assert {each.tenant for each in await fleet.services.fleet.problems()} == {"stays"}

    async def test_an_enabled_tenant_is_refused(self, world: World, fleet: Fleet) -> None:
        """Its messages would end as dead runs."""
        await fleet.add("t")
        shown = await command(world, "tenant", "remove", "t", "--yes", "t")

        assert (shown.exit_code, "has enabled entries. Pause it" in shown.stderr) == (1, True)
        assert await ids(world) == {"t"}

    async def test_it_has_to_be_confirmed(self, world: World) -> None:
        """Without a terminal, the flag is named. Another id does nothing."""
        await world.put(document("t", OFF))
        asked = await command(world, "tenant", "remove", "t")
        other = await command(world, "tenant", "remove", "t", "--yes", "T")
        missing = await command(world, "tenant", "remove", "nobody")

        assert (asked.exit_code, "use --yes t" in asked.stderr) == (2, True)
        assert (other.exit_code, missing.exit_code) == (2, 3)
        assert await ids(world) == {"t"}

    async def test_a_kill_half_way_is_completed_by_the_repeat(self, world: World, fleet: Fleet, wire: Wire) -> None:
        """The document is gone, and the states are deleted by the repeat. A tenant that is new by then stays."""
        await fleet.add("t")
        await fleet.run("t", "r-1")
        await world.put({**await world.document("t"), "flows": [OFF]})
        wire.kill_before(to("DELETE", "/docs/state-"))
        with pytest.raises(Killed):
            await remove_tenant(fleet.services, ask(), tenant_id="t")
        wire.heal()
        assert await ids(world) == set()
        done = await remove_tenant(fleet.services, ask(), tenant_id="t")
        assert done.after["states"] == 1

        await world.put(document("t", OFF, lastAction="x"))
        wire.kill_before(to("DELETE", "/docs/t"))
        with pytest.raises(Killed):
            await remove_tenant(fleet.services, ask("a-2"), tenant_id="t")
        wire.heal()
        await world.put(document("t", OFF, lastAction="y"))
        with pytest.raises(ChangedMeanwhile):
            await remove_tenant(fleet.services, ask("a-2"), tenant_id="t")
        assert await ids(world) == {"t"}

    async def test_a_run_that_is_going_on_is_waited_for(self, world: World, fleet: Fleet) -> None:
        """It is refused until then."""
        await world.put(document("t", OFF))
        lease = {"until": (NOW + timedelta(minutes=2)).timestamp(), "nonce": "n"}
        state = {"id": "state-weather", "tenantId": "t", "type": "FlowState", "flowName": "weather", "lease": lease}
        await world.runs.upsert_item(state)

        with pytest.raises(ActionRefused, match="a run of t/weather is going on"):
            await remove_tenant(fleet.services, ask(), tenant_id="t")

    async def test_an_overlapping_run_is_waited_for(self, world: World, fleet: Fleet) -> None:
        """Its lease is in its record."""
        refusals: list[str] = []

        @fleet.registry.flow("side", overlap="allow")
        async def side(tenant_id: str, kv: object) -> None:
            await world.put(document("t", OFF))
            with pytest.raises(ActionRefused) as refused:
                await remove_tenant(fleet.services, ask(), tenant_id="t")
            refusals.append(str(refused.value))

        await world.put(document("t", entry("side")))
        await fleet.run("t", "r-1", flow="side")

        assert refusals == ["a run of t/side is going on: wait for its end, and try again"]
        assert await ids(world) == {"t"}

    async def test_the_state_of_a_run_that_has_just_started_stays_until_its_end(
        self, world: World, fleet: Fleet, wire: Wire
    ) -> None:
        """It has taken the lease after the states were read. The repeat, without a confirmation, completes it."""
        await world.put(document("t", OFF))
        await world.runs.upsert_item(FlowState(tenant_id="t", flow_name="weather").document())

        async def started() -> None:
            lease = Lease(until=(NOW + timedelta(minutes=2)).timestamp(), nonce="n")
            await world.runs.upsert_item(FlowState(tenant_id="t", flow_name="weather", lease=lease).document())

        wire.after(to("POST", "/colls/runs/docs", "'Cooldown')"), started)
        with pytest.raises(ServiceUnavailable, match=r"a run of t is going on.*Repeat this after the end of the run"):
            await remove_tenant(fleet.services, ask(), tenant_id="t")
        kept = [each async for each in world.runs.query_items("SELECT c.id FROM c", partition_key="t")]
        again = await command(world, "tenant", "remove", "t", "--action-id", "a-1", after=timedelta(hours=1))
        done = await remove_tenant(fleet.services, ask(), tenant_id="t")

        assert [each["id"] for each in kept] == ["state-weather"]
        assert (again.exit_code, done.after["states"]) == (0, 1)


class TestWhatIsKept:
    async def test_an_audit_names_changed_settings_without_their_values(
        self, world: World, fleet: Fleet, tmp_path: Path
    ) -> None:
        """Values that decide about runs are there: of put, add-flow and remove."""
        await world.put(document("t", entry(settings={"units": "old-value", "city": "old-city"}, cron="0 0 1 * * *")))
        got = json.loads((await command(world, "tenant", "get", "t")).stdout)
        got["flows"][0].update(settings={"units": "new-value", "city": "old-city"}, cron="0 0 2 * * *", enabled=False)
        file = tmp_path / "t.json"
        file.write_text(json.dumps(got), encoding="utf-8")
        assert (await command(world, "tenant", "put", str(file))).exit_code == 0
        added = NewEntry("home-depot→builder-prime", "0 0 0 * * *", settings={"store": "new-value"})
        await add_flow(fleet.services, fleet.registry, ask(), added, tenant_ids=["t"], is_applied=True)
        await command(world, "pause", "t")
        await command(world, "tenant", "remove", "t", "--yes", "t")

        shown = (await command(world, "audit", "--json")).stdout
        actions = {each["action"]: each for each in json.loads(shown)["actions"]}
        assert actions["tenant-put"]["before"] == {
            "flows[weather].enabled": True,
            "flows[weather].cron": "0 0 1 * * *",
            "flows[weather].settings.units": "(not kept)",
        }
        assert actions["tenant-put"]["after"] == {
            "flows[weather].enabled": False,
            "flows[weather].cron": "0 0 2 * * *",
            "flows[weather].settings.units": "(not kept)",
        }
        assert actions["add-flow"]["after"][f"flows[{FEED}].cron"] == "0 0 0 * * *"
        assert actions["tenant-remove"]["before"]["flows[weather].cron"] == "0 0 2 * * *"
        assert not [value for value in ("old-value", "new-value", "old-city") if value in shown]


class TestAddFlow:
    async def test_it_is_dry_until_it_is_applied(self, world: World) -> None:
        """A tenant that has the flow is left as it is. Each tenant has an audit."""
        await world.put(document("a", entry(FEED)), document("b"), document("c", entry(FEED), timezone=None))
        words = ("add-flow", "weather", "--cron", "0 0 6 * * *", "--tz", "America/Chicago", "--all")
        dry = await command(world, *words)
        before = await ids(world)
        applied = await command(world, *words, "--apply")
        again = await command(world, *words, "--apply", "--json")

        assert dry.stdout.splitlines()[-1] == "2 add, 1 has it"
        assert dry.stderr == "Nothing was changed: --apply adds the entries\n"
        assert applied.stdout.splitlines()[-1] == "2 added, 1 has it"
        assert {each["what"] for each in json.loads(again.stdout)} == {"has it"}
        assert before == await ids(world)
        added = (await world.document("a"))["flows"][1]
        assert added == {
            "name": "weather",
            "enabled": True,
            "cron": "0 0 6 * * *",
            "nextRunUtc": None,
            "timezone": "America/Chicago",
        }
        actions = json.loads((await command(world, "audit", "--json")).stdout)["actions"]
        assert {(each["action"], each["tenantId"]) for each in actions} == {("add-flow", "a"), ("add-flow", "c")}

    async def test_an_entry_with_a_problem_is_not_added(self, world: World) -> None:
        """The other tenants are not affected. Exit code 1."""
        await world.put(document("a", entry(FEED)))
        cron = await command(world, "add-flow", "weather", "--cron", "0 * * * *", "--all", "--apply")
        flow = await command(world, "add-flow", "wether", "--cron", "@daily", "--tenant", "a", "--apply")
        unknown = await command(world, "add-flow", "weather", "--cron", "@daily", "--tenant", "nobody", "--apply")
        usage = await command(world, "add-flow", "weather", "--cron", "@daily")

        assert [each.exit_code for each in (cron, flow, unknown, usage)] == [1, 1, 3, 2]
        assert "5 fields found" in cron.stdout
        assert "no flow is named 'wether'" in flow.stdout
        assert [each["name"] for each in (await world.document("a"))["flows"]] == [FEED]

    async def test_a_kill_half_way_is_completed_by_the_repeat(self, world: World, fleet: Fleet, wire: Wire) -> None:
        """Each tenant gets the entry once, also if two operators add it at once."""
        await world.put(*(document(f"t-{n}", entry(FEED)) for n in range(5)))
        await asyncio.gather(fleet.services.tenants.ping(), fleet.services.runs.ping())
        wire.kill_before(to("PUT", "/docs/t-3"))
        with pytest.raises((Killed, BaseExceptionGroup)):
            await add_flow(fleet.services, fleet.registry, ask(), HOURLY, tenant_ids=None, is_applied=True)
        wire.heal()
        await asyncio.gather(
            *(
                add_flow(fleet.services, fleet.registry, ask(each), HOURLY, tenant_ids=None, is_applied=True)
                for each in ("a-1", "a-2")
            )
        )

        for number in range(5):
            stored = await world.document(f"t-{number}")
            assert [each["name"] for each in stored["flows"]] == [FEED, "weather"]

    async def test_an_alias_counts_as_the_flow(self, world: World, fleet: Fleet) -> None:
        """Two entries for one flow would be a problem."""
        await world.put(document("t", entry("forecast")))
        (line,) = await add_flow(fleet.services, fleet.registry, ask(), HOURLY, tenant_ids=["t"], is_applied=True)

        assert line == AdditionLine("t", Addition.HAS_IT)


class TestSecrets:
    async def test_declared_and_present_names_are_listed(self, world: World, fleet: Fleet, vault: KeyVault) -> None:
        """Without values, and without those of other tenants."""
        registry = FlowRegistry()

        @registry.flow("weather", secrets=("crm--token", "crm--url", "shared--key"))
        async def weather(tenant_id: str, kv: Any) -> None:
            pass

        names = (
            "tenants--listed--crm--token",
            "tenants--listed--old--key",
            "tenants--listed2--crm--token",
            "shared--key",
        )
        for name in names:
            vault.set_secret(name, "s3cret")
        await world.put(document("listed"))
        found = await secrets(fleet.services, registry, "listed")
        shown = await command(world, "secrets", "listed")
        for name in names:
            vault.delete_secret(name)

        assert [(each.name, each.flows, each.is_present) for each in found] == [
            ("shared--key", ("weather",), True),
            ("tenants--listed--crm--token", ("weather",), True),
            ("tenants--listed--crm--url", ("weather",), False),
            ("tenants--listed--old--key", (), True),
        ]
        assert "tenants--listed--old--key" in shown.stdout
        assert "s3cret" not in shown.stdout

    async def test_the_names_of_a_large_vault_come_in_pages(self, fleet: Fleet, vault: KeyVault) -> None:
        """Of 25."""
        names = [f"tenants--t--crm--key-{number}" for number in range(60)]
        for name in names:
            vault.set_secret(name, "x")
        found = await fleet.services.vault.names()
        for name in names:
            vault.delete_secret(name)

        assert {*names} <= {*found}

    async def test_what_is_missing_has_an_exit_code(self, world: World) -> None:
        """3 for the tenant."""
        assert (await command(world, "secrets", "nobody")).exit_code == 3
