"""`python -m datasync run`: a real run of a flow in the process of its author."""

import asyncio
import logging
import os
import re
import shlex
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from datasync import FlowRegistry
from datasync.author.attempt import Wish
from datasync.author.run import Made, run
from datasync.errors import ActionInvalid, ActionRefused
from datasync.model.job import Job, JobMessage, Trigger
from datasync.model.state import FlowState
from datasync.operate.action import Ask
from datasync.run.admit import admit_by_hand
from datasync.services import Services
from localdev.hosting import ROOT
from tests.authoring import Desk
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.operating import command, settings_file
from tests.stages import FakeClock
from tests.world import World

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest_asyncio.fixture(autouse=True)
async def tenant(world: World) -> None:
    """Store a tenant with an entry for the flow."""
    await world.put(document("t", entry("feed", settings={"limit": 5, "source": "web"})))


async def run_feed(services: Services, registry: FlowRegistry, at: datetime = NOW, **wish: Any) -> Made:
    assert isinstance(services.clock, FakeClock)
    services.clock.time = at
    asked = Ask(action_id=f"a-{at.timestamp():.0f}", who="Ada", at=at)
    return await run(services, registry, asked, Wish(tenant_id="t", flow="feed", **wish))


async def state(services: Services) -> FlowState:
    return await services.runs.state("t", ("feed",))


async def audits(world: World) -> list[dict[str, Any]]:
    return [dict(item) async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'Audit'")]


async def test_it_is_a_run_as_any(
    desk: Desk, services: Services, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It leaves a record, the window, the cursor and an audit, releases the lease, and uses no queue."""
    caplog.set_level(logging.INFO, "datasync")
    registry = desk.write("run.cursor = {'page': 3}\nrun.count(items=2)\nrun.log.info('copied')")

    made = await run_feed(services, registry)

    (record,) = await world.records()
    after = await state(services)
    (audit,) = await audits(world)
    assert (record["outcome"], record["trigger"], record["counts"]) == ("succeeded", "hand", {"items": 2})
    assert made.record.run_id == record["runId"]
    assert [line["text"] for line in record["log"]] == ["copied"]
    assert (after.lease, after.window_end_utc, after.cursor) == (None, NOW, {"page": 3})
    assert (audit["action"], audit["end"], audit["after"]) == ("run", "done", {"runId": record["runId"]})
    assert await world.drained()


async def test_a_failure_ends_the_run(
    desk: Desk, services: Services, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Its only attempt has failed, so it is dead. The traceback begins at the file of the flow."""
    registry = desk.write("run.settings['nothing']")

    made = await run_feed(services, registry)

    (record,) = await world.records()
    assert (record["outcome"], record["attemptCount"]) == (made.record.outcome, 1) == ("dead", 1)
    assert "KeyError: 'nothing'" in record["error"]["message"]
    assert (await state(services)).lease is None
    assert await world.drained()
    calls = [line.strip() for line in caplog.text.splitlines() if line.strip().startswith("File ")]
    assert len(calls) == 1
    assert "feed.py" in calls[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RetryLater(timedelta(minutes=2), 'not ready')", "not ready. A run by hand is not deferred"),
        ("raise GiveUp('no contract')", "no contract"),
    ],
)
async def test_a_deferred_run_is_given_up(
    desk: Desk, services: Services, world: World, body: str, message: str
) -> None:
    """No message goes on with it. The record has the reason, and other runs need not wait."""
    await run_feed(services, desk.write(body))

    (record,) = await world.records()
    assert record["outcome"] == "gave_up"
    assert message in record["error"]["message"]
    assert (await state(services)).deferral is None
    assert await world.drained()


async def test_the_parts_are_run_one_after_the_other(desk: Desk, services: Services, world: World) -> None:
    """In this process. Each has a record, and the next one goes on with the window and the cursor."""
    registry = desk.write(
        """
run.cursor = (run.cursor or 0) + 1
run.count(start=run.window.start.minute if run.window.start else 99)
if run.part < 3:
    raise Continue(window_end=run.window.end - timedelta(minutes=30 - 10 * run.part))
"""
    )

    made = await run_feed(services, registry, since=NOW - HOUR)

    records = await world.records()
    assert [each["outcome"] for each in records] == ["continued", "continued", "succeeded"]
    assert [each["counts"]["start"] for each in records] == [0, 40, 50]
    assert made.record.part == 3
    assert (await state(services)).cursor == 3
    assert await world.drained()


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        ({"since": NOW - HOUR}, NOW + HOUR),  # overlaps the last window
        ({"until": NOW + 10 * MINUTE}, NOW + 10 * MINUTE),  # goes on from the last window
        ({"since": NOW + 10 * MINUTE}, NOW),  # would leave a gap
        ({"since": NOW - HOUR, "until": NOW - 10 * MINUTE}, NOW),  # ended before the last one
    ],
)
async def test_a_given_window_leaves_no_gap(
    desk: Desk, services: Services, wish: dict[str, datetime], kept: datetime
) -> None:
    """Its end is kept only if all data up to there is transferred. The kept window never moves back."""
    registry = desk.write("run.log.info('%s', run.window)")
    await run_feed(services, registry)

    made = await run_feed(services, registry, NOW + HOUR, **wish)

    assert made.record.window is not None
    assert made.record.window.end == wish.get("until", NOW + HOUR)
    assert (await state(services)).window_end_utc == kept


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"until": NOW + HOUR}, "cannot end in the future"),
        ({"since": NOW - HOUR, "until": NOW - 2 * HOUR}, "would start at 2025-08-23T11:00:00Z"),
    ],
)
async def test_a_window_that_is_not_valid_is_refused(
    desk: Desk, services: Services, world: World, wish: dict[str, datetime], why: str
) -> None:
    """Nothing is run, and the lease is free."""
    with pytest.raises(ActionInvalid, match=why):
        await run_feed(services, desk.write("pass"), **wish)

    assert await world.records() == []
    assert (await state(services)).lease is None


