"""The campaign of a fuzz test, and the log during it."""

import logging
from collections.abc import Iterator
from typing import override

import pytest

from datasync.telemetry.emit import logger
from tests.fuzz.campaign import Campaign
from tests.fuzz.options import SUMMARY

_SHARES = pytest.StashKey[int]()


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_SHARES] = sum("campaign" in getattr(item, "fixturenames", ()) for item in session.items)


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    """Return the campaign of one test."""
    config = request.config
    seconds = config.getoption("--fuzz-seconds")
    made = Campaign(
        request.node.name,
        config.getoption("--fuzz-seed"),
        config.getoption("--fuzz-scale"),
        seconds and seconds / config.stash[_SHARES],
    )
    yield made
    request.node.user_properties += [(SUMMARY, line) for line in made.summary()]


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
