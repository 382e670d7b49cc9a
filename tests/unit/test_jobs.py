"""Jobs, and the messages that go on with their runs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from datasync.model.decode import FieldError, decode
from datasync.model.job import Job, JobMessage, Trigger
from tests.runs import NOON, job

LATER = NOON + timedelta(minutes=5)
SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
COUNTS = ("redrive", "deferral", "outages", "spread", "rounds")

counts = st.integers(0, 1_000_000)
names = st.text('ab1 "\\\n→é😀', min_size=1, max_size=20)
instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis adds the zone
CHARACTERS = "019abcXYZ_.:-"
run_ids = st.text(CHARACTERS, min_size=1, max_size=20) | st.text(CHARACTERS, min_size=189, max_size=200)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Draw jobs with any values."""
    return job(
        draw(run_ids),
        tenant_id=draw(names),
        flow_name=draw(names),
        scheduled_utc=draw(instants),
        enqueued_utc=draw(instants),
        trigger=draw(st.sampled_from(Trigger)),
        message_id=draw(names),
        delivery=draw(st.integers(1, 9)),
        rev=draw(st.none() | names),
        traceparent=draw(st.none() | st.just(SPAN)),
        part=draw(st.integers(1, 999_999)),
        unstarted=draw(st.lists(st.just("0123456789abcdef" * 2), max_size=10).map(tuple)),
        **{name: draw(counts) for name in COUNTS},
    )


def received(message: JobMessage) -> JobMessage:
    """Return a message as it comes back from the queue."""
    return decode(JobMessage, msgspec.json.decode(message.encode()))


def changed(message: JobMessage, since: Job) -> dict[str, Any]:
    """Return the fields of a message that differ from those of a job."""
    return {name: value for name, value in asdict(message).items() if value != getattr(since, name)}


@settings(deadline=None)
@given(job=jobs())
def test_a_copy_is_the_same_job_after_the_queue(job: Job) -> None:
    """It stands for the first message, and carries its id, for any values of the fields.

    An outage that it has met is over.
    """
    assert Job.of(received(job.copy()), delivery=job.delivery) == replace(job, outages=0)


@pytest.mark.parametrize("missing", ["scheduled_utc", "run_id", "trigger", "enqueued_utc", "message_id"])
def test_a_message_that_lacks_a_field_is_no_job(missing: str) -> None:
    """The error names the field. Only `rev` may be missing."""
    with pytest.raises(ValueError, match=f"the message lacks {missing}$"):
        Job.of(replace(job(rev=None).copy(), **{missing: None}))


def test_all_missing_fields_are_named() -> None:
    """A message posted by hand lacks five at once."""
    with pytest.raises(ValueError, match="scheduled_utc, run_id, trigger, enqueued_utc, message_id"):
        Job.of(JobMessage(tenant_id="t", flow_name="weather"))


@settings(deadline=None)
@given(job=jobs().filter(lambda each: each.deferral < 1_000_000))
def test_the_message_after_a_deferral_is_a_new_one_of_the_same_run(job: Job) -> None:
    """It has the next number. The outages and deaths of the process that its predecessor has met do not count."""
    message = received(job.next_deferral())

    new = {"message_id": None, "deferral": job.deferral + 1, "outages": 0, "spread": 0, "rounds": 0, "unstarted": ()}
    assert message == replace(job.copy(), **new)


def test_a_message_that_waits_for_a_service_remembers_the_latest_leases_that_it_may_have_taken() -> None:
    """Ten of them, so that a long outage does not make the message longer and longer."""
    waiting = job()
    for number in range(12):
        waiting = Job.of(replace(received(waiting.after_outage(f"{number:032x}")), message_id="m"))

    assert waiting.unstarted == tuple(f"{number:032x}" for number in range(2, 12))
    assert waiting.after_outage(None).unstarted == waiting.unstarted
    assert waiting.next_deferral().unstarted == ()


@pytest.mark.parametrize("count", COUNTS)
def test_a_count_that_was_posted_by_hand_does_not_grow_beyond_what_a_message_may_hold(count: str) -> None:
    """The app receives each message that it sends itself."""
    largest = replace(job(), **{count: 1_000_000})

    assert getattr(received(largest.copy(**{count: 1_000_001})), count) == 1_000_000
    assert received(largest.next_deferral()).deferral in (1, 1_000_000)


