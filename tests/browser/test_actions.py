"""Each action asks first, is sent once, and tells its result."""

import json
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
import pytest
from playwright.async_api import Page, expect

from dashboard.access import Visitor
from tests.browser.board import AWAY, FEED, incident, run, run_detail, tenant_detail
from tests.browser.site import Site
from tests.waiting import wait_until

SEEN = {"enabled": True, "nextRunUtc": "2025-08-23T13:00:00Z"}
PAUSED = {"enabled": False, "nextRunUtc": None}


async def ask(page: Page, site: Site, flow: str, button: str) -> None:
    """Press a button of a flow of acme-decks, and type a name."""
    await page.goto(f"{site.url}#/tenant/acme-decks")
    await page.get_by_role("article", name=flow).get_by_role("button", name=button).click()
    await page.get_by_label("Your name").fill("Ada")


def sent(site: Site) -> list[tuple[str, dict[str, Any]]]:
    """Return the actions without their ids, which are random."""
    return [(name, {field: value for field, value in body.items() if field != "actionId"}) for name, body in site.done]


class Case(NamedTuple):
    flow: str
    button: str
    fields: dict[str, str]
    action: str
    body: dict[str, Any]


CASES = [
    Case(FEED, "Run now…", {}, "enqueue", {}),
    Case(FEED, "Pause…", {"Reason": "moves"}, "pause", {"reason": "moves", "seen": SEEN}),
    Case("weather", "Resume…", {}, "resume", {"seen": PAUSED}),
    Case(
        *(FEED, "Next run…", {"Time in UTC": "2025-08-24T06:30:00"}),
        *("next-run", {"at": "2025-08-24T06:30:00Z", "seen": SEEN}),
    ),
    Case(FEED, "Next run…", {"Time in UTC": ""}, "next-run", {"at": None, "seen": SEEN}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.button)
async def test_an_action_on_a_flow(page: Page, site: Site, case: Case) -> None:
    """The body names the flow, the person, and the values that the person has seen. The result is announced."""
    await ask(page, site, case.flow, case.button)
    for label, value in case.fields.items():
        await page.get_by_label(label).fill(value)

    await page.locator("dialog .primary").click()

    await expect(page.locator(".news")).to_contain_text(f"{case.action} is done")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert sent(site) == [(case.action, {"tenant": "acme-decks", "flow": case.flow, "who": "Ada", **case.body})]


async def test_dead_runs_are_run_again_when_their_number_is_typed_back(page: Page, site: Site) -> None:
    """Another number sends nothing."""
    await page.goto(site.url)
    await page.get_by_role("button", name="Run these 72 again…").click()
    await page.get_by_label("Your name").fill("Ada")
    await page.get_by_label("Spread over").select_option("10 minutes")

    await page.get_by_label("Type 72").fill("27")
    await page.get_by_role("button", name="Run 72 again").click()
    await expect(page.get_by_role("alert")).to_have_text("Type 72 to confirm. You typed 27.")
    assert site.done == []
    await page.get_by_label("Type 72").fill("72")
    await page.get_by_role("button", name="Run 72 again").click()

    await expect(page.locator(".news")).to_contain_text("retry is done")
    counted = {"fingerprint": AWAY.fingerprint, "since": "2025-08-22T12:00:00Z", "count": 72}
    assert sent(site) == [("retry", {**counted, "spreadSeconds": 600, "who": "Ada"})]


async def test_dead_runs_that_were_sent_are_not_offered_again(page: Page, site: Site) -> None:
    """The incident says when they were sent, until its numbers are others. Other incidents stay as they are."""
    await page.goto(site.url)
    first = page.locator(".incident").first
    await first.get_by_role("button", name="Run these 72 again…").click()
    await page.get_by_label("Your name").fill("Ada")
    await page.get_by_label("Type 72").fill("72")
    await page.get_by_role("button", name="Run 72 again").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    await expect(first).to_contain_text("72 were sent at 12:00")
    await expect(first.get_by_role("button")).to_have_text(["Purge…"])
    await expect(page.locator(".incident").last.get_by_role("button")).to_have_text(["Run it again…", "Purge…"])
    site.data["incidents"] = {"incidents": [incident(AWAY, 67, dead=70)], "hasMore": False, "unreadable": []}
    await page.get_by_role("link", name="Fleet").click()
    await page.get_by_role("link", name="Now", exact=True).click()

    await expect(page.get_by_role("button", name="Run these 70 again…")).to_be_visible()
    await expect(first).not_to_contain_text("were sent")


MEMORY = {"cursorJson": '{"page": 12345678901234567}', "windowEndUtc": "2025-08-23T11:00:00Z"}
CURSOR, WINDOW = {"seenJson": MEMORY["cursorJson"]}, {"seen": {"windowEndUtc": MEMORY["windowEndUtc"]}}
KEPT = [
    Case(
        *(FEED, "Set the cursor…", {"Cursor, as JSON": '{"page": 12345678901234568}'}),
        *("cursor-set", {"cursorJson": '{"page": 12345678901234568}', **CURSOR}),
    ),
    Case(FEED, "Reset the cursor…", {}, "cursor-set", {"cursorJson": None, **CURSOR}),
    Case(
        *(FEED, "Set the window…", {"Time in UTC": "2025-08-20T06:00"}),
        *("window-set", {"windowEndUtc": "2025-08-20T06:00:00Z", **WINDOW}),
    ),
    Case(FEED, "Reset the window…", {}, "window-set", {"windowEndUtc": None, **WINDOW}),
]


async def test_what_a_flow_keeps_is_shown_set_and_reset(page: Page, site: Site) -> None:
    """No number of a cursor is changed by the browser. The body has the value that the operator saw."""
    await page.goto(f"{site.url}#/tenant/acme-decks")
    entry = page.get_by_role("article", name=FEED)
    await entry.get_by_role("button", name="Cursor and window").click()
    await expect(entry.get_by_role("region", name="Cursor")).to_have_text(str(MEMORY["cursorJson"]))

    for case in KEPT:
        await entry.get_by_role("button", name=case.button, exact=True).click()
        for label, value in case.fields.items():
            await page.get_by_label(label).fill(value)
        await page.get_by_label("Your name").fill("Ada")
        await page.locator("dialog .primary").click()
        await expect(page.get_by_role("dialog")).to_have_count(0)

    assert sent(site) == [
        (case.action, {"tenant": "acme-decks", "flow": FEED, "who": "Ada", **case.body}) for case in KEPT
    ]


async def test_the_window_of_an_unusual_run_is_read_again(page: Page, site: Site) -> None:
    """The time that is proposed is the start of the window of that run. A person who may only read has no such part."""
    detail = msgspec.to_builtins(run_detail(run("r-1", counts={"orders": 0})))
    detail["run"]["unusual"] = [{"text": "orders=0, usually 1180.5", "sinceUtc": "2025-08-23T11:59:00Z"}]
    site.data["run"] = detail
    await page.goto(f"{site.url}#/run/acme-decks/r-1")
    again = page.get_by_role("region", name="Read this window again")
    await expect(again).to_contain_text("The next window starts at 11:00")

    await again.get_by_role("button", name="Set the window to 10:00…").click()
    await page.get_by_label("Your name").fill("Ada")
    await page.get_by_role("button", name="Set", exact=True).click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await again.get_by_role("button", name="Run now…").click()
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    ours = {"tenant": "acme-decks", "flow": FEED, "who": "Ada"}
    assert sent(site) == [("window-set", {**ours, "windowEndUtc": "2025-08-23T10:00:00Z", **WINDOW}), ("enqueue", ours)]
    site.data["me"] = Visitor(mode="entra", name="ada@example.com", can_operate=False)
    await page.reload()
    await expect(page.get_by_text("Unusual: orders=0")).to_be_visible()
    await expect(page.get_by_text("ada@example.com (reader)")).to_be_visible()
    await expect(again).to_have_count(0)


async def test_all_flows_of_a_tenant_are_paused_and_resumed_as_they_were_seen(page: Page, site: Site) -> None:
    """The body has the version of the document, so that the app refuses if it was changed since then."""
    detail = tenant_detail("acme-decks")
    flows = [{**each, "pausedWithTenant": True} for each in detail.document["flows"]]
    entries = tuple(msgspec.structs.replace(each, enabled=True) for each in detail.entries)
    site.data["tenant"] = msgspec.structs.replace(detail, document={**detail.document, "flows": flows}, entries=entries)
    await page.goto(f"{site.url}#/tenant/acme-decks")

    for button in ("Pause all…", "Resume all…"):
        await page.get_by_role("button", name=button).click()
        await page.get_by_label("Your name").fill("Ada")
        await page.locator("dialog .primary").click()
        await expect(page.get_by_role("dialog")).to_have_count(0)

    ours = {"tenant": "acme-decks", "seen": {"_etag": '"1"'}, "who": "Ada"}
    assert sent(site) == [("pause", {**ours, "reason": ""}), ("resume", ours)]


async def test_a_provider_is_opened_and_dead_runs_are_purged(page: Page, site: Site) -> None:
    """The number of runs is typed back, and the time until which a provider is closed is that which was seen."""
    await page.goto(site.url)
    await page.get_by_role("region", name="Closed providers").get_by_role("button", name="Open…").click()
    await page.get_by_label("Your name").fill("Ada")
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_role("button", name="Purge…").first.click()
    await page.get_by_label("Type 72").fill("72")
    await page.get_by_role("button", name="Purge 72").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    gate = {"provider": "homedepot", "tenant": "gulf-garages", "untilUtc": "2025-08-23T13:00:00Z"}
    counted = {"fingerprint": AWAY.fingerprint, "since": "2025-08-22T12:00:00Z", "count": 72}
    assert sent(site) == [("gate-open", {**gate, "who": "Ada"}), ("purge", {**counted, "who": "Ada"})]


async def test_the_numbers_are_new_after_an_action(page: Page, site: Site) -> None:
    """The app keeps some answers for all readers: not for the one who has just changed something."""
    await page.goto(site.url)
    await page.get_by_role("region", name="Closed providers").get_by_role("button", name="Open…").click()
    await page.get_by_label("Your name").fill("Ada")
    before = len(site.asked)
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    async def has_asked() -> bool:
        return {"status", "incidents"} <= {name for name, query in site.asked[before:] if query.get("fresh") == "1"}

    await wait_until(has_asked, description="the page reads the status and the incidents")


async def test_a_document_is_edited(page: Page, site: Site) -> None:
    """The operator sees the changes, and the problems by their paths. Typed text is never lost."""
    problem = "acme-decks/weather flows[1].cron: 5 fields found"
    site.results["tenant-put"] = [
        (HTTPStatus.BAD_REQUEST, {"error": "the document was not stored", "problems": [problem]}),
        (HTTPStatus.CONFLICT, {"error": "the document was changed meanwhile."}),
    ]
    await page.goto(f"{site.url}#/tenant/acme-decks")
    await page.locator("summary", has_text="Document").click()
    await page.get_by_role("button", name="Edit…").click()
    text = page.get_by_label("Document, as JSON")
    await text.fill("{")
    await page.get_by_role("button", name="Store…").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not JSON")

    detail = tenant_detail("acme-decks")
    typed = json.dumps({**detail.document, "name": "Acme"})
    await text.fill(typed)
    await page.get_by_role("button", name="Store…").click()
    await expect(page.get_by_role("dialog").get_by_role("listitem")).to_have_text('name: "Acme Decks" → "Acme"')
    await page.get_by_label("Your name").fill("Ada")
    await page.locator("dialog .primary").click()
    await expect(page.locator("dialog [role=alert] li")).to_have_text(problem)
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("section.document [role=alert] li")).to_have_text(problem)

    moved = {**detail.document, "flows": [{"name": FEED, "enabled": False}, detail.document["flows"][1]]}
    site.data["tenant"] = msgspec.structs.replace(detail, document=moved, etag='"2"')
    await page.get_by_role("button", name="Store…").click()
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("changed meanwhile.")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("section.document .changes li").first).to_have_text("flows[0].enabled: true → false")
    await expect(page.get_by_role("button", name="Store…")).to_be_disabled()
    await expect(text).to_have_value(typed)
    await page.get_by_role("button", name="I have looked at them").click()
    await page.get_by_role("button", name="Store…").click()
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    await expect(text).to_have_count(0)
    ours = {"tenant": "acme-decks", "document": typed, "who": "Ada"}
    assert sent(site) == [("tenant-put", {**ours, "etag": etag}) for etag in ('"1"', '"1"', '"2"')]


