"""The errors of a local part that cannot start.

LocalPartError
├── NodeMissing     Node or its npm packages are not installed
├── PortTaken       the port of a part is in use
├── DataInUse       another stack uses the folder of the data
├── DataDamaged     the kept data of a part cannot be used
├── InputInvalid    a file of the user cannot be used
├── NotStored       Cosmos DB refused a document
└── StartFailed     a part ended, or was not ready in time
"""

from collections.abc import Sequence


class LocalPartError(Exception):
    """Base of the errors of a local part that cannot start."""


class NodeMissing(LocalPartError):
    """Raised when Node or its npm packages are not installed."""


class PortTaken(LocalPartError):
    """Raised when the port of a part is in use."""

    def __init__(self, taken: Sequence[tuple[str, int, str | None]]) -> None:
        """Make the error from the part, the port and the program that uses it, where that is known."""
        self.taken = tuple(taken)
        lines = [
            f"{part} cannot listen on port {port}: {f'it is used by {owner}' if owner else 'another program uses it'}"
            for part, port, owner in taken
        ]
        remedy = 'Stop that program first, or use other ports: make start ARGS="--ports free"'
        super().__init__("\n".join([*lines, remedy]))


class DataInUse(LocalPartError):
    """Raised when another stack uses the folder of the data."""


class DataDamaged(LocalPartError):
    """Raised when the kept data of a part cannot be used."""


class InputInvalid(LocalPartError):
    """Raised when a file of the user cannot be used."""


class NotStored(LocalPartError):
    """Raised when Cosmos DB refused a document."""


class StartFailed(LocalPartError):
    """Raised when a part ended, or was not ready in time."""
