"""Failures: the error of an attempt, as records and states keep it."""

from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from datasync.model.decode import Text, decode
from datasync.model.stored import Stored


class Failure(Stored, frozen=True, rename="camel", omit_defaults=True):
    """The error of an attempt. Its texts hold no secret that the run read."""

    message: Text
    """The class, the text and the notes of the error, in one line of at most 2,000 characters."""
    kind: str = msgspec.field(default="", name="class")
    """The class of the error; of a group, the class of the member that says most. Empty in an older record."""
    fingerprint: str = ""
    """See `fingerprint`. Empty in an older record."""
    status: Annotated[int | None, Meta(description="an HTTP status")] = None
    """The status of the answer that caused the error."""
    host: str | None = None
    """The host that gave the answer, or that could not be reached."""
    body: str | None = None
    """The first 300 characters of the answer's body, in one line, if it is JSON or text."""

    @property
    def credentials_refused(self) -> bool:
        """Whether an API answered 401 or 403. The next attempt reads its secrets from the vault again."""
        return self.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

    @classmethod
    def read(cls, value: object) -> Self | None:
        """Read the error of a stored record: an object, or the text that version 0.1 wrote.

        Raises:
            FieldError: it is neither, or a field does not fit.

        """
        if value is None:
            return None
        return cls(message=value or "no message") if isinstance(value, str) else decode(cls, value)


def fingerprint(kind: str, status: int | None, host: str | None, function: str) -> str:
    """Return a hash that is the same for the same error in any process, version or line of a file.

    Args:
        kind: The class of the error.
        status: The HTTP status, where there is one.
        host: The host, where there is one.
        function: The module and the qualified name of the flow's innermost function in the traceback.

    """
    parts = (kind, str(status or ""), (host or "").lower(), function)
    return sha256("\n".join(parts).encode(errors="backslashreplace")).hexdigest()[:16]
