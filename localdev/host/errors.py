"""What the local host raises when it cannot start or go on: LocalPartError ← HostError."""

from localdev.errors import LocalPartError


class HostError(LocalPartError):
    """The host cannot start or go on; the message names the thing, its value and the remedy."""
