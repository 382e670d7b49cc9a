"""Each view shows the data of the app."""

from typing import Any

import msgspec
from msgspec.structs import replace
from playwright.async_api import Locator, Page, expect

from dashboard.access import Visitor
from datasync.operate.flows import Health
from datasync.operate.gates import Gate
from datasync.operate.why import Cause, Finding
from tests.browser.board import AWAY, FEED, HOUR, WRONG_CRON, audit, fill, line, run, run_detail, status_of, why
from tests.browser.site import NOW, Site


async def test_now_shows_the_numbers_and_the_incidents(page: Page, site: Site) -> None:
    """An incident has the status, the host, the tenants, the time since when, and the last error."""
    await page.goto(site.url)

    await expect(page.get_by_role("heading", level=1)).to_have_text("Now")
    await expect(page.locator(".incident h3").first).to_contain_text("503 api.homedepot.com: 67 tenants, since 02:00")
    await expect(page.locator(".incident").first).to_contain_text(AWAY.message)
    await expect(page.locator(".incident").last).to_contain_text("401 api.builderprime.com: 1 tenant, since 10:00")
    await expect(page.locator(".tile", has_text="Last tick")).to_contain_text("2 min ago")
    await expect(page.locator(".tile", has_text="Failing")).to_contain_text("67")
    await expect(page.get_by_role("region", name="Late flows").get_by_role("row")).to_have_count(2)


async def test_now_says_that_nothing_is_wrong(page: Page, site: Site) -> None:
    """Where no flow fails, the page says so, and shows no empty tables."""
    fill(site, [line("acme")])
    site.data["incidents"] = {"incidents": [], "hasMore": False, "unreadable": []}
    site.data["gates"] = []

    await page.goto(site.url)

    await expect(page.get_by_text("No flow is failing")).to_be_visible()
    await expect(page.get_by_role("heading", level=2)).to_have_text(["Incidents"])


async def test_now_tells_missing_ticks_and_services_that_are_away(page: Page, site: Site) -> None:
    """A part that could not be read is a question mark, and the reason is above it."""
    status = msgspec.structs.replace(status_of([line("acme")]), queue=None, unavailable=("the queue is away",))
    site.data["status"] = msgspec.to_builtins(status) | {
        "tick": {"startedUtc": "2025-08-23T08:00:00Z", "schedule": "0 0 * * * *", "isMissing": True}
    }

    await page.goto(site.url)

    await expect(page.locator(".tile", has_text="Last tick")).to_contain_text("4 h ago ticks are missing")
    await expect(page.locator(".tile", has_text="Queue").first).to_contain_text("?")
    await expect(page.get_by_text("the queue is away")).to_be_visible()


async def test_now_tells_ticks_that_fail_each_time(page: Page, site: Site) -> None:
    """They come, and do not do their work."""
    tick = {"startedUtc": "2025-08-23T12:00:00Z", "schedule": "0 0 * * * *", "isMissing": False, "failed": 3}
    site.data["status"] = msgspec.to_builtins(status_of([line("acme")])) | {"tick": tick}

    await page.goto(site.url)

    await expect(page.locator(".tile", has_text="Last tick")).to_contain_text("the last 3 failed")


async def test_now_leads_to_the_failing_flows_and_to_the_last_failed_run(page: Page, site: Site) -> None:
    """From an incident, one click leads to its tenants, and another one to an example."""
    await page.goto(site.url)

    await page.locator(".incident").first.get_by_role("link", name=FEED).click()
    await expect(page.get_by_role("searchbox", name="Filter")).to_have_value(f'is:failing flow:"{FEED}"')
    await expect(page.get_by_text("67 of 400 flows, 67 tenants")).to_be_visible()
    await page.go_back()
    await page.locator(".incident").first.get_by_role("link", name="Last failed run").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Run e27a90d4")


