"""Mistakes in tenant documents, which people edit by hand."""

from datetime import UTC, datetime
from typing import Any

import pytest

from datasync.errors import TenantInvalid
from datasync.model.tenant import MOST_EXPLAINED, Tenant, is_tenant_document
from tests.documents import document, entry
from tests.stages import plan

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (without(document("t"), "tenantId"), "t tenantId: missing; expected a text"),
        (without(document("t"), "id"), "t id: missing"),
        (without(document("t"), "flows"), "t flows: missing; expected a list of flow entries"),
        (
            document("t", tenantId=5),
            "tenantId: expected a text that is not empty, the same as id, got 5",
        ),
        (document("a/b"), "a/b id: an id has none of"),
        (document("@fleet"), "@fleet id: a tenant's id does not start with '@'"),
        (document("t", tenantId=""), 'tenantId: .* got ""'),
        (document("\ud800"), r"\\ud800 id: .*without half of a surrogate pair, got .\\ud800"),
        (document("t", tenantId="T"), "tenantId: 'T' is not the document's id 't'"),
        (document("t", flows={"name": "weather"}), 'flows: expected a list .*, got {"name": "weather"}'),
        (document("t", flows=None), "flows: .* got null"),
        (document("t", name=["Acme"]), r'name: expected a text, got \["Acme"\]'),
        (document("t", timezone=-6), "timezone: expected an IANA name such as America/Chicago, got -6"),
        (document("t", type="tenant"), 'type: expected "Tenant", got "tenant"'),
    ],
)
def test_a_document_that_cannot_be_used_is_rejected(broken: dict[str, Any], why: str) -> None:
    """The message names the document, the field, its value, and the expected value."""
    with pytest.raises(TenantInvalid, match=why):
        Tenant.from_document(broken)


