"""The registry of flows, which the `@flow` decorator fills. A broken flow file disables only its own flows."""

import importlib
import inspect
import json
import pkgutil
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec

from datasync.errors import FlowInvalid, FlowSettingsInvalid, FlowUnknown
from datasync.flow.options import Cooldown, Overlap, option_mistakes, settings_schema
from datasync.model.decode import NAME_LIMIT, FieldError, decode, fits_in_id
from datasync.model.display import is_legible, quoted
from datasync.model.tenant import FLEET, FlowEntry
from datasync.telemetry.emit import emit
from datasync.telemetry.events import FlowFileBroken
from datasync.version import VERSION

type FlowFunction = Callable[..., Awaitable[None]]

DEFAULT_TIMEOUT = timedelta(minutes=10)
"""Time limit of one attempt. It is below host.json's functionTimeout, after which the host restarts the worker."""

DEFAULT_PARTS = 100
LARGEST_SETTINGS = 256_000
"""Bytes of JSON. To convert 2 MB, the size of a document, keeps the event loop for half a second."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A registered flow."""

    name: str
    function: FlowFunction
    aliases: tuple[str, ...]
    timeout: timedelta
    takes_run: bool
    """Whether the function takes the third parameter, `run`."""
    overlap: Overlap
    parts: int
    """The most parts of one run."""
    settings: type[msgspec.Struct] | None
    """The type of `run.settings`; None for a dict."""
    secrets: tuple[str, ...]
    """Names of the secrets that it reads: `system--key` within the tenant, or `shared--…`."""
    provider: str | None
    cooldown: Cooldown

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return (self.name, *self.aliases)

    @property
    def has_state(self) -> bool:
        """Whether its runs share a window and a cursor, in the state of the flow. Overlapping runs have neither."""
        return self.overlap is not Overlap.ALLOW

    @property
    def source(self) -> str:
        """The place of its code: `flows/weather.py:12`."""
        code = inspect.unwrap(self.function).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"

    def cooldown_partition(self, tenant_id: str) -> str:
        """Return the partition with the cool-downs of its provider: the tenant's, or that of the fleet."""
        return FLEET if self.cooldown == "provider" else tenant_id

    def decode_settings(self, tenant_id: str, entry: FlowEntry) -> Any:
        """Return the settings of an entry as the declared type; the dict where the flow declares none.

        Raises:
            FlowSettingsInvalid: they do not fit, and the error names the first field that does not; or they have more
                than 256 KB.

        """
        if self.settings is None:
            return entry.settings
        path = f"flows[{entry.index}].settings"
        if (size := _size(entry.settings)) > LARGEST_SETTINGS:
            why = f"{size:,} bytes as JSON; at most {LARGEST_SETTINGS:,} are converted: keep large data elsewhere"
            raise FlowSettingsInvalid(tenant_id, self.name, path, why)
        try:
            return decode(self.settings, entry.settings, path)
        except FieldError as error:
            raise FlowSettingsInvalid(tenant_id, self.name, error.path, error.why) from None
        except Exception as error:  # noqa: BLE001 - __post_init__ is the author's code, and a tick runs it
            why = f"{self.settings.__name__} cannot be made from them ({type(error).__name__}: {error})"
            raise FlowSettingsInvalid(tenant_id, self.name, path, why) from None


def _size(settings: dict[str, Any]) -> int:
    try:
        return len(msgspec.json.encode(settings))
    except UnicodeEncodeError:  # half a surrogate pair
        return len(json.dumps(settings))


