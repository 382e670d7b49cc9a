"""The evidence after a chaos test: the log of effects, the records and the states. The verdict compares them."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate, pairwise
from math import inf
from pathlib import Path
from typing import Any

TERMINAL = {
    "succeeded",
    "dead",
    "gave_up",
    "continued",
    "skipped_disabled",
    "skipped_rescheduled",
    "skipped_overlap",
}
"""The outcomes that end a run."""

FAILED = {"failed", "dead"}

type Flow = tuple[str, str]
"""The id of a tenant, and the name of a flow."""

type Occurrence = tuple[str, str, datetime]
"""The id of a tenant, the name of a flow, and the scheduled time."""


@dataclass(kw_only=True)
class Execution:
    """One execution of a flow, from the log of effects."""

    id: str
    flow: Flow
    run: str
    scheduled: datetime
    window: tuple[datetime | None, datetime]
    clock: datetime
    """The time at the begin, by the clock of the app."""
    pid: int
    begin: float
    """Monotonic seconds, as `end`."""
    end: float = inf
    how: str | None = None
    """`returned`, the name of an exception, or None for an execution that was killed."""
    effects: list[float] = field(default_factory=list)
    """The times of its effects."""
    notes: dict[str, float] = field(default_factory=dict)
    """The times of its notes, by their text."""

    @property
    def occurrence(self) -> Occurrence:
        return (*self.flow, self.scheduled)

    @property
    def raised(self) -> bool:
        return self.how not in (None, "returned")


@dataclass(kw_only=True)
class Run:
    """All that is recorded about one run."""

    flow: Flow
    id: str
    scheduled: datetime
    outcomes: list[str]
    """The outcomes of its attempts."""
    attempts: int
    terminal: list[str]
    """Its terminal outcomes: exactly one in a correct history."""
    succeeded: datetime | None
    """The time at which the record says that it succeeded."""

    @property
    def occurrence(self) -> Occurrence:
        return (*self.flow, self.scheduled)


def _events(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of the log of effects, except for a line that is being written, or was when its process died."""
    for line in log.read_text().splitlines() if log.exists() else ():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def executions_of(log: Path, deaths: Mapping[int, float]) -> list[Execution]:
    """Read the log of effects. An execution of a dead process without an end has ended with the process."""
    found: dict[str, Execution] = {}
    for line in _events(log):
        match line["event"]:
            case "begin":
                start, end = line["window"]
                found[line["execution"]] = Execution(
                    id=line["execution"],
                    flow=(line["tenant"], line["flow"]),
                    run=line["run"],
                    scheduled=datetime.fromisoformat(line["scheduled"]),
                    window=(start and datetime.fromisoformat(start), datetime.fromisoformat(end)),
                    clock=datetime.fromisoformat(line["clock"]),
                    pid=line["pid"],
                    begin=line["monotonic"],
                    end=deaths.get(line["pid"], inf),
                )
            case "effect":
                found[line["execution"]].effects.append(line["monotonic"])
            case "note":
                found[line["execution"]].notes[line["text"]] = line["monotonic"]
            case "end":
                found[line["execution"]].end, found[line["execution"]].how = line["monotonic"], line["how"]
    return [*found.values()]


