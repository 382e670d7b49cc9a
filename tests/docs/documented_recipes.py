"""Runs the flows of docs/recipes.md. test_code_blocks.py copies this file beside them, where it is collected."""

from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from datasync.errors import FlowFailed
from localdev.keyvault import KeyVault
from localdev.web import serving
from tests.flows.conftest import NOW, TENANT, RunFlow, RunParts

type Answer = Callable[[Any], Any]
"""Makes the JSON of an answer from the query or the JSON body, or returns a whole answer."""


class Systems:
    """The systems of the recipes. A test says how they answer."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        """By method and path, such as `GET /mysource/items`. Others are answered with an empty object."""
        self.requests: list[tuple[str, Any]] = []
        """Method and path, with the JSON body or the query."""
        self.headers: dict[str, str] = {}
        """Of the last request, with names in lower case."""

    async def answer(self, request: web.Request) -> web.Response:
        name = f"{request.method} {request.path}"
        is_json = request.can_read_body and request.content_type == "application/json"
        asked = await request.json() if is_json else dict(request.query)
        self.requests.append((name, asked))
        self.headers = {header.lower(): value for header, value in request.headers.items()}
        answer = self.answers.get(name)
        answered = answer(asked) if answer else {}
        return answered if isinstance(answered, web.Response) else web.json_response(answered)

    def asked(self, name: str) -> list[Any]:
        """Return the bodies or the queries of the requests for a method and path."""
        return [asked for each, asked in self.requests if each == name]


@pytest_asyncio.fixture
async def systems(vault: KeyVault) -> AsyncGenerator[Systems]:
    """Serve the systems, with the tenant's secrets for them in the vault."""
    systems = Systems()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", systems.answer)
    async with serving("the systems", application) as url:
        for system in ("mysource", "mytarget", "crm", "erp", "shop"):
            vault.set_secret(f"tenants--{TENANT}--{system}--api-base", f"{url}/{system}")
        for name in ("client-id", "client-secret"):
            vault.set_secret(f"tenants--{TENANT}--mysource--{name}", f"my-{name}")
        yield systems


UPSERT = "POST /mytarget/items:upsert"
LATER = NOW + timedelta(hours=1)


async def test_by_cursor_goes_on_at_the_last_position(run_flow: RunFlow, systems: Systems) -> None:
    """The position is kept after each page. A failure in between repeats one page."""
    changes = {None: ([1], "a", True), "a": ([2], "b", False), "b": ([3], "c", False)}

    def answer(query: dict[str, str]) -> dict[str, Any]:
        items, cursor, has_more = changes[query.get("cursor")]
        return {"items": items, "cursor": cursor, "hasMore": has_more}

    systems.answers["GET /mysource/changes"] = answer
    first = await run_flow("by-cursor")
    assert (first.counts, first.cursor_after) == ({"items": 2}, "b")

    systems.answers[UPSERT] = lambda _: web.Response(status=400)
    with pytest.raises(FlowFailed):
        await run_flow("by-cursor")
    systems.answers.pop(UPSERT)
    await run_flow("by-cursor")

    assert systems.asked(UPSERT) == [[1], [2], [3], [3]]


async def test_by_window_asks_for_each_time_once(run_flow: RunFlow, systems: Systems) -> None:
    """The second window begins at the end of the first, with the overlap. Both runs have the same token."""
    systems.answers["POST /mysource/oauth/token"] = lambda _: {"access_token": "acc3ss", "expires_in": 7200}

    def answer(query: dict[str, str]) -> web.Response:
        link = {} if "page" in query else {"Link": '</mysource/items?page=2>; rel="next"'}
        return web.json_response([query.get("page", "1")], headers=link)

    systems.answers["GET /mysource/items"] = answer
    await run_flow("by-window")
    second = await run_flow("by-window", at=LATER)

    assert second.counts == {"items": 2}
    assert systems.asked(UPSERT) == [["1"], ["2"]] * 2
    first_pages = [query for query in systems.asked("GET /mysource/items") if "page" not in query]
    assert [(query["updated_since"], query["updated_before"]) for query in first_pages] == [
        ((NOW - timedelta(days=7)).isoformat(), NOW.isoformat()),
        ((NOW - timedelta(minutes=5)).isoformat(), LATER.isoformat()),
    ]
    assert len(systems.asked("POST /mysource/oauth/token")) == 1


async def test_a_backfill_copies_everything_once_in_parts(run_parts: RunParts, systems: Systems) -> None:
    """Twenty pages in a part. A run after that does nothing."""

    def answer(query: dict[str, str]) -> dict[str, Any]:
        page = int(query.get("after", 0))
        return {"items": [page], "next": page + 1 if page < 44 else None}

    systems.answers["GET /mysource/items"] = answer
    parts = await run_parts("backfill")
    assert [part.outcome for part in parts] == ["continued", "continued", "succeeded"]

    (again,) = await run_parts("backfill")
    assert again.outcome == "succeeded"
    assert systems.asked(UPSERT) == [[page] for page in range(45)]


async def test_a_target_that_confirms_late_is_asked_again(run_flow: RunFlow, systems: Systems) -> None:
    """The import is started once, with an idempotency key. Its end is a success or a failure."""
    states = [{"state": "running"}, {"state": "done"}, {"state": "failed", "reason": "no disk"}]
    keys = list[str]()

    def started(_: object) -> dict[str, str]:
        keys.append(systems.headers["idempotency-key"])
        return {"id": "i-1"}

    systems.answers["POST /mytarget/imports"] = started
    systems.answers["GET /mytarget/imports/i-1"] = lambda _: states.pop(0)
    deferred = await run_flow("confirmed")
    assert deferred.error is not None
    assert (deferred.outcome, deferred.error.message) == ("deferred", "import i-1 is running")

    done = await run_flow("confirmed", at=LATER)
    assert (done.outcome, done.counts) == ("succeeded", {"imports": 1})
    assert keys == [deferred.run_id]

    with pytest.raises(FlowFailed, match="import i-1 has the state 'failed': no disk"):
        await run_flow("confirmed", at=LATER)