async def test_a_tenant_shows_its_flows_their_next_times_and_what_happened(page: Page, site: Site) -> None:
    """Local times are those of the tenant. The timeline has runs and changes, and can be narrowed to one kind."""
    await page.goto(f"{site.url}#/tenant/acme-decks")

    feed = page.get_by_role("article", name=FEED)
    await expect(feed.locator(".head")).to_contain_text("failing")
    await expect(feed.locator(".times")).to_contain_text("America/Chicago08:00 CDT09:00 CDT10:00 CDT11:00 CDT12:00 CDT")
    await expect(page.get_by_role("article", name="weather")).to_contain_text("Paused: the station moves until Monday")
    events = page.locator(".timeline li")
    await expect(events).to_have_count(11)
    await expect(events.first).to_contain_text("11:20 40 min agochangepauseby Ada")
    await page.get_by_role("button", name="Failed runs").click()
    await expect(events).to_have_count(1)
    await expect(events).to_contain_text(AWAY.message)
    await page.get_by_role("button", name="Changes").click()
    await expect(events).to_have_count(1)
    await expect(events).to_contain_text("acme-decks/weather: paused: the station moves until Monday")


async def test_a_tenant_answers_why_a_flow_does_not_run(page: Page, site: Site) -> None:
    """The answer, other causes, and the causes that were ruled out. A screen reader says the cause alone."""
    await page.goto(f"{site.url}#/tenant/acme-decks")

    await page.get_by_role("article", name=FEED).get_by_role("button", name="Why?").click()

    answer = page.locator(".why")
    await expect(answer.locator(".answer")).to_contain_text("failing: 5 failed attempts in a row")
    await expect(answer).to_contain_text("Also: not due: the next run is at 2025-08-23T13:00:00Z")
    await expect(answer.get_by_role("status")).to_have_text("Why: failing")
    await answer.get_by_text("Ruled out: 1").click()
    await expect(answer).to_contain_text("no attempt holds its lease")


STEPS: dict[Cause, list[str]] = {
    Cause.FAILING: ["Run e27a90d4", "Run it now…", "Run 3 dead runs again…", "Purge…"],
    Cause.SKIPPED: ["Run e27a90d4"],
    Cause.LATE: ["Run it now…"],
    Cause.DISABLED: ["Resume it…"],
    Cause.CLOSED: ["Open homedepot…"],
    Cause.PROBLEM: ["Edit the document…"],
    Cause.NO_TICK: ["The last tick"],
}


async def test_the_next_step_is_a_button_or_a_link(page: Page, site: Site) -> None:
    """The sentence or the command of the app stands beside it. Somebody who may only read has only that."""
    gate = Gate("homedepot", None, NOW + HOUR, None)

    async def next_step(cause: Cause, answer: Any) -> Locator:
        run_id = "e27a90d4" if cause in (Cause.FAILING, Cause.SKIPPED, Cause.STUCK) else None
        finding = Finding(cause, applies=True, why="so", next="datasync queue", run_id=run_id, gate=gate)
        site.data["why"] = msgspec.structs.replace(answer, answer=finding)
        await page.goto(f"{site.url}#/tenant/acme-decks")
        await page.reload()
        await page.get_by_role("article", name=FEED).get_by_role("button", name="Why?").click()
        await expect(page.locator(".answer")).to_contain_text("so")
        return page.locator(".why")

    for cause, steps in STEPS.items():
        shown = await next_step(cause, why("acme-decks", FEED))
        await expect(shown.locator(".next a, .next button"), cause).to_have_text(steps)
        await expect(shown.locator(".next code"), cause).to_have_text("datasync queue")
    await expect(await next_step(Cause.QUEUED, why("acme-decks", FEED))).to_contain_text("Next: datasync queue")
    stuck = await next_step(Cause.STUCK, why("acme-decks", FEED))
    await expect(stuck.locator(".next a, .next code")).to_have_text(["Run e27a90d4", "datasync queue"])
    site.data["me"] = Visitor(mode="entra", name="ada@acme.example", can_operate=False)
    await expect(await next_step(Cause.DISABLED, why("acme-decks", FEED))).to_contain_text("Next: datasync queue")


