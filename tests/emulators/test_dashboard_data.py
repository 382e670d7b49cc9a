"""The questions and changes of the page, with real services: answers that are shared, memory, gates and documents."""

import asyncio
import json
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from dashboard.access import Visitor
from dashboard.actions import ACTIONS, Wanted
from dashboard.data import INCIDENTS_KEPT, QUESTIONS, STATUS_KEPT, Asked, forget
from dashboard.web import Refused
from datasync.errors import ChangedMeanwhile, ServiceUnavailable
from datasync.operate.action import Done
from datasync.operate.status import Status
from datasync.services import Services
from datasync.settings import Settings
from tests.deliveries import NOW
from tests.operating import NEXT, Fleet
from tests.world import World

ADA = Visitor(mode="key", name=None, can_operate=True)


async def asked(fleet: Fleet, question: str, services: Services | None = None, **query: str) -> Any:
    return await QUESTIONS[question](Asked(services or fleet.services, fleet.registry, NOW, ADA, query))


async def done(fleet: Fleet, action: str, **body: object) -> Done:
    ours = {"actionId": uuid4().hex, "who": "Ada", **body}
    return await ACTIONS[action](Wanted(fleet.services, fleet.registry, NOW, ADA, json.dumps(ours).encode()))


@pytest.mark.parametrize(("question", "seconds"), [("status", STATUS_KEPT), ("incidents", INCIDENTS_KEPT)])
async def test_open_pages_share_an_answer(fleet: Fleet, question: str, seconds: int) -> None:
    """Ten pages that ask at once, and another one later, cost as much as one. After a change, all is read again."""
    assert seconds > 0
    await fleet.add("acme")

    found = await asyncio.gather(*(asked(fleet, question) for _ in range(10)))
    later = await asked(fleet, question)

    assert {id(each) for each in found} == {id(later)}
    assert await asked(fleet, question, fresh="1") is not later
    kept = await asked(fleet, question)
    forget()
    assert await asked(fleet, question) is not kept


async def test_an_error_is_not_shared(fleet: Fleet, world: World) -> None:
    """The next page asks the service again."""
    away = {**world.environ, "COSMOS_CONNECTION_STRING": "AccountEndpoint=http://127.0.0.1:1/;AccountKey=c2VjcmV0;"}
    services = Services(Settings.from_environ(away))
    try:
        first, second = [await asked(fleet, "status", services) for _ in range(2)]
        assert isinstance(first, Status)
        assert first.unavailable
        assert second is not first
        for _ in range(2):
            with pytest.raises(ServiceUnavailable):
                await asked(fleet, "incidents", services)
    finally:
        await services.close()


async def test_a_cursor_is_text_that_a_browser_does_not_change(fleet: Fleet, world: World) -> None:
    """The value that the operator has seen is compared as JSON. A run or another operator may have changed it since."""
    await fleet.add("acme")
    await fleet.run("acme", "r-1")
    entry: dict[str, Any] = {"tenant": "acme", "flow": "weather"}
    state = await world.runs.read_item("state-weather", partition_key="acme")
    await world.runs.upsert_item({**state, "cursor": {"page": 2.0, "at": 9007199254740991}})

    seen = await asked(fleet, "memory", **entry)
    assert json.loads(seen["cursorJson"]) == {"page": 2.0, "at": 9007199254740991}
    assert seen["windowEndUtc"] == NOW
    assert (await done(fleet, "cursor-set", **entry, cursorJson='{"page": 3}', seenJson=seen["cursorJson"])).after == {
        "cursor": {"page": 3}
    }
    with pytest.raises(ChangedMeanwhile, match="cursor is .*3.* now, and was .*2.* when you looked"):
        await done(fleet, "cursor-set", **entry, cursorJson=None, seenJson=seen["cursorJson"])
    with pytest.raises(Refused, match="the cursor is not JSON: 'a' is there twice in one object"):
        await done(fleet, "cursor-set", **entry, cursorJson='{"a": 1, "a": 2}', seenJson="null")
    again = json.loads(msgspec.json.encode(await asked(fleet, "memory", **entry)))
    moved = await done(fleet, "window-set", **entry, windowEndUtc=None, seen={"windowEndUtc": again["windowEndUtc"]})
    assert moved.after == {"windowEndUtc": None}


async def test_a_gate_is_opened_as_it_was_seen(fleet: Fleet, world: World) -> None:
    """If the provider has asked for another pause since, nothing is done."""
    fields = {"type": "Cooldown", "provider": "homedepot", "sinceUtc": "2025-08-23T11:00:00Z"}
    gate = {"id": "cooldown-homedepot", "tenantId": "acme", **fields, "untilUtc": NEXT}
    await world.runs.upsert_item(gate)

    [found] = await asked(fleet, "gates")
    assert (found.provider, found.tenant_id, found.until_utc) == ("homedepot", "acme", NOW + timedelta(hours=1))
    await world.runs.upsert_item({**gate, "untilUtc": "2025-08-23T14:00:00Z"})
    wanted = {"provider": "homedepot", "tenant": "acme"}
    with pytest.raises(ChangedMeanwhile, match="is closed until 2025-08-23T14:00:00Z now, and was until"):
        await done(fleet, "gate-open", **wanted, untilUtc=NEXT)
    opened = await done(fleet, "gate-open", **wanted, untilUtc="2025-08-23T14:00:00Z")
    assert opened.message == "homedepot for tenant acme is open"
    assert await asked(fleet, "gates") == []


async def test_a_document_is_stored_if_it_has_no_problem_and_is_the_one_that_was_edited(
    fleet: Fleet, world: World
) -> None:
    """Problems come with their paths. A tick, or somebody else, may have changed the document meanwhile."""
    await fleet.add("acme")
    seen = await asked(fleet, "tenant", tenant="acme")

    def put(text: str, **fields: str) -> Any:
        return done(fleet, "tenant-put", **{"tenant": "acme", "etag": seen.etag, "document": text, **fields})

    def edited(**fields: object) -> str:
        return json.dumps({**seen.document, **fields})

    for text, why in {
        "{": "the document is not JSON: ",
        "[]": "must be a JSON object, and its id must stay as it is",
        edited(id="other"): "its id must stay as it is",
        '{"id": "acme", "id": "acme"}': "'id' is there twice",
    }.items():
        with pytest.raises(Refused, match=why) as refused:
            await put(text)
        assert refused.value.status is HTTPStatus.BAD_REQUEST
    with pytest.raises(Refused, match="was not stored") as wrong:
        await put(edited(flows=[{**seen.document["flows"][0], "cron": "x"}, {"name": "unknown"}]))
    for path in ("flows[0].cron: ", "flows[1]"):
        assert [each for each in wrong.value.problems if path in each]

    stored = await put(edited(name="New"))
    assert (stored.message, stored.who) == ("tenant acme: replaced", "key: Ada")
    assert (await world.document("acme"))["name"] == "New"
    with pytest.raises(ChangedMeanwhile, match="was changed or removed since it was read"):
        await put(edited(name="Newest"))
    assert (await world.document("acme"))["name"] == "New"


async def test_the_dead_runs_of_a_flow_are_counted(fleet: Fleet) -> None:
    """An operator types their number back."""
    await fleet.add("acme")

    assert await asked(fleet, "dead", tenant="acme", flow="weather") == {"count": 0}