@pytest.mark.parametrize(
    ("run", "part", "following"),
    [
        ("r-1", 1, "r-1.2"),
        ("r-1.2", 2, "r-1.3"),
        ("r-1.9", 9, "r-1.10"),
        ("r-1.10", 10, "r-1.11"),
        ("r-1.99", 99, "r-1.100"),
        ("r.1", 1, "r.1.2"),  # a posted id that looks like a part
        ("r.2.2", 2, "r.2.3"),
        ("posted", 7, "posted.8"),
        ("x" * 190, 1, "x" * 190 + ".2"),
        ("x" * 190 + ".9", 9, "x" * 190 + ".10"),
    ],
)
def test_the_number_of_a_part_ends_its_run_id(run: str, part: int, following: str) -> None:
    """The number takes the place of the one before."""
    message = job(run, part=part).next_part(LATER)

    assert (message.run_id, message.part) == (following, part + 1)


@settings(deadline=None)
@given(run=run_ids, first=st.sampled_from([1, 8, 98, 999_990]))
def test_each_part_of_any_run_has_an_id_of_its_own(run: str, first: int) -> None:
    """The queue gives each message back, also if a posted id is too long for a number. A part has the same id again."""
    part, ids = job(run, part=first), [run]
    for _ in range(4):
        message = received(part.next_part(LATER))
        assert message.run_id == part.next_part(LATER + timedelta(days=1)).run_id
        part = Job.of(replace(message, message_id="m"))
        ids.append(part.run_id)

    assert len({*ids}) == 5
    assert len({each.rpartition(".")[0] for each in ids[1:]}) == 1


def test_long_ids_that_differ_at_the_end_stay_different() -> None:
    """An id that is too long for a number is not cut off."""
    assert job("x" * 199 + "a").next_part(LATER).run_id != job("x" * 199 + "b").next_part(LATER).run_id


@settings(deadline=None)
@given(job=jobs(), now=instants)
def test_the_next_part_is_a_run_of_its_own_for_the_same_occurrence(job: Job, now: datetime) -> None:
    """It keeps the trigger and the redrive. It is not planned ahead if this one is not, by any clock."""
    message = job.next_part(now)

    kept = {"scheduled_utc", "trigger", "redrive", "tenant_id", "flow_name"}
    assert not kept & changed(message, job).keys()
    assert message.enqueued_utc == max(now, job.enqueued_utc)
    assert [getattr(message, name) for name in ("rev", "message_id", *COUNTS[1:])] == [None, None, 0, 0, 0, 0]


@settings(deadline=None)
@given(job=jobs(), now=instants)
def test_one_run_more_is_a_new_occurrence(job: Job, now: datetime) -> None:
    """It is scheduled for the time of the skip, and begins without a history. The same skip, the same run id."""
    message = job.once_more(now)

    expected = JobMessage(tenant_id=job.tenant_id, flow_name=job.flow_name, scheduled_utc=now, enqueued_utc=now)
    assert replace(message, run_id=None, trigger=None) == expected
    assert message.trigger == job.trigger
    assert message.run_id == job.once_more(now + timedelta(seconds=1)).run_id != job.run_id
    assert message.run_id != replace(job, deferral=job.deferral + 1).once_more(now).run_id


@pytest.mark.parametrize(
    ("redrive", "deferral", "leg"), [(0, 0, "r-1"), (0, 2, "r-1~0.2"), (1, 0, "r-1~1.0"), (1, 2, "r-1~1.2")]
)
def test_a_redrive_and_a_deferral_begin_another_leg(redrive: int, deferral: int, leg: str) -> None:
    """States remember legs, so an ended leg does not end the next one. Deliveries do not begin one."""
    assert job(redrive=redrive, deferral=deferral, delivery=3, rounds=1, outages=1, spread=1).leg == leg


def test_a_revision_with_half_a_surrogate_pair_is_refused() -> None:
    """No message can hold it, so the job could not be put back on the queue."""
    with pytest.raises(FieldError, match=r"^rev: "):
        decode(JobMessage, {"tenantId": "t", "flowName": "weather", "rev": "\ud800"})
