"""A job is a small message that names a tenant and a flow to run."""

import json
from datetime import UTC, datetime

import pytest

from datasync.errors import JobInvalid
from datasync.model.job import JobMessage, QueueMessage
from datasync.run.receive import RESERVED_KEYS, receive

POSTED = datetime(2025, 8, 23, 12, 30, tzinfo=UTC)


def message(body: str | bytes, message_id: str = "m-1") -> QueueMessage:
    return QueueMessage(message_id, body.encode() if isinstance(body, str) else body, 1, POSTED)


def test_a_job_is_decoded_as_it_was_encoded() -> None:
    """The run decodes the same job that the tick encoded."""
    sent = JobMessage(
        tenant_id="tenant-123",
        flow_name="home-depot→builder-prime",
        scheduled_utc=datetime(2025, 8, 23, 1, tzinfo=UTC),
        run_id="5f",
        rev="a1",
    )

    job = receive(message(sent.encode()))

    assert (job.tenant_id, job.flow_name, job.run_id, job.rev) == ("tenant-123", "home-depot→builder-prime", "5f", "a1")
    assert (job.scheduled_utc, job.enqueued_utc, job.delivery) == (sent.scheduled_utc, POSTED, 1)
    assert json.loads(sent.encode())["scheduledUtc"] == "2025-08-23T01:00:00Z"


def test_a_job_needs_only_two_keys() -> None:
    """By default, the scheduled time is the time of posting, and the run id is derived from the message id."""
    job = receive(message('{"tenantId": "tenant-123", "flowName": "weather"}'))

    assert job.scheduled_utc == POSTED
    assert job.run_id
    assert job == receive(message('{"flowName": "weather", "tenantId": "tenant-123"}')), "delivered again: same run"
    assert job.run_id != receive(message('{"tenantId": "tenant-123", "flowName": "weather"}', "m-2")).run_id


def test_a_job_has_no_key_that_the_host_reserves() -> None:
    """A job with such keys would overwrite the metadata of its message in the Functions host."""
    assert not {key.lower() for key in JobMessage.__struct_encode_fields__} & RESERVED_KEYS


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("run it please", "not JSON"),
        (b"\xff\xfe", "not JSON in UTF-8"),
        ("[" * 40_000, "not JSON"),
        ("[]", "expected an object"),
        ('"weather"', "expected an object"),
        ('{"tenantId": "t"}', "flowName: missing"),
        ('{"tenantId": "", "flowName": "weather"}', "tenantId: expected a text that is not empty"),
        ('{"tenantId": "@fleet", "flowName": "weather"}', "tenantId: a tenant's id does not start with '@'"),
        ('{"tenantId": "..", "flowName": "weather"}', "tenantId: an id is not '.' or '..'"),
        ('{"tenantId": "a/b", "flowName": "weather"}', "tenantId: an id has none of / "),
        ('{"tenantId": "acme\\nDONE x", "flowName": "weather"}', "tenantId: an id has only printable characters"),
        ('{"tenantId": "acme\\u202e\\u001b[2J", "flowName": "f"}', "tenantId: an id has only printable characters"),
        ('{"tenantId": "acme\\u3164", "flowName": "weather"}', "tenantId: an id has only printable characters"),
        (f'{{"tenantId": "{"x" * 9_000}", "flowName": "f"}}', "tenantId: an id has at most 1,023 bytes, .* got 9,000"),
        (f'{{"tenantId": "{"ü" * 512}", "flowName": "f"}}', "tenantId: an id has at most 1,023 bytes, .* got 1,024"),
        ('{"tenantId": 7, "flowName": "weather"}', "tenantId: .* got 7"),
        ('{"tenantId": "t", "flowName": "f", "scheduledUtc": "soon"}', 'scheduledUtc: .* got "soon"'),
        ('{"tenantId": "t", "flowName": "f", "scheduledUtc": "0001-01-01T00:00:00+05:00"}', "scheduledUtc: "),
        ('{"tenantId": "t", "flowName": "f", "scheduledUtc": "\\ud800"}', "scheduledUtc: expected an ISO 8601 time"),
        ('{"tenantId": "t", "flowName": "f", "deferral": "\\ud800"}', "deferral: expected a whole number"),
        ('{"tenantId": "t", "flowName": "f", "deferral": 1e60}', "deferral: expected a whole number"),
        (f'{{"tenantId": "t", "flowName": "f", "deferral": {10**60}}}', "deferral: expected a whole number"),
        (f'{{"tenantId": "t", "flowName": "f", "part": -{10**60}}}', "part: expected a whole number"),
        (f'{{"tenantId": "t", "flowName": "f", "note": {"9" * 5000}}}', "not JSON in UTF-8"),
        ('{"tenantId": "t", "flowName": {"- at `$": 1}}', "flowName: expected a text"),
        ('{"tenantId": "t", "flowName": "f", "runId": "a/b"}', 'runId: expected up to 200 .* got "a/b"'),
        ('{"tenantId": "t", "flowName": "f", "runId": "r.2"}', "runId: 'r.2' is the id of part 2 of run 'r': add"),
        ('{"tenantId": "t", "flowName": "f", "runId": "r.10", "redrive": 1}', "runId: 'r.10' is the id of part 10"),
        ('{"tenantId": "t", "flowName": "f", "dequeueCount": 0}', "reserves the keys dequeuecount; leave them out"),
    ],
)
def test_a_message_that_is_not_a_job_is_rejected(body: str | bytes, why: str) -> None:
    """The error names the message, the field and the reason, and shows the body and an example of a job."""
    with pytest.raises(JobInvalid, match=why) as refused:
        receive(message(body))

    assert "message m-1 is not a job" in str(refused.value)
    assert '{"tenantId": "tenant-123", "flowName": "weather"}' in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "fields",
    [
        '"runId": "r.2", "part": 2',
        '"runId": "r.2", "messageId": "m-0"',  # put back by a version of the app that accepted the id
        '"runId": "r.2", "deferral": 1',
        '"runId": "r.1"',
        '"runId": "r.02"',
        '"runId": "v1.2-b"',
        '"runId": ".2"',
    ],
)
def test_a_run_id_that_is_not_that_of_another_runs_part_is_accepted(fields: str) -> None:
    """Parts have their number in the message, and runs that have begun under such an id go on."""
    assert receive(message(f'{{"tenantId": "t", "flowName": "f", {fields}}}')).flow_name == "f"


def test_unknown_keys_are_ignored() -> None:
    """Users and later versions of the app may add keys."""
    assert receive(message('{"tenantId": "t", "flowName": "f", "note": "asked for by Ann"}')).flow_name == "f"
    assert receive(message(f'{{"tenantId": "t", "flowName": "f", "priorAttempts": {10**60}}}')).flow_name == "f"


def test_a_time_without_an_offset_is_utc() -> None:
    """`scheduledUtc` is UTC, as in documents. The time zone of the machine has no effect."""
    job = receive(message('{"tenantId": "t", "flowName": "f", "scheduledUtc": "2026-01-01T00:00:00"}'))

    assert job.scheduled_utc == datetime(2026, 1, 1, tzinfo=UTC)
