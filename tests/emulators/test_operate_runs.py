"""`runs`, `show` and `queue`, and the rules of all commands that work on an app, with real services."""

import asyncio
import json
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRun
from datasync.errors import FlowFailed, GiveUp
from datasync.model.job import JobMessage
from datasync.model.run import Outcome
from datasync.operate.action import Ask
from datasync.operate.dead import DeadFilter, purge
from datasync.operate.runs import FAILED, RunLine, follow_runs
from datasync.services import Services
from localdev.hosting import ROOT
from localdev.keyvault import KeyVault
from tests.deliveries import NOW, message, registered
from tests.documents import document, entry
from tests.operating import HOUR, Fleet, command
from tests.stages import deliver
from tests.world import World

ASK = Ask(action_id="a-1", who="Ada", at=NOW)
COMMANDS = (
    ("status",), ("flows",), ("incidents",), ("runs",), ("show", "r-1"), ("why", "t", "weather"), ("queue",),
    ("check",),
)  # fmt: skip


SECRET = "tenants--t--crm--key"


@pytest_asyncio.fixture
async def lived(fleet: Fleet) -> Fleet:
    """Run two tenants: `bad` died at noon, `t` succeeded an hour later, and gave up after another hour."""
    await fleet.add("t", "bad")
    await fleet.tick()
    fleet.ends["bad"] = KeyError("city")
    await fleet.run("bad", "r-bad", attempts=5)
    await fleet.run("t", "r-1", HOUR)
    fleet.ends["t"] = GiveUp("no contract")
    await fleet.run("t", "r-2", 2 * HOUR)
    return fleet


@pytest.mark.usefixtures("lived")
class TestRuns:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((), ["r-2", "r-1", "r-bad"]),
            (("t",), ["r-2", "r-1"]),
            (("t", "weather"), ["r-2", "r-1"]),
            (("t", "forecast"), []),
            (("--failed",), ["r-2", "r-bad"]),
            (("t", "--failed"), ["r-2"]),
            (("--since", "60m"), ["r-2", "r-1"]),
            (("--since", "2025-08-23T13:30:00Z"), ["r-2"]),
            (("nobody",), []),
        ],
    )
    async def test_the_newest_runs_are_listed_first(
        self, world: World, arguments: tuple[str, ...], expected: list[str]
    ) -> None:
        """Of all tenants, of a tenant, of a flow; failed ones only; since a time."""
        shown = await command(world, "runs", *arguments, "--json", after=2 * HOUR)

        assert [each["runId"] for each in json.loads(shown.stdout)["runs"]] == expected
        assert shown.exit_code == 0

    async def test_a_list_that_is_cut_off_says_so(self, world: World) -> None:
        """On standard error."""
        shown = await command(world, "runs", "--limit", "2", after=2 * HOUR)

        assert [line.split()[1] for line in shown.stdout.splitlines()] == ["tenant", "t", "t"]
        assert shown.stderr == "Only the last 2 runs are listed: --limit lists more\n"

    async def test_a_run_is_a_line_with_its_counts_or_its_error(self, world: World) -> None:
        """In columns."""
        shown = await command(world, "runs", "bad", after=2 * HOUR)

        assert shown.stdout.splitlines() == [
            "started                tenant   flow      outcome   attempts   run     counts or error",
            "2025-08-23T12:00:00Z   bad      weather   dead      5          r-bad   KeyError: 'city'",
        ]

    async def test_a_record_that_cannot_be_read_does_not_hide_the_others(self, world: World) -> None:
        """It is named on standard error."""
        record = await world.runs.read_item("run-r-2", partition_key="t")
        await world.runs.upsert_item({**record, "attemptCount": "many"})

        shown = await command(world, "runs", "t", after=2 * HOUR)

        assert "r-1" in shown.stdout
        assert "run record id='run-r-2' of tenant 't'" in shown.stderr


