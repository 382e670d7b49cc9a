"""Partition `@fleet` of the runs container: facts about the whole fleet. No tenant id starts with `@`."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Any, Self

import msgspec
from azure.core import MatchConditions
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)
from msgspec import Meta

from datasync.errors import StateInvalid
from datasync.model import times
from datasync.model.decode import FieldError, Text, decode, shorten
from datasync.model.tenant import FLEET, Level, Problem
from datasync.model.tick import TickRecord
from datasync.model.times import read_utc, utc_text
from datasync.stores.cosmos import RETRY_WRITE, Container, OperationRefused, explained, transact

_WATERMARK = "watermark"
_PROBLEMS = "SELECT * FROM c WHERE c.type = 'Problem'"
_CORRECTED_KEPT = timedelta(days=1)

type _Time = Annotated[Annotated[datetime, Meta(tz=True)] | None, Meta(description=times.EXPECTED)]


class Watermark(msgspec.Struct, frozen=True, rename="camel"):
    """How far the ticks have examined the tenants container."""

    since_ts: Annotated[int | None, Meta(description="a whole number of seconds since 1970")] = None
    """Start of the last tick that listed all its documents, in seconds since 1970 by the clock of Cosmos DB."""
    scanned_utc: _Time = None
    """Start of the last complete scan."""
    scope: Annotated[str | None, Meta(description="a text")] = None
    """The container that was scanned, and the fingerprint of the flows at that time."""
    retry: Annotated[tuple[str, ...], Meta(description="a list of texts")] = ()
    """Ids of the documents that the last tick could not handle."""


class StandingProblem(msgspec.Struct, frozen=True, rename="camel"):
    """A problem or a warning that is stored until the document is corrected."""

    document: str
    """The tenant document: its id, or its tenantId and id where they differ."""
    tenant: str
    path: str
    why: str
    since_utc: str
    """When it was found first."""
    flow: str | None = None
    level: Level = "error"

    @property
    def id(self) -> str:
        """The id of the stored document: one for each field of a tenant document, and one for a warning about it."""
        parts = [self.document, self.path, *(["warning"] if self.level == "warning" else [])]
        return f"problem-{sha256('\n'.join(parts).encode(errors='backslashreplace')).hexdigest()[:32]}"

    @property
    def problem(self) -> Problem:
        """The problem as the checks report it."""
        return Problem(tenant_id=self.tenant, path=self.path, why=self.why, flow=self.flow, level=self.level)

    @classmethod
    def found(cls, document: str, problem: Problem, now: datetime) -> Self:
        """Return a problem found at an instant (aware)."""
        return cls(
            document=document,
            tenant=shorten(problem.tenant_id),
            path=problem.path,
            why=shorten(problem.why, 2000),
            since_utc=utc_text(now),
            flow=problem.flow and shorten(problem.flow),
            level=problem.level,
        )


class Claim(msgspec.Struct, frozen=True):
    """The use of a tenant id, in any case of its letters, by one tenant."""

    tenant: Text
    """The id as the tenant's document spells it."""
    etag: str


