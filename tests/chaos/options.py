"""A plugin of pytest: the options of the chaos tests, and the summary of their faults.

`--chaos-scale=N` multiplies the numbers of tenants and faults. `--chaos-seed=S` repeats the choices of another run.
"""

import random

import pytest

_SEED = random.SystemRandom().randrange(10**6)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-scale", type=int, default=1, help="factor for the numbers of the chaos tests")
    parser.addoption("--chaos-seed", type=int, default=_SEED, help="seed of the chaos tests (default: a random one)")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the faults and the numbers of each chaos test, also of those that passed."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [
        (report.nodeid.rpartition("::")[2], line)
        for report in reports
        if report.when == "call" and "tests/chaos/" in report.nodeid
        for line in report.capstdout.splitlines()
        if line.startswith(("injected:", "found:"))
    ]
    if rows:
        terminalreporter.section(f"chaos: --chaos-seed={terminalreporter.config.getoption('--chaos-seed')}")
        for name, line in rows:
            if line.startswith("injected:"):
                terminalreporter.write_line(name)
            terminalreporter.write_line(f"  {line}")
