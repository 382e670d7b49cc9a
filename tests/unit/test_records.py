"""Run records that an earlier version wrote."""

from datasync.model.run import RunRecord


def test_a_record_of_an_earlier_version_can_be_read() -> None:
    """It has a single attempt, with its number, and its error is a text."""
    record = RunRecord.from_document(
        {
            "id": "run-r-1-2",
            "type": "Run",
            "tenantId": "t",
            "flowName": "weather",
            "runId": "r-1",
            "attempt": 2,
            "outcome": "failed",
            "scheduledUtc": "2025-08-23T12:00:00Z",
            "startedUtc": "2025-08-23T12:00:00Z",
            "finishedUtc": "2025-08-23T12:00:01Z",
            "error": "HTTPStatusError: 401",
            "counts": {"items": 1},
        }
    )

    assert record.error is not None
    assert record.error.message == "HTTPStatusError: 401"
    assert (record.attempt_count, record.outcome, record.unknown) == (2, "failed", {})
