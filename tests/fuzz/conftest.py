"""The options of the campaigns: `--fuzz-seed=S` repeats the cases of a session, `--fuzz-scale=N` multiplies them."""

import random

import pytest

_SEED = random.SystemRandom().randrange(10**6)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seed", type=int, default=_SEED, help="seed of the fuzz tests (default: a random one)")
    parser.addoption("--fuzz-scale", type=int, default=1, help="factor for the numbers of the fuzz tests")