@pytest.mark.parametrize(
    ("broken", "path", "why"),
    [
        ("weather", "flows[0]", 'expected an object, got "weather"'),
        (None, "flows[0]", "expected an object, got null"),
        (without(entry(), "name"), "flows[0].name", "missing; expected a text that is not empty"),
        (entry(name=""), "flows[0].name", 'expected a text that is not empty, got ""'),
        (entry(name="\ud800"), "flows[0].name", "expected a text that is not empty, without half of a"),
        (without(entry(), "enabled"), "flows[0].enabled", "missing; expected true or false, without quotes"),
        (entry(enabled="true"), "flows[0].enabled", 'expected true or false, without quotes, got "true"'),
        (entry(enabled="\ud800"), "flows[0].enabled", "expected true or false, without quotes"),
        (entry(settings="\ud800"), "flows[0].settings", "expected an object"),
        (entry(enabled=1), "flows[0].enabled", "expected true or false, without quotes, got 1"),
        (without(entry(), "cron"), "flows[0].cron", "missing; expected a text of six fields"),
        (entry(cron=5), "flows[0].cron", "expected a text of six fields"),
        (entry(nextRunUtc=1755910800), "flows[0].nextRunUtc", "expected an ISO 8601 time such as"),
        (entry(nextRunUtc="soon"), "flows[0].nextRunUtc", "expected an ISO 8601 time such as"),
        (entry(nextRunUtc=""), "flows[0].nextRunUtc", "expected an ISO 8601 time"),
        (entry(nextRunUtc="2025-02-30T00:00:00Z"), "flows[0].nextRunUtc", "expected an ISO 8601 time"),
        (entry(nextRunUtc="9999-12-31T23:00:00-05:00"), "flows[0].nextRunUtc", "expected an ISO 8601 time"),
        (entry(settings=["rules"]), "flows[0].settings", 'expected an object, got ["rules"]'),
        (entry(timezone=2), "flows[0].timezone", "expected an IANA name such as America/Chicago, got 2"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_is_a_problem(broken: Any, path: str, why: str) -> None:
    """The problem names the path, the value, and the expected value. The other entry is planned."""
    tenant = Tenant.from_document(document("t", broken, entry("sound")))

    (problem,) = tenant.problems
    assert (problem.tenant_id, problem.path) == ("t", path)
    assert problem.why.startswith(why)
    assert [advance.entry.name for advance in plan(tenant, NOW, NOW).advances] == ["sound"]


@pytest.mark.parametrize(
    ("broken", "path", "why"),
    [
        (entry(cron="0 * * * *"), "flows[0].cron", "5 fields"),
        (entry(cron="every hour"), "flows[0].cron", "every hour"),
        (entry(cron="0 0 25 * * *"), "flows[0].cron", "hour"),
        (entry(cron="0 0 0 30 2 *"), "flows[0].cron", "never fires"),
        (
            entry(timezone="Mars/Olympus"),
            "flows[0].timezone",
            "'Mars/Olympus' is not a time zone; expected an IANA",
        ),
        (entry(timezone="../etc/passwd"), "flows[0].timezone", "is not a time zone"),
        (entry(timezone="America"), "flows[0].timezone", "is not a time zone"),
    ],
)
def test_an_invalid_schedule_is_a_problem(broken: Any, path: str, why: str) -> None:
    """An entry with an invalid cron or time zone is reported, and does not run. The other entry is planned."""
    found = plan(Tenant.from_document(document("t", broken, entry("sound"))), NOW, NOW)

    (problem,) = found.problems
    assert problem.path == path
    assert why in problem.why
    assert [advance.entry.name for advance in found.advances] == ["sound"]


def test_a_zone_with_half_a_surrogate_pair_is_a_problem_and_has_a_revision() -> None:
    """A job that was planned before the edit is compared with the entry."""
    tenant = Tenant.from_document(document("t", entry(timezone="tenant"), timezone="\ud800"))

    (problem,) = plan(tenant, NOW, NOW).problems
    assert problem.path == "timezone"
    assert tenant.revision_of(tenant.flows[0])


def test_an_empty_time_zone_is_utc() -> None:
    """The time zone of the tenant has no effect on such an entry."""
    found = plan(Tenant.from_document(document("t", entry(timezone="", cron="0 0 13 * * *"))), NOW, NOW)

    assert found.problems == ()
    assert [advance.next_run for advance in found.advances] == [datetime(2026, 1, 1, 13, tzinfo=UTC)]


def test_an_unknown_tenant_zone_stops_only_the_flows_that_use_it() -> None:
    """The tenant's zone is used only by entries with `"timezone": "tenant"`."""
    found = plan(
        Tenant.from_document(document("t", entry("local", timezone="tenant"), entry("utc"), timezone="Chicago")),
        NOW,
        NOW,
    )

    assert [(problem.flow, problem.path) for problem in found.problems] == [(None, "timezone")]
    assert [advance.entry.name for advance in found.advances] == ["utc"]


def test_unknown_fields_are_ignored() -> None:
    """A document may hold other fields, such as notes."""
    tenant = Tenant.from_document(document("t", entry(owner="Ann"), contact={"mail": "a@example.com"}, _ts=1))

    assert tenant.problems == ()
    assert len(tenant.flows) == 1


def test_the_first_of_two_entries_with_one_name_is_used() -> None:
    """State is kept by flow name, so the second entry is reported and does not run."""
    tenant = Tenant.from_document(document("t", entry("weather", enabled=False), entry("other"), entry("weather")))

    assert [(flow.name, flow.enabled) for flow in tenant.flows] == [("weather", False), ("other", True)]
    assert [str(problem) for problem in tenant.problems] == [
        "t/weather flows[2].name: 'weather' is already at flows[0], which is the one used: merge the two entries"
    ]


def test_a_next_run_in_year_9999_is_never_due() -> None:
    """Year 9999 means `never` by convention. It is a valid time."""
    tenant = Tenant.from_document(document("t", entry(nextRunUtc="9999-12-31T23:59:59Z")))

    assert plan(tenant, NOW, NOW).advances == ()
    assert tenant.problems == ()


def test_optional_fields_may_be_missing_or_null() -> None:
    """A document needs `id`, `tenantId` and `flows`. An entry needs `name`, `enabled` and `cron`."""
    smallest = {"id": "t", "tenantId": "t", "flows": [{"name": "weather", "enabled": True, "cron": "0 0 * * * *"}]}
    nulls = document("t", entry(nextRunUtc=None, settings=None, timezone=None), name=None, timezone=None)

    for written in (smallest, nulls):
        tenant = Tenant.from_document(written)
        assert (tenant.name, tenant.timezone, tenant.problems) == ("t", "UTC", ())
        assert (tenant.flows[0].settings, tenant.flows[0].next_run) == ({}, None)


def test_a_long_value_is_shortened_in_the_message() -> None:
    """The message has the start of the value and its length."""
    with pytest.raises(TenantInvalid) as refused:
        Tenant.from_document(document("t", flows="x" * 100_000))

    assert len(str(refused.value)) < 400
    assert "(100002 characters)" in str(refused.value)


def test_thousands_of_entries_that_cannot_be_read_are_explained_in_part() -> None:
    """A run of one of the others fails with its place. `validate` counts them."""
    broken = [entry(f"flow-{n}", enabled="yes") for n in range(MOST_EXPLAINED + 1_200)]
    tenant = Tenant.from_document(document("t", flows=[entry("weather"), *broken, 5, entry("last")]))

    assert [each.name for each in tenant.flows] == ["weather", "last"]
    assert len(tenant.problems) == MOST_EXPLAINED + 1
    assert str(tenant.problems[-1]) == (
        "t flows: 1,201 more entries cannot be read, which are not listed: correct the others first"
    )
    with pytest.raises(TenantInvalid, match=r"flow-1600 flows\[1601\]: the entry cannot be read"):
        tenant.entry(["flow-1600"])
    with pytest.raises(TenantInvalid, match=r"flow-3 flows\[4\].enabled: expected true or false"):
        tenant.entry(["flow-3"])


@pytest.mark.parametrize("content", [entry(), {"name": "a"}, 1])
def test_a_large_document_is_read_in_steps(content: Any) -> None:
    """So its reader does not keep the event loop for as long as all its entries take."""
    steps = list(Tenant.reading(document("t", flows=[content] * 10_000)))

    assert len(steps) == 100


def test_the_start_of_a_large_value_is_in_the_message() -> None:
    """Its other parts are not written."""
    with pytest.raises(TenantInvalid, match=r'got {"0": \[0, 1, 2, .*…$') as refused:
        Tenant.from_document(document("t", flows={str(n): list(range(100_000)) for n in range(3)}))

    assert len(str(refused.value)) < 400


def test_a_document_without_a_type_has_few_names_that_are_compared() -> None:
    """It may be any document, with any number of fields."""
    assert is_tenant_document({"Flows": []})
    assert not is_tenant_document({f"flow{n:03}": n for n in range(1_000)} | {"Flows": []})
