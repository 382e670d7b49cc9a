"""A tenant is one JSON document that people edit by hand."""

from datetime import UTC, datetime

import pytest

from datasync.errors import TenantInvalid
from datasync.model.tenant import Tenant
from tests.documents import document, entry


def test_a_document_lists_the_flows_of_a_tenant() -> None:
    """A tenant has an id, a name, a time zone, and an entry for each of its flows."""
    tenant = Tenant.from_document(
        document("tenant-123", entry("home-depot→builder-prime", cron="0 0 */2 * * *"), entry("weather"))
    )

    assert (tenant.id, tenant.name, tenant.timezone) == ("tenant-123", "Acme Cabinets", "America/Chicago")
    assert [flow.name for flow in tenant.flows] == ["home-depot→builder-prime", "weather"]
    assert tenant.flows[0].cron == "0 0 */2 * * *"
    assert tenant.problems == ()


def test_a_flow_entry_holds_settings_of_the_tenant() -> None:
    """`settings` holds any JSON object, such as mapping rules. The flow receives it unchanged."""
    tenant = Tenant.from_document(document("t", entry(settings={"projectTypes": {"kitchen": "Remodel"}})))

    assert tenant.flows[0].settings == {"projectTypes": {"kitchen": "Remodel"}}


def test_next_run_is_an_instant_in_any_offset() -> None:
    """`nextRunUtc` may be written with any ISO 8601 offset. All of these values are the same instant."""
    written = ["2025-08-23T01:00:00Z", "2025-08-22T20:00:00-05:00", "2025-08-23T01:00:00", "2025-08-23T01:00:00.000Z"]
    tenants = [Tenant.from_document(document("t", entry(nextRunUtc=text))) for text in written]

    assert {tenant.flows[0].next_run for tenant in tenants} == {datetime(2025, 8, 23, 1, tzinfo=UTC)}


def test_a_bad_entry_does_not_hide_the_others() -> None:
    """An invalid entry becomes a problem that names it. The other entries are used."""
    tenant = Tenant.from_document(document("tenant-123", entry("broken", enabled="true"), entry("weather")))

    assert [flow.name for flow in tenant.flows] == ["weather"]
    assert [str(problem) for problem in tenant.problems] == [
        'tenant-123/broken flows[0].enabled: expected true or false, without quotes, got "true"'
    ]


def test_a_document_that_cannot_be_used_raises_an_error() -> None:
    """The error names the document, the field, its value, and the expected value."""
    with pytest.raises(TenantInvalid, match=r"tenant-123 flows: expected a list .*, got \"all\""):
        Tenant.from_document(document("tenant-123", flows="all"))
