"""Mistakes that people make in tenant documents, and the messages of the app about them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun
from tests.documents import document, entry
from tests.stages import does_nothing

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
NEXT = "2025-08-23T13:00:00Z"


class Lenient(msgspec.Struct, rename="camel"):
    """Settings of a flow that ignores unknown ones."""

    min_total: float = 0


class Strict(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Settings of a flow that refuses unknown ones."""

    min_total: float = 0


async def takes_run(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
    """Do nothing."""


FLOWS = FlowRegistry()
FLOWS.flow("weather", aliases=("wetter",))(takes_run)
FLOWS.flow("simple")(does_nothing)
FLOWS.flow("lenient", settings=Lenient)(takes_run)
FLOWS.flow("strict", settings=Strict)(takes_run)
FLOWS.flow("secretive", secrets=("shop--token",))(takes_run)


@dataclass(frozen=True, slots=True)
class Mistake:
    """A document with a mistake, and the level, the path and some words of the message about it."""

    document: dict[str, Any]
    level: str
    path: str
    words: str


def hourly(name: str = "weather", **fields: Any) -> dict[str, Any]:
    """Return an entry without a mistake, which is due in an hour."""
    return entry(name, **{"nextRunUtc": NEXT, **fields})


def one(*flows: Any, without: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """Return a document with an id of its own."""
    made = document(f"t-{next(_numbers)}", *(flows or (hourly(),)))
    return {name: value for name, value in made.items() if name not in without} | fields


def entry_without(field: str, **fields: Any) -> dict[str, Any]:
    """Return an entry without a field."""
    return {name: value for name, value in hourly(**fields).items() if name != field}


_numbers = iter(range(1000))


def _error(path: str, words: str, made: dict[str, Any]) -> Mistake:
    return Mistake(made, "error", path, words)


def _warning(path: str, words: str, made: dict[str, Any]) -> Mistake:
    return Mistake(made, "warning", path, words)


def _entry_error(path: str, words: str, **fields: Any) -> Mistake:
    return _error(f"flows[0].{path}", words, one(hourly(**fields)))


def _entry_warning(path: str, words: str, **fields: Any) -> Mistake:
    return _warning(f"flows[0].{path}", words, one(hourly(**fields)))


MISTAKES = [
    # the document as a whole
    _error("tenantId", "is not the document's id", one(tenantId="other")),
    _error("flows", "missing", one(without=("flows",))),
    _error("flows", "expected a list", one(flows={"name": "weather"})),
    _error("flows", "expected a list", one(flows=None)),
    _error("flows", "missing", one(without=("flows",), Flows=[hourly()])),
    _warning("Flows", "did you mean 'flows'?", one(without=("flows",), Flows=[hourly()])),
    _error("flows", "missing", one(without=("flows", "type"), Flows=[hourly()])),
    _error("flows", "missing", one(without=("flows", "type"), flow=[hourly()])),
    _error("type", 'expected "Tenant", got "tenant"', one(type="tenant")),
    _error("type", 'expected "Tenant", got "Tennant"', one(type="Tennant")),
    _error("type", 'expected "Tenant", got "tenent"', one(type="tenent")),
    _error("type", 'expected "Tenant", got "Tenants"', one(type="Tenants")),
    _error("type", 'expected "Tenant", got " Tenant"', one(type=" Tenant")),
    _error("type", 'expected "Tenant", got ""', one(type="")),
    _error("type", 'expected "Tenant", got null', one(type=None)),
    _error("name", "expected a text", one(name=5)),
    _error("timezone", "is not a time zone", one(timezone="Chicago")),
    _error("timezone", "expected an IANA name", one(timezone=-6)),
    _error("id", "does not start with '@'", document("@acme")),
    _error("id", "not '.' or '..'", document("..")),
    _error("id", "only printable characters, got 'ac\\nme'", document("ac\nme")),
    _error("id", "only printable characters, got 'acme\\u202e'", document("acme\u202e")),
    _error("id", "only printable characters, got 'ac\\u200bme'", document("ac\u200bme")),
    _error("id", "only printable characters, got 'ac\\x1bme'", document("ac\x1bme")),
    _error("id", "only printable characters, got 'acme\\u3164'", document("acme\u3164")),
    _error("id", "only printable characters, got 'ac\\u2800me'", document("ac\u2800me")),
    _error("id", "only printable characters, got 'acme\\U000e0100'", document("acme\U000e0100")),
    _error("id", "at most 1,023 bytes", document("x" * 1024)),
    # fields at the top that look like known ones
    _warning("enabled", "'enabled' is a field of each entry: flows[0].enabled", one(enabled=False)),
    _warning("disabled", "is a field of each entry: flows[0].enabled", one(disabled=True)),
    _warning("settings", "is a field of each entry: flows[0].settings", one(settings={"a": 1})),
    _warning("config", "is a field of each entry: flows[0].settings", one(config={"a": 1})),
    _warning("cron", "is a field of each entry: flows[0].cron", one(cron="0 0 * * * *")),
    _warning("nextRunUtc", "is a field of each entry", one(nextRunUtc=None)),
    _warning("tz", "did you mean 'timezone'?", one(tz="Europe/Berlin")),
    _warning("timeZone", "did you mean 'timezone'?", one(timeZone="Europe/Berlin")),
    _warning("time_zone", "did you mean 'timezone'?", one(time_zone="Europe/Berlin")),
    _warning("Type", "did you mean 'type'?", one(Type="Tenant")),
    _warning("Name", "did you mean 'name'?", one(Name="Acme")),
    _warning("tenant_id", "did you mean 'tenantId'?", one(tenant_id="x")),
    # fields of an entry
    _error("flows[0]", "expected an object", one("weather")),
    _error("flows[0].name", "missing", one(entry_without("name"))),
    _error("flows[0].name", "missing", one(entry_without("name", flow="weather"))),
    _warning("flows[0].flow", "did you mean 'name'?", one(entry_without("name", flow="weather"))),
    _entry_error("name", "no flow is named 'wether'; did you mean 'weather'?", name="wether"),
    _entry_error("name", "no flow is named 'Weather'; did you mean 'weather'?", name="Weather"),
    _entry_error("name", "no flow is named ' weather'", name=" weather"),
    _entry_error("name", "expected a text that is not empty", name=""),
    _entry_error("name", "only printable characters, got 'wea\\nther'", name="wea\nther"),
    _entry_error("name", "only printable characters, got 'weather\\u200b'", name="weather\u200b"),
    _entry_error("name", "only printable characters, got '\\u202eweather'", name="\u202eweather"),
    _entry_error("name", "only printable characters, got 'weather\\u3164'", name="weather\u3164"),
    _entry_error("name", "only printable characters, got 'weather\\ufe0f'", name="weather\ufe0f"),
    _entry_error("name", "at most 200 characters", name="w" * 70_000),
    _error("flows[1].name", "is already at flows[0]", one(hourly(), hourly())),
    _error("flows[1].name", "is another name of 'weather'", one(hourly(), hourly("wetter"))),
    _error("flows[0].enabled", "missing", one(entry_without("enabled", Enabled=True))),
    _warning("flows[0].Enabled", "did you mean 'enabled'?", one(entry_without("enabled", Enabled=True))),
    _entry_warning("Enabled", "did you mean 'enabled'?", Enabled=False),
    _entry_warning("disabled", "did you mean 'enabled'?", disabled=True),
    _entry_warning("active", "did you mean 'enabled'?", active=False),
    _entry_error("enabled", "true or false, without quotes", enabled="true"),
    _entry_error("enabled", "true or false, without quotes", enabled=1),
    _entry_error("enabled", "true or false, without quotes", enabled=None),
    _entry_error("cron", "5 fields found", cron="0 * * * *"),
    _entry_error("cron", "hour '24' is not allowed", cron="0 0 24 * * *"),
    _entry_error("cron", "never fires", cron="0 0 0 30 2 *"),
    _entry_error("cron", "'every hour'", cron="every hour"),
    _entry_error("cron", "a text of six fields", cron=5),
    _error("flows[0].cron", "missing", one(entry_without("cron", schedule="0 0 * * * *"))),
    _warning("flows[0].schedule", "did you mean 'cron'?", one(entry_without("cron", schedule="0 0 * * * *"))),
    _entry_error("timezone", "'Chicago' is not a time zone", timezone="Chicago"),
    _entry_error("timezone", "or 'tenant' for the tenant's own", timezone="Tenant"),
    _entry_warning("tz", "did you mean 'timezone'?", tz="Europe/Berlin"),
    _entry_warning("timeZone", "did you mean 'timezone'?", timeZone="Europe/Berlin"),
    _warning(
        "flows[0].timezone", "the document has no timezone", one(hourly(timezone="tenant"), without=("timezone",))
    ),
    _warning("flows[0].timezone", "the document has no timezone", one(hourly(timezone="tenant"), timezone="")),
    # how old the last success may get
    _entry_error("freshness", 'such as 30m, 2h or 7d, got "2 hours"', freshness="2 hours"),
    _entry_error("freshness", "a time span from 1m to 3650d", freshness="0h"),
    _entry_error("freshness", "a time span from 1m to 3650d", freshness="3651d"),
    _entry_error("freshness", "a time span", freshness="\uff12h"),
    _entry_error("freshness", "a time span", freshness=120),
    _entry_warning("freshnes", "did you mean 'freshness'?", freshnes="2h"),
    # the next run
    _entry_error("nextRunUtc", "an ISO 8601 time", nextRunUtc="2O25-08-23T13:00:00Z"),
    _entry_error("nextRunUtc", "an ISO 8601 time", nextRunUtc="\uff12\uff10\uff12\uff15-08-23T13:00:00Z"),
    _entry_error("nextRunUtc", "an ISO 8601 time", nextRunUtc="2125-02-30T00:00:00Z"),
    _entry_error("nextRunUtc", "an ISO 8601 time", nextRunUtc="1712102400000"),
    _entry_error("nextRunUtc", "an ISO 8601 time", nextRunUtc=1755910800000),
    _entry_error("nextRunUtc", "an ISO 8601 time", nextRunUtc="now"),
    _entry_error("nextRunUtc", "an ISO 8601 time", nextRunUtc=""),
    _entry_error("nextRunUtc", "an ISO 8601 time", nextRunUtc="0001-01-01T00:00:00+14:00"),
    _entry_warning("nextRunUtc", "more than two periods of the cron ahead", nextRunUtc="2206-01-01T00:00:00Z"),
    _entry_warning("nextRunUtc", "more than two periods of the cron ahead", nextRunUtc="2025-08-23T15:00:00Z"),
    _entry_warning("nextRunUtc", "more than two periods of the cron ahead", nextRunUtc="9999-12-31T23:59:59Z"),
    _entry_warning("nextRunUtc", "0001-01-01T00:00:00Z is long ago", nextRunUtc="0001-01-01T00:00:00Z"),
    _entry_warning("nextRunUtc", "1999-12-31T23:59:59Z is long ago", nextRunUtc="1999-12-31T23:59:59Z"),
    _entry_warning("nextRunUTC", "did you mean 'nextRunUtc'?", nextRunUTC=None),
    _entry_warning("nextRun", "did you mean 'nextRunUtc'?", nextRun=NEXT),
    _entry_warning("next_run_utc", "did you mean 'nextRunUtc'?", next_run_utc=NEXT),
    _entry_warning("planed", "did you mean 'planned'?", planed=None),
    # settings
    _entry_error("settings", "expected an object", settings=["a"]),
    _entry_warning("setings", "did you mean 'settings'?", setings={"a": 1}),
    _entry_warning("config", "did you mean 'settings'?", config={"a": 1}),
    _entry_warning("settings", "does not take `run`", name="simple", settings={"a": 1}),
    _entry_error("settings.minTotals", "did you mean 'minTotal'?", name="strict", settings={"minTotals": 5}),
    _entry_error("settings.minTotal", "expected a number", name="strict", settings={"minTotal": "5"}),
    _entry_warning(
        "settings.minTotals", "does not read; did you mean 'minTotal'?", name="lenient", settings={"minTotals": 5}
    ),
    _entry_warning("settings.other", "which the flow does not read", name="lenient", settings={"other": 5}),
    _entry_warning("settings.ids[1].id", "above 2^53", settings={"ids": [{"id": 2**53}, {"id": 2**53 + 2}]}),
    _error(
        "flows[0]", "Key Vault takes names", document("acme_1", hourly("secretive"))
    ),
]  # fmt: skip
"""Mistakes that both a tick and `validate` report."""
