"""Data of a fleet, in the shapes of `datasync.operate`, for the page to show."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from dashboard.access import Visitor
from datasync.model.run import RunWindow
from datasync.operate.files import BrokenFile, FlowFiles, RegisteredFlow
from datasync.operate.fleet import Fleet
from datasync.operate.flows import FlowLine, Health
from datasync.operate.gates import Gate
from datasync.operate.incidents import Incident, Incidents
from datasync.operate.load import MINUTES, Load, ProviderLoad
from datasync.operate.queue import QueueLook
from datasync.operate.runs import AttemptLine, ErrorLine, LoggedLine, RunDetail, RunLine, Runs
from datasync.operate.status import FlowCounts, Status
from datasync.operate.tenant import EntryTimes, Occurrence, TenantDetail
from datasync.operate.ticks import TickStatus
from datasync.operate.why import Cause, Finding, Why
from tests.browser.site import NOW, Site

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
FEED = "home-depot→builder-prime"

AWAY = ErrorLine(
    message="HTTPStatusError: Server error '503 Service Unavailable' for url 'https://api.homedepot.com/v2/orders'",
    kind="HTTPStatusError",
    fingerprint="a41f09c2d87be310",
    status=503,
    host="api.homedepot.com",
    body='{"error": "maintenance until further notice"}',
)
EXPIRED = ErrorLine(
    message="HTTPStatusError: Client error '401 Unauthorized' for url 'https://api.builderprime.com/v1/leads'",
    kind="HTTPStatusError",
    fingerprint="ac78c4c51bf563de",
    status=401,
    host="api.builderprime.com",
    body='{"error": "token expired"}',
)
WRONG_CRON = "flows[0].cron: cron '0 * * * *': 5 fields found, 6 needed: seconds come first, perhaps '0 0 * * * *'"

_FIRST = (
    *("acme", "alpine", "bayou", "blue-ridge", "cedar", "copper", "delta", "desert", "eagle", "fargo"),
    *("gulf", "harbor", "iron", "juniper", "keystone", "lakeside", "maple", "northern", "oak", "prairie"),
)
_SECOND = ("cabinets", "decks", "doors", "floors", "garages", "kitchens", "lighting", "paint", "roofing", "windows")


def names(number: int) -> list[str]:
    """Return the ids of tenants, in the order of the alphabet."""
    found = []
    for index in range(number):
        turn, rest = divmod(index, len(_FIRST) * len(_SECOND))
        name = f"{_FIRST[rest // len(_SECOND)]}-{_SECOND[rest % len(_SECOND)]}"
        found.append(f"{name}-{turn:03}" if turn else name)
    return sorted(found)


def line(tenant_id: str, flow_name: str | None = "weather", health: Health = Health.WELL, **fields: Any) -> FlowLine:
    """Return a line of the fleet: an hourly flow that has succeeded at noon."""
    usual: dict[str, Any] = {
        "enabled": True,
        "cron": "0 0 * * * *",
        "timezone": "America/Chicago",
        "next_run_utc": NOW + HOUR,
        "last_run_utc": NOW - MINUTE,
        "last_outcome": "succeeded",
        "last_success_utc": NOW - MINUTE,
    }
    return FlowLine(tenant_id=tenant_id, flow_name=flow_name, health=health, **{**usual, **fields})


def failing(tenant_id: str, flow_name: str = FEED, failures: int = 5) -> FlowLine:
    """Return the line of a flow that has failed since two o'clock."""
    return line(
        tenant_id,
        flow_name,
        Health.FAILING,
        last_outcome="dead",
        last_success_utc=NOW - 10 * HOUR,
        consecutive_failures=failures,
    )


def fleet_of(number: int) -> list[FlowLine]:
    """Return two flows for each of this number of tenants. Some of them are not well."""
    return [made for index, tenant in enumerate(names(number)) for made in _tenant(index, tenant)]


def _tenant(index: int, tenant: str) -> Iterable[FlowLine]:
    if index % 211 == 100:
        yield line(tenant, "weather", Health.LATE, late_since_utc=NOW - 3 * HOUR, last_success_utc=NOW - 4 * HOUR)
    elif index % 97 == 50 or tenant == "acme-decks":
        yield line(tenant, "weather", Health.DISABLED, enabled=False)
    elif index % 53 == 20:
        yield line(tenant, "weather", Health.RUNNING)
    else:
        yield line(tenant, "weather", last_success_utc=NOW - (1 + index % 55) * MINUTE)
    if index % 3 == 1:
        yield failing(tenant)
    elif index % 409 == 200:
        yield line(tenant, FEED, Health.PROBLEM, problem=WRONG_CRON, problem_since_utc="2025-08-23T11:00:00Z")
    elif index % 89 == 30:
        yield line(tenant, FEED, Health.NEW, last_run_utc=None, last_outcome=None, last_success_utc=None)
    else:
        yield line(tenant, FEED, last_success_utc=NOW - (2 + index % 50) * MINUTE)


