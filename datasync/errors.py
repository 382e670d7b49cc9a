"""Every error DataSync raises. A message names the thing, the value, and what to do.

DataSyncError
├── SettingsInvalid      an app setting is missing or malformed
├── ServiceUnavailable   Cosmos DB, the queue or Key Vault refused or could not be reached
├── TenantInvalid        a tenant document cannot be used as it is
├── TenantUnknown        no document for that tenant
├── StateInvalid         what is remembered of a flow was edited, and cannot be read any more
├── CronInvalid          a cron expression cannot be read
├── JobInvalid           a queue message is not a job
├── FlowInvalid          a flow was refused at registration
├── FlowUnknown          no flow of that name is registered
├── FlowFailed           an attempt of a flow ended in an exception or ran out of time
└── SecretError
    ├── SecretRefused    a flow asked for a name outside its tenant, or one no vault accepts
    └── SecretNotFound   the vault has no such secret

Signals a flow raises to say how its run ends; they are not failures:

FlowSignal
├── RetryLater           put the job back on the queue, to run again after a delay
└── GiveUp               end the job for good; no more attempts
"""

from datetime import timedelta

from azure.core.exceptions import ResourceNotFoundError


class DataSyncError(Exception):
    """Base of every error DataSync raises."""


class SettingsInvalid(DataSyncError):
    """An app setting is missing or malformed."""


class ServiceUnavailable(DataSyncError):
    """A service DataSync depends on refused the request or could not be reached."""


class TenantInvalid(DataSyncError):
    """A tenant document cannot be used as it is."""


class TenantUnknown(DataSyncError):
    """There is no document for a tenant."""


class StateInvalid(DataSyncError):
    """What is remembered of a flow of a tenant cannot be read."""


class CronInvalid(DataSyncError):
    """A cron expression cannot be read."""


class JobInvalid(DataSyncError):
    """A queue message is not a job."""


class FlowInvalid(DataSyncError):
    """A flow was refused at registration."""


class FlowUnknown(DataSyncError):
    """No flow of that name is registered."""


class FlowFailed(DataSyncError):
    """An attempt of a flow ended in an exception or ran out of time. No secret the run read is in it."""

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(reason)
        self.traceback = traceback
        """That of the flow's own exception, as text."""


class SecretError(DataSyncError):
    """A secret could not be given to a flow."""


class SecretRefused(SecretError):
    """A flow asked for a secret outside its own tenant, or by a name no vault accepts."""


class SecretNotFound(SecretError, ResourceNotFoundError):
    """The vault has no such secret. Also an azure.core ResourceNotFoundError, as the SDK would raise."""


class FlowSignal(Exception):
    """Base of what a flow raises to say how its run ends."""


class RetryLater(FlowSignal):
    """Put the job back on the queue, to run again after `delay`: at most 7 days, the queue's limit."""

    LONGEST = timedelta(days=7)

    def __init__(self, delay: timedelta, reason: str = "") -> None:
        if not isinstance(delay, timedelta):
            raise TypeError(f"RetryLater({delay!r}): expected a timedelta, such as timedelta(minutes=5)")
        if not timedelta() <= delay <= self.LONGEST:
            raise ValueError(
                f"RetryLater({delay!r}): expected a delay from 0 to 7 days, which is as long as a queue waits"
            )
        super().__init__(reason or f"asked to run again in {delay}")
        self.delay = delay


class GiveUp(FlowSignal):
    """End the job for good: it is recorded as given up, and not attempted again."""

    def __init__(self, reason: str = "the flow gave no reason") -> None:
        super().__init__(reason)
