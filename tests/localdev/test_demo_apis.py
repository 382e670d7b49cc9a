from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from localdev.demo_apis import NO_TROUBLE, DemoApis, Trouble, demo_apis
from localdev.demo_orders import FUTURE, PAST, make_orders
from tests.localdev.ports import answers, port_of

NOW = datetime(2025, 8, 23, 1, tzinfo=UTC)
ALL = {"updated_since": (NOW - PAST).isoformat(), "updated_before": (NOW + FUTURE).isoformat()}
ORDERS = "/homedepot/v1/orders"
UPSERT = "/builderprime/v1/leads:batchUpsert"
LEADS = "/builderprime/v1/leads"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest_asyncio.fixture
async def demo() -> AsyncGenerator[DemoApis]:
    """Run the APIs without limits and failures."""
    async with demo_apis(base_time=NOW, trouble=NO_TROUBLE) as running:
        yield running


@pytest_asyncio.fixture
async def caller(demo: DemoApis) -> AsyncGenerator[httpx.AsyncClient]:
    """Make a client with a token."""
    async with httpx.AsyncClient(base_url=demo.url, headers=bearer("acme")) as client:
        yield client


async def read_all(caller: httpx.AsyncClient, **params: Any) -> list[list[dict[str, Any]]]:
    """Read the pages of orders."""
    pages = []
    cursor: str | None = ""
    while cursor is not None:
        query = httpx.QueryParams(ALL).merge(params).merge({"cursor": cursor} if cursor else {})
        page = (await caller.get(ORDERS, params=query)).raise_for_status().json()
        pages.append(page["orders"])
        cursor = page["next_cursor"]
    return pages


async def test_the_weather_has_the_form_of_open_meteo(caller: httpx.AsyncClient) -> None:
    """A client of api.open-meteo.com can read it. It needs no token."""
    place = {"latitude": "41.88", "longitude": "-87.63", "current": "temperature_2m,wind_speed_10m"}
    weather = (await caller.get("/v1/forecast", params=place, headers={"Authorization": ""})).raise_for_status().json()
    assert isinstance(weather["current"]["temperature_2m"], float)
    assert weather["current_units"]["wind_speed_10m"] == "km/h"
    assert (await caller.get("/v1/forecast")).json() == {
        "error": True,
        "reason": "latitude and longitude must be numbers.",
    }


async def test_pages_have_each_order_once(demo: DemoApis, caller: httpx.AsyncClient) -> None:
    """The pages together have all orders of the account, in the order of their last change."""
    pages = await read_all(caller, page_size=70)
    assert len(pages) > 2
    assert {len(page) for page in pages[:-1]} == {70}
    ids = [order["id"] for page in pages for order in page]
    assert ids == [order.id for order in demo.orders("acme")]


async def test_a_window_includes_its_start_and_not_its_end(demo: DemoApis, caller: httpx.AsyncClient) -> None:
    """Two adjacent windows have each order exactly once."""
    middle = demo.orders("acme")[100].body["updated_at"]
    before = await read_all(caller, updated_before=middle)
    after = await read_all(caller, updated_since=middle)
    assert after[0][0]["updated_at"] == middle
    assert sum(map(len, before + after)) == len(demo.orders("acme"))


async def test_an_order_has_all_fields(caller: httpx.AsyncClient) -> None:
    """An order has the fields that a flow maps, and its total is the sum of its lines."""
    (order, *_), *_ = await read_all(caller)
    assert {"id", "status", "created_at", "updated_at", "customer", "store", "category", "lines", "total"} == set(order)
    assert {"name", "email", "phone", "address"} == set(order["customer"])
    assert order["created_at"] < order["updated_at"]
    total = sum(line["quantity"] * line["unit_price"] for line in order["lines"])
    assert order["total"] == pytest.approx(total, abs=0.01)


def test_orders_are_the_same_each_time() -> None:
    """Orders depend on the seed, the token and the time only. Another token has other orders."""
    assert make_orders(7, "acme", NOW) == make_orders(7, "acme", NOW)
    assert make_orders(7, "acme", NOW) != make_orders(7, "bayou", NOW)
    later = make_orders(7, "acme", NOW + timedelta(days=1))
    assert [order.id for order in later] == [order.id for order in make_orders(7, "acme", NOW)]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"updated_since": "yesterday"}, "updated_since must be an ISO 8601 time, not 'yesterday'."),
        ({"page_size": 1000}, "page_size must be from 1 to 200, not 1000."),
        ({"cursor": "%%%"}, "cursor '%%%' is not a next_cursor of this API."),
    ],
)
async def test_an_invalid_request_is_refused(caller: httpx.AsyncClient, params: dict[str, Any], reason: str) -> None:
    """The answer is 400, with the reason."""
    answer = await caller.get(ORDERS, params={**ALL, **params})
    assert answer.status_code == 400
    assert answer.json() == {"error": {"code": "bad_request", "message": reason}}


