"""own: a run id belongs to one flow of a tenant. A message posted by hand may name a run of another flow."""

from collections.abc import Sequence

from datasync.errors import JobInvalid
from datasync.model.job import Job
from datasync.model.run import RunRecord


def is_own(record: RunRecord, job: Job, names: Sequence[str]) -> bool:
    """Return whether a record with a job's run id is that of a run of its flow, which has these names."""
    return record.flow_name in (job.flow_name, *names)


def check_own(record: RunRecord | None, job: Job, names: Sequence[str]) -> None:
    """Check that a job's run id is not that of another flow's run.

    Raises:
        JobInvalid: it is.

    """
    if record and not is_own(record, job, names):
        raise JobInvalid(
            f"message {job.message_id} asks for {job.flow_name!r} under the runId {job.run_id!r}, which is a run of "
            f"{record.flow_name!r}: leave the runId out, or choose another"
        )
