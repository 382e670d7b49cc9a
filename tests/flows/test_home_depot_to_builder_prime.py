"""flows/home_depot_to_builder_prime.py, the example of a complete flow."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from datasync.errors import FlowFailed, FlowSettingsInvalid, SecretNotFound
from datasync.model.run import RunRecord
from datasync.testing import FakeRuns
from flows.home_depot_to_builder_prime import PART, SECRETS, home_depot_to_builder_prime
from localdev.demo_apis import DemoApis, Trouble
from localdev.keyvault import KeyVault
from tests.flows.conftest import NOW, SOURCE_TOKEN, TARGET_TOKEN, TENANT, RunFlow, RunParts
from tests.world import World

NAME = "home-depot→builder-prime"


def changed(apis: DemoApis, since_days: float, before_days: float = 0) -> set[str]:
    """Return the external ids of the orders changed between two times (days before NOW), without cancelled ones."""
    since, before = NOW - timedelta(days=since_days), NOW - timedelta(days=before_days)
    return {
        f"homedepot-{order.id}"
        for order in apis.orders(SOURCE_TOKEN)
        if since <= order.updated_at < before and order.body["status"] != "cancelled"
    }


async def test_the_first_run_transfers_the_last_week(run_flow: RunFlow, apis: DemoApis) -> None:
    """Without a previous success, the window starts a week ago. Every changed order becomes one lead."""
    run = await run_flow(NAME)

    expected = changed(apis, PART.days)
    assert len(expected) > 100, "more than one page"
    assert set(apis.leads[TARGET_TOKEN]) == expected
    assert run.counts["leads"] == run.counts["created"] == len(expected)


async def test_the_next_run_transfers_later_changes(run_flow: RunFlow, apis: DemoApis) -> None:
    """The window starts where the last successful one ended."""
    await run_flow(NAME, at=NOW - timedelta(days=1))
    apis.leads.clear()

    await run_flow(NAME, at=NOW)

    assert set(apis.leads[TARGET_TOKEN]) == changed(apis, 1)


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten a part to a day, since the demo has the orders of a week."""
    monkeypatch.setattr("flows.home_depot_to_builder_prime.PART", timedelta(days=1))


def window(record: RunRecord) -> tuple[datetime | None, datetime]:
    assert record.window is not None
    return record.window.start, record.window.end


async def test_a_long_window_is_transferred_in_parts(run_parts: RunParts, apis: DemoApis) -> None:
    """The first run of a tenant goes back as far as its settings say: six weeks are six runs, a week each."""
    parts = await run_parts(NAME, {"firstWindowDays": 42})

    assert [part.outcome for part in parts] == ["continued"] * 5 + ["succeeded"]
    starts = [NOW - week * PART for week in (5, 4, 3, 2, 1)]
    assert [window(part) for part in parts] == [(None, NOW), *((start, NOW) for start in starts)]
    assert set(apis.leads[TARGET_TOKEN]) == changed(apis, 42)


@pytest.mark.usefixtures("short_parts")
async def test_each_part_transfers_its_own_orders(run_parts: RunParts, apis: DemoApis) -> None:
    """No order is left out, and none is transferred twice."""
    parts = await run_parts(NAME)

    assert [part.run_id for part in parts] == [parts[0].run_id, *(f"{parts[0].run_id}.{n}" for n in range(2, 8))]
    assert all(part.counts["created"] > 0 for part in parts)
    assert sum(part.counts["created"] for part in parts) == len(changed(apis, 7))
    assert sum(part.counts["updated"] for part in parts) == 0


@pytest.mark.usefixtures("short_parts")
async def test_a_part_that_fails_is_repeated_alone(run_parts: RunParts, apis: DemoApis) -> None:
    """The parts before it are done: the next run starts where they ended."""
    done = 3

    def refuse_from_now_on(part: RunRecord) -> None:
        if part.part == done:
            apis.refused_tokens = (SOURCE_TOKEN,)

    with pytest.raises(FlowFailed, match="401"):
        await run_parts(NAME, after_each=refuse_from_now_on)
    assert set(apis.leads[TARGET_TOKEN]) == changed(apis, 7, 7 - done)

    apis.refused_tokens = ()
    apis.leads.clear()
    await run_parts(NAME)

    assert set(apis.leads[TARGET_TOKEN]) == changed(apis, 7 - done)


