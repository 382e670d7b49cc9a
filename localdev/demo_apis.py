"""APIs for the example flows and for new ones, on one port: weather, a source of orders, a CRM, and any others.

GET  /v1/forecast?latitude=…&longitude=…&current=…       weather, in the form of api.open-meteo.com
GET  /homedepot/v1/orders?updated_since=…&updated_before=…&page_size=…&cursor=…
POST /builderprime/v1/leads:batchUpsert                  {"leads": [{"external_id": …, …}, …]}
GET  /builderprime/v1/leads                              the leads received so far
GET  /<any name>/items?updated_since=…&updated_before=…  for the flows of `python -m datasync new`
POST /<any name>/items:upsert                            [{"external_id": …, …}, …]

All but the weather need `Authorization: Bearer <token>`. Each token is an account with its own orders, leads and items.
Like real APIs, these limit the rate of requests (429), and sometimes fail (500).
"""

import base64
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from aiohttp import web

from localdev.demo_orders import Order, make_orders
from localdev.web import serving

LARGEST_PAGE = 200
DEFAULT_PAGE = 50
LARGEST_BATCH = 50

WEATHER_UNITS = {"temperature_2m": "°C", "wind_speed_10m": "km/h", "relative_humidity_2m": "%"}
WEATHER_RANGES = {"temperature_2m": (-5, 30), "wind_speed_10m": (0, 40), "relative_humidity_2m": (30, 95)}

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
type Lead = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The limits and failures of the APIs for orders and leads."""

    requests_per_second: float = 5
    """The rate limit of each token; requests above it are answered with 429. 0 means no limit."""

    burst: int = 5
    """The number of requests that a token may send at once."""

    retry_after: int = 1
    """Seconds in the Retry-After header of a 429."""

    fail_every: int = 20
    """One request in this number is answered with 500, before it changes anything. 0 means none."""


NO_TROUBLE = Trouble(requests_per_second=0, fail_every=0)


class Allowance:
    """The rate limit of one token: a token bucket that holds `burst` and refills steadily."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = float(burst)
        self._at = time.monotonic()

    def take(self) -> bool:
        """Take one request out of the bucket. Returns False if it is empty."""
        if not self._per_second:
            return True
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass
class DemoApis:
    """The running APIs, with the requests and leads that they have received."""

    base_time: datetime
    """Orders have times around it: see demo_orders."""

    seed: int = 7
    trouble: Trouble = field(default_factory=Trouble)
    refused_tokens: Collection[str] = ("expired",)
    """Tokens that are answered with 401. All others are accepted."""

    url: str = ""
    """The address, without a slash at the end."""

    requests: Counter[str] = field(default_factory=Counter)
    """The number of requests by method and path."""

    refusals: Counter[int] = field(default_factory=Counter)
    """The number of refused requests by status: 401, 429, 500."""

    leads: dict[str, dict[str, Lead]] = field(default_factory=lambda: defaultdict(dict))
    """The leads received, by token and external id."""

    items: dict[str, dict[str, Lead]] = field(default_factory=lambda: defaultdict(dict))
    """The items received, by token and external id."""

    _orders: dict[str, list[Order]] = field(default_factory=dict, init=False, repr=False)
    _allowances: dict[str, Allowance] = field(default_factory=dict, init=False, repr=False)
    _served: int = field(default=0, init=False, repr=False)

    def orders(self, token: str) -> list[Order]:
        """Return all orders of a token's account, in the order of their last change."""
        if token not in self._orders:
            self._orders[token] = make_orders(self.seed, token, self.base_time)
        return self._orders[token]

    def application(self) -> web.Application:
        """Make the web application."""
        application = web.Application(middlewares=[self._count, self._be_difficult])
        application.router.add_get("/v1/forecast", self._forecast)
        application.router.add_get("/homedepot/v1/orders", self._list_orders)
        application.router.add_post("/builderprime/v1/leads:batchUpsert", self._upsert_leads)
        application.router.add_get("/builderprime/v1/leads", self._list_leads)
        application.router.add_get("/{system}/items", self._list_items)
        application.router.add_post("/{system}/items:upsert", self._upsert_items)
        return application

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests[f"{request.method} {request.path}"] += 1
        return await handler(request)

    @web.middleware
    async def _be_difficult(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests without a valid token or above the rate limit, and let some fail. The weather is open."""
        if request.path.startswith("/v1/"):
            return await handler(request)
        token = _token(request)
        if not token or token in self.refused_tokens:
            return self._refuse(401, "unauthorized", "The access token is missing, invalid or expired.")
        if not self._allowance(token).take():
            wait = {"Retry-After": str(self.trouble.retry_after)}
            return self._refuse(429, "rate_limited", "Too many requests for this token.", wait)
        self._served += 1
        if self.trouble.fail_every and self._served % self.trouble.fail_every == 0:
            return self._refuse(500, "internal_error", "Something went wrong on our side. Try again.")
        return await handler(request)

    def _allowance(self, token: str) -> Allowance:
        if token not in self._allowances:
            self._allowances[token] = Allowance(self.trouble.requests_per_second, self.trouble.burst)
        return self._allowances[token]

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
        self.refusals[status] += 1
        return _error(status, code, message, headers)

    async def _forecast(self, request: web.Request) -> web.Response:
        try:
            latitude, longitude = float(request.query["latitude"]), float(request.query["longitude"])
        except (KeyError, ValueError):
            reason = "latitude and longitude must be numbers."
            return web.json_response({"error": True, "reason": reason}, status=400)
        names = [name for name in request.query.get("current", "").split(",") if name in WEATHER_UNITS]
        random = Random(f"{self.seed} {latitude} {longitude}")  # noqa: S311 - invented data, the same each time
        values = {name: round(random.uniform(*WEATHER_RANGES[name]), 1) for name in names}
        now = datetime.now(UTC)
        return web.json_response(
            {
                "latitude": latitude,
                "longitude": longitude,
                "generationtime_ms": 0.03,
                "utc_offset_seconds": 0,
                "timezone": "GMT",
                "timezone_abbreviation": "GMT",
                "elevation": 180.0,
                "current_units": {
                    "time": "iso8601",
                    "interval": "seconds",
                    **{name: WEATHER_UNITS[name] for name in names},
                },
                "current": {
                    "time": now.replace(minute=now.minute // 15 * 15).strftime("%Y-%m-%dT%H:%M"),
                    "interval": 900,
                    **values,
                },
            }
        )

    async def _list_orders(self, request: web.Request) -> web.Response:
        """Answer with the orders of updated_since <= updated_at < updated_before, one page at a time."""
        try:
            since = _time(request, "updated_since")
            before = _time(request, "updated_before")
            size = int(request.query.get("page_size", DEFAULT_PAGE))
            after = _decode_cursor(request.query["cursor"]) if "cursor" in request.query else None
        except ValueError as why:
            return _error(400, "bad_request", str(why))
        if not 1 <= size <= LARGEST_PAGE:
            return _error(400, "bad_request", f"page_size must be from 1 to {LARGEST_PAGE}, not {size}.")
        found = [
            order
            for order in self.orders(_token(request))
            if since <= order.updated_at < before and (after is None or order.position > after)
        ]
        page = found[:size]
        next_cursor = _encode_cursor(page[-1]) if len(found) > size else None
        return web.json_response({"orders": [order.body for order in page], "next_cursor": next_cursor})

    async def _upsert_leads(self, request: web.Request) -> web.Response:
        try:
            leads = _read_leads(await request.json())
        except ValueError as why:
            return _error(400, "bad_request", str(why))
        known = self.leads[_token(request)]
        created = sum(lead["external_id"] not in known for lead in leads)
        known.update({lead["external_id"]: lead for lead in leads})
        return web.json_response({"created": created, "updated": len(leads) - created})

    async def _list_leads(self, request: web.Request) -> web.Response:
        return web.json_response({"leads": list(self.leads[_token(request)].values())})

    async def _list_items(self, request: web.Request) -> web.Response:
        """Answer with the items of updated_since <= updated_at < updated_before, which are the orders in short."""
        try:
            since, before = _time(request, "updated_since"), _time(request, "updated_before")
        except ValueError as why:
            return _error(400, "bad_request", str(why))
        found = [order for order in self.orders(_token(request)) if since <= order.updated_at < before]
        return web.json_response(
            [{"id": each.id, "name": each.body["customer"]["name"], "status": each.body["status"]} for each in found]
        )

    async def _upsert_items(self, request: web.Request) -> web.Response:
        items = await request.json()
        if not isinstance(items, list) or not all(isinstance(each, dict) and "external_id" in each for each in items):
            return _error(400, "bad_request", "The body must be a list of items, each with an external_id.")
        self.items[_token(request)].update({each["external_id"]: each for each in items})
        return web.json_response({"received": len(items)})


def _token(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" else ""


def _time(request: web.Request, name: str) -> datetime:
    text = request.query.get(name, "")
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} must be an ISO 8601 time, not {text!r}.") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _encode_cursor(order: Order) -> str:
    return base64.urlsafe_b64encode(f"{order.updated_at.isoformat()} {order.id}".encode()).decode()


def _decode_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        instant, _, order_id = base64.urlsafe_b64decode(cursor).decode().partition(" ")
        return datetime.fromisoformat(instant), order_id
    except ValueError:
        raise ValueError(f"cursor {cursor!r} is not a next_cursor of this API.") from None


def _read_leads(body: Any) -> list[Lead]:
    leads = body.get("leads") if isinstance(body, dict) else None
    if not isinstance(leads, list) or not 1 <= len(leads) <= LARGEST_BATCH:
        raise ValueError(f'The body must be {{"leads": […]}} with 1 to {LARGEST_BATCH} leads.')
    if not all(isinstance(lead, dict) and isinstance(lead.get("external_id"), str) for lead in leads):
        raise ValueError("Every lead needs an external_id, a string.")
    return leads


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)


@asynccontextmanager
async def demo_apis(
    *,
    port: int = 0,
    base_time: datetime | None = None,
    seed: int = 7,
    trouble: Trouble | None = None,
    refused_tokens: Collection[str] = ("expired",),
) -> AsyncGenerator[DemoApis]:
    """Run the APIs on 127.0.0.1. Port 0 means a free port.

    Orders have times around `base_time` (aware), by default the current time. Raises PortTaken.
    """
    demo = DemoApis(
        base_time=base_time or datetime.now(UTC),
        seed=seed,
        trouble=trouble or Trouble(),
        refused_tokens=refused_tokens,
    )
    async with serving("The demo APIs", demo.application(), port=port) as url:
        demo.url = url
        yield demo
