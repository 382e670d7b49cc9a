"""Tenant documents for tests."""

from typing import Any


def entry(name: str = "weather", **fields: Any) -> dict[str, Any]:
    """Return a flow entry. By default it is enabled, hourly, and due since 2025."""
    return {
        "name": name,
        "enabled": True,
        "cron": "0 0 * * * *",
        "nextRunUtc": "2025-08-23T01:00:00Z",
        **fields,
    }


def document(tenant_id: str = "tenant-123", *flows: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a tenant document with these flow entries; by default, one hourly `weather`."""
    return {
        "id": tenant_id,
        "type": "Tenant",
        "tenantId": tenant_id,
        "name": "Acme Cabinets",
        "timezone": "America/Chicago",
        "flows": list(flows or [entry()]),
        "_etag": '"1"',
        **fields,
    }
