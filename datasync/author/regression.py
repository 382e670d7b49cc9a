"""Writes a test that runs a flow on a recording: it fails as the recorded attempt did, until the flow is corrected."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from datasync.author.replay import stand_ins
from datasync.errors import ActionInvalid, ActionRefused
from datasync.flow.registry import Flow
from datasync.model.cassette import Cassette, RecordedRun

_FOLDER = Path("tests/flows")
_WIDTH = 90  # characters of a value on a line


class Written(msgspec.Struct, frozen=True):
    """The files of a test."""

    test: str
    cassette: str
    """In the place where pytest-recording looks for it."""
    notes: tuple[str, ...]
    """The parts of the recording that vcrpy cannot repeat, and what to do about each."""


def write_test(cassette: Cassette, flow: Flow, file: Path | None) -> Written:
    """Write a test and its cassette.

    Args:
        cassette: The recording.
        flow: The flow.
        file: The test's file; None for one in `tests/flows` of this folder.

    Raises:
        ActionInvalid: the file is not that of a Python test, or the flow's function cannot be imported by its name.
        ActionRefused: a file is already there, or cannot be written.

    """
    facts = cassette.datasync
    name = _name(facts)
    file = file or _FOLDER / f"{name}.py"
    if not re.fullmatch(r"test_\w+\.py|\w+_test\.py", file.name):
        raise ActionInvalid(f"--pytest {file}: pytest finds tests in files such as test_weather.py")
    if "<locals>" in flow.function.__qualname__ or "." in flow.function.__qualname__:
        raise ActionInvalid(f"the flow {flow.name!r} is not a function of a module, so that a test could import it")
    recording = file.parent / "cassettes" / file.stem / f"{name}.yaml"
    for path, content in ((file, _test(name, cassette, flow).encode()), (recording, cassette.encode())):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as new:
                new.write(content)
        except FileExistsError:
            raise ActionRefused(f"{path} is already there: name another file, or delete it") from None
        except OSError as error:
            raise ActionRefused(f"{path} cannot be written: {error.strerror}") from None
    return Written(str(file), str(recording), tuple(_notes(cassette)))


def _notes(cassette: Cassette) -> Iterator[str]:
    facts = cassette.datasync
    troubles = len(facts.unanswered) + sum(each.datasync.trouble is not None for each in cassette.interactions)
    if troubles:
        yield (
            f"the attempt had {troubles} errors of the connection, which vcrpy does not repeat: write them with "
            "mock_api, as mock_api.get(url).mock(side_effect=httpx.ReadTimeout)"
        )
    if cut := sum(each.datasync.left_out is not None for each in cassette.interactions):
        yield f"{cut} answers are not complete in the recording"
    if facts.left_out:
        yield f"{facts.left_out} exchanges were left out of the recording"


def _name(facts: RecordedRun) -> str:
    """Return the name of the test: `test_run_5f2b1c3d`."""
    words = re.sub(r"\W+", "_", facts.run_id, flags=re.ASCII).strip("_").lower()
    return f"test_run_{words[:24].rstrip('_')}"


def _test(name: str, cassette: Cassette, flow: Flow) -> str:
    facts = cassette.datasync
    function = flow.function.__name__
    what = _comment(facts.error.message if facts.error else str(facts.outcome))
    subject, day = f"{facts.tenant.id}/{facts.flow_name}", f"{facts.started_utc:%Y-%m-%d}"
    title = _comment(f"The run {facts.run_id} of {subject}, which {facts.outcome} on {day}")
    return f'''"""{title}."""

from datetime import UTC, datetime

import pytest

from datasync import Window
from datasync.testing import FakeRuns
from {flow.function.__module__} import {function}


@pytest.mark.vcr
async def {name}(fake_run: FakeRuns) -> None:
    """{what}."""
    run = fake_run(
        {function},
{"".join(_arguments(facts, stand_ins(cassette)))}    )

    await run.call()

    # Then check the result of the corrected flow, such as its counts: assert run.counts == {{"items": 3}}
'''


def _comment(text: str) -> str:
    """Return a text for a docstring of one line."""
    line = " ".join(text.replace("\\", "/").replace('"', "'").split()).rstrip(".")
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"


def _arguments(facts: RecordedRun, secrets: dict[str, str]) -> Iterator[str]:
    window = f"Window(start={_time(facts.window.start)}, end={_time(facts.window.end)})"
    yield f"        tenant={_literal(facts.tenant.id)},\n"
    if facts.tenant.timezone != "UTC":
        yield f"        timezone={_literal(facts.tenant.timezone)},\n"
    for argument, value in (("settings", facts.settings), ("secrets", secrets), ("cursor", facts.cursor)):
        if value not in (None, {}):
            yield f"        {argument}={_literal(value)},\n"
    yield f"        window={window},\n"
    for argument, number in (("attempt", facts.attempt), ("part", facts.part)):
        if number > 1:
            yield f"        {argument}={number},\n"
    yield f"        run_id={_literal(facts.run_id)},\n"


def _literal(value: Any, indent: str = " " * 8) -> str:
    """Return a JSON value as Python, formatted as ruff does: on one line, or with each member on its own."""
    inner = f"{indent}    "
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case dict() if value:
            members = [f"{_literal(name)}: {_literal(part, inner)}" for name, part in value.items()]
            opened, closed = "{}"
        case list() if value:
            members = [_literal(part, inner) for part in value]
            opened, closed = "[]"
        case _:
            return repr(value)
    line = f"{opened}{', '.join(members)}{closed}"
    if len(line) <= _WIDTH and "\n" not in line:
        return line
    return f"{opened}\n{''.join(f'{inner}{each},\n' for each in members)}{indent}{closed}"


def _time(at: datetime | None) -> str:
    if at is None:
        return "None"
    return repr(at).removeprefix("datetime.").replace("datetime.timezone.utc", "UTC")
