"""`python -m datasync replay` with a file, and the tests that it writes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from datasync import FlowRegistry, FlowRun, TenantSecretClient
from datasync.author.playback import Step
from datasync.author.regression import write_test
from datasync.author.replay import replay
from datasync.cli.main import cli
from datasync.flow.recording import Recording
from datasync.http import ClientCredentials
from datasync.model.cassette import RecordedRun, RecordedTenant, RecordedWindow, decode_cassette
from datasync.model.failure import Failure

ROOT = Path(__file__).parent.parent.parent
NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
URL = "https://weather.example/v1/forecast?latitude=41.88&longitude=-87.63&current=temperature_2m,wind_speed_10m"
FAILURE = Failure(message="KeyError: 'current'", kind="KeyError", fingerprint="f")

TEST = '''"""The run 5F2b-1c3d of acme/weather, which failed on 2025-08-23."""

from datetime import UTC, datetime

import pytest

from datasync import Window
from datasync.testing import FakeRuns
from flows.weather import weather


@pytest.mark.vcr
async def test_run_5f2b_1c3d(fake_run: FakeRuns) -> None:
    """KeyError: 'current'."""
    run = fake_run(
        weather,
        tenant="acme",
        timezone="Europe/Berlin",
        settings={"baseUrl": "https://weather.example"},
        window=Window(start=None, end=datetime(2025, 8, 23, 12, 0, tzinfo=UTC)),
        run_id="5F2b-1c3d",
    )

    await run.call()

    # Then check the result of the corrected flow, such as its counts: assert run.counts == {"items": 3}
'''
"""The written test: formatted as this project is."""


def recorded(
    folder: Path,
    *answers: httpx.Response | BaseException,
    secrets: Mapping[str, str] | None = None,
    urls: Iterable[str] = repeat(URL),
    content: bytes | None = None,
    **facts: Any,
) -> Path:
    """Write the recording of a run of the flow `weather`, which had these secrets and got these answers."""
    recording = Recording()
    for name, value in (secrets or {}).items():
        recording.add_secret(name, value)

    async def record() -> None:
        for answer, url in zip(answers, urls, strict=False):

            async def send(answer: httpx.Response | BaseException = answer) -> httpx.Response:
                if isinstance(answer, BaseException):
                    raise answer
                return answer

            with suppress(httpx.RequestError, asyncio.CancelledError):
                await (await recording.exchange(httpx.Request("GET", url, content=content), send)).aread()

    asyncio.run(record())
    run = RecordedRun(
        **{
            "run_id": "5F2b-1c3d",
            "flow_name": "weather",
            "tenant": RecordedTenant("acme", "Acme", "Europe/Berlin"),
            "scheduled_utc": NOW,
            "started_utc": NOW,
            "window": RecordedWindow(None, NOW),
            "settings": {"baseUrl": "https://weather.example"},
            "outcome": "failed",
            "error": FAILURE,
            "place": "flows.weather.weather",
            **facts,
        }
    )
    file = folder / "recording.yaml"
    file.write_bytes(recording.cassette(run).encode())
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["replay", *map(str, arguments)], obj=NOW)


def answer(content: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, stream=httpx.Response(200, json=content).stream)


def test_a_replay_prints_each_step_and_the_error(tmp_path: Path) -> None:
    """The traceback begins at the flow's file."""
    file = recorded(tmp_path, answer({}, 503), answer({"now": 1}))

    result = run(file)

    lines = result.output.splitlines()
    assert lines[:4] == [
        "acme/weather run=5F2b-1c3d attempt=1, which failed: KeyError: 'current'",
        "window: from the beginning to 2025-08-23T12:00:00Z; secrets: 0 stand-ins",
        f"  1  GET {URL} → 503 Service Unavailable, 2 bytes",
        f"  2  GET {URL} → 200 OK, 9 bytes",
    ]
    assert lines[5].strip().startswith(f'File "{ROOT}/flows/weather.py", line ')
    assert lines[-1].startswith("reproduced: the same error: KeyError: 'current' at flows/weather.py:")
    assert result.exit_code == 0


