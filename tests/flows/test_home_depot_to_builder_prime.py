"""flows/home_depot_to_builder_prime.py: the flow to copy."""

from datetime import timedelta

import pytest

from datasync.errors import FlowFailed
from flows.home_depot_to_builder_prime import FIRST_WINDOW
from localdev.demo_apis import DemoApis, Trouble
from localdev.keyvault import KeyVault
from tests.flows.conftest import NOW, SOURCE_TOKEN, TARGET_TOKEN, TENANT, RunFlow
from tests.world import World

NAME = "home-depot→builder-prime"


def changed(apis: DemoApis, since_days: float, before_days: float = 0) -> set[str]:
    """Return the external ids of the orders changed between two times, in days before NOW, that are not cancelled."""
    since, before = NOW - timedelta(days=since_days), NOW - timedelta(days=before_days)
    return {
        f"homedepot-{order.id}"
        for order in apis.orders(SOURCE_TOKEN)
        if since <= order.updated_at < before and order.body["status"] != "cancelled"
    }


async def test_the_first_run_takes_over_the_last_week(run_flow: RunFlow, apis: DemoApis) -> None:
    """Without a previous success the window starts a week back; every changed order becomes one lead."""
    run = await run_flow(NAME)

    expected = changed(apis, FIRST_WINDOW.days)
    assert len(expected) > 100, "more than one page"
    assert set(apis.leads[TARGET_TOKEN]) == expected
    assert run.counts["leads"] == run.counts["created"] == len(expected)


async def test_the_next_run_takes_over_what_changed_since(run_flow: RunFlow, apis: DemoApis) -> None:
    """The window starts where the last successful one ended."""
    await run_flow(NAME, at=NOW - timedelta(days=1))
    apis.leads.clear()

    await run_flow(NAME, at=NOW)

    assert set(apis.leads[TARGET_TOKEN]) == changed(apis, 1)


async def test_repeating_a_window_changes_nothing(run_flow: RunFlow, apis: DemoApis, world: World) -> None:
    """A run that was killed before its success was kept is made again: what it had written is updated, not doubled."""
    first = await run_flow(NAME)
    leads = dict(apis.leads[TARGET_TOKEN])
    await world.runs.delete_item(f"state-{NAME}", partition_key=TENANT)

    again = await run_flow(NAME)

    assert apis.leads[TARGET_TOKEN] == leads
    assert (first.counts["created"], first.counts["updated"]) == (len(leads), 0)
    assert (again.counts["created"], again.counts["updated"]) == (0, len(leads))


async def test_the_tenants_rules_map_its_orders(run_flow: RunFlow, apis: DemoApis) -> None:
    """Project types, skipped statuses, the lead source and the least amount come from the tenant's settings."""
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


async def test_limits_and_hiccups_of_the_apis_are_ridden_out(run_flow: RunFlow, apis: DemoApis) -> None:
    """429 and 500 answers are retried as the APIs ask, in one attempt, and nothing is missing at the end."""
    apis.trouble = Trouble(requests_per_second=2, burst=2, retry_after=1, fail_every=5)

    run = await run_flow(NAME)

    assert run.outcome == "succeeded"
    assert {429, 500} <= set(apis.refusals)
    assert set(apis.leads[TARGET_TOKEN]) == changed(apis, FIRST_WINDOW.days)


async def test_a_bad_rule_is_named(run_flow: RunFlow) -> None:
    """A mistake in the tenant's settings fails the run with the rule, and what is expected."""
    with pytest.raises(FlowFailed, match=r"Expected `object`, got `array` - at `\$.projectTypes`"):
        await run_flow(NAME, {"projectTypes": ["kitchen"]})


async def test_a_missing_secret_is_named(run_flow: RunFlow, apis: DemoApis, vault: KeyVault) -> None:
    """The failure says which secret to add, and nothing was written."""
    vault.delete_secret(f"tenants--{TENANT}--homedepot--api-token")

    with pytest.raises(FlowFailed, match=f"secret 'tenants--{TENANT}--homedepot--api-token' is not in"):
        await run_flow(NAME)
    assert not apis.leads[TARGET_TOKEN]
