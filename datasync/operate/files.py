"""The flows of this app, and the flow files that could not be loaded."""

import msgspec

from datasync.flow.registry import Flow, FlowRegistry


class RegisteredFlow(msgspec.Struct, frozen=True, rename="camel"):
    """A flow that can run."""

    name: str
    aliases: tuple[str, ...]
    module: str
    line: int
    """The place of its code in the module."""
    provider: str | None
    timeout_seconds: float
    overlap: str
    parts: int
    secrets: tuple[str, ...]
    """The names of the secrets that it declares."""
    has_settings: bool
    """Whether it declares the type of its settings."""


class BrokenFile(msgspec.Struct, frozen=True, rename="camel"):
    """A flow file that could not be loaded: its flows do not run."""

    module: str
    cause: str
    """The exception, in one line."""
    traceback: str


class FlowFiles(msgspec.Struct, frozen=True, rename="camel"):
    """The flows by name, and the broken files by module."""

    flows: tuple[RegisteredFlow, ...]
    broken: tuple[BrokenFile, ...]


def flow_files(registry: FlowRegistry) -> FlowFiles:
    """Return the flows and the broken files."""
    return FlowFiles(
        flows=tuple(map(_registered, registry)),
        broken=tuple(
            BrokenFile(module=module, cause=registry.cause(module), traceback=traceback)
            for module, traceback in sorted(registry.broken.items())
        ),
    )


def _registered(flow: Flow) -> RegisteredFlow:
    return RegisteredFlow(
        name=flow.name,
        aliases=flow.aliases,
        module=flow.function.__module__,
        line=int(flow.source.rpartition(":")[2]),
        provider=flow.provider,
        timeout_seconds=flow.timeout.total_seconds(),
        overlap=str(flow.overlap),
        parts=flow.parts,
        secrets=flow.secrets,
        has_settings=flow.settings is not None,
    )