def test_a_replay_says_what_differs(tmp_path: Path) -> None:
    """The flow has been corrected, or fails in another way, or needs an answer that was not recorded."""
    good = answer({"current": {"temperature_2m": 21, "wind_speed_10m": 3}})
    corrected = run(recorded(tmp_path, good))
    other = run(recorded(tmp_path, answer({}, 404)))
    missing = run(recorded(tmp_path))

    assert corrected.exit_code == other.exit_code == missing.exit_code == 1
    assert corrected.output.splitlines()[-3:] == [
        "     info  acme/weather: 21 °C, wind 3 km/h",
        "different: it succeeded, and the attempt failed: KeyError: 'current'",
        "the flow: succeeded",
    ]
    assert (
        "different: class: HTTPStatusError instead of KeyError\ndifferent: status: 404 instead of none" in other.output
    )
    assert f"different: not recorded: GET {URL}; the flow has changed" in missing.output


def test_errors_of_the_connection_are_replayed(tmp_path: Path) -> None:
    """With their retries, which do not wait."""
    failure = Failure(message="ReadTimeout: too late", kind="ReadTimeout", fingerprint="f")

    result = run(recorded(tmp_path, *[httpx.ReadTimeout("too late")] * 5, error=failure))

    assert f"  5  GET {URL} → ReadTimeout: too late" in result.output
    assert "reproduced: the same error: ReadTimeout: too late at flows/weather.py:" in result.output


def test_an_attempt_that_ran_out_of_time_is_replayed(tmp_path: Path) -> None:
    """It ended while it waited for an answer."""
    failure = Failure(message="acme/weather was cancelled after 0:10:00", kind="FlowFailed", fingerprint="f")

    result = run(recorded(tmp_path, asyncio.CancelledError(), error=failure))

    assert f"reproduced: the same error: the attempt ended while it waited for the answer to GET {URL}" in result.output


def test_the_rest_of_a_body_is_not_recorded(tmp_path: Path) -> None:
    """The replay ends there, and says why."""
    big = httpx.Response(200, stream=httpx.Response(200, text="x" * 600_000).stream)

    result = run(recorded(tmp_path, big))

    assert (
        "different: not recorded: the rest of the answer 1: the recording has the first 524,288 of its 600,000 bytes"
        in (result.output)
    )


def test_a_test_fails_as_the_run_did(tmp_path: Path) -> None:
    """It runs at once. It passes when the flow is corrected, here by another answer."""
    file = recorded(tmp_path, answer({"now": 1}))
    test = tmp_path / "tests" / "test_weather_5f2b.py"

    written = run(file, "--pytest", test)
    cassette = test.parent / "cassettes" / "test_weather_5f2b" / "test_run_5f2b_1c3d.yaml"
    failed = _pytest(test)
    good = {"current": {"temperature_2m": 21, "wind_speed_10m": 3}}
    cassette.write_text(cassette.read_text().replace(r'"{\"now\":1}"', json.dumps(json.dumps(good))))
    passed = _pytest(test)

    assert written.exit_code == 0
    assert written.output.splitlines()[-1] == f"Run it: python -m pytest {test}"
    assert test.read_text() == TEST
    assert "E       KeyError: 'current'" in failed
    assert "1 passed" in passed
    assert run(file, "--pytest", test).output == f"Error: {test} is already there: name another file, or delete it\n"


FLOW = """
from datasync.http import ClientCredentials
from recorded.registry import registry

@registry.flow("weather")
async def read(tenant_id, kv, run):
    token = ClientCredentials(kv, run, "mysource", token_url="https://auth.example/token")
    for page in 1, 2:
        response = await run.http.get(f"https://weather.example/?key=AIza-another&page={page}&sig=abc", auth=token)
        response.raise_for_status()
"""


