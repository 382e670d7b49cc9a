"""`why --at`: the history of an occurrence of the past, and the plan for a time to come."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from datasync.errors import GiveUp, RetryLater, ServiceUnavailable
from datasync.operate.why import Cause, Why
from datasync.operate.why_at import why_at
from tests.deliveries import NOW, message
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.operating import HOUR, Fleet, command
from tests.stages import deliver
from tests.world import World

MINUTE = timedelta(minutes=1)


async def ask(fleet: Fleet, at: timedelta, now: timedelta, tenant: str = "t") -> Why:
    """Ask about a time, both some time after noon."""
    return await why_at(fleet.services, fleet.registry, tenant, "weather", at=NOW + at, now=NOW + now)


@pytest.mark.parametrize(
    ("end", "cause", "words"),
    [
        (None, Cause.RAN, "run r-1 started at 2025-08-23T13:00:00Z, and is succeeded"),
        (ValueError("no such city"), Cause.FAILING, "and is failed: ValueError: no such city"),
        (GiveUp("no contract"), Cause.FAILING, "and is gave_up: no contract"),
        (RetryLater(timedelta(minutes=5)), Cause.DEFERRED, "and is deferred"),
    ],
    ids=["succeeded", "failed", "gave up", "deferred"],
)
async def test_the_run_of_the_occurrence_is_named(
    fleet: Fleet, end: BaseException | None, cause: Cause, words: str
) -> None:
    """The question is about any time until the next occurrence. The next command shows the run."""
    await fleet.add("t")
    await fleet.tick()
    if end:
        fleet.ends["t"] = end
    await fleet.run("t", "r-1", HOUR)

    found = await ask(fleet, HOUR + 20 * MINUTE, 3 * HOUR)

    assert found.answer.cause is cause
    assert words in found.answer.why
    assert found.answer.next == "python -m datasync show r-1 --tenant t"


async def test_a_late_run_for_several_missed_occurrences_is_named_for_each(fleet: Fleet) -> None:
    """One job is sent for all of them, with the time of the first. The one after it had no run."""
    await fleet.add("t")
    await fleet.tick()
    job = message(tenant_id="t", flow_name="weather", run_id="r-1", scheduled_utc=NOW + HOUR)
    await deliver(fleet.services, fleet.registry, job, NOW + 3 * HOUR + MINUTE)

    for hours in (1, 2, 3):
        found = await ask(fleet, hours * HOUR, 5 * HOUR)
        assert found.answer.cause is Cause.RAN
        assert "started at 2025-08-23T15:01:00Z" in found.answer.why
    assert (await ask(fleet, 4 * HOUR, 5 * HOUR)).answer.cause is not Cause.RAN


async def test_no_tick_came(fleet: Fleet) -> None:
    """From the occurrence until two ticks should have started."""
    await fleet.add("t")
    await fleet.tick()
    await fleet.tick(9 * HOUR)

    found = await ask(fleet, HOUR, 10 * HOUR)

    assert (found.answer.cause, found.is_wrong) == (Cause.NO_TICK, True)
    assert found.answer.why == (
        "no tick came from 2025-08-23T13:00:00Z to 2025-08-23T15:05:00Z; the next one came at 2025-08-23T21:00:00Z"
    )
    assert found.answer.next == "python -m datasync ticks"


async def test_the_tick_failed(wire: Wire, fleet: Fleet) -> None:
    """Its error follows."""
    await fleet.add("t")
    await fleet.tick()
    wire.refuse_all(to("POST", "/messages"))
    with pytest.raises(ServiceUnavailable):
        await fleet.tick(HOUR)
    wire.heal()

    found = await ask(fleet, HOUR, HOUR + MINUTE)

    assert found.answer.cause is Cause.NO_TICK
    assert found.answer.why.startswith("the tick of 2025-08-23T13:00:00Z failed: ")


async def test_the_entry_was_disabled_then(fleet: Fleet) -> None:
    """The document keeps no history, but the state has the time of the tick that has found the edit."""
    await fleet.add("t", enabled=False)
    await fleet.tick()
    await fleet.tick(HOUR)
    await fleet.add("t", nextRunUtc=None)
    await fleet.tick(2 * HOUR)

    found = await ask(fleet, HOUR, 3 * HOUR)

    assert found.answer.cause is Cause.EDITED
    assert "the tick of 2025-08-23T14:00:00Z has found it so" in found.answer.why


async def test_the_records_have_expired(fleet: Fleet) -> None:
    """By RUN_RETENTION_DAYS."""
    await fleet.add("t")
    await fleet.tick()
    await fleet.tick(HOUR)

    found = await ask(fleet, HOUR, timedelta(days=31))

    assert found.answer.cause is Cause.EXPIRED


async def test_nothing_is_left_that_says_why(fleet: Fleet) -> None:
    """The ticks came, and no run started: its message was deleted from the queue, say. The rest is ruled out."""
    await fleet.add("t")
    await fleet.tick()
    await fleet.tick(HOUR)

    found = await ask(fleet, HOUR, 2 * HOUR)

    assert found.answer.cause is Cause.UNKNOWN
    assert "the occurrence until 2025-08-23T13:00:00Z was that of 2025-08-23T13:00:00Z" in found.answer.why
    assert {each.cause for each in found.ruled_out} >= {Cause.RAN, Cause.NO_TICK, Cause.EDITED, Cause.EXPIRED}


@pytest.mark.parametrize(
    ("fields", "at", "cause"),
    [
        ({}, HOUR + MINUTE, Cause.DUE),
        ({}, 30 * MINUTE, Cause.NOT_DUE),
        ({"enabled": False}, HOUR, Cause.DISABLED),
        ({"cron": "hourly"}, HOUR, Cause.DUE),
    ],
)
async def test_a_time_to_come(fleet: Fleet, fields: dict[str, object], at: timedelta, cause: Cause) -> None:
    """The plan for it, and the present state."""
    await fleet.add("t", **fields)

    assert (await ask(fleet, at, timedelta())).answer.cause is cause


async def test_without_a_tenant_or_an_entry_the_present_answer_is_given(world: World, fleet: Fleet) -> None:
    """Also for an entry or a state that cannot be read."""
    await world.put(document("t", entry("other")), document("bad", entry(enabled="yes")), document("state"))
    await world.runs.upsert_item({"id": "state-weather", "tenantId": "state", "type": "FlowState", "token": "x"})

    answers = await asyncio.gather(*(ask(fleet, -HOUR, timedelta(), name) for name in ("u", "t", "bad", "state")))

    causes = [each.answer.cause for each in answers]
    assert causes == [Cause.NO_TENANT, Cause.NO_ENTRY, Cause.PROBLEM, Cause.PROBLEM]
    assert answers[0].at_utc == datetime(2025, 8, 23, 11, tzinfo=UTC)


async def test_the_command(world: World, fleet: Fleet) -> None:
    """A time with any offset, or none, which means UTC. Another text is a usage error."""
    await fleet.add("t")
    await fleet.tick()
    await fleet.run("t", "r-1", HOUR)

    shown = await command(world, "why", "t", "weather", "--at", "2025-08-23T15:30:00+02:00", after=3 * HOUR)
    assert shown.stdout.startswith("t/weather: run r-1 started at 2025-08-23T13:00:00Z, and is succeeded")
    assert shown.exit_code == 0

    wrong = await command(world, "why", "t", "weather", "--at", "yesterday")
    assert (wrong.exit_code, "expected an ISO 8601 time" in wrong.stderr) == (2, True)