async def test_a_repeated_click_has_the_same_id(page: Page, site: Site) -> None:
    """When an answer was lost, the second try is the same action. The next action is another one."""
    site.results["enqueue"] = [(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the queue is away"})]
    await ask(page, site, FEED, "Run now…")

    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("alert")).to_have_text("the queue is away")
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_role("article", name=FEED).get_by_role("button", name="Run now…").click()
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    first, second, third = (body["actionId"] for _, body in site.done)
    assert first == second != third


CLOCKED_TIMEOUTS = """AbortSignal.timeout = (ms) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new DOMException("time is over", "TimeoutError")), ms);
    return controller.signal;
}"""


async def test_an_action_without_an_answer_may_have_been_done(page: Page, site: Site) -> None:
    """The page waits for two minutes, and says what the button does then: it repeats the same action."""
    await page.clock.install()
    await page.add_init_script(CLOCKED_TIMEOUTS)
    ids: list[str] = []
    await page.route("**/actions/enqueue", lambda route: ids.append(route.request.post_data_json["actionId"]))
    await ask(page, site, FEED, "Run now…")
    button = page.locator("dialog .primary")

    await button.click()
    await expect(button).to_have_text("Working…")
    await page.clock.fast_forward(119_000)
    await expect(button).to_have_text("Working…")
    await page.clock.fast_forward(2_000)
    await expect(page.get_by_role("alert")).to_have_text(
        "the app has not answered in 120 seconds. It may have been done. The button repeats the same action, which is "
        "done once."
    )
    await page.unroute_all()
    await button.click()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    assert [body["actionId"] for _, body in site.done] == ids


async def test_a_try_after_a_refusal_is_another_action(page: Page, site: Site) -> None:
    """The app keeps the refusal of the first one in the audit, and would refuse its repetition."""
    site.results["enqueue"] = [(HTTPStatus.BAD_REQUEST, {"error": "the flow is disabled"})]
    await ask(page, site, FEED, "Run now…")

    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("alert")).to_have_text("the flow is disabled")
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    first, second = (body["actionId"] for _, body in site.done)
    assert first != second