async def test_given_settings_replace_fields(desk: Desk, services: Services, world: World) -> None:
    """In this run only: the document stays as it is."""
    registry = desk.write("run.count(limit=run.settings['limit'])\nassert run.settings['source'] == 'web'")

    made = await run_feed(services, registry, settings={"limit": 1})

    assert made.record.counts == {"limit": 1}
    assert (await world.document("t"))["flows"][0]["settings"] == {"limit": 5, "source": "web"}


async def test_a_run_that_is_going_on_is_named(desk: Desk, services: Services, world: World) -> None:
    """The error has its id and the end of its lease. Nothing is recorded but the refusal in the audit."""
    registry = desk.write("pass")
    await admit_by_hand(services, registry.resolve("feed"), job("r-other"), {})

    with pytest.raises(ActionRefused, match="run r-other of t/feed is going on by hand.*lease until 2025-08-23T12:03"):
        await run_feed(services, registry)

    (audit,) = await audits(world)
    assert (audit["end"], await world.records()) == ("refused", [])


async def test_the_record_of_a_killed_run_is_closed(desk: Desk, services: Services, world: World) -> None:
    """No message attempts it again: the run that takes its lease over ends it."""
    registry = desk.write("pass")
    await admit_by_hand(services, registry.resolve("feed"), job("r-killed"), {})

    await run_feed(services, registry, NOW + 5 * MINUTE)

    killed, after = sorted(await world.records(), key=lambda each: each["runId"] != "r-killed")
    assert (killed["outcome"], killed["attempts"][0]["outcome"]) == ("gave_up", "interrupted")
    assert after["outcome"] == "succeeded"


def job(run_id: str) -> Job:
    wire = JobMessage(tenant_id="t", flow_name="feed", scheduled_utc=NOW, run_id=run_id)
    return Job.of(replace(wire, trigger=Trigger.HAND, enqueued_utc=NOW, message_id=run_id))


async def test_a_disabled_flow_is_not_run(desk: Desk, services: Services, world: World) -> None:
    """As by `enqueue`."""
    await world.put(document("t", entry("feed", enabled=False)))

    with pytest.raises(ActionRefused, match="t/feed is disabled"):
        await run_feed(services, desk.write("pass"))


