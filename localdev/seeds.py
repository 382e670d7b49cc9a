"""The tenants of the demo: most work, and some have the usual mistakes."""

from datetime import UTC, datetime, timedelta
from typing import Any

SYNC = "home-depot→builder-prime"
EXPIRED = "expired"
"""A token that the demo's source of orders refuses."""


def tenants(now: datetime, demo_url: str) -> list[dict[str, Any]]:
    """Return the tenant documents. Most of their flows are due at `now` (aware)."""
    due = (now.astimezone(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def weather(latitude: float, longitude: float, **fields: Any) -> dict[str, Any]:
        place = {"baseUrl": demo_url, "latitude": latitude, "longitude": longitude}
        return _entry("weather", due, settings=place, **fields)

    def sync(**fields: Any) -> dict[str, Any]:
        return _entry(SYNC, due, **fields)

    return [
        _tenant(
            "acme-cabinets", "Acme Cabinets", "America/Chicago", weather(41.88, -87.63), sync(cron="0 0 */2 * * *")
        ),
        _tenant(
            "bayou-kitchens",
            "Bayou Kitchens",
            "America/Chicago",
            weather(29.95, -90.07, cron="0 0 6,18 * * *", timezone="tenant"),
            sync(
                cron="0 30 7-19 * * MON-FRI",
                timezone="tenant",
                settings={"projectTypes": {"kitchen": "Kitchen Remodel"}, "skipStatuses": ["cancelled", "returned"]},
            ),
        ),
        _tenant(
            "berliner-baeder",
            "Berliner Bäder GmbH",
            "Europe/Berlin",
            weather(52.52, 13.41, cron="0 0 5 * * *", timezone="Europe/Berlin"),
            sync(settings={"leadSource": "Baumarkt", "minTotal": 250}),
        ),
        _tenant("cobalt-floors", "Cobalt Floors", "America/Denver", weather(39.74, -104.99), sync(enabled=False)),
        _tenant(
            "delta-decks",
            "Delta Decks (wrong cron, on purpose)",
            "America/New_York",
            weather(40.71, -74.01, cron="0 * * * *"),
            sync(),
        ),
        _tenant(
            "echo-exteriors",
            "Echo Exteriors (unknown flow, on purpose)",
            "America/Los_Angeles",
            weather(34.05, -118.24),
            _entry("home-depot→salesforce", due),
        ),
        _tenant(
            "fargo-floors",
            "Fargo Floors (expired token, on purpose)",
            "America/Chicago",
            weather(46.88, -96.79),
            sync(),
        ),
    ]


def secrets(demo_url: str) -> dict[str, str]:
    """Return the secrets of these tenants by name. The Home Depot token of fargo-floors has expired."""
    ids = [
        "acme-cabinets",
        "bayou-kitchens",
        "berliner-baeder",
        "cobalt-floors",
        "delta-decks",
        "echo-exteriors",
        "fargo-floors",
    ]
    return {
        f"tenants--{tenant}--{system}--{key}": value
        for tenant in ids
        for (system, key), value in {
            ("homedepot", "api-base"): f"{demo_url}/homedepot/v1",
            ("homedepot", "api-token"): EXPIRED if tenant == "fargo-floors" else f"hd-{tenant}",
            ("builderprime", "api-base"): f"{demo_url}/builderprime/v1",
            ("builderprime", "api-token"): f"bp-{tenant}",
        }.items()
    }


def _tenant(tenant_id: str, name: str, timezone: str, *flows: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": tenant_id,
        "type": "Tenant",
        "tenantId": tenant_id,
        "name": name,
        "timezone": timezone,
        "flows": list(flows),
    }


def _entry(name: str, due: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "enabled": True, "cron": "0 0 * * * *", "nextRunUtc": due, **fields}