async def test_a_double_click_is_one_request(page: Page, site: Site) -> None:
    """While a request is on its way, the button does nothing."""
    await ask(page, site, FEED, "Run now…")

    await page.locator("dialog .primary").evaluate("(button) => { button.click(); button.click(); }")

    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert len(site.done) == 1


async def test_a_change_in_between_is_told(page: Page, site: Site) -> None:
    """The operator sees why nothing was done, and the page reads the new values."""
    site.results["pause"] = [(HTTPStatus.CONFLICT, {"error": "enabled is False now, and was True when you looked."})]
    await ask(page, site, FEED, "Pause…")
    before = len(site.asked)

    await page.locator("dialog .primary").click()

    await expect(page.get_by_role("alert")).to_contain_text("enabled is False now, and was True when you looked.")
    await expect(page.get_by_role("alert")).to_contain_text("look at the new values")
    await page.get_by_role("button", name="Cancel").click()
    assert "tenant" in [name for name, _ in site.asked[before:]]


async def test_a_dialog_gives_the_focus_back(page: Page, site: Site) -> None:
    """Escape closes it, and sends nothing. The name is remembered for the next time."""
    await ask(page, site, FEED, "Run now…")
    await page.keyboard.press("Escape")

    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page.get_by_role("article", name=FEED).get_by_role("button", name="Run now…")).to_be_focused()
    assert site.done == []


async def test_a_reader_has_no_actions(page: Page, site: Site) -> None:
    """The page offers only the actions that the person may take."""
    site.data["me"] = Visitor(mode="entra", name="ada@example.com", can_operate=False)

    await page.goto(f"{site.url}#/tenant/acme-decks")

    await expect(page.get_by_role("button", name="Why?")).to_have_count(2)
    await expect(page.get_by_text("ada@example.com (reader)")).to_be_visible()
    await expect(page.get_by_role("button", name="Run now…")).to_have_count(0)


async def test_a_signed_in_person_types_no_name(page: Page, site: Site) -> None:
    """The app knows the name of the person."""
    site.data["me"] = Visitor(mode="entra", name="ada@example.com", can_operate=True)
    await page.goto(f"{site.url}#/tenant/acme-decks")
    await page.get_by_role("article", name=FEED).get_by_role("button", name="Run now…").click()

    await expect(page.get_by_label("Your name")).to_have_count(0)
    await page.locator("dialog .primary").click()

    await expect(page.locator(".news")).to_contain_text("enqueue is done")
    assert sent(site) == [("enqueue", {"tenant": "acme-decks", "flow": FEED})]
