"""Runs the flows of the documents. test_code_blocks.py copies this file beside them, where it is collected."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from datasync.errors import FlowFailed
from localdev.keyvault import KeyVault
from localdev.web import serving
from tests.flows.conftest import TENANT, RunFlow, RunParts

ITEMS = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]


class Api:
    """A source and a target. It remembers the requests that it has had."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.items: Any = ITEMS
        self.later: list[Any] = []
        """The items of the answers after the first one."""

    async def answer(self, request: web.Request) -> web.Response:
        is_json = request.can_read_body and request.content_type == "application/json"
        body = await request.json() if is_json else None
        self.requests.append(
            (
                request.path,
                {name.lower(): value for name, value in [*request.query.items(), *request.headers.items()]},
                body,
            )
        )
        items = self.items
        if self.later and request.method == "GET":
            self.items = self.later.pop(0)
        return web.json_response(items, status=self.status, headers=self.headers)


@pytest_asyncio.fixture
async def api(vault: KeyVault) -> AsyncGenerator[Api]:
    """Serve the API, with the tenant's secrets for it in the vault."""
    api = Api()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    async with serving("the API", application) as url:
        for system in ("mysource", "mytarget"):
            vault.set_secret(f"tenants--{TENANT}--{system}--api-base", url)
            vault.set_secret(f"tenants--{TENANT}--{system}--api-token", f"{system}-token")
        yield api


async def test_the_first_flow_copies_items(run_flow: RunFlow, api: Api) -> None:
    """It reads from the source and upserts into the target, with the token of each."""
    run = await run_flow("my-source→my-target")

    assert run.counts == {"items": 2}
    (read, read_with, _), (written, written_with, body) = api.requests
    assert (read, read_with["authorization"]) == ("/items", "Bearer mysource-token")
    assert (written, written_with["authorization"], body) == ("/items:upsert", "Bearer mytarget-token", ITEMS)


async def test_a_flow_without_run_works(run_flow: RunFlow, api: Api) -> None:
    """`(tenant_id, kv)` is a complete contract. A client that the tenants share keeps no cookies."""
    api.headers = {"Set-Cookie": "session=acme"}
    first, second = await run_flow("pulse"), await run_flow("pulse")

    assert (first.outcome, second.outcome) == ("succeeded", "succeeded")
    assert [path for path, *_ in api.requests] == ["/health", "/health"]
    assert not [headers for _, headers, _ in api.requests if "cookie" in headers]


async def test_no_documented_flow_takes_cookies_of_a_run_to_the_next(run_flow: RunFlow, api: Api) -> None:
    """Each run has its own."""
    api.headers = {"Set-Cookie": "session=acme"}
    await run_flow("ping")
    await run_flow("ping")

    assert [path for path, *_ in api.requests] == ["/health", "/health"]
    assert not [headers for _, headers, _ in api.requests if "cookie" in headers]


async def test_an_export_is_counted_line_by_line(run_flow: RunFlow, api: Api) -> None:
    """The answer is streamed."""
    run = await run_flow("export")

    assert run.counts == {"lines": 1}
    assert [path for path, *_ in api.requests] == ["/export.csv"]


async def test_an_order_has_an_idempotency_key(run_flow: RunFlow, api: Api) -> None:
    """The key is the id of the run."""
    run = await run_flow("push")

    path, headers, _ = api.requests[-1]
    assert (path, headers["idempotency-key"]) == ("/orders", run.run_id)


async def test_changes_are_read_page_by_page(run_flow: RunFlow, api: Api) -> None:
    """The first window has the length that the flow defines."""
    api.items = {"items": ITEMS, "next": None}
    run = await run_flow("changes")

    assert run.counts == {"items": 2}
    (_, query, _) = api.requests[0]
    assert (query["updated_since"], query["updated_before"]) == (
        "2025-08-16T12:00:00+00:00",
        "2025-08-23T12:00:00+00:00",
    )