class FleetStore:
    """The ticks and their watermark, standing problems, claims of ids, and the dead letters that are not jobs."""

    def __init__(self, container: Container, retention: timedelta) -> None:
        self._container = container
        self._retention = retention

    async def begin_tick(self, now: datetime) -> tuple[Watermark, int]:
        """Note that a tick starts at `now` (aware); return the watermark, and the time by the clock of Cosmos DB.

        The document's new `_ts` is that time, in seconds: comparing it with the `_ts` of tenant documents needs no
        agreement between the clocks of the app and the database.

        Raises:
            StateInvalid: the watermark was edited and cannot be read; the next `end_tick` replaces it.
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        document = await self._note({"startedUtc": utc_text(now)}, TickRecord(started_utc=now))
        try:
            return decode(Watermark, document), int(document["_ts"])
        except FieldError as error:
            raise StateInvalid(f"document {_WATERMARK!r} in partition {FLEET}: {error}") from None

    async def end_tick(self, watermark: Watermark, tick: TickRecord) -> None:
        """Move the watermark, and record the tick. Raises ServiceUnavailable."""
        await self._note(msgspec.to_builtins(watermark), tick)

    async def save_tick(self, tick: TickRecord) -> None:
        """Record a tick that does not move the watermark. Raises ServiceUnavailable."""
        container = await self._container.open()
        with explained(f"while recording the tick of {utc_text(tick.started_utc)}"):
            await container.upsert_item(tick.document(self._retention), no_response=True, retry_write=RETRY_WRITE)

    async def ticks(self, most: int) -> list[TickRecord]:
        """Return the last ticks, the newest first. One that was edited and cannot be read is left out.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        return await self._ticks(f"SELECT TOP {most:d} * FROM c WHERE c.type = 'Tick' ORDER BY c.startedUtc DESC")  # noqa: S608 - a number

    async def ticks_since(self, at: datetime, most: int) -> list[TickRecord]:
        """Return the first ticks that started at an instant (aware) or later, the oldest first. Raises as `ticks`."""
        where = "c.type = 'Tick' AND c.startedUtc >= @at"
        query = f"SELECT TOP {most:d} * FROM c WHERE {where} ORDER BY c.startedUtc ASC"  # noqa: S608 - texts of our own
        return await self._ticks(query, at=utc_text(at))

    async def _ticks(self, query: str, **parameters: object) -> list[TickRecord]:
        container = await self._container.open()
        values = [{"name": f"@{name}", "value": value} for name, value in parameters.items()]
        found: list[TickRecord] = []
        with explained("while reading ticks"):
            async for document in container.query_items(query, parameters=values, partition_key=FLEET):
                with suppress(FieldError):
                    found.append(TickRecord.from_document(document))
        return found

    async def last_tick(self) -> datetime | None:
        """Return the time (aware) at which the last tick started; None if none has, or if somebody has edited it.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        container = await self._container.open()
        with explained("while reading the watermark"), suppress(CosmosResourceNotFoundError):
            document = await container.read_item(_WATERMARK, partition_key=FLEET)
            with suppress(KeyError, TypeError, ValueError):
                return read_utc(document["startedUtc"])
        return None

    async def problems(self, *, delete_unreadable: bool = False) -> list[StandingProblem]:
        """Return the standing problems. One that was edited and cannot be read is left out, and deleted if asked for.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        container = await self._container.open()
        found: list[StandingProblem] = []
        with explained("while reading the standing problems"):
            async for document in container.query_items(_PROBLEMS, partition_key=FLEET):
                try:
                    found.append(decode(StandingProblem, document))
                except FieldError:  # the next complete scan finds it again
                    if delete_unreadable:
                        await self._delete(str(document["id"]))
        return found

    async def save(self, problem: StandingProblem) -> None:
        """Store a problem. Raises ServiceUnavailable."""
        container = await self._container.open()
        document = {"id": problem.id, "tenantId": FLEET, "type": "Problem", **msgspec.to_builtins(problem)}
        with explained(f"while saving a problem of {problem.tenant}"):
            await container.upsert_item(document, no_response=True, retry_write=RETRY_WRITE)

    async def delete(self, problem: StandingProblem) -> None:
        """Take a problem that is corrected off the list. Raises ServiceUnavailable.

        A note stays in its place for a day, so that a reader of changes learns of it: a deletion leaves no trace.
        """
        container = await self._container.open()
        ttl = int(_CORRECTED_KEPT.total_seconds())
        note = {"id": problem.id, "tenantId": FLEET, "type": "Corrected", "ttl": ttl, "tenant": problem.tenant}
        with explained(f"while deleting a problem of {problem.tenant}"):
            await container.upsert_item(note, no_response=True, retry_write=RETRY_WRITE)

    async def claim(self, tenant_id: str) -> Claim | None:
        """Return the claim of an id in any case of its letters; None where it has none. Raises ServiceUnavailable."""
        container = await self._container.open()
        with explained(f"while reading the claim of tenant {tenant_id!r}"), suppress(CosmosResourceNotFoundError):
            document = await container.read_item(_claim_id(tenant_id), partition_key=FLEET)
            with suppress(FieldError):  # it was edited and cannot be read: it is made again
                return decode(Claim, {**document, "etag": document["_etag"]})
            return Claim(tenant="", etag=document["_etag"])
        return None

    async def save_claim(self, tenant_id: str, before: Claim | None) -> bool:
        """Claim an id for the tenant that spells it like this, in place of the claim that was read before.

        Returns:
            Whether it is claimed; False if somebody else was faster.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        container = await self._container.open()
        document = {"id": _claim_id(tenant_id), "tenantId": FLEET, "type": "Claim", "tenant": tenant_id}
        with explained(f"while claiming the id of tenant {tenant_id!r}"):
            try:
                if before is None:
                    await container.create_item(document, no_response=True, retry_write=RETRY_WRITE)
                else:
                    await container.replace_item(
                        document["id"],
                        document,
                        etag=before.etag,
                        match_condition=MatchConditions.IfNotModified,
                        no_response=True,
                        retry_write=RETRY_WRITE,
                    )
            except (CosmosResourceExistsError, CosmosResourceNotFoundError, CosmosAccessConditionFailedError):
                return False
        return True

    async def keep_letter(self, message_id: str, body: str, why: str, now: datetime) -> None:
        """Keep a message that is not a job, as a dead letter. Raises ServiceUnavailable."""
        container = await self._container.open()
        document = {
            "id": f"letter-{message_id}",
            "tenantId": FLEET,
            "type": "DeadLetter",
            "ttl": int(self._retention.total_seconds()),
            "body": shorten(body, 65_536),
            "why": shorten(why, 2000),
            "sinceUtc": utc_text(now),
        }
        with explained(f"while keeping the dead letter {message_id}"):
            await container.upsert_item(document, no_response=True, retry_write=RETRY_WRITE)

    async def _delete(self, document_id: str) -> None:
        container = await self._container.open()
        with suppress(CosmosResourceNotFoundError):  # deleted by another tick, or by a first try whose answer was lost
            await container.delete_item(document_id, partition_key=FLEET, retry_write=RETRY_WRITE)

    async def _note(self, fields: Mapping[str, Any], tick: TickRecord) -> dict[str, Any]:
        """Set fields of the watermark document, and record a tick, in one request; return the watermark document."""
        container = await self._container.open()
        changes = [{"op": "set", "path": f"/{name}", "value": value} for name, value in fields.items()]
        record = ("upsert", (tick.document(self._retention),))
        with explained("while moving the watermark"):
            try:
                results = await transact(container, FLEET, [("patch", (_WATERMARK, changes)), record])
            except OperationRefused as error:
                if error.status_code != HTTPStatus.NOT_FOUND:
                    raise
                watermark = {"id": _WATERMARK, "tenantId": FLEET, "type": "Watermark", **fields}
                results = await transact(container, FLEET, [("upsert", (watermark,)), record])
        return dict(results[0]["resourceBody"])


def _claim_id(tenant_id: str) -> str:
    return f"claim-{sha256(tenant_id.casefold().encode(errors='backslashreplace')).hexdigest()[:32]}"