def listed(pages: list[list[Any]]) -> Answer:
    """Return an answer with a page of items, or none after the last page."""
    return lambda query: {"items": [*pages, []][int(query.get("page", 1)) - 1]}


async def test_items_that_are_gone_are_deleted(run_flow: RunFlow, systems: Systems) -> None:
    """Only those that came from the source."""
    systems.answers["GET /mytarget/items"] = listed([[{"externalId": f"{n}"} for n in range(8)]])
    systems.answers["GET /mysource/items"] = listed([[{"id": f"{n}"} for n in range(5)], [{"id": "6"}, {"id": "7"}]])
    run = await run_flow("deletes")

    assert run.counts == {"deleted": 1}
    assert systems.asked("GET /mytarget/items")[0] == {"origin": "mysource"}
    assert [name for name, _ in systems.requests if name.startswith("DELETE")] == ["DELETE /mytarget/items/5"]


async def test_a_source_that_is_empty_deletes_nothing(run_flow: RunFlow, systems: Systems) -> None:
    """Somebody looks first."""
    systems.answers["GET /mytarget/items"] = listed([[{"externalId": "1"}]])
    systems.answers["GET /mysource/items"] = listed([])
    run = await run_flow("deletes")

    assert (run.outcome, [name for name, _ in systems.requests if name.startswith("DELETE")]) == ("gave_up", [])


async def test_tombstones_are_deleted(run_flow: RunFlow, systems: Systems) -> None:
    """One that is already gone is no error."""
    systems.answers["GET /mysource/changes"] = lambda query: {
        "items": [] if query else [{"id": "1", "deleted": True}, {"id": "2", "deleted": False}],
        "position": "p1",
    }
    systems.answers["DELETE /mytarget/items/1"] = lambda _: web.Response(status=404)
    run = await run_flow("tombstones")

    assert (run.outcome, run.counts, run.cursor_after) == ("succeeded", {}, "p1")
    assert [name for name, _ in systems.requests if name.startswith("DELETE")] == ["DELETE /mytarget/items/1"]


async def test_an_echo_is_not_copied_back(run_flow: RunFlow, systems: Systems) -> None:
    """Neither a change by the other flow, nor values that the target has already."""
    ada = {"id": "1", "name": "Ada", "phone": "1", "updatedBy": "ada"}
    systems.answers["GET /erp/customers"] = lambda _: [
        ada,
        {**ada, "id": "2", "updatedBy": "datasync"},
        {**ada, "id": "3"},
        {**ada, "id": "4"},
    ]
    systems.answers["GET /shop/customers/1"] = lambda _: ada
    systems.answers["GET /shop/customers/3"] = lambda _: {**ada, "phone": "old"}
    systems.answers["GET /shop/customers/4"] = lambda _: web.Response(status=404)
    run = await run_flow("erp→shop")

    assert run.counts == {"echoes": 1, "written": 2}
    written = [(name, body) for name, body in systems.requests if name.startswith("PUT")]
    assert written == [(f"PUT /shop/customers/{n}", {"name": "Ada", "phone": "1"}) for n in (3, 4)]

    systems.answers["GET /shop/customers"] = lambda _: [{**ada, "id": "3", "updatedBy": "datasync"}]
    assert (await run_flow("shop→erp")).counts == {"echoes": 1}


async def test_a_category_without_a_team_is_refused_at_the_end(run_flow: RunFlow, systems: Systems) -> None:
    """The others are copied, and the window stays."""
    systems.answers["GET /mysource/tickets"] = lambda _: {
        "tickets": [{"id": 1, "category": "roof"}, {"id": 2, "category": "bath"}]
    }
    run = await run_flow("mapping", {"teamOf": {"roof": "t-1"}})

    assert (run.outcome, run.counts) == ("gave_up", {"tickets": 1, "unknown": 1})
    assert run.error is not None
    assert run.error.message == "no team for bath: add it to settings.teamOf, or set settings.otherwise"
    assert systems.asked("POST /mytarget/tickets:upsert") == [
        [{"externalId": "mysource-1", "category": "roof", "team": "t-1"}]
    ]

    assert (await run_flow("mapping", {"otherwise": "t-2"})).counts == {"tickets": 2, "unknown": 0}


async def test_a_target_that_is_away_does_not_hold_up_the_other(run_flow: RunFlow, systems: Systems) -> None:
    """Its next window covers what it has missed."""
    systems.answers["GET /mysource/orders"] = lambda _: [1]
    await run_flow("orders→crm")
    systems.answers["POST /crm/orders:upsert"] = lambda _: web.Response(status=400)
    with pytest.raises(FlowFailed):
        await run_flow("orders→crm", at=LATER)
    assert (await run_flow("orders→shop", at=LATER)).counts == {"orders": 1}

    systems.answers.pop("POST /crm/orders:upsert")
    last = LATER + timedelta(hours=1)
    await run_flow("orders→crm", at=last)

    assert systems.asked("GET /mysource/orders")[-1] == {
        "updated_since": NOW.isoformat(),
        "updated_before": last.isoformat(),
    }
