"""What a flow's author imports. The rest of the package is the framework's own."""

from datasync.context import FlowRun, Window
from datasync.errors import GiveUp, RetryLater
from datasync.http import IDEMPOTENT
from datasync.registry import FlowRegistry
from datasync.secrets import TenantSecretClient

__all__ = ["IDEMPOTENT", "FlowRegistry", "FlowRun", "GiveUp", "RetryLater", "TenantSecretClient", "Window"]
