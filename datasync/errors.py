"""Every error DataSync raises. A message names the thing, the value, and the remedy.

DataSyncError
├── SettingsInvalid      an app setting is missing or malformed
├── ServiceUnavailable   Cosmos DB, the queue or Key Vault refused or could not be reached
│   ├── ServiceUnreachable   a service gave no answer
│   ├── RequestRefused       Cosmos DB does not accept a request as it is
│   └── MessageTooLarge      the queue takes no message of that size
├── TenantInvalid        a tenant document cannot be used
├── TenantUnknown        a tenant has no document
├── RunUnknown           a run has no record
├── RecordingUnknown     a run has no recording
├── RecordingInvalid     a recording cannot be read
├── EntryUnknown         a tenant has no entry for a flow
├── ActionInvalid        an action of an operator cannot be asked for like this
├── ActionRefused        an action is not possible at present
├── ChangedMeanwhile     something was changed since an operator saw it
├── StateInvalid         a stored state was edited and cannot be read
├── CronInvalid          a cron expression cannot be read
├── JobInvalid           a queue message is not a job
├── AnswersInvalid       a file with the answers for `try` cannot be used
├── FlowInvalid          a flow cannot be registered
├── FlowUnknown          no flow has that name
├── CursorInvalid        the cursor of a flow cannot be kept
├── LeaseLost            an attempt no longer holds the lease of its flow
├── FlowSettingsInvalid  the settings in a tenant's document do not fit the type that the flow declares
├── FlowFailed           an attempt of a flow raised an exception or ran out of time
├── ResponseTooLarge     an answer to a flow has more bytes than its request allows
├── PagingFailed         an API does not say how its pages follow each other, or names the same page again
├── TokenRefused         the server of an API gave a flow no access token
└── SecretError
    ├── SecretRefused    a flow asked for a name outside its tenant, or for a name that Key Vault does not accept
    └── SecretNotFound   the vault has no such secret

Signals that a flow raises to end its run; they are not failures:

FlowSignal
├── RetryLater           put the job back on the queue, to run again after a delay
├── Continue             end this part of the run, and run the next part
└── GiveUp               end the run without further attempts
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum, auto
from http import HTTPStatus

from azure.core.exceptions import ResourceNotFoundError


class Kind(Enum):
    """The meaning of an error for the operator: the exit code of a command, and the status of an answer."""

    UNUSABLE = auto()
    """Something that is stored cannot be used as it is, such as a document that was edited."""
    NOT_FOUND = auto()
    """Something that was asked for does not exist."""
    INVALID = auto()
    """The question or the action cannot be asked for like this."""
    REFUSED = auto()
    """The action is not possible at present."""
    CHANGED = auto()
    """Something was changed meanwhile. Nothing was done, unless the message says that it may have been."""
    UNAVAILABLE = auto()
    """A service is away, or the app has no valid settings."""
    NOT_LET_IN = auto()
    """A service refused the key or the identity."""


class DataSyncError(Exception):
    """Base of every error DataSync raises."""

    kind = Kind.UNUSABLE


class SettingsInvalid(DataSyncError):
    """An app setting is missing or malformed."""

    kind = Kind.UNAVAILABLE


class ServiceUnavailable(DataSyncError):
    """A service refused the request or could not be reached."""

    def __init__(self, message: str, service: str = "Cosmos DB", status: int | None = None) -> None:
        super().__init__(message)
        self.service = service
        """`Cosmos DB`, `the queue`, `Key Vault` or `the blob container`."""
        self.status = status
        """The HTTP status of the answer; None if there was none."""
        self.kind = Kind.NOT_LET_IN if status in _NOT_LET_IN else Kind.UNAVAILABLE
        self.unstarted: str | None = None
        """The nonce of a lease that may have been taken for an attempt, which did not start because of this error."""


_NOT_LET_IN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class ServiceUnreachable(ServiceUnavailable):
    """A service gave no answer."""


class RequestRefused(ServiceUnavailable):
    """Cosmos DB does not accept a request as it is, such as a document that is too large. It is not away."""


class MessageTooLarge(ServiceUnavailable):
    """The queue takes no message of that size."""

    def __init__(self, message: str, flows: Iterable[str]) -> None:
        super().__init__(message, "the queue", status=413)
        self.flows = frozenset(flows)
        """The names of the flows whose jobs were not sent."""


class TenantInvalid(DataSyncError):
    """A tenant document cannot be used."""

    def __init__(self, tenant_id: str, path: str, why: str, flow: str | None = None) -> None:
        self.place = f"{tenant_id:.200}{(flow and f'/{flow:.200}') or ''} {path}"
        """The tenant, the flow and the field, such as `tenant-123/weather flows[2].cron`."""
        super().__init__(f"{self.place}: {why}")
        self.tenant_id = tenant_id
        """The tenant's id, as far as the document has one."""
        self.path = path
        """The field, such as `flows[2].cron`."""
        self.why = why