def status_of(lines: list[FlowLine], queued: int = 0) -> Status:
    """Return the status of a fleet, after a tick at noon."""
    entries = [each for each in lines if each.cron]
    return Status(
        at_utc=NOW,
        tick=TickStatus(started_utc=NOW - 2 * MINUTE, schedule="0 0 * * * *", is_missing=False),
        queue=QueueLook(name="flow-jobs", length=queued, front=()),
        poison=QueueLook(name="flow-jobs-poison", length=0, front=()),
        flows=FlowCounts(
            tenants=len({each.tenant_id for each in lines}),
            enabled=sum(each.enabled for each in entries),
            disabled=sum(not each.enabled for each in entries),
            failing=sum(each.is_failing for each in entries),
            late=sum(each.late_since_utc is not None for each in entries),
            problems=sum(each.problem is not None for each in lines),
            unusual=sum(each.is_unusual for each in lines),
            running=sum(each.health is Health.RUNNING for each in entries),
        ),
        unavailable=(),
    )


def incident(error: ErrorLine | None, tenants: int, **fields: Any) -> Incident:
    """Return an incident since two o'clock."""
    usual: dict[str, Any] = {
        "fingerprint": error.fingerprint if error else "",
        "flows": (FEED,),
        "failing": tenants,
        "dead": tenants + 5,
        "since_utc": NOW - 10 * HOUR,
        "last_utc": NOW - MINUTE,
        "example_run_id": "e27a90d4",
        "example_tenant_id": "acme-decks",
        "example_flow_name": FEED,
    }
    return Incident(tenants=tenants, error=error, **{**usual, **fields})


def run(run_id: str, outcome: str = "succeeded", before: timedelta = MINUTE, **fields: Any) -> RunLine:
    """Return a run of acme-decks that started some time ago and took four seconds."""
    usual: dict[str, Any] = {
        "tenant_id": "acme-decks",
        "flow_name": FEED,
        "trigger": "schedule",
        "scheduled_utc": NOW - before,
        "started_utc": NOW - before,
        "finished_utc": NOW - before + timedelta(seconds=4.2),
        "attempts": 1,
        "counts": {"orders": 1204, "leads": 37} if outcome == "succeeded" else {},
        "error": None if outcome == "succeeded" else AWAY,
        "unusual": (),
    }
    return RunLine(run_id=run_id, outcome=outcome, **{**usual, **fields})


def run_detail(line: RunLine) -> RunDetail:
    """Return a run, whose attempts all ended with its error."""
    outcomes = ["failed"] * (line.attempts - 1) + [line.outcome or "failed"]
    return RunDetail(
        run=line,
        attempts=tuple(
            AttemptLine(
                outcome=outcome,
                started_utc=line.started_utc + index * MINUTE,
                finished_utc=line.started_utc + index * MINUTE + timedelta(seconds=4),
                error=line.error,
                secrets={"tenants--acme-decks--homedepot--api-token": NOW - HOUR},
            )
            for index, outcome in enumerate(outcomes)
        ),
        part=1,
        redrive=0,
        http={"requests": 3, "retries": 2, "waited": 7.5},
        window=RunWindow(start=NOW - 2 * HOUR, end=NOW),
        cursor_before={"page": 3},
        cursor_after={"page": 3},
        purged_utc=None,
        log=(
            LoggedLine(level="info", seconds=0.412, text="page 3: 100 orders"),
            LoggedLine(level="warning", seconds=3.9, text="order 8123 has no address"),
        ),
        log_left_out=4,
        recording=None,
    )


def tenant_detail(tenant_id: str) -> TenantDetail:
    """Return a tenant of Chicago with two flows, of which one is paused."""
    times = tuple(
        Occurrence(utc=NOW + hours * HOUR, local=f"2025-08-23T{7 + hours:02}:00:00-05:00") for hours in range(1, 6)
    )
    document = {
        "id": tenant_id,
        "type": "Tenant",
        "tenantId": tenant_id,
        "name": "Acme Decks",
        "timezone": "America/Chicago",
        "flows": [
            {"name": FEED, "enabled": True, "cron": "0 0 * * * *", "nextRunUtc": "2025-08-23T13:00:00Z"},
            {
                "name": "weather",
                "enabled": False,
                "cron": "0 0 6 * * *",
                "pauseReason": "the station moves until Monday",
            },
        ],
    }
    entries = [
        EntryTimes(
            flow_name=name,
            index=index,
            enabled=enabled,
            cron=cron,
            timezone=zone,
            next_run_utc=NOW + HOUR if enabled else None,
            next_times=times,
            problems=(),
        )
        for index, (name, enabled, cron, zone) in enumerate(
            [(FEED, True, "0 0 * * * *", "UTC"), ("weather", False, "0 0 6 * * *", "America/Chicago")]
        )
    ]
    return TenantDetail(
        tenant_id=tenant_id,
        zone="America/Chicago",
        etag='"1"',
        document=document,
        entries=tuple(entries),
        problems=(),
    )