class FlowRegistry:
    """The flows by name. `flows/registry.py` makes the only instance."""

    def __init__(self) -> None:
        self._flows: dict[str, Flow] = {}
        self.broken: dict[str, str] = {}
        """Modules that could not be imported: name → traceback."""
        self._folders: list[Path] = []
        self._loaded: dict[Path, int] = {}
        """The files as they were loaded: path → time of the last change."""

    def flow[F: FlowFunction](
        self,
        name: str,
        *,
        aliases: tuple[str, ...] = (),
        timeout: timedelta = DEFAULT_TIMEOUT,
        overlap: Literal["once", "skip", "allow"] = "once",
        parts: int = DEFAULT_PARTS,
        settings: type[msgspec.Struct] | None = None,
        secrets: tuple[str, ...] = (),
        provider: str | None = None,
        cooldown: Cooldown = "tenant",
    ) -> Callable[[F], F]:
        r"""Register the decorated coroutine function under a public name; the function itself stays as it is.

        Args:
            name: The name of the flow in tenant documents. A printable text of up to 200 characters without `/ \ ? #`.
            aliases: Former names. Documents that hold one keep working.
            timeout: The longest an attempt may take. It is cancelled then, and counts as failed.
            overlap: The rule for a run that meets another of the same flow and tenant. `once`: it is skipped, and the
                other's end sends one more. `skip`: it is skipped. `allow`: both run.
            parts: The most parts of one run, from 1 to 1000.
            settings: A `msgspec.Struct` type. `run.settings` is decoded to it. An entry whose settings do not fit is a
                problem of the document, and does not run.
            secrets: Names of the secrets that the flow reads: `system--key` for
                `tenants--{tenantId}--system--key`, or `shared--…`. The flow may read others too.
            provider: A short name of the API that the flow calls: up to 64 letters, digits, `.`, `_` and `-`.
            cooldown: The runs that wait when the provider asks for a pause: those of the `tenant`, or those of all
                tenants (`provider`).

        Raises:
            FlowInvalid: the name, an option or the signature is not valid; the message names the flow and its file.

        """
        if not isinstance(name, str):
            raise FlowInvalid(f'@flow needs a name: @flow("my-source→my-target"), not {name!r}')
        options: dict[str, Any] = {
            "aliases": aliases,
            "timeout": timeout,
            "overlap": overlap,
            "parts": parts,
            "settings": settings,
            "secrets": secrets,
            "provider": provider,
            "cooldown": cooldown,
        }

        def register(function: F) -> F:
            place = inspect.getsourcefile(function) or "?"
            if mistakes := "; ".join(option_mistakes(**options)):
                raise FlowInvalid(f"flow {name!r} in {place}: {mistakes}")
            for one in (name, *aliases):
                if why := name_mistake(one):
                    raise FlowInvalid(f"flow {quoted(one)} in {place}: {why}")
                if taken := self._flows.get(one):
                    raise FlowInvalid(
                        f"flow {one!r} in {place} is already registered by {taken.source}: "
                        "give one of them another name"
                    )
            takes_run = _takes_run(name, function, place)
            flow = Flow(name=name, function=function, takes_run=takes_run, **{**options, "overlap": Overlap(overlap)})
            self._flows.update(dict.fromkeys(flow.names, flow))
            return function

        return register

    def resolve(self, name: str) -> Flow:
        """Return the flow of that name or alias.

        Raises:
            FlowUnknown: no flow has that name; the message has a similar name where there is one, the known flows,
                every broken file with its cause, and the files that this process has not loaded as they are now.

        """
        if flow := self._flows.get(name):
            return flow
        similar = "".join(f"; did you mean {each!r}?" for each in get_close_matches(name, self._flows, n=1))
        known = ", ".join(repr(flow.name) for flow in self) or "none"
        causes = "".join(f"; {module} could not be loaded: {self.cause(module)}" for module in self.broken)
        newer = "".join(f"; {file} was changed after this process started: restart it" for file in self._changed())
        raise FlowUnknown(f"no flow is named {quoted(name)}{similar or '.'} Known flows: {known}{causes}{newer}")

    def flow_of(self, function: FlowFunction) -> Flow:
        """Return the flow that a function was registered as.

        Raises:
            FlowUnknown: it was not registered here.

        """
        for flow in self:
            if flow.function == function:
                return flow
        name = f"{function.__module__}.{function.__qualname__}"
        raise FlowUnknown(f'{name} is not a flow. Decorate it with @flow("…"), from the registry of its package')

    def names_of(self, flow: str) -> tuple[str, ...]:
        """Return the names under which a flow has entries and states: its own and its aliases.

        Of an unknown flow, that is the given name alone.
        """
        found = self._flows.get(flow)
        return found.names if found else (flow,)

    def cause(self, module: str) -> str:
        """Return the last line of a broken module's traceback: the exception, the file and the line."""
        return self.broken[module].strip().splitlines()[-1]

    @property
    def fingerprint(self) -> str:
        """A hash of the version, the flows and the broken files: a change may change the problems of documents."""
        names = sorted(f"{name}={flow.name}" for name, flow in self._flows.items())
        lines = [VERSION, *names, *map(_declaration, self), *sorted(self.broken)]
        return sha256("\n".join(lines).encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Flow]:
        """Iterate over the flows, each once, in the order of their names."""
        return iter(sorted(set(self._flows.values()), key=lambda flow: flow.name))

    def load(self, package: ModuleType) -> None:
        """Import every module of a package. A module that fails is kept in `broken`, without its flows."""
        self._folders = [Path(folder) for folder in package.__path__]
        self._loaded = self._files()
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            try:
                importlib.import_module(module.name)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a flow file never stops the others
                # Flows of other files, which this file may have imported first, stay.
                self._flows = {n: flow for n, flow in self._flows.items() if flow.function.__module__ != module.name}
                name, text = module.name, _own_traceback(error)
                self.broken[name] = text
                emit(FlowFileBroken(module=name, cause=self.cause(name), traceback=text))

    def _changed(self) -> list[str]:
        """Return the files that were changed or added since they were loaded, as `flows/x.py`."""
        return [f"{path.parent.name}/{path.name}" for path, at in self._files().items() if self._loaded.get(path) != at]

    def _files(self) -> dict[Path, int]:
        found: dict[Path, int] = {}
        for path in (path for folder in self._folders for path in sorted(folder.glob("*.py"))):
            with suppress(FileNotFoundError):  # deleted since it was listed
                found[path] = path.stat().st_mtime_ns
        return found


