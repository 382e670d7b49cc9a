"""The options of the campaigns, and the summary of them.

`--fuzz-seed=S` repeats the cases of another session. `--fuzz-scale=N` multiplies the numbers of cases. With
`--fuzz-seconds=N`, the campaigns spend N seconds in all instead, each the same part of it.
"""

import logging
import random
from collections.abc import Iterator
from typing import override

import pytest

from datasync.telemetry.emit import logger
from tests.fuzz.campaign import Campaign

SEED = random.SystemRandom().randrange(10**6)
_CAMPAIGNS = pytest.StashKey[list[Campaign]]()
_SHARES = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seed", type=int, default=SEED, help="seed of the fuzz tests (default: a random one)")
    parser.addoption("--fuzz-scale", type=int, default=1, help="factor for the numbers of the fuzz tests")
    parser.addoption("--fuzz-seconds", type=float, default=None, help="time for all fuzz tests, instead of the numbers")


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_SHARES] = sum("campaign" in getattr(item, "fixturenames", ()) for item in session.items)


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    """Return the campaign of one test."""
    config = request.config
    seconds = config.getoption("--fuzz-seconds", None)
    made = Campaign(
        request.node.name,
        config.getoption("--fuzz-seed", SEED),
        config.getoption("--fuzz-scale", 1),
        seconds and seconds / config.stash[_SHARES],
    )
    yield made
    config.stash.setdefault(_CAMPAIGNS, []).append(made)


class Lines(logging.Handler):
    """Keeps the present case's lines of the log, as they are printed."""

    def __init__(self) -> None:
        super().__init__()
        self.printed: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.printed.append(record.getMessage())


@pytest.fixture
def log() -> Iterator[Lines]:
    """Return the log of the app, which is not printed."""
    lines = Lines()
    logger.addHandler(lines)
    logger.propagate = False
    yield lines
    logger.propagate = True
    logger.removeHandler(lines)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the numbers of each campaign, also of those that passed."""
    config = terminalreporter.config
    if made := config.stash.get(_CAMPAIGNS, []):
        terminalreporter.section(f"fuzz: --fuzz-seed={config.getoption('--fuzz-seed', SEED)}")
        for each in made:
            for line in each.summary():
                terminalreporter.write_line(line)