def why(tenant_id: str, flow_name: str) -> Why:
    """Return why a flow does not run: it is failing."""
    return Why(
        tenant_id=tenant_id,
        flow_name=flow_name,
        at_utc=NOW,
        answer=Finding(
            cause=Cause.FAILING,
            applies=True,
            why=f"5 failed attempts in a row; run e27a90d4 is dead: {AWAY.message}",
            next=f"python -m datasync show e27a90d4 --tenant {tenant_id}",
            run_id="e27a90d4",
        ),
        also=(Finding(cause=Cause.NOT_DUE, applies=True, why="the next run is at 2025-08-23T13:00:00Z"),),
        ruled_out=(Finding(cause=Cause.RUNNING, applies=False, why="no attempt holds its lease"),),
        next_run_utc=NOW + HOUR,
        last_success_utc=NOW - 10 * HOUR,
    )


def load_of(tenants: int) -> Load:
    """Return a load with a peak at the start of each hour."""
    weather = tuple(
        tenants if minute % 60 == 0 else (tenants // 40 if minute % 15 == 0 else 0) for minute in range(MINUTES)
    )
    feed = tuple((tenants // 12) * (1 + (minute // 60) % 5) // 3 if minute % 5 == 0 else 0 for minute in range(MINUTES))
    providers = [
        ProviderLoad(provider=None, flows=("weather",), jobs=sum(weather), minutes=weather),
        ProviderLoad(provider="homedepot", flows=(FEED,), jobs=sum(feed), minutes=feed),
    ]
    return Load(from_utc=NOW, providers=tuple(sorted(providers, key=lambda each: -each.jobs)))


def files() -> FlowFiles:
    """Return two flows, and a file that cannot be loaded."""
    flow = RegisteredFlow(
        name="weather",
        aliases=("forecast",),
        module="flows.weather",
        line=12,
        provider=None,
        timeout_seconds=300,
        overlap="skip",
        parts=1,
        secrets=("weather--api-base",),
        has_settings=False,
    )
    broken = BrokenFile(
        module="flows.lowes_to_jobber",
        cause="ModuleNotFoundError: No module named 'jobber_client'",
        traceback='Traceback (most recent call last):\n  File "/app/flows/lowes_to_jobber.py", line 3, in <module>\n'
        "    import jobber_client\nModuleNotFoundError: No module named 'jobber_client'\n",
    )
    return FlowFiles(flows=(flow,), broken=(broken,))


def audit() -> dict[str, Any]:
    """Return one action: somebody has paused a flow."""
    return {
        "actions": [
            {
                "actionId": "3f1c",
                "atUtc": "2025-08-23T11:20:00Z",
                "who": "Ada",
                "via": "dashboard",
                "action": "pause",
                "tenantId": "acme-decks",
                "tenantIds": [],
                "flowName": "weather",
                "arguments": {"reason": "the station moves until Monday"},
                "before": {"enabled": True},
                "after": {"enabled": False, "pauseReason": "the station moves until Monday"},
                "end": "done",
                "message": "acme-decks/weather: paused",
            }
        ],
        "hasMore": False,
        "unreadable": [],
    }


def fill(site: Site, lines: list[FlowLine]) -> None:
    """Put a fleet in which two incidents go on behind the page."""
    dead = run("e27a90d4", "dead", 10 * HOUR, attempts=5)
    lately = [run(f"r{hours}", before=hours * HOUR) for hours in range(11, 20)]
    site.data = {
        "me": Visitor(mode="key", name=None, can_operate=True),
        "status": status_of(lines, queued=41),
        "fleet": lambda query: (
            Fleet(at_ts=1_755_950_400, complete=True, lines=tuple(lines))
            if "since" not in query
            else Fleet(at_ts=1_755_950_400, complete=False, lines=())
        ),
        "incidents": Incidents(
            incidents=(
                incident(AWAY, sum(each.is_failing for each in lines)),
                incident(EXPIRED, 1, dead=1, since_utc=NOW - 2 * HOUR, example_tenant_id="gulf-garages"),
            ),
            since_utc=NOW - 24 * HOUR,
            has_more=False,
            unreadable=(),
        ),
        "runs": Runs(runs=(dead, *lately), has_more=True, unreadable=()),
        "run": run_detail(dead),
        "why": lambda query: why(query["tenant"], query["flow"]),
        "gates": [Gate("homedepot", "gulf-garages", NOW + HOUR, "2025-08-23T11:30:00Z")],
        "memory": {"cursorJson": '{"page": 12345678901234567}', "windowEndUtc": NOW - HOUR, "running": None},
        "dead": {"count": 3},
        "tenant": lambda query: tenant_detail(query["tenant"]),
        "load": load_of(len({each.tenant_id for each in lines})),
        "files": files(),
        "audit": audit(),
    }
