"""The invented orders of the demo's Home Depot: always the same for one seed, token and time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

PAST = timedelta(days=7)
FUTURE = timedelta(days=1)
"""Orders have times from `base_time - PAST` to `base_time + FUTURE`, so that new ones keep appearing."""

PER_DAY = range(30, 60)

STATUSES = ("placed", "confirmed", "measured", "shipped", "installed", "cancelled", "returned")
STATUS_WEIGHTS = (30, 20, 10, 15, 15, 6, 4)
FIRST_NAMES = ("Ava", "Ben", "Carla", "Dmitri", "Elena", "Farid", "Grace", "Hana", "Iván", "Jo", "Kofi", "Léa")
LAST_NAMES = ("Adams", "Brown", "Castillo", "Dąbrowski", "Evans", "Fischer", "Garcia", "Huang", "Ibrahim", "O'Neil")
STREETS = ("Maple St", "Oak Ave", "Elm Dr", "Cedar Ln", "2nd St", "Lakeview Blvd")
CITIES = (
    ("Chicago", "IL", "60614"),
    ("Naperville", "IL", "60540"),
    ("Gary", "IN", "46402"),
    ("Madison", "WI", "53703"),
)

# The products of each category, with their lowest and highest price in dollars.
PRODUCTS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "kitchen": (("Shaker base cabinet", 180, 520), ("Quartz countertop", 900, 3800), ("Undermount sink", 120, 480)),
    "bath": (("Vanity 36 in.", 250, 1100), ("Walk-in shower kit", 600, 2400), ("Faucet", 45, 260)),
    "flooring": (("Oak plank, box", 70, 140), ("Underlayment, roll", 25, 60), ("Installation", 300, 1800)),
    "windows": (("Double-hung window", 220, 640), ("Trim set", 30, 90)),
    "decking": (("Composite board", 28, 55), ("Railing section", 90, 210)),
}


@dataclass(frozen=True, slots=True)
class Order:
    """One order and the time of its last change."""

    updated_at: datetime
    id: str
    body: dict[str, Any]
    """The order in the form of the API."""

    @property
    def position(self) -> tuple[datetime, str]:
        """The sort key of a listing: last change, then id."""
        return self.updated_at, self.id


def make_orders(seed: int, token: str, base_time: datetime) -> list[Order]:
    """Make the orders of one token, in the order of their last change. `base_time` is aware."""
    random = Random(f"{seed} {token}")  # noqa: S311 - invented data, the same each time
    base = base_time.astimezone(UTC).replace(microsecond=0)
    count = sum(random.choice(PER_DAY) for _ in range((PAST + FUTURE).days))
    orders = [_make_order(random, 1000 + number, base) for number in range(count)]
    return sorted(orders, key=lambda order: order.position)


def _make_order(random: Random, number: int, base: datetime) -> Order:
    updated = base - PAST + timedelta(seconds=random.randrange(int((PAST + FUTURE).total_seconds())))
    created = updated - timedelta(seconds=random.randrange(60, 3 * 86400))
    category = random.choice(list(PRODUCTS))
    lines = [_make_line(random, *product) for product in random.sample(PRODUCTS[category], random.randint(1, 2))]
    order_id = f"HD-{number}"
    body = {
        "id": order_id,
        "status": random.choices(STATUSES, STATUS_WEIGHTS)[0],
        "created_at": _iso(created),
        "updated_at": _iso(updated),
        "customer": _make_customer(random),
        "store": f"#{random.randint(1901, 1960)}",
        "category": category,
        "lines": lines,
        "total": round(sum(line["quantity"] * line["unit_price"] for line in lines), 2),
    }
    return Order(updated_at=updated, id=order_id, body=body)


def _make_line(random: Random, product: str, cheapest: int, dearest: int) -> dict[str, Any]:
    return {
        "sku": f"{random.randint(100, 999)}-{random.randint(100, 999)}",
        "product": product,
        "quantity": random.randint(1, 6),
        "unit_price": round(random.uniform(cheapest, dearest), 2),
    }


def _make_customer(random: Random) -> dict[str, str | None]:
    first, last = random.choice(FIRST_NAMES), random.choice(LAST_NAMES)
    city, state, zip_code = random.choice(CITIES)
    return {
        "name": f"{first} {last}",
        "email": f"{first}.{last}@example.com".lower().replace("'", "") if random.random() < 0.9 else None,  # noqa: PLR2004
        "phone": f"+1-555-01{random.randint(0, 99):02}",
        "address": f"{random.randint(10, 9999)} {random.choice(STREETS)}, {city}, {state} {zip_code}",
    }


def _iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
