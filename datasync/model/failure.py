"""Failures: what a record keeps of an error."""

from typing import Annotated, Any, Self

import msgspec


class Failure(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An error, as records keep it."""

    kind: str
    message: str
    fingerprint: str
    status: int | None = None
    host: str | None = None
    body: str | None = None
