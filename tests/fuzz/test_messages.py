"""Queue messages of any content: a job that can be sent again, or a refusal that can be kept as a dead letter."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from datasync.errors import JobInvalid
from datasync.flow.options import MOST_PARTS
from datasync.model.job import Job, QueueMessage
from datasync.model.run import Attempt, Outcome, RunRecord
from datasync.model.state import FlowState
from datasync.model.tenant import Tenant
from datasync.run.bury import bury
from datasync.run.receive import receive
from datasync.services import Services
from tests.documents import document, entry
from tests.fuzz import grammar
from tests.fuzz.campaign import Campaign
from tests.fuzz.conftest import Lines
from tests.stages import deliver, registry_of
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
COMPLETE = {
    "tenantId": "t",
    "flowName": "weather",
    "scheduledUtc": "2025-08-23T12:00:00Z",
    "runId": "r-1",
    "rev": "abc",
    "trigger": "schedule",
    "enqueuedUtc": "2025-08-23T12:00:00Z",
    "messageId": "m-1",
    "redrive": 1,
    "part": 2,
    "deferral": 1,
    "outages": 1,
    "spread": 1,
    "rounds": 1,
    "unstarted": ["0123456789abcdef0123456789abcdef"],
}
CORRECT = (COMPLETE, {"tenantId": "t", "flowName": "weather"}, COMPLETE, {**COMPLETE, "priorAttempts": 1, "id": "x"})


def body(choices: Random) -> bytes:
    kind = choices.random()
    if kind < 0.05:
        return choices.randbytes(choices.choice((0, 1, 2, 16, 300, 48_000)))
    content = grammar.value(choices) if kind < 0.15 else grammar.mutated(choices, choices.choice(CORRECT))
    made = grammar.written(choices, content)[:65_536]
    return b64encode(made) if kind > 0.95 else made


def delivery(choices: Random) -> QueueMessage:
    inserted = choices.choice((NOW, NOW, NOW - timedelta(days=30), datetime.min.replace(tzinfo=UTC)))
    return QueueMessage("m-1", body(choices), choices.choice((1, 1, 2, 5, 10**6)), inserted)


def check_job(job: Job) -> None:
    """Use a job as the stages of its run do."""
    later = [job.after_outage("f" * 32), job.next_deferral(), job.once_more(NOW)]
    if job.part <= MOST_PARTS:  # no other part is attempted
        later.append(job.next_part(NOW))
    for message in (job.copy(), *later):
        again = receive(QueueMessage("m-2", message.encode().encode(), 1, NOW))
        assert (again.tenant_id, again.flow_name) == (job.tenant_id, job.flow_name)
    attempt = Attempt(id="a", outcome=Outcome.SUCCEEDED, started_utc=NOW, finished_utc=NOW, token=1)
    record = RunRecord.begin(job, job.flow_name, NOW).is_present_for(job).after(attempt)
    state = FlowState(tenant_id=job.tenant_id, flow_name=job.flow_name).after(attempt, job, NOW, None)
    for stored in (record.document(timedelta(days=1)), state.document()):
        json.dumps(stored, ensure_ascii=False, allow_nan=False).encode()


def test_any_message_is_received_or_refused(campaign: Campaign) -> None:
    """The messages, the record and the state of a job that is received can be written."""

    def check(message: QueueMessage) -> None:
        try:
            job = receive(message)
        except JobInvalid as error:
            str(error).encode()
            return
        check_job(job)

    campaign.run(1_500, delivery, check)


@pytest.mark.parametrize("stage", ["run_flow", "bury"])
async def test_any_message_is_complete_after_one_delivery(
    campaign: Campaign, log: Lines, world: World, services: Services, stage: str
) -> None:
    """It runs, is put back, or is kept as a dead letter. It raises nothing for the host to repeat."""
    await world.put(document("t", entry("weather")))
    registry = registry_of("weather")
    assert isinstance((await services.tenants.get("t")), Tenant)

    async def check(message: QueueMessage) -> None:
        if stage == "bury":
            await bury(services, registry, message)
        else:
            await deliver(services, registry, message, NOW)
        away = [line for line in log.printed if line.startswith("UNAVAILABLE")]
        assert not away
        log.printed.clear()

    await campaign.run_async(60, delivery, check)