@pytest.mark.parametrize("headers", [{}, bearer("expired"), {"Authorization": "Basic acme"}])
async def test_a_request_without_a_valid_token_is_refused(demo: DemoApis, headers: dict[str, str]) -> None:
    """Each endpoint except the weather answers 401, with JSON."""
    async with httpx.AsyncClient(base_url=demo.url, headers=headers) as stranger:
        for answer in (
            await stranger.get(ORDERS, params=ALL),
            await stranger.post(UPSERT, json={"leads": [{"external_id": "1"}]}),
            await stranger.get(LEADS),
        ):
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "unauthorized"
    assert demo.refusals == {401: 3}


async def test_a_repeated_upsert_changes_nothing(demo: DemoApis, caller: httpx.AsyncClient) -> None:
    """A lead is identified by its external id. Each account has its own leads."""
    batch = {"leads": [{"external_id": f"hd-{number}", "name": "Ava"} for number in range(3)]}
    assert (await caller.post(UPSERT, json=batch)).json() == {"created": 3, "updated": 0}
    batch["leads"].append({"external_id": "hd-3", "name": "Ben"})
    assert (await caller.post(UPSERT, json=batch)).json() == {"created": 1, "updated": 3}
    assert (await caller.get(LEADS)).json() == batch
    assert (await caller.get(LEADS, headers=bearer("bayou"))).json() == {"leads": []}
    assert list(demo.leads["acme"]) == ["hd-0", "hd-1", "hd-2", "hd-3"]


@pytest.mark.parametrize(
    "body", [{}, {"leads": []}, {"leads": [{"external_id": str(n)} for n in range(51)]}, {"leads": [{"name": "Ava"}]}]
)
async def test_an_invalid_batch_is_refused(demo: DemoApis, caller: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """A batch has up to 50 leads, each with an external id. An invalid batch is not stored."""
    assert (await caller.post(UPSERT, json=body)).status_code == 400
    assert not demo.leads["acme"]


async def test_any_system_has_items(demo: DemoApis, caller: httpx.AsyncClient) -> None:
    """A flow of `python -m datasync new` reads them, and upserts them elsewhere."""
    items = (await caller.get("/billing/items", params=ALL)).raise_for_status().json()
    assert [each["id"] for each in items] == [order.id for order in demo.orders("acme")]
    assert set(items[0]) == {"id", "name", "status"}

    for _ in range(2):
        (await caller.post("/crm/items:upsert", json=[{"external_id": "billing-1", "name": "one"}])).raise_for_status()
    assert demo.items["acme"] == {"billing-1": {"external_id": "billing-1", "name": "one"}}

    assert (await caller.get("/billing/items")).status_code == 400
    assert (await caller.post("/crm/items:upsert", json={})).status_code == 400


async def test_requests_above_the_rate_limit_are_refused() -> None:
    """The answer is 429 with Retry-After. The limit is per token."""
    trouble = Trouble(requests_per_second=0.001, burst=2, retry_after=3, fail_every=0)
    async with (
        demo_apis(base_time=NOW, trouble=trouble) as demo,
        httpx.AsyncClient(base_url=demo.url, headers=bearer("acme")) as caller,
    ):
        statuses = [(await caller.get(ORDERS, params=ALL)).status_code for _ in range(3)]
        refused = await caller.get(ORDERS, params=ALL)
        other = await caller.get(ORDERS, params=ALL, headers=bearer("bayou"))
    assert statuses == [200, 200, 429]
    assert refused.headers["Retry-After"] == "3"
    assert other.status_code == 200
    assert demo.refusals == {429: 2}
    assert demo.requests == {f"GET {ORDERS}": 5}


async def test_every_nth_request_fails() -> None:
    """The answer is 500. The same request succeeds the next time."""
    async with (
        demo_apis(base_time=NOW, trouble=Trouble(requests_per_second=0, fail_every=3)) as demo,
        httpx.AsyncClient(base_url=demo.url, headers=bearer("acme")) as caller,
    ):
        statuses = [(await caller.get(ORDERS, params=ALL)).status_code for _ in range(7)]
    assert statuses == [200, 200, 500, 200, 200, 500, 200]


async def test_nothing_is_left_after_the_block() -> None:
    """The port is closed, also if a client keeps its connection open."""
    async with demo_apis() as demo, httpx.AsyncClient(base_url=demo.url) as caller:
        await caller.get("/v1/forecast")
        port = port_of(demo.url)
    assert not await answers(port)