def runs_of(documents: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Read the records. A run has one document with its attempts, or one document for each attempt."""
    grouped: dict[tuple[Flow, str], list[Mapping[str, Any]]] = defaultdict(list)
    for document in documents:
        if document["type"] == "Run":
            grouped[(document["tenantId"], document["flowName"]), document["runId"]].append(document)
    return [_run(flow, run_id, group) for (flow, run_id), group in grouped.items()]


def _run(flow: Flow, run_id: str, documents: list[Mapping[str, Any]]) -> Run:
    # A document of one attempt has its number.
    attempts = [
        attempt
        for document in documents
        for attempt in ([document] if "attempt" in document else document.get("attempts", ()))
    ]
    times = [
        datetime.fromisoformat(attempt["finishedUtc"]) for attempt in attempts if attempt["outcome"] == "succeeded"
    ]
    return Run(
        flow=flow,
        id=run_id,
        scheduled=datetime.fromisoformat(documents[0]["scheduledUtc"]),
        outcomes=[attempt["outcome"] for attempt in attempts],
        attempts=sum(1 if "attempt" in document else document.get("attemptCount", 0) for document in documents),
        terminal=[document["outcome"] for document in documents if document.get("outcome") in TERMINAL],
        succeeded=min(times, default=None),
    )


_PLAIN = {"occurrences", "executions"}
_EXPLAINED = {"interrupted", "doubled"}


@dataclass(kw_only=True)
class Verdict:
    """The numbers of a chaos test. All of them, apart from the first two, are zero if no process dies."""

    occurrences: int
    executions: int
    interrupted: int
    """Attempts that are recorded as interrupted."""
    executed_after_success: int
    """Executions that began after their run was recorded as succeeded."""
    overlaps: int
    """Pairs of executions of one flow of a tenant at the same time."""
    several_run_ids: int
    """Occurrences with several run ids."""
    not_one_terminal: int
    """Occurrences without exactly one terminal record."""
    lost: int
    """Expected occurrences without any record."""
    unrecorded: int
    """Executions that no attempt in a record stands for."""
    doubled: int
    """Effects that were repeated."""
    doubled_unexplained: int
    """Those for which the run's record has no interrupted attempt."""
    successes_recorded_as_failures: int
    """Attempts that are recorded as failed, though the flow returned."""
    unsuccessful: int
    """Flows that had to succeed, and did not."""
    future_windows: int
    """Windows that end after the time at which the flow started."""
    torn_windows: int
    """Windows of successes that do not begin where the last one ended."""
    left_on_queues: int
    """Messages on the job queue and the poison queue at the end."""

    def problems(self) -> dict[str, int]:
        """Return the numbers that have to be zero where no process died or stood still, and are not."""
        return {name: number for name, number in vars(self).items() if number and name not in _PLAIN}

    def problems_beside_interruptions(self) -> dict[str, int]:
        """Return the numbers that have to be zero in any case, and are not.

        Processes died or stood still: attempts were interrupted, and their effects are repeated.
        """
        return {name: number for name, number in self.problems().items() if name not in _EXPLAINED}

    def __str__(self) -> str:
        return " ".join(f"{name}={number}" for name, number in vars(self).items() if number)


def judge(
    executions: Collection[Execution],
    runs: Collection[Run],
    *,
    expected: Collection[Occurrence],
    must_succeed: Collection[Flow],
    left_on_queues: int,
    frozen: Mapping[int, float],
) -> Verdict:
    """Compare the evidence with the expected occurrences.

    `frozen` has the time (monotonic) at which a process was frozen, by its id. An execution that is stopped after its
    process wakes up counts up to this time only.
    """
    by_run = {run.id: run for run in runs}
    executed: dict[str, list[Execution]] = defaultdict(list)
    for each in executions:
        executed[each.run].append(each)
    recorded = {run.occurrence for run in runs}
    occurrences = {*expected, *recorded, *(each.occurrence for each in executions)}
    terminal = Counter(run.occurrence for run in runs for _ in run.terminal)
    run_ids: dict[Occurrence, set[str]] = defaultdict(set)
    for occurrence, run_id in (*((e.occurrence, e.run) for e in executions), *((r.occurrence, r.id) for r in runs)):
        run_ids[occurrence].add(run_id)
    repeated = {run: max(sum(len(each.effects) for each in group) - 1, 0) for run, group in executed.items()}
    succeeded = {run.flow for run in runs if "succeeded" in run.terminal}

    def count(run_id: str, outcomes: Collection[str]) -> int:
        return sum(outcome in outcomes for outcome in by_run[run_id].outcomes) if run_id in by_run else 0

    return Verdict(
        occurrences=len(occurrences),
        executions=len(executions),
        interrupted=sum(run.outcomes.count("interrupted") for run in runs),
        executed_after_success=sum(_after_success(each, by_run.get(each.run)) for each in executions),
        overlaps=_overlaps(executions, frozen),
        several_run_ids=sum(len(ids) > 1 for ids in run_ids.values()),
        not_one_terminal=sum(terminal[occurrence] != 1 for occurrence in occurrences),
        lost=len({*expected} - recorded),
        unrecorded=sum(
            max(len(group) - (by_run[run].attempts if run in by_run else 0), 0) for run, group in executed.items()
        ),
        doubled=sum(repeated.values()),
        doubled_unexplained=sum(max(more - count(run, {"interrupted"}), 0) for run, more in repeated.items()),
        successes_recorded_as_failures=sum(
            max(count(run, FAILED) - sum(each.raised for each in group), 0)
            for run, group in executed.items()
            if any(each.how == "returned" for each in group)
        ),
        unsuccessful=len({*must_succeed} - succeeded),
        future_windows=sum(each.window[1] > each.clock for each in executions),
        torn_windows=_torn_windows(executions, by_run),
        left_on_queues=left_on_queues,
    )


def _after_success(execution: Execution, run: Run | None) -> bool:
    return run is not None and run.succeeded is not None and execution.clock > run.succeeded


def _overlaps(executions: Iterable[Execution], frozen: Mapping[int, float]) -> int:
    def end(execution: Execution) -> float:
        return min(execution.end, frozen.get(execution.pid, inf) if execution.raised else inf)

    pairs = 0
    for group in _grouped(executions, lambda each: each.flow).values():
        ordered = sorted(group, key=lambda each: each.begin)
        for index, first in enumerate(ordered):
            pairs += sum(second.begin < end(first) for second in ordered[index + 1 :])
    return pairs


def most_at_once(executions: Iterable[Execution]) -> int:
    """Return the largest number of executions at the same time."""
    changes = sorted(change for each in executions for change in ((each.begin, 1), (each.end, -1)))
    return max(accumulate(change for _, change in changes), default=0)


def _torn_windows(executions: Iterable[Execution], runs: Mapping[str, Run]) -> int:
    """Count the pairs of successive successes whose windows do not tile."""
    returned = (each for each in executions if each.how == "returned" and each.run in runs)
    last = {each.run: each for each in sorted(returned, key=lambda each: each.end) if runs[each.run].succeeded}
    torn = 0
    for group in _grouped(last.values(), lambda each: each.flow).values():
        ordered = sorted(group, key=lambda each: each.end)
        torn += sum(first.window[1] != second.window[0] for first, second in pairwise(ordered))
    return torn


def _grouped[T, K](items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
