"""What can go wrong while a local part starts.

LocalPartError
├── NodeMissing     Node or the packages it runs are not installed
├── PortTaken       something else listens on the port a part was given
└── StartFailed     a part ended, or said nothing, before it was ready
"""


class LocalPartError(Exception):
    """Base of every error a local part raises while it starts."""


class NodeMissing(LocalPartError):
    """Node or the packages it runs are not installed."""


class PortTaken(LocalPartError):
    """Something else listens on the port a part was given."""

    def __init__(self, part: str, port: int) -> None:
        super().__init__(
            f"{part} cannot listen on port {port}: something else already does. "
            "Stop that first; is it another `make start`?"
        )
        self.part = part
        self.port = port


class StartFailed(LocalPartError):
    """A part ended, or said nothing, before it was ready."""
