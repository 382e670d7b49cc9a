"""Runs of flows for tests: with the real client, secrets, settings and log, and without a database, queue or vault."""

import logging
from collections.abc import Mapping
from contextlib import aclosing
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from types import TracebackType
from typing import Any, Self, override

import httpx

from datasync.errors import Continue, CursorInvalid
from datasync.flow.context import FlowRun, Window
from datasync.flow.ends import NO_CURSOR, cursor_left, signal_in
from datasync.flow.http import new_client, new_transport
from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.flow.registry import Flow, FlowFunction, FlowRegistry
from datasync.flow.secrets import TenantSecretClient
from datasync.flow.tail import Tail
from datasync.flow.usage import HttpUsage
from datasync.model.cursor import normalized
from datasync.model.display import shown
from datasync.model.tenant import Tenant
from datasync.telemetry.emit import logger
from datasync.testing.clock import FakeClock
from datasync.testing.secrets import GivenSecrets

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
"""The end of the window, unless a test gives another."""


@dataclass(slots=True, kw_only=True)
class FakeRun(FlowRun):
    """A run that a test makes. Its flow gets it as `run`."""

    flow: Flow
    kv: TenantSecretClient
    """The secrets of the tenant, as the flow gets them. `kv.reads` has the names of those that it has read."""
    lines: list[str] = field(default_factory=list)
    """The lines that the flow has logged by `run.log`, without secrets."""
    kept: Any = None
    """The cursor that the app would have for the next run: of the last checkpoint, or of the end of the flow."""

    async def call(self) -> None:
        """Run the flow, as an attempt in the app does, but without its time limit.

        If the flow returns or raises Continue, its cursor is kept, and its counts and the end of its part are checked.
        All other exceptions of the flow are raised as they are.

        Raises:
            RetryLater, GiveUp, Continue: the flow has raised this signal, or a group of signals of which it is the one
                that the app follows.
            CursorInvalid, FlowFailed, TypeError, ValueError: the end of the flow cannot be kept. In the app, the
                attempt fails.

        """
        function, tenant, kv = self.flow.function, self.tenant.id, self.kv
        async with aclosing(self.http):
            try:
                await (function(tenant, kv, self) if self.flow.takes_run else function(tenant, kv))
            except Exception as error:
                signal = signal_in(error)
                if isinstance(signal, Continue):
                    self.kept = cursor_left(self, signal.window_end, has_state=self.flow.has_state)
                if signal is None or signal is error:
                    raise
                raise signal from error
            self.kept = cursor_left(self, has_state=self.flow.has_state)


class FakeRuns:
    """Makes runs, as an asynchronous context manager that closes their connections."""

    def __init__(self, network: httpx.AsyncBaseTransport | None = None) -> None:
        """Send the requests of the runs by a transport, below their retries. None is the network."""
        self._transport = new_transport(network)
        self._level = logging.NOTSET

    async def __aenter__(self) -> Self:
        self._level = logger.level
        logger.setLevel(logging.INFO)  # as in the app
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logger.setLevel(self._level)
        await self._transport.aclose()

    def __call__(
        self,
        flow: FlowFunction | Flow,
        *,
        settings: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        tenant: str = "acme",
        timezone: str = "UTC",
        window: Window | None = None,
        cursor: Any = None,
        attempt: int = 1,
        part: int = 1,
        run_id: str = "test-run",
    ) -> FakeRun:
        """Make a run of a flow. Await its `call`, or call the function: `await items(run.tenant.id, run.kv, run)`.

        Args:
            flow: The function of the flow, which the registry of its package knows; or a flow of any registry.
            settings: The settings of the entry, as in the tenant's document.
            secrets: The secrets by name, as the flow declares it: `mysource--api-token`, or `shared--geocoder--key`.
            tenant: The id of the tenant, which is its name too.
            timezone: The time zone of the tenant: an IANA name.
            window: The window (aware). By default, that of a first run: without a start. Its end is the present
                instant of the run, and its scheduled time.
            cursor: The cursor that an earlier run has kept.
            attempt: 1 at the first.
            part: 1 at the first.
            run_id: The id of the run, for flows that use it as an idempotency key.

        Raises:
            FlowUnknown: the function is not a flow.
            FlowSettingsInvalid: the settings do not fit the type that the flow declares.
            TenantInvalid: the tenant's id is not valid.
            CursorInvalid: the cursor is not JSON, or the flow has none.
            ValueError: the name of a secret is not valid, or the window has no time zone.

        """
        flow = flow if isinstance(flow, Flow) else _registry_of(flow).flow_of(flow)
        made = Tenant.from_document(
            {
                "id": tenant,
                "tenantId": tenant,
                "timezone": timezone,
                "flows": [{"name": flow.name, "enabled": True, "cron": "@hourly", "settings": settings}],
            }
        )
        entry = made.entry([flow.name])
        assert entry is not None  # noqa: S101 - it is in the document
        window = _checked(window or Window(start=None, end=NOW), flow)
        clock, redact, lines = FakeClock(window.end), Redaction(), _Lines()
        run = FakeRun(
            flow=flow,
            kv=TenantSecretClient(made.id, GivenSecrets(made.id, secrets or {}, clock.now), redact.add),
            lines=lines.texts,
            run_id=run_id,
            tenant=made,
            flow_name=flow.name,
            settings=flow.decode_settings(made.id, entry),
            scheduled_utc=window.end,
            attempt=attempt,
            part=part,
            window=window,
            http=new_client(self._transport, HttpUsage(clock)),
            log=RunLog(f"{shown(made.id)}/{flow.name}", {"run": run_id, "attempt": attempt}, redact, lines),
            cursor=deepcopy(cursor),
            kept=normalized(cursor),
        )
        if cursor is not None and not flow.has_state:
            raise CursorInvalid(NO_CURSOR)

        async def keep(cursor: Any) -> None:
            if not flow.has_state:
                raise CursorInvalid(NO_CURSOR)
            run.kept = normalized(cursor)

        run.keep = keep
        return run


class _Lines(Tail):
    """All lines of a run."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.texts: list[str] = []

    @override
    def add(self, level: int, text: str) -> None:
        self.texts.append(text)


def _registry_of(function: FlowFunction) -> FlowRegistry:
    """Return the registry of a function's package: that of `flows.registry` for `flows.items`."""
    name = f"{function.__module__.partition('.')[0]}.registry"
    try:
        registry: FlowRegistry = import_module(name).registry
    except ModuleNotFoundError as missing:
        if missing.name != name:
            raise
        return FlowRegistry()
    return registry


def _checked(window: Window, flow: Flow) -> Window:
    """Return a window in UTC."""
    if any(each is not None and each.utcoffset() is None for each in (window.start, window.end)):
        raise ValueError(f"window={window!r}: expected aware times, such as datetime(2026, 1, 31, tzinfo=UTC)")
    if window.start and window.start > window.end:
        raise ValueError(f"window={window!r}: it ends before it starts")
    if window.start and not flow.has_state:
        raise ValueError(f'window={window!r}: a flow with overlap="allow" has no start')
    return Window(start=window.start and window.start.astimezone(UTC), end=window.end.astimezone(UTC))
