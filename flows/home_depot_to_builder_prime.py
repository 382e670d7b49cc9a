"""Transfers changed Home Depot orders to Builder Prime as leads. A complete example: paging, mapping, batches, parts.

Secrets of the tenant, in Key Vault: see `SECRETS`. Its mapping rules, the `settings` of the flow's entry: see `Rules`.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import batched
from typing import Annotated, Any

import msgspec

from datasync import IDEMPOTENT, Continue, FlowRun, TenantSecretClient
from flows.registry import flow

PART = timedelta(days=7)
"""The longest window that is transferred at once. A longer one, as after a pause, is transferred in parts."""
PAGE = 100
BATCH = 50  # maximum number of leads per request to Builder Prime

SECRETS = ("homedepot--api-base", "homedepot--api-token", "builderprime--api-base", "builderprime--api-token")
"""Each with the prefix `tenants--{tenantId}--`."""


class Rules(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The mapping rules of a tenant."""

    project_types: dict[str, str] = {}
    """Order category → project type: `{"kitchen": "Kitchen Remodel"}`. Other categories are used unchanged."""
    skip_statuses: tuple[str, ...] = ("cancelled",)
    """Orders with these statuses are skipped."""
    lead_source: str = "Home Depot"
    min_total: float = 0
    """Orders below this amount are skipped."""
    first_window_days: Annotated[int, msgspec.Meta(ge=1, le=700, description="a number of days from 1 to 700")] = 7
    """How far the first run goes back. 700 days are the 100 parts that a run may have."""


@flow(
    "home-depot→builder-prime",
    timeout=timedelta(minutes=15),
    settings=Rules,
    secrets=SECRETS,
    provider="homedepot",
)
async def home_depot_to_builder_prime(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
    """Upsert a lead for each order that changed in the window. A repeated window gives the same leads."""
    rules: Rules = run.settings
    since = run.window.start or run.window.end - timedelta(days=rules.first_window_days)
    until = min(since + PART, run.window.end)
    async for orders in changed_orders(kv, run, since, until):
        leads = [to_lead(order, rules) for order in orders if wanted(order, rules)]
        run.count(orders=len(orders), leads=len(leads))
        for batch in batched(leads, BATCH, strict=False):
            await upsert(kv, run, batch)
    if until < run.window.end:
        raise Continue(window_end=until)


async def changed_orders(
    kv: TenantSecretClient, run: FlowRun, since: datetime, before: datetime
) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the orders updated in [since, before), one page at a time."""
    base = await kv.secret("homedepot", "api-base")
    token = await kv.secret("homedepot", "api-token")
    cursor: str | None = ""
    while cursor is not None:
        response = await run.http.get(
            f"{base}/orders",
            params={
                "updated_since": since.isoformat(),
                "updated_before": before.isoformat(),
                "page_size": PAGE,
                **({"cursor": cursor} if cursor else {}),
            },
            headers={"Authorization": f"Bearer {token}"},
        )
        response.raise_for_status()
        page = response.json()
        yield page["orders"]
        cursor = page["next_cursor"]


async def upsert(kv: TenantSecretClient, run: FlowRun, leads: tuple[dict[str, Any], ...]) -> None:
    """Create or update leads by their `external_id`. This is safe to repeat, so the POST is retried."""
    base = await kv.secret("builderprime", "api-base")
    token = await kv.secret("builderprime", "api-token")
    response = await run.http.post(
        f"{base}/leads:batchUpsert",
        json={"leads": leads},
        headers={"Authorization": f"Bearer {token}"},
        extensions=IDEMPOTENT,
    )
    response.raise_for_status()
    answer = response.json()
    run.count(created=answer["created"], updated=answer["updated"])


def wanted(order: dict[str, Any], rules: Rules) -> bool:
    """Return whether the tenant's rules include an order."""
    return order["status"] not in rules.skip_statuses and order["total"] >= rules.min_total


def to_lead(order: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """Map an order to a lead."""
    customer = order["customer"]
    return {
        "external_id": f"homedepot-{order['id']}",
        "source": rules.lead_source,
        "name": customer["name"],
        "email": customer.get("email"),
        "phone": customer.get("phone"),
        "address": customer.get("address"),
        "project_type": rules.project_types.get(order["category"], order["category"]),
        "status": order["status"],
        "estimated_value": order["total"],
        "notes": f"Home Depot store {order['store']}, {len(order['lines'])} items",
    }
