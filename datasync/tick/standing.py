"""The standing problems and warnings of the fleet: stored while they last, deleted when they are corrected."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime

from msgspec.structs import replace

from datasync.model.tenant import Problem
from datasync.stores.fleet import FleetStore, StandingProblem
from datasync.telemetry.emit import emit
from datasync.telemetry.events import DocumentDoubtful
from datasync.tick.turns import Turn


class StandingProblems:
    """The problems that are stored, kept in step with the documents that a tick examines."""

    def __init__(self, fleet: FleetStore, stored: Iterable[StandingProblem], now: datetime) -> None:
        self._fleet = fleet
        self._now = now
        self._by_document: defaultdict[str, dict[str, StandingProblem]] = defaultdict(dict)
        for problem in stored:
            self._by_document[problem.document][problem.id] = problem

    async def update(self, document: str, found: Iterable[Problem], turn: Turn) -> None:
        """Store the problems found in a document, and delete those that are corrected, in the turns of its tenant.

        A new warning is logged.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        before = self._by_document[document]
        present = [StandingProblem.found(document, problem, self._now) for problem in found]
        after = {problem.id: problem for problem in present}
        for problem in after.values():
            known = before.get(problem.id, problem)
            if known is problem or known.problem != problem.problem:
                lasting = replace(problem, since_utc=known.since_utc)
                await turn.spend(1)
                await self._fleet.save(lasting)
                before[problem.id] = lasting
                if problem.level == "warning":
                    emit(DocumentDoubtful(problem=problem.problem))
        for problem in [each for each in before.values() if each.id not in after]:
            await turn.spend(1)
            await self._fleet.delete(problem)
            del before[problem.id]

    def has(self, document: str) -> bool:
        """Return whether a document has problems or warnings."""
        return bool(self._by_document.get(document))

    async def keep_only(self, documents: Collection[str], turn: Turn) -> None:
        """Delete the problems of documents that no longer exist. Raises ServiceUnavailable."""
        gone = [document for document in self._by_document if document not in documents]
        for document in gone:
            await self.update(document, (), turn)

    def errors(self) -> list[Problem]:
        """Return the standing problems without the warnings, the newest first."""
        every = [each for problems in self._by_document.values() for each in problems.values() if each.level == "error"]
        every.sort(key=lambda each: (each.tenant, each.path))
        every.sort(key=lambda each: each.since_utc, reverse=True)
        return [each.problem for each in every]
