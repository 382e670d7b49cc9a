"""The delays after which runs are attempted again, and the end of runs whose process dies."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasync.model.run import Outcome
from datasync.run.admit import apart, died
from datasync.run.settle import outage_pause
from tests.runs import job

ROOT = Path(__file__).parents[2]
NONE = timedelta()
SPREAD = timedelta(minutes=10)

texts = st.text('ab1 "\\\n→é😀', max_size=20)


@settings(deadline=None)
@given(tenant=texts, run=texts, reason=texts)
def test_a_run_is_apart_by_less_than_the_spread(tenant: str, run: str, reason: str) -> None:
    """The delay is the same for every message and delivery of the run."""
    delay = apart(job(run, tenant_id=tenant), reason)

    assert NONE <= delay < SPREAD
    assert delay == apart(job(run, tenant_id=tenant, message_id="another", delivery=4, deferral=2), reason)


def test_the_delay_is_the_same_in_every_process() -> None:
    """A message may be delivered to another process each time."""
    code = "from datasync.run.admit import apart; from tests.runs import job; print(apart(job(), '2'))"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603

    assert printed.stdout.strip() == str(apart(job(), "2"))


def test_runs_tenants_and_reasons_are_spread() -> None:
    """Each tenth of the time has some of them, so that a culprit and its victims no longer meet."""
    delays = {
        "runs": [apart(job(f"r-{number}")) for number in range(200)],
        "tenants": [apart(job(tenant_id=f"t-{number}")) for number in range(200)],
        "reasons": [apart(job(), str(number)) for number in range(200)],
    }

    for kind, drawn in delays.items():
        assert len({*drawn}) == 200, kind
        assert {delay // (SPREAD / 10) for delay in drawn} == {*range(10)}, kind


def test_a_run_whose_process_died_ends_for_good() -> None:
    """Its error says how often, and where to read on. An incident can tell it by its fingerprint."""
    ending = died("the process died in each of 15 attempts")

    assert (ending.outcome, ending.is_permanent) == (Outcome.DEAD, True)
    assert ending.error
    assert ending.error.message.startswith("the process died in each of 15 attempts: see docs/runbook.md")
    assert (ending.error.kind, ending.error.fingerprint) == ("ProcessDied", "process-died")


@pytest.mark.parametrize(
    ("outages", "seconds"), [(0, 15), (1, 30), (2, 60), (5, 480), (6, 900), (11, 900), (1_000_000, 900)]
)
def test_a_job_waits_longer_with_each_outage(outages: int, seconds: int) -> None:
    """The pause doubles from 15 seconds up to 15 minutes."""
    assert outage_pause(outages) == timedelta(seconds=seconds)