def _declaration(flow: Flow) -> str:
    """Describe the settings and secrets that a flow declares: the same text in every process."""
    schema = settings_schema(flow.settings) if flow.settings else ""
    return f"{flow.name} settings={schema} secrets={','.join(flow.secrets)}"


def _own_traceback(error: BaseException) -> str:
    """Return the traceback, without the frames of the import before the flow file."""
    at = error.__traceback__
    while at and (at.tb_frame.f_code.co_filename == __file__ or "importlib" in at.tb_frame.f_code.co_filename):
        at = at.tb_next
    lines = traceback.format_exception(type(error), error, at)
    if isinstance(error, SyntaxError):
        lines[-1] = f"SyntaxError: {error}"  # the text names the file and the line
    elif at:
        lines[-1] = f"{lines[-1].rstrip()} ({Path(at.tb_frame.f_code.co_filename).name}, line {at.tb_lineno})"
    return "".join(lines).rstrip()


def name_mistake(name: object) -> str | None:
    """Return the reason why a value cannot be the name of a flow; None if it can."""
    if not isinstance(name, str) or not name or name != name.strip() or not is_legible(name):
        return "a name is a printable text without blanks around it"
    if not fits_in_id(name):
        return f"a name has at most {NAME_LIMIT} characters and none of / \\ ? # (it becomes part of a Cosmos DB id)"
    return None


def _takes_run(name: str, function: object, place: str) -> bool:
    """Check the signature of a flow's function; return whether it takes `run`."""
    if not inspect.iscoroutinefunction(function):
        raise FlowInvalid(
            f"flow {name!r} in {place}: {getattr(function, '__name__', function)!s} must be `async def`; "
            "one blocking call would stall every other flow of the process"
        )
    parameters = [*inspect.signature(function).parameters.values()]
    positional = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    if len(positional) not in (2, 3) or len(positional) != len(parameters):
        raise FlowInvalid(
            f"flow {name!r} in {place}: the signature is {function.__name__}{inspect.signature(function)}; "
            "expected (tenant_id: str, kv: SecretClient) or (tenant_id: str, kv: SecretClient, run: FlowRun)"
        )
    return len(positional) == 3  # noqa: PLR2004
