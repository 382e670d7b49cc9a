"""The errors of a local part that cannot start.

LocalPartError
├── NodeMissing     Node or its npm packages are not installed
├── PortTaken       the port of a part is in use
├── DataInUse       another stack uses the folder of the data
├── DataDamaged     the kept data of a part cannot be used
└── StartFailed     a part ended, or was not ready in time
"""


class LocalPartError(Exception):
    """Base of the errors of a local part that cannot start."""


class NodeMissing(LocalPartError):
    """Raised when Node or its npm packages are not installed."""


class PortTaken(LocalPartError):
    """Raised when the port of a part is in use."""

    def __init__(self, part: str, port: int) -> None:
        super().__init__(
            f"{part} cannot listen on port {port}: another program uses it. "
            "Stop that program first. Is it another `make start`?"
        )
        self.part = part
        self.port = port


class DataInUse(LocalPartError):
    """Raised when another stack uses the folder of the data."""


class DataDamaged(LocalPartError):
    """Raised when the kept data of a part cannot be used."""


class StartFailed(LocalPartError):
    """Raised when a part ended, or was not ready in time."""