class TenantUnknown(DataSyncError):
    """A tenant has no document."""

    kind = Kind.NOT_FOUND


class RunUnknown(DataSyncError):
    """A run has no record."""

    kind = Kind.NOT_FOUND


class RecordingUnknown(DataSyncError):
    """A run has no recording."""

    kind = Kind.NOT_FOUND


class RecordingInvalid(DataSyncError):
    """A recording cannot be read."""


class EntryUnknown(DataSyncError):
    """A tenant has no entry for a flow."""

    kind = Kind.NOT_FOUND


class ActionInvalid(DataSyncError):
    """An action of an operator cannot be asked for like this."""

    kind = Kind.INVALID


class ActionRefused(DataSyncError):
    """An action of an operator is not possible at present."""

    kind = Kind.REFUSED


class ChangedMeanwhile(DataSyncError):
    """Something was changed since an operator saw it, or since an action began.

    Nothing was done, unless the message says that it may have been.
    """

    kind = Kind.CHANGED


class StateInvalid(DataSyncError):
    """A stored state was edited and cannot be read."""


class CronInvalid(DataSyncError):
    """A cron expression cannot be read."""


class JobInvalid(DataSyncError):
    """A queue message is not a job."""


class AnswersInvalid(DataSyncError):
    """A file with the answers for `try` cannot be used."""

    kind = Kind.INVALID


class FlowInvalid(DataSyncError):
    """A flow cannot be registered."""


class FlowUnknown(DataSyncError):
    """No flow has that name."""

    kind = Kind.NOT_FOUND


class CursorInvalid(DataSyncError):
    """The cursor of a flow cannot be kept."""


class LeaseLost(DataSyncError):
    """An attempt no longer holds the lease of its flow: it writes nothing more."""


class FlowSettingsInvalid(DataSyncError):
    """The settings in a tenant's document do not fit the type that the flow declares. Another attempt does not help."""

    def __init__(self, tenant_id: str, flow: str, path: str, why: str) -> None:
        super().__init__(f"{tenant_id:.200}/{flow:.200} {path}: {why.rstrip('.')} (correct the tenant's document)")
        self.path = path
        """The field in the document, such as `flows[2].settings.rules[0].sku`."""
        self.why = why
        """The value found, and the value expected."""


class FlowFailed(DataSyncError):
    """An attempt of a flow raised an exception or ran out of time. The message holds no secret that the run read."""


class ResponseTooLarge(DataSyncError):
    """An answer to a flow has more bytes than its request allows."""

    def __init__(self, host: str, status: int, limit: int) -> None:
        super().__init__(
            f"the answer of {host} (HTTP {status}) has more than {limit:,} bytes. Ask for less at once, or allow "
            "more with extensions=response_limits(max_body=…)"
        )
        self.host = host
        self.status = status
        """The HTTP status of the answer."""
        self.limit = limit
        """In bytes, of the decoded body."""


class PagingFailed(DataSyncError):
    """An API does not say how its pages follow each other, names the same page again, or names one elsewhere."""


class TokenRefused(DataSyncError):
    """The server of an API gave a flow no access token. The message holds no secret that the app has sent."""


class SecretError(DataSyncError):
    """Base of the errors about secrets."""


class SecretRefused(SecretError):
    """A flow asked for a secret outside its tenant, or for a name that Key Vault does not accept."""


class SecretNotFound(SecretError, ResourceNotFoundError):
    """The vault has no such secret. Also a ResourceNotFoundError of azure.core, as the SDK raises."""


class FlowSignal(Exception):
    """Base of the signals that a flow raises to end its run."""


class RetryLater(FlowSignal):
    """Put the job back on the queue, to run again after `delay`: at most 7 days, the limit of the queue."""

    LONGEST = timedelta(days=7)

    def __init__(self, delay: timedelta, reason: str = "") -> None:
        if not isinstance(delay, timedelta):
            raise TypeError(f"RetryLater({delay!r}): expected a timedelta, such as timedelta(minutes=5)")
        if not timedelta() <= delay <= self.LONGEST:
            raise ValueError(f"RetryLater({delay!r}): expected a delay from 0 to 7 days, the limit of the queue")
        super().__init__(reason or f"asked to run again in {delay}")
        self.delay = delay


class GiveUp(FlowSignal):
    """End the run: it is recorded as given up, and no further attempt is made."""

    def __init__(self, reason: str = "the flow gave no reason") -> None:
        super().__init__(reason)


class Continue(FlowSignal):
    """End this part of the run, and run the next part at once, as a message of its own.

    `run.cursor` is kept. With `window_end` (aware, within the run's window), the window counts as done up to there, and
    the next part starts there.
    """

    def __init__(self, window_end: datetime | None = None) -> None:
        if window_end is not None and window_end.utcoffset() is None:
            raise TypeError(f"Continue({window_end!r}): expected an aware datetime, such as run.window.end")
        super().__init__("the next part follows")
        self.window_end = window_end
