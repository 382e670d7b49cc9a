"""Tick records: one for each tick, with its numbers."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from datasync.model import times
from datasync.model.decode import decode, own_fields
from datasync.model.stored import Stored
from datasync.model.tenant import FLEET
from datasync.model.times import utc_text

type _Time = Annotated[datetime, Meta(tz=True, description=times.EXPECTED)]


class TickRecord(Stored, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One tick. It is stored when the tick starts, and again when it ends."""

    started_utc: _Time
    ended_utc: _Time | None = None
    """None while it is going on, and after its process has died."""
    seconds: float = 0
    is_scan: bool = False
    """Whether it examined all documents, and not only those that were changed or due."""
    tally: dict[str, int | None] = msgspec.field(default_factory=dict)
    """The numbers of datasync.tick.tick.Tally, by name."""
    failure: str | None = None
    """The error of the first tenant that could not be handled, or of the tick as a whole."""

    @property
    def id(self) -> str:
        """The document's id within the partition `@fleet`: another one for each second."""
        return f"tick-{utc_text(self.started_utc)}"

    def document(self, retention: timedelta) -> dict[str, Any]:
        """Return the document to store, which expires after `retention`."""
        own = {"id": self.id, "tenantId": FLEET, "type": "Tick", "ttl": int(retention.total_seconds())}
        return {**self.content(), **own}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a stored tick.

        Raises:
            FieldError: it was edited and cannot be read.

        """
        content = own_fields(document, "tenantId")
        content.pop("etag")
        return decode(cls, content)