async def test_the_next_step_for_a_broken_flow_file_is_the_view_of_the_files(page: Page, site: Site) -> None:
    """The document has nothing to correct."""
    broken = Finding(Cause.PROBLEM, applies=True, why="so", next="correct the flow file", in_flow_file=True)
    site.data["why"] = msgspec.structs.replace(why("acme-decks", FEED), answer=broken)
    await page.goto(f"{site.url}#/tenant/acme-decks")
    await page.get_by_role("article", name=FEED).get_by_role("button", name="Why?").click()

    steps = page.locator(".next")
    await expect(steps).to_contain_text("correct the flow file")
    await expect(steps.locator("a, button")).to_have_text(["The flow files"])
    await steps.get_by_role("link").click()
    await expect(page.get_by_role("heading", name="1 broken file")).to_be_visible()


async def test_an_unknown_tenant_is_named(page: Page, site: Site) -> None:
    """The sentence of the app is shown, and the view offers the way back."""
    site.data.pop("tenant")

    await page.goto(f"{site.url}#/tenant/nobody")

    await expect(page.get_by_text("there is no tenant")).to_be_visible()
    await expect(page.locator(".fresh")).to_have_attribute("data-state", "fresh")


async def test_a_run_shows_its_attempts_its_error_and_the_answer_of_the_server(page: Page, site: Site) -> None:
    """An error that repeats is shown once."""
    await page.goto(f"{site.url}#/run/acme-decks/e27a90d4")

    await expect(page.locator(".error-box")).to_contain_text("HTTP 503 · api.homedepot.com · HTTPStatusError")
    await expect(page.locator(".error-box pre")).to_have_text(AWAY.body or "")
    attempts = page.locator(".attempts > li")
    await expect(attempts).to_have_count(5)
    await expect(attempts.last).to_contain_text("The same error.")
    await expect(page.locator(".facts")).to_contain_text("requests 3, retries 2, waited 7.5")


async def test_a_run_shows_the_last_lines_that_its_flow_has_logged(page: Page, site: Site) -> None:
    """With their times since the start, and the number of lines before them. A run without lines has no such table."""
    await page.goto(f"{site.url}#/run/acme-decks/e27a90d4")

    rows = page.get_by_role("region", name="Log of the last attempt").get_by_role("row")
    await expect(rows).to_have_text(
        ["SecondsLevelLine", "0.412infopage 3: 100 orders", "3.900warningorder 8123 has no address"]
    )
    await expect(page.get_by_text("4 earlier lines are not kept.")).to_be_visible()

    site.data["run"] = replace(run_detail(run("r-1")), log=(), log_left_out=0)
    await page.goto(f"{site.url}#/run/acme-decks/r-1")

    await expect(page.get_by_role("heading", name="Run r-1")).to_be_visible()
    await expect(page.get_by_role("heading", name="Attempts")).to_be_visible()
    await expect(page.get_by_role("heading", name="Log of the last attempt")).to_have_count(0)


async def test_a_run_is_compared_with_the_usual_numbers(page: Page, site: Site) -> None:
    """The counts stand beside those of the last successful runs, and an unusual one is named."""
    usual = {"usualSeconds": 4.4, "usualCounts": {"orders": 1180.5, "leads": 40}}
    made = msgspec.to_builtins(line("acme-decks", FEED)) | usual
    site.data["fleet"] = {"atTs": 1, "complete": True, "lines": [made]}
    detail = msgspec.to_builtins(run_detail(run("r-1", counts={"orders": 0})))
    detail["run"]["unusual"] = [{"text": "orders=0, usually 1180.5", "sinceUtc": "2025-08-23T11:59:00Z"}]
    site.data["run"] = detail

    await page.goto(f"{site.url}#/run/acme-decks/r-1")

    rows = page.get_by_role("region", name="Numbers of the run").get_by_role("row")
    await expect(rows).to_have_text(
        ["NumberThis runUsual", "orders01,180.5", "leads–40", "time of the last attempt4 s4.4 s"]
    )
    await expect(page.get_by_text("Unusual: orders=0, usually 1180.5")).to_be_visible()