async def test_a_year_is_counted_in_parts_of_a_week(run_parts: RunParts, api: Api) -> None:
    """Each part begins where the one before has ended."""
    parts = await run_parts("history")

    assert len(parts) == 53
    assert [part.outcome for part in parts] == ["continued"] * 52 + ["succeeded"]
    windows = [(query["updated_since"], query["updated_before"]) for _, query, _ in api.requests]
    assert (windows[0][0], windows[-1][1]) == ("2024-08-23T12:00:00+00:00", "2025-08-23T12:00:00+00:00")
    assert [end for _, end in windows[:-1]] == [start for start, _ in windows[1:]]


async def test_a_feed_goes_on_at_its_last_position(run_flow: RunFlow, api: Api) -> None:
    """Each page is kept. A run that fails later does not lose it."""
    api.later = [[{"id": 3, "name": "three"}], []]
    first = await run_flow("feed")
    assert (first.counts, first.cursor_after) == ({"items": 3}, 3)

    api.items, api.later = [{"id": 4, "name": "four"}], ["not items"]
    with pytest.raises(FlowFailed):
        await run_flow("feed")
    api.items = []
    await run_flow("feed")

    assert [query["after"] for path, query, _ in api.requests if path == "/items"] == ["0", "2", "3", "3", "4", "4"]


async def test_tickets_are_read_with_a_token(run_flow: RunFlow, api: Api, vault: KeyVault) -> None:
    """The place of the next page is kept, until there is none."""
    for name in ("client-id", "client-secret", "refresh-token"):
        vault.set_secret(f"tenants--{TENANT}--mysource--{name}", f"my-{name}")
    api.items = {"access_token": "acc3ss", "items": [1], "paging": {"next": "c2"}}
    with pytest.raises(FlowFailed, match="names a page that was read before: {'cursor': 'c2'}"):
        await run_flow("tickets")
    api.items = {**api.items, "paging": None}
    run = await run_flow("tickets")

    assert (run.outcome, run.cursor_before, run.cursor_after) == ("succeeded", {"cursor": "c2"}, None)
    read = [headers for path, headers, _ in api.requests if path == "/tickets"]
    assert [(headers.get("cursor"), headers["authorization"]) for headers in read] == [
        (None, "Bearer acc3ss"),
        ("c2", "Bearer acc3ss"),
        ("c2", "Bearer acc3ss"),
    ]


async def test_orders_wait_while_the_provider_is_closed(run_flow: RunFlow, api: Api) -> None:
    """The source is not called again before the time that it has asked for."""
    api.status, api.headers = 429, {"Retry-After": "3600"}
    first = await run_flow("orders")
    assert first.outcome == "deferred"

    with pytest.raises(AssertionError):  # no attempt is made
        await run_flow("orders")
    assert [path for path, *_ in api.requests] == ["/orders"]


async def test_settings_map_categories(run_flow: RunFlow) -> None:
    """The counts are those that the document states."""
    run = await run_flow("mapped", {"projectTypes": {"kitchen": "remodel"}, "minTotal": 100})

    assert run.counts == {"remodel": 1}


async def test_wrong_settings_end_the_run(run_flow: RunFlow) -> None:
    """The message names the field."""
    run = await run_flow("mapped", {"minTotal": "100"})

    assert run.outcome == "dead"
    assert run.error is not None
    assert 'settings.minTotal: expected an amount in dollars, got "100"' in run.error.message


async def test_a_flow_reads_the_secrets_that_it_declares(run_flow: RunFlow, api: Api) -> None:
    """It may declare more than it reads."""
    run = await run_flow("stock")

    assert run.counts == {"items": 2}
    (_, headers, _) = api.requests[0]
    assert headers["authorization"] == "Bearer mysource-token"


@pytest.mark.parametrize(("status", "outcome"), [(200, "succeeded"), (202, "deferred"), (402, "gave_up")])
async def test_signals_end_a_run(run_flow: RunFlow, api: Api, status: int, outcome: str) -> None:
    """An export that is not ready defers the run; an ended subscription ends it."""
    api.status = status
    run = await run_flow("careful")

    assert run.outcome == outcome