def test_a_test_has_the_access_token_and_the_hidden_values_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt had a token from an earlier run. The URLs of a live request have the values that a cassette hides."""
    package = tmp_path / "recorded"
    package.mkdir()
    (package / "registry.py").write_text("from datasync import FlowRegistry\nregistry = FlowRegistry()\n")
    (package / "reading.py").write_text(FLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import_module("recorded.reading")
    flow = import_module("recorded.registry").registry.resolve("weather")
    urls = [f"https://weather.example/?key=AIza-live-key&page={page}&sig=abc" for page in (1, 2)]
    secrets = {"mysource--access-token": "a token"}
    file = recorded(tmp_path, answer({}), answer({}, 404), urls=urls, secrets=secrets)
    test = tmp_path / "test_reading.py"

    write_test(decode_cassette(file.read_bytes(), "it"), flow, test)

    assert '"mysource--access-token": "<mysource--access-token>"' in test.read_text()
    assert "AIza" not in file.read_text()
    assert "httpx.HTTPStatusError: Client error '404 Not Found' for url" in _pytest(test)


def test_a_test_asks_for_the_token_that_the_run_asked_for(tmp_path: Path) -> None:
    """The recording has the answer."""
    secrets = {"mysource--access-token": "a token", "mysource--client-id": "me"}
    file = recorded(tmp_path, answer({}), secrets=secrets, content=b"grant_type=client_credentials")
    test = tmp_path / "test_reading.py"

    run(file, "--pytest", test)

    assert 'secrets={"mysource--client-id": "<mysource--client-id>"}' in test.read_text()


def _pytest(test: Path) -> str:
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "datasync.testing.plugin"),
            *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(test.parent), str(test)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.stdout


def test_a_file_that_is_not_a_recording_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    file = tmp_path / "old.yaml"
    file.write_text('{"version": 1, "datasync": {"format": 9}, "interactions": []}')

    result = run(file)

    assert result.output.startswith(
        f"Error: {file} is a cassette of version 1, format 9; this DataSync reads version 1"
    )
    assert result.exit_code == 1


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """The name of a file is not taken for a run, which would need services."""
    result = run(tmp_path / "none.yaml")

    assert (result.output, result.exit_code) == (f"Error: there is no file '{tmp_path}/none.yaml'\n", 3)


def test_a_recording_of_an_unknown_flow_is_refused(tmp_path: Path) -> None:
    """The flow may have been renamed."""
    result = run(recorded(tmp_path, flow_name="wether"))

    assert result.output.startswith("Error: no flow is named 'wether'; did you mean 'weather'?")


@pytest.mark.parametrize("name", ["weather.py", "test_weather.txt"])
def test_a_test_needs_the_name_of_a_test(tmp_path: Path, name: str) -> None:
    """Else pytest does not find it."""
    result = run(recorded(tmp_path), "--pytest", tmp_path / name)

    assert f"Error: --pytest {tmp_path / name}: pytest finds tests in files such as test_weather.py" in result.output
    assert result.exit_code == 2


def test_a_request_that_the_flow_cancels_does_not_end_the_replay(tmp_path: Path) -> None:
    """In a TaskGroup, the error of one request cancels the others, which have no answer then."""

    async def both(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        async with asyncio.TaskGroup() as requests:
            requests.create_task(run.http.get(URL))
            requests.create_task(fail(run))

    async def fail(run: FlowRun) -> None:
        (await run.http.get(URL)).raise_for_status()

    registry = FlowRegistry()
    registry.flow("weather")(both)
    failure = Failure(message="…", kind="HTTPStatusError", fingerprint="f", status=404)
    file = recorded(tmp_path, asyncio.CancelledError(), answer({}, 404), error=failure, place=None)
    steps: list[Step] = []

    end = asyncio.run(replay(registry.resolve("weather"), decode_cassette(file.read_bytes(), "it"), steps.append))

    assert [step.number for step in steps] == [1, 2]
    assert end.differences == ()


def test_a_replay_has_the_access_token_of_an_earlier_run(tmp_path: Path) -> None:
    """The attempt asked for none, so the recording has no answer of the token endpoint and no credentials."""

    async def read(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        token = ClientCredentials(kv, run, "mysource", token_url="https://auth.example/token")
        (await run.http.get(URL, auth=token)).raise_for_status()

    registry = FlowRegistry()
    registry.flow("weather")(read)
    failure = Failure(message="…", kind="HTTPStatusError", fingerprint="f", status=404)
    secrets = {"mysource--access-token": "a token"}
    file = recorded(tmp_path, answer({}, 404), error=failure, place=None, secrets=secrets)
    steps: list[Step] = []

    end = asyncio.run(replay(registry.resolve("weather"), decode_cassette(file.read_bytes(), "it"), steps.append))

    assert [step.request for step in steps] == [f"GET {URL}"]
    assert end.differences == ()