async def logs(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
    """Log 21 lines and fail, and log one line in the next attempt."""
    if run.attempt > 1:
        run.log.warning("the key is %s", (await kv.get_secret(SECRET)).value)
        return
    for number in range(1, 22):
        run.log.info("page %d", number)
    raise FlowFailed("page 22 is missing")


class TestLog:
    async def test_a_run_shows_what_its_flow_has_logged_in_the_last_attempt(
        self, world: World, services: Services, vault: KeyVault, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The last lines of it, without secrets, with the seconds since its start."""
        caplog.set_level(logging.INFO, "datasync")
        vault.set_secret(SECRET, "s3cret-key")
        await world.put(document("t", entry("flow")))
        with pytest.raises(FlowFailed):
            await deliver(services, registered(logs), message(1), NOW)
        failed = (await command(world, "show", "r-1")).stdout.splitlines()
        await deliver(services, registered(logs), message(2), NOW + HOUR)
        shown = await command(world, "show", "r-1")
        as_json = json.loads((await command(world, "show", "r-1", "--json")).stdout)

        at = failed.index("log of the last attempt (1 earlier line left out)")
        kept = [line.split("info")[1].strip() for line in failed[at + 1 :]]
        assert kept == [f"page {number}" for number in range(2, 22)]
        title, line = shown.stdout.splitlines()[-2:]
        assert title == "log of the last attempt"
        assert re.fullmatch(r"  +[0-9]+\.[0-9]{3} s   warning    the key is <crm--key>", line)
        assert [(each["level"], each["text"]) for each in as_json["log"]] == [("warning", "the key is <crm--key>")]
        assert as_json["logLeftOut"] == 0

    async def test_a_run_without_lines_has_no_log(self, fleet: Fleet, world: World) -> None:
        """As the records of earlier versions."""
        await fleet.add("t")
        await fleet.run("t", "r-1")

        (record,) = await world.records()
        assert "log" not in record
        assert "log of" not in (await command(world, "show", "r-1")).stdout


@pytest.mark.usefixtures("lived")
class TestShow:
    async def test_a_run_has_its_attempts(self, world: World) -> None:
        """Each with its error, which is not repeated. The tenant need not be known."""
        shown = await command(world, "show", "r-bad")
        lines = shown.stdout.splitlines()

        assert lines[:5] == [
            "run          r-bad",
            "tenant       bad",
            "flow         weather",
            "outcome      dead",
            "trigger      schedule",
        ]
        assert (lines.count("  KeyError: 'city'"), lines.count("  the same error")) == (1, 4)
        assert "attempt 5   dead after 0.0 s, at 2025-08-23T12:00:00Z" in lines
        assert shown.exit_code == 0

    async def test_a_run_of_another_tenant_is_not_found(self, world: World) -> None:
        """Exit code 3."""
        found = await command(world, "show", "r-bad", "--tenant", "bad", "--json")
        missing = await command(world, "show", "r-bad", "--tenant", "t", "--json")

        assert len(json.loads(found.stdout)["attempts"]) == 5
        assert (missing.stdout, missing.exit_code) == ("", 3)
        assert "there is no record of run 'r-bad' of tenant 't'" in missing.stderr


class TestFollow:
    async def test_runs_are_yielded_once_each_as_they_end(self, fleet: Fleet) -> None:
        """A failed attempt is not an end, and neither is a purge. A run that was sent again ends again."""
        await fleet.add("t", "bad")
        await fleet.run("t", "r-before")
        fleet.ends["bad"] = KeyError("city")
        found = await following(fleet)

        await fleet.run("bad", "r-bad", attempts=4)
        await fleet.run("t", "r-1")
        assert (await soon(found)).run_id == "r-1"
        await fleet.deliver(JobMessage(tenant_id="bad", flow_name="weather", run_id="r-bad").encode(), 5)
        dead = await soon(found)
        assert (dead.run_id, dead.outcome, dead.attempts) == ("r-bad", "dead", 5)
        await purge(fleet.services, fleet.registry, ASK, DeadFilter(), count=1)
        again = JobMessage(tenant_id="bad", flow_name="weather", run_id="r-bad", redrive=1)
        fleet.ends.clear()
        await fleet.deliver(again.encode(), after=HOUR)
        assert (await soon(found)).outcome == "succeeded"

    async def test_runs_of_a_tenant_a_flow_and_an_outcome_are_followed(self, fleet: Fleet) -> None:
        """As in the list."""
        await fleet.add("t", "other")
        found = await following(fleet, tenant_id="t", flow="forecast", outcomes=FAILED)

        await fleet.run("t", "r-1")
        fleet.ends = {"t": GiveUp("no contract"), "other": GiveUp("no contract")}
        await fleet.run("other", "r-2")
        await fleet.run("t", "r-3", HOUR)

        assert (await soon(found)).run_id == "r-3"

    @pytest.mark.parametrize("option", [("--since", "24h"), ("--limit", "5")])
    async def test_options_about_the_past_are_refused(self, world: World, option: tuple[str, str]) -> None:
        """They are not silently ignored."""
        shown = await command(world, "runs", "--follow", *option)

        assert (shown.stdout, shown.exit_code) == ("", 2)
        assert "leave out --since and --limit" in shown.stderr

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
    async def test_each_run_is_a_line_until_ctrl_c(self, world: World, fleet: Fleet, tmp_path: Path) -> None:
        """With the settings of a file: it is the same process, which gets the signal. One line says that it ended."""
        file = tmp_path / "local.settings.json"
        file.write_text(json.dumps({"IsEncrypted": False, "Values": world.environ}))
        await fleet.add("t")

        started = await start("runs", "t", "--follow", "--json", "--settings", str(file))
        assert started.stdout
        assert await started.stdout.readline() == b"Runs are printed as they end, until Ctrl-C\n"
        await fleet.run("t", "r-1")
        assert json.loads(await started.stdout.readline())["runId"] == "r-1"
        started.send_signal(signal.SIGINT)
        output, _ = await started.communicate()

        assert (started.returncode, output.decode()) == (130, "Interrupted\n")


async def soon(found: AsyncIterator[RunLine]) -> RunLine:
    """Wait for the next run that ends."""
    async with asyncio.timeout(30):
        return await anext(found)


async def following(
    fleet: Fleet, *, tenant_id: str | None = None, flow: str | None = None, outcomes: tuple[Outcome, ...] = ()
) -> AsyncIterator[RunLine]:
    """Follow runs without a pause."""
    return await follow_runs(
        fleet.services, fleet.registry, tenant_id=tenant_id, flow=flow, outcomes=outcomes, pause=timedelta()
    )


class TestQueue:
    async def test_messages_are_shown_and_stay(self, world: World) -> None:
        """Also those that are not jobs. Exit code 1 if a message is poison."""
        body = JobMessage(tenant_id="t", flow_name="weather", run_id="r-1").encode()
        await world.jobs.send_message(body)
        fine = await command(world, "queue", "--json")
        await world.poison.send_message("not a job")
        shown = await command(world, "queue")

        assert json.loads(fine.stdout)["jobs"]["front"][0]["runId"] == "r-1"
        assert (fine.exit_code, shown.exit_code) == (0, 1)
        lines = shown.stdout.splitlines()
        assert lines[0] == f"{world.settings.queue_name}: 1 message"
        assert lines[2].split()[:3] == ["t", "weather", "r-1"]
        assert lines[4] == f"{world.settings.queue_name}-poison: 1 message"
        assert lines[6].startswith("not a job")
        assert len(await world.messages()) == 1

    async def test_a_name_that_imitates_lines_stays_in_its_cell(self, world: World) -> None:
        """In words and in JSON, characters that no reader sees are escaped. JSON keeps the name."""
        hostile = "t\x1b[2J\u202e\x9b\U000e0041\nt   weather"
        await world.jobs.send_message(JobMessage(tenant_id=hostile, flow_name="weather").encode())

        words, value = await command(world, "queue"), await command(world, "queue", "--json")

        assert words.stdout.splitlines()[2].startswith(r"t\x1b[2J\u202e\x9b\U000e0041\nt   weather   weather   -")
        assert not {"\x1b", "\u202e", "\x9b", "\U000e0041"} & {*value.stdout}
        assert json.loads(value.stdout)["jobs"]["front"][0]["tenantId"] == hostile


@pytest.mark.usefixtures("lived")
class TestEveryCommand:
    @pytest.mark.parametrize("arguments", COMMANDS, ids=lambda each: each[0])
    async def test_json_is_the_only_text_on_standard_output(self, world: World, arguments: tuple[str, ...]) -> None:
        """One JSON value, with names as documents have them."""
        shown = await command(world, *arguments, "--json", after=2 * HOUR)

        assert json.loads(shown.stdout)
        assert "_utc" not in shown.stdout

    @pytest.mark.parametrize("arguments", COMMANDS, ids=lambda each: each[0])
    async def test_lines_have_neither_borders_nor_colours(self, world: World, arguments: tuple[str, ...]) -> None:
        """So they can be read by other programs, and NO_COLOR has nothing to turn off."""
        shown = await command(world, *arguments, after=2 * HOUR)

        assert shown.stdout.isascii()
        assert "\x1b" not in shown.stdout

    async def test_a_refused_key_has_its_own_exit_code(self, world: World) -> None:
        """The remedy is on standard error."""
        account = world.environ["COSMOS_CONNECTION_STRING"].partition("AccountKey=")[0]
        shown = await command(world, "flows", COSMOS_CONNECTION_STRING=f"{account}AccountKey=d3Jvbmc=;")

        assert (shown.stdout, shown.exit_code) == ("", 4)
        assert "Check the key in COSMOS_CONNECTION_STRING" in shown.stderr

    async def test_a_refused_key_of_the_queue_has_its_own_exit_code(self, world: World) -> None:
        """As for Cosmos DB."""
        storage = world.environ["AzureWebJobsStorage"]
        (key,) = [part for part in storage.split(";") if part.startswith("AccountKey=")]
        shown = await command(world, "queue", AzureWebJobsStorage=storage.replace(key, "AccountKey=d3Jvbmc="))

        assert (shown.stdout, shown.exit_code) == ("", 4)
        assert "Check the key in AzureWebJobsStorage" in shown.stderr

    async def test_settings_are_read_from_a_file(self, world: World, tmp_path: Path) -> None:
        """Also with further options. Environment variables take precedence, as with `check`."""
        file = tmp_path / "local.settings.json"
        file.write_text(json.dumps({"IsEncrypted": False, "Values": world.environ}))

        code, output = await process("runs", "t", "--settings", str(file), "--json")
        assert [each["runId"] for each in json.loads(output)["runs"]] == ["r-2", "r-1"]
        assert code == 0

        code, output = await process("queue", "--settings", str(file), QUEUE_NAME="no-such-queue")
        assert "queue 'no-such-queue' does not exist" in output
        assert code == 1

    async def test_the_services_of_make_start_are_used_without_a_file(self, world: World, tmp_path: Path) -> None:
        """Settings in the environment do not count. The settings are in a file as long as `make start` runs."""
        started = tmp_path / "started.json"
        started.write_text(json.dumps({"IsEncrypted": False, "Values": world.environ}))
        script = f"""
import datetime, pathlib
from datasync.cli import local_settings
from datasync.cli.main import cli
local_settings.STARTED = pathlib.Path({str(started)!r})
cli(obj=datetime.datetime.now(datetime.UTC))
"""
        asked = await python("-c", script, "runs", "t", "--local", "--json", QUEUE_NAME="x", COSMOS_DATABASE="other")
        output, errors = await asked.communicate()

        assert [each["runId"] for each in json.loads(output)["runs"]] == ["r-2", "r-1"], errors
        assert asked.returncode == 0

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("runs", "--since", "soon"), "expected a time span such as 30m, 24h or 7d"),
            (("show",), "Missing argument 'RUN'"),
            (("flows", "--flows", "no_such_package"), "cannot be loaded"),
        ],
    )
    async def test_wrong_arguments_have_exit_code_2(self, world: World, arguments: tuple[str, ...], error: str) -> None:
        """The message is on standard error."""
        shown = await command(world, *arguments)

        assert (shown.stdout, shown.exit_code) == ("", 2)
        assert error in shown.stderr

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
    async def test_an_interrupted_command_has_exit_code_130(self, world: World) -> None:
        """As a shell reports Ctrl-C. The queue answers too late: its address accepts a connection, and is silent."""
        connected = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.set()
            while await reader.read(1024):
                pass
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as silent:
            port = silent.sockets[0].getsockname()[1]
            account = f"AccountName=a;AccountKey=YWJj;QueueEndpoint=http://127.0.0.1:{port}/a;"
            started = await start("queue", **{**world.environ, "AzureWebJobsStorage": account})
            await connected.wait()
            started.send_signal(signal.SIGINT)
            output, _ = await started.communicate()

        assert (started.returncode, output.decode()) == (130, "Interrupted\n")


async def start(*arguments: str, **environ: str) -> asyncio.subprocess.Process:
    """Start the command in a process with only these settings."""
    return await python("-m", "datasync", *arguments, **environ)


async def python(*arguments: str, **environ: str) -> asyncio.subprocess.Process:
    """Start Python in a process with only these settings."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP", "SSL_CERT_FILE") if name in os.environ}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        cwd=ROOT,
        env={**kept, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def process(*arguments: str, **environ: str) -> tuple[int, str]:
    """Run the command in a process with only these settings. Return its exit code and output."""
    started = await start(*arguments, **environ)
    output, _ = await started.communicate()
    assert started.returncode is not None
    return started.returncode, output.decode()
