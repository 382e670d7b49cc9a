"""The error of the local host."""

from localdev.errors import LocalPartError


class HostError(LocalPartError):
    """Raised when the host cannot start or continue. The message names the cause, its value and the remedy."""
