"""The public API for authors of flows. Everything else in the package belongs to the framework."""

from datasync.errors import Continue, GiveUp, ResponseTooLarge, RetryLater
from datasync.flow.context import FlowRun, Window
from datasync.flow.http import IDEMPOTENT, READ
from datasync.flow.registry import FlowRegistry
from datasync.flow.responses import response_limits
from datasync.flow.secrets import TenantSecretClient

__all__ = [
    "IDEMPOTENT",
    "READ",
    "Continue",
    "FlowRegistry",
    "FlowRun",
    "GiveUp",
    "ResponseTooLarge",
    "RetryLater",
    "TenantSecretClient",
    "Window",
    "response_limits",
]
