"""A plugin of pytest: the options of the campaigns, and the summary of them.

`--fuzz-seed=S` repeats the cases of another session. `--fuzz-scale=N` multiplies the numbers of cases. With
`--fuzz-seconds=N`, the campaigns spend N seconds in all instead, each the same part of it.
"""

import random

import pytest

SUMMARY = "campaign"
"""The property of a test that has a line of the summary."""

_SEED = random.SystemRandom().randrange(10**6)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seed", type=int, default=_SEED, help="seed of the fuzz tests (default: a random one)")
    parser.addoption("--fuzz-scale", type=int, default=1, help="factor for the numbers of the fuzz tests")
    parser.addoption("--fuzz-seconds", type=float, default=None, help="time for all fuzz tests, instead of the numbers")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the numbers of each campaign, also of those that passed."""
    lines = [
        str(line)
        for report in terminalreporter.getreports("")  # of the fixtures
        if report.when == "teardown"
        for name, line in report.user_properties
        if name == SUMMARY
    ]
    if lines:
        terminalreporter.section(f"fuzz: --fuzz-seed={terminalreporter.config.getoption('--fuzz-seed')}")
        for line in lines:
            terminalreporter.write_line(line)