async def test_the_next_day_is_shown_by_minute_and_provider(page: Page, site: Site) -> None:
    """The chart says its numbers, and a provider can be chosen."""
    await page.goto(f"{site.url}#/load")

    await expect(page.get_by_role("img")).to_have_accessible_name(
        "Jobs per minute: 9,528 jobs, at most 226 in one minute. The tables below have the numbers."
    )
    await expect(page.get_by_role("region", name="Providers, table").get_by_role("row")).to_have_text(
        ["ProviderFlowsJobsMost in a minute", "no providerweather5,160200", f"homedepot{FEED}4,36826"]
    )
    await page.get_by_role("combobox", name="Provider").select_option("homedepot")
    await expect(page.locator("figcaption")).to_have_text("4,368 jobs, at most 26 in one minute")


async def test_flow_files_are_registered_or_broken(page: Page, site: Site) -> None:
    """A broken file has its cause and its traceback."""
    await page.goto(f"{site.url}#/files")

    await expect(page.get_by_role("heading", level=2)).to_have_text(["1 broken file", "1 flow"])
    await expect(page.get_by_role("article")).to_contain_text("ModuleNotFoundError: No module named 'jobber_client'")
    await page.get_by_text("Traceback", exact=True).click()
    await expect(page.get_by_role("region", name="Traceback")).to_contain_text("line 3, in <module>")
    await expect(page.get_by_role("region", name="Flows, table").get_by_role("row").last).to_contain_text(
        "also forecast"
    )


async def test_the_audit_lists_who_did_what(page: Page, site: Site) -> None:
    """Each change has its person, its tenant, and the values before and after."""
    await page.goto(f"{site.url}#/audit")

    row = page.get_by_role("row").last
    await expect(row).to_contain_text("11:20 40 min agoAda dashboardpauseacme-decksweatheracme-decks/weather: paused")
    await row.get_by_text("Show").click()
    await expect(row.get_by_role("region")).to_contain_text('"enabled": true')


async def test_the_audit_names_the_tenants_of_a_retry(page: Page, site: Site) -> None:
    """The first two are links."""
    found = audit()
    found["actions"][0] |= {"action": "retry", "tenantId": None, "tenantIds": ["a", "b", "c"], "flowName": None}
    site.data["audit"] = found
    await page.goto(f"{site.url}#/audit")

    await expect(page.get_by_role("cell", name="a, b and 1 more", exact=True).get_by_role("link")).to_have_text(
        ["a", "b"]
    )


async def test_times_are_shown_in_utc_here_and_at_the_tenant(page: Page, site: Site) -> None:
    """The choice is kept, and each time tells all zones when it is pointed at."""
    await page.goto(f"{site.url}#/tenant/acme-decks")
    success = page.get_by_role("article", name=FEED).locator("dd", has_text="10 h ago").locator("time")

    await expect(success).to_have_text("02:00 10 h ago")
    await expect(success).to_have_attribute(
        "title",
        "23 Aug 2025 02:00:00 UTC\n23 Aug 2025 04:00:00 GMT+2 (here: Europe/Berlin)\n"
        "22 Aug 2025 21:00:00 CDT (tenant: America/Chicago)",
    )
    await page.get_by_label("Times").select_option("local")
    await expect(success).to_have_text("04:00 10 h ago")
    await page.get_by_label("Times").select_option("tenant")
    await expect(success).to_have_text("22 Aug 21:00 CDT 10 h ago")
    await page.reload()
    await expect(success).to_have_text("22 Aug 21:00 CDT 10 h ago")


async def test_unusual_and_problem_flows_are_on_the_first_view(page: Page, site: Site) -> None:
    """The flows that need attention are there without a search."""
    unusual = [{"text": "orders=0, usually 120", "sinceUtc": "2025-08-23T11:59:00Z"}]
    odd = msgspec.to_builtins(line("acme", "weather")) | {"health": "unusual", "unusual": unusual}
    wrong = line("delta", None, Health.PROBLEM, problem=WRONG_CRON, problem_since_utc="2025-08-23T11:00:00Z")
    site.data["fleet"] = {"atTs": 1, "complete": True, "lines": [odd, wrong]}

    await page.goto(site.url)

    await expect(page.get_by_role("region", name="Unusual flows").get_by_role("row").last).to_contain_text(
        "acmeweatherorders=0, usually 120"
    )
    await expect(page.get_by_role("region", name="Problems").get_by_role("row").last).to_have_text(
        f"deltadocument{WRONG_CRON}1 h ago"
    )
