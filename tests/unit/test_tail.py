"""The last lines that a flow has logged, as the record of its run keeps them."""

import logging
from typing import override

import msgspec
import pytest

from datasync.clock import Clock
from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.flow.tail import Tail
from datasync.model.run import LogLine


class Watch(Clock):
    """A clock that a test sets."""

    seconds = 100.0

    @override
    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def tail(watch: Watch) -> Tail:
    return Tail(watch)


@pytest.fixture
def redact() -> Redaction:
    return Redaction()


@pytest.fixture
def log(redact: Redaction, tail: Tail, caplog: pytest.LogCaptureFixture) -> RunLog:
    caplog.set_level(logging.INFO, "datasync")
    return RunLog("acme/weather", {"run": "5f"}, redact, tail)


def texts(tail: Tail) -> list[str]:
    return [line.text for line in tail.kept()[0]]


def test_a_line_has_its_level_and_its_time_since_the_start(log: RunLog, tail: Tail, watch: Watch) -> None:
    """Without the tenant, the flow and the run, which the record has already. Levels that are off are not kept."""
    log.debug("not logged")
    watch.seconds += 0.25
    log.info("%d orders", 3)
    watch.seconds += 60
    log.warning("no address")

    assert tail.kept() == (
        (
            LogLine(level="info", seconds=0.25, text="3 orders"),
            LogLine(level="warning", seconds=60.25, text="no address"),
        ),
        0,
    )


def test_a_line_without_secrets_is_kept(log: RunLog, tail: Tail, redact: Redaction) -> None:
    """Also of an exception, which is kept in one line without its traceback."""
    redact.add("crm--token", "s3cret-token")
    log.info("Bearer %s", "s3cret-token")
    try:
        int("s3cret-token")
    except ValueError:
        log.exception("continued")

    assert texts(tail) == [
        "Bearer <crm--token>",
        "continued: ValueError: invalid literal for int() with base 10: '<crm--token>'",
    ]


def test_a_text_is_one_short_line(log: RunLog, tail: Tail) -> None:
    """It cannot hide or forge another line, and says how long it was."""
    log.info("first\r\nFAIL \x1b[2J\u202esecond \ud83d")
    log.info("%s", "x" * 1000)

    first, second = texts(tail)
    assert first == r"first FAIL \x1b[2J\u202esecond \ud83d"
    assert (len(second), second[-20:]) == (200, "x… (1000 characters)")


def test_the_last_twenty_lines_are_kept(log: RunLog, tail: Tail) -> None:
    """And the number of the others."""
    for number in range(1, 24):
        log.info("line %d", number)

    assert texts(tail) == [f"line {number}" for number in range(4, 24)]
    assert tail.kept()[1] == 3


@pytest.mark.parametrize("character", ["x", "→", "😀", '"'])
def test_the_lines_have_four_kilobytes_at_most(log: RunLog, tail: Tail, character: str) -> None:
    """As they are stored. The first ones are left out."""
    for number in range(30):
        log.info("%02d %s", number, character * 150)

    lines, left_out = tail.kept()
    assert len(msgspec.json.encode([line.content() for line in lines])) <= 4096 + len(lines) + 1
    assert len(lines) + left_out == 30
    assert [line.text[:2] for line in lines] == [f"{number:02}" for number in range(left_out, 30)]
    assert len(lines) > 5


def test_without_a_line_nothing_is_kept(tail: Tail) -> None:
    """Most runs log nothing."""
    assert tail.kept() == ((), 0)