class TestCommand:
    async def test_it_prints_the_lines_of_the_run(self, desk: Desk, world: World) -> None:
        """START, what the flow logs, and DONE with its numbers."""
        desk.write("run.log.info('hello')\nrun.count(items=2)")

        shown = await command(world, "run", "feed", "--tenant", "t", "--flows", desk.package)

        start, hello, done, record = shown.stderr.splitlines()
        assert shown.exit_code == 0
        assert start.startswith("START t/feed ")
        assert hello == "t/feed: hello"
        assert done.startswith("DONE t/feed in ")
        assert " items=2 " in done
        assert record.startswith("The record: python -m datasync show ")

    async def test_settings_of_the_run_and_of_the_app_are_two_options(
        self, desk: Desk, world: World, tmp_path: Path
    ) -> None:
        """`--with` and `--settings` can be given alone and together. The printed command has the second one."""
        desk.write("run.count(limit=run.settings['limit'])")
        of_app = ("--settings", settings_file(tmp_path, world))

        for options, limit in (
            (("--with", '{"limit": 9}'), 9),
            (of_app, 5),
            ((*of_app, "--with", '{"limit": 7}'), 7),
        ):
            shown = await command(world, "run", "feed", "--tenant", "t", "--flows", desk.package, *options)

            *_, done, record = shown.stderr.splitlines()
            assert shown.exit_code == 0
            assert f" limit={limit} " in done
            given = f"{shlex.join(of_app)} " if "--settings" in options else ""
            assert re.fullmatch(rf"The record: python -m datasync show {re.escape(given)}\w+ --tenant t", record)

    async def test_a_failure_has_exit_code_1(self, desk: Desk, world: World) -> None:
        """JSON on standard output is the attempt, as in `runs`."""
        desk.write("raise ValueError('no items')")

        shown = await command(world, "run", "feed", "--tenant", "t", "--flows", desk.package, "--json")

        assert shown.exit_code == 1
        assert '"outcome": "dead"' in shown.stdout
        assert "ValueError: no items" in shown.stderr
        assert "Traceback (most recent call last)" in shown.stderr

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("feed", "--tenant", "nobody"), (3, "'nobody'")),
            (("fed", "--tenant", "t"), (3, "no flow is named 'fed'; did you mean 'feed'?")),
            (("feed", "--tenant", "t", "--with", "[1]"), (2, "expected a JSON object")),
            (("feed", "--tenant", "t", "--with", "{"), (2, "expected JSON")),
            (("feed", "--tenant", "t", "--since", "soon"), (2, "expected a time span such as 30m, 24h or 7d")),
        ],
    )
    @pytest.mark.parametrize("verb", ["run", "try"])
    async def test_a_mistake_is_explained(
        self, desk: Desk, world: World, verb: str, arguments: tuple[str, ...], expected: tuple[int, str]
    ) -> None:
        """Without a traceback, and without a run."""
        desk.write("pass")
        code, why = expected

        shown = await command(world, verb, *arguments, "--flows", desk.package)

        assert (shown.exit_code, "Traceback" in shown.output) == (code, False)
        assert why in shown.stderr
        assert await world.records() == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
class TestProcess:
    async def test_ctrl_c_stops_the_flow(self, desk: Desk, world: World, services: Services) -> None:
        """The flow is cancelled, the run ends as given up, its lease is released, and the command says so."""
        desk.write("run.log.info('waiting')\nawait asyncio.sleep(600)")
        process = await self.start(desk, world)
        assert process.stderr is not None
        while b"waiting" not in await process.stderr.readline():
            pass

        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()

        (record,) = await world.records()
        assert (process.returncode, record["outcome"]) == (130, "gave_up")
        assert "its lease is released" in errors.decode()
        assert (await state(services)).lease is None

    async def test_a_debugger_waits_for_its_author(self, desk: Desk, world: World) -> None:
        """breakpoint() reads the standard input of the command, and the run goes on after it."""
        desk.write("answer = 40\nbreakpoint()\nrun.count(answer=answer)")
        process = await self.start(desk, world)

        output, _ = await process.communicate(b"answer = answer + 2\ncontinue\n")

        (record,) = await world.records()
        assert b"(Pdb)" in output
        assert (record["outcome"], record["counts"]) == ("succeeded", {"answer": 42})

    async def test_a_flow_that_never_awaits_is_named(self, desk: Desk, world: World) -> None:
        """With the line that blocks."""
        desk.write("run.log.info('busy')\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass")
        process = await self.start(desk, world)

        _, errors = await process.communicate()

        assert process.returncode == 0
        assert "BLOCKED t/feed blocked every flow for " in errors.decode()
        assert "feed.py:10" in errors.decode()

    async def test_a_second_ctrl_c_ends_a_flow_that_never_awaits(self, desk: Desk, world: World) -> None:
        """The first one is noted, and says so. The run is recorded."""
        desk.write("run.log.info('busy')\nwhile True: pass")
        process = await self.start(desk, world)
        assert process.stderr is not None
        while b"busy" not in await process.stderr.readline():
            pass

        process.send_signal(signal.SIGINT)
        first = await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        await process.communicate()

        (record,) = await world.records()
        assert first == b"Stopping: the flow has 10 s. If it blocks, press Ctrl-C again\n"
        assert (process.returncode, record["outcome"]) == (130, "gave_up")

    @staticmethod
    async def start(desk: Desk, world: World) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "datasync", "run", "feed", "--tenant", "t", "--flows", desk.package),
            cwd=ROOT,
            env={**os.environ, **world.environ, "PYTHONPATH": str(desk.root)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