async def test_repeating_a_window_changes_nothing(run_flow: RunFlow, apis: DemoApis, world: World) -> None:
    """If a run is killed before its success is stored, the next run updates the same leads and creates none."""
    first = await run_flow(NAME)
    leads = dict(apis.leads[TARGET_TOKEN])
    await world.runs.delete_item(f"state-{NAME}", partition_key=TENANT)

    again = await run_flow(NAME)

    assert apis.leads[TARGET_TOKEN] == leads
    assert (first.counts["created"], first.counts["updated"]) == (len(leads), 0)
    assert (again.counts["created"], again.counts["updated"]) == (0, len(leads))


async def test_orders_are_mapped_by_the_tenants_rules(run_flow: RunFlow, apis: DemoApis) -> None:
    """Project types, skipped statuses, the lead source and the minimum amount come from the tenant's settings."""
    await run_flow(
        NAME,
        {
            "projectTypes": {"kitchen": "Kitchen Remodel"},
            "skipStatuses": ["cancelled", "returned"],
            "leadSource": "HD",
            "minTotal": 500,
        },
    )

    leads = list(apis.leads[TARGET_TOKEN].values())
    assert {lead["source"] for lead in leads} == {"HD"}
    assert "Kitchen Remodel" in {lead["project_type"] for lead in leads}
    assert "kitchen" not in {lead["project_type"] for lead in leads}
    assert not {"cancelled", "returned"} & {lead["status"] for lead in leads}
    assert min(lead["estimated_value"] for lead in leads) >= 500


async def test_rate_limits_and_errors_of_the_apis_are_handled(run_flow: RunFlow, apis: DemoApis) -> None:
    """Requests answered with 429 or 500 are repeated within the attempt, and all leads are written."""
    apis.trouble = Trouble(requests_per_second=2, burst=2, retry_after=1, fail_every=5)

    run = await run_flow(NAME)

    assert run.outcome == "succeeded"
    assert {429, 500} <= set(apis.refusals)
    assert set(apis.leads[TARGET_TOKEN]) == changed(apis, PART.days)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"projectTypes": ["kitchen"]}, 'settings.projectTypes: expected an object, got ["kitchen"]'),
        ({"projectTypes": {"kitchen": 5}}, "settings.projectTypes.kitchen: expected a text, got 5"),
        ({"minTotals": 100}, "settings.minTotals: unknown setting 'minTotals'; did you mean 'minTotal'?"),
    ],
)
def test_an_invalid_rule_is_named(fake_run: FakeRuns, settings: dict[str, Any], problem: str) -> None:
    """A mistake in the tenant's settings ends the run before it starts. The error names the rule."""
    with pytest.raises(FlowSettingsInvalid, match=re.escape(f"flows[0].{problem}")):
        fake_run(home_depot_to_builder_prime, settings=settings)


@pytest.mark.usefixtures("apis")
async def test_the_declared_secrets_are_those_that_it_reads(run_flow: RunFlow, vault: KeyVault) -> None:
    """`python -m datasync check --tenants` finds each secret that a tenant lacks."""
    vault.reads.clear()

    await run_flow(NAME)

    assert set(vault.reads) == {f"tenants--{TENANT}--{name}" for name in SECRETS}


async def test_a_missing_secret_is_named(fake_run: FakeRuns) -> None:
    """The error names the secret to add, and no request is sent."""
    run = fake_run(home_depot_to_builder_prime, secrets={"homedepot--api-base": "https://homedepot.example"})

    with pytest.raises(SecretNotFound, match="secret 'tenants--acme--homedepot--api-token' is not in"):
        await run.call()
