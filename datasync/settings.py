"""App settings, read once from the environment, where Azure and `func` put them.

Each account can be given in the two forms that Azure offers: a connection string, or an endpoint that the app reaches
with its identity. A connection string wins, as it does in the Functions host.
"""

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from datasync.errors import SettingsInvalid
from datasync.model.display import is_legible, quoted, shown

HOST_JSON = Path(__file__).parent.parent / "host.json"

MOST_LOOKAHEAD = 6 * 86_400
"""Seconds: a queue hides a message for at most 7 days, and the spread comes on top."""
MOST_SPREAD = 86_400
"""Seconds."""

_LONGEST_SHOWN = 16  # characters: a longer value may be a key in the wrong setting

_DEVELOPMENT_STORAGE = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    # The key of every storage emulator, published by Microsoft:
    # https://learn.microsoft.com/azure/storage/common/storage-use-azurite#well-known-storage-account-and-key
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
    "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
)


_QUEUES = "AzureFunctionsJobHost__extensions__queues__"
_ATTEMPTS = f"{_QUEUES}maxDequeueCount"
_PAUSE = f"{_QUEUES}visibilityTimeout"
_TIMEOUT = "AzureFunctionsJobHost__functionTimeout"
_MOST_ATTEMPTS = 1_000_000
_UNLIMITED = timedelta(days=36_500)
_HALF_AN_HOUR = timedelta(minutes=30)
"""The default of the host, but for the Consumption plan, which has five minutes:
https://learn.microsoft.com/azure/azure-functions/functions-scale#timeout"""

_OPENTELEMETRY = ("PYTHON_ENABLE_OPENTELEMETRY", "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY")
"""The settings by which the Python worker of Azure traces. It takes these words for yes and no:
https://github.com/Azure/azure-functions-python-worker (app_setting_manager.py)"""
_YES, _NO = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")

_KNOWN = (
    "AzureWebJobsStorage",
    "AzureWebJobsStorage__accountName",
    "AzureWebJobsStorage__queueServiceUri",
    "COSMOS_CONNECTION_STRING",
    "COSMOS_ENDPOINT",
    "COSMOS_DATABASE",
    "COSMOS_TENANTS_CONTAINER",
    "COSMOS_RUNS_CONTAINER",
    "QUEUE_NAME",
    "KEY_VAULT_URI",
    "KEY_VAULT_VERIFY_CHALLENGE",
    "SECRET_CACHE_SECONDS",
    "ORCHESTRATOR_SCHEDULE",
    "ORCHESTRATOR_LOOKAHEAD",
    "ORCHESTRATOR_SPREAD",
    "ORCHESTRATOR_CONCURRENCY",
    "CONCURRENCY_PER_TENANT",
    "RUN_RETENTION_DAYS",
    "RECORD_FAILURES",
    "DASHBOARD",
    "HEARTBEAT_URL",
    *_OPENTELEMETRY,
    _ATTEMPTS,
    _PAUSE,
    _TIMEOUT,
)
"""The settings that the app reads. It distinguishes capitals, as Linux does."""

# https://learn.microsoft.com/azure/azure-functions/functions-reference#common-properties-for-identity-based-connections
# https://learn.microsoft.com/azure/azure-functions/functions-host-json#queues
_READ_BY_HOST = (
    *(f"AzureWebJobsStorage__{name}ServiceUri" for name in ("blob", "table", "file")),
    *(f"AzureWebJobsStorage__{name}" for name in ("credential", "clientId", "clientSecret", "tenantId")),
    "AzureWebJobsStorage__managedIdentityResourceId",
    *(f"{_QUEUES}{name}" for name in ("batchSize", "newBatchThreshold", "maxPollingInterval", "messageEncoding")),
)
"""Settings that resemble those of the app, and that only the host reads. It does not distinguish capitals:
https://learn.microsoft.com/dotnet/core/extensions/configuration#configuration-keys-and-values"""

_HOST_PREFIXES = ("azurewebjobs", "azurefunctionsjobhost__")

_NAMES_OF_OTHERS = dict.fromkeys(
    ("vaulturi", "vaulturl", "azurekeyvaulturi", "azurekeyvaulturl", "azurekeyvaultendpoint"), "KEY_VAULT_URI"
)
"""Plain names under which other programs have the values of settings. They are right if the setting is there too."""

_OWN_PREFIXES = ("COSMOS_", "KEY_VAULT_", "ORCHESTRATOR_")

DEFAULT_SCHEDULE = "0 0 * * * *"
DEFAULT_QUEUE = "flow-jobs"

type DashboardMode = Literal["off", "key", "entra"]

_DASHBOARD: tuple[DashboardMode, ...] = ("off", "key", "entra")


def dashboard_mode(environ: Mapping[str, str]) -> DashboardMode:
    """Return how the dashboard is protected: DASHBOARD. It is off where the setting is missing or malformed."""
    text = environ.get("DASHBOARD", "").strip().lower()
    return next((mode for mode in _DASHBOARD if mode == text), "off")


def binding(environ: Mapping[str, str], setting: str, default: str) -> str:
    """Return a trigger's property that an app setting may change.

    Returns `%SETTING%` if the setting is set, so that the platform's scale controller can read it while the app is
    asleep. Otherwise returns the default, because the host refuses the name of a setting that is not set.
    """
    return f"%{setting}%" if environ.get(setting) else default


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account of a service: a connection string, or a URL that the app reaches with its identity."""

    setting: str
    """The app setting that names the account."""

    connection_string: str | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)  # a text that was pasted into the wrong setting may be a key


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The app settings. docs/settings.md explains each."""

    storage: Account
    """The account of the queues."""
    recordings: Account
    """The account of the recordings, which is that of the queues: its blobs."""
    cosmos: Account
    key_vault_url: str | None = field(repr=False)
    """None where no vault is configured: only flows that read secrets need one."""
    key_vault_verify_challenge: bool
    """False only for a vault outside Azure's domains, such as the local one."""
    secret_cache: timedelta
    """How long a process keeps the value of a secret, so also how long a rotated secret takes to arrive."""
    queue_name: str = field(repr=False)
    """The queue of the jobs."""
    cosmos_database: str = field(repr=False)
    tenants_container: str = field(repr=False)
    runs_container: str = field(repr=False)
    run_retention: timedelta
    """How long run records are kept."""
    schedule: str
    """The cron of the ticks: ORCHESTRATOR_SCHEDULE, which the host reads and checks."""
    tenants_at_once: int
    """How many tenants a tick works on concurrently."""
    lookahead: timedelta
    """How far ahead a tick plans runs, each for its instant; zero plans only the runs that are due."""
    spread: timedelta
    """The span over which runs that are due at the same time are spread."""
    concurrency_per_tenant: int
    """How many runs of one tenant a process executes at once."""
    max_attempts: int
    """The number of failed attempts of a run. Also that of a message's deliveries, after which the host moves it to the
    poison queue (host.json, `maxDequeueCount`)."""

    retry_delay: timedelta
    """The time between a failed attempt and the next (host.json, `visibilityTimeout`)."""

    heartbeat_url: str | None = field(repr=False)
    """The address that a complete tick calls; None for none."""

    function_timeout: timedelta
    """The time after which the host ends the process of an invocation (host.json, `functionTimeout`)."""
    record_failures: bool = False
    """Whether failed attempts store a recording of their HTTP exchanges."""
    traces: bool = False
    """Whether OpenTelemetry is on."""
    warnings: tuple[str, ...] = ()
    """Probable mistakes: the setting and the reason, without the value."""

    @property
    def poison_queue_name(self) -> str:
        """The queue to which the host moves the messages that have failed for the last time."""
        return f"{self.queue_name}-poison"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, host_json: Path = HOST_JSON) -> Self:
        """Read all settings.

        Raises:
            SettingsInvalid: has a line for each setting that is missing or malformed.

        """
        problems: list[str] = []

        def read[T](name: str, parse: Callable[[str], T], default: T) -> T:
            try:
                return parse(environ[name]) if environ.get(name) else default
            except ValueError as why:
                problems.append(f"{name}: {why}")
                return default

        def account(read_one: Callable[[Mapping[str, str]], Account]) -> Account:
            try:
                return read_one(environ)
            except ValueError as why:
                problems.append(str(why))
                return Account(setting="")

        storage = account(_storage)
        settings = cls(
            storage=storage,
            recordings=account(partial(_blobs, storage)),
            cosmos=account(_cosmos),
            key_vault_url=read("KEY_VAULT_URI", _https, None),
            key_vault_verify_challenge=read("KEY_VAULT_VERIFY_CHALLENGE", _boolean, default=True),
            secret_cache=timedelta(seconds=read("SECRET_CACHE_SECONDS", _whole(0, 3600), 300)),
            queue_name=read("QUEUE_NAME", _queue_name, DEFAULT_QUEUE),
            cosmos_database=read("COSMOS_DATABASE", _cosmos_name, "flowsync"),
            tenants_container=read("COSMOS_TENANTS_CONTAINER", _cosmos_name, "tenants"),
            runs_container=read("COSMOS_RUNS_CONTAINER", _cosmos_name, "runs"),
            run_retention=timedelta(days=read("RUN_RETENTION_DAYS", _whole(1, 3650), 30)),
            schedule=environ.get("ORCHESTRATOR_SCHEDULE") or DEFAULT_SCHEDULE,
            tenants_at_once=read("ORCHESTRATOR_CONCURRENCY", _whole(1, 1000), 32),
            lookahead=timedelta(seconds=read("ORCHESTRATOR_LOOKAHEAD", _whole(0, MOST_LOOKAHEAD), 0)),
            spread=timedelta(seconds=read("ORCHESTRATOR_SPREAD", _whole(0, MOST_SPREAD), 0)),
            concurrency_per_tenant=read("CONCURRENCY_PER_TENANT", _whole(1, 1000), 16),
            max_attempts=read(
                _ATTEMPTS,
                _whole(1, _MOST_ATTEMPTS),
                _host_option(host_json, _ATTEMPTS, lambda value: _whole(1, _MOST_ATTEMPTS)(str(value)), 5),
            ),
            retry_delay=read(_PAUSE, _time_span, _host_option(host_json, _PAUSE, _time_span, timedelta())),
            function_timeout=read(_TIMEOUT, _limit, _host_option(host_json, _TIMEOUT, _limit, _HALF_AN_HOUR)),
            heartbeat_url=_heartbeat_url(environ),
            record_failures=read("RECORD_FAILURES", _boolean, default=False),
            traces=any(environ.get(name, "").strip().lower() in _YES for name in _OPENTELEMETRY),
            warnings=tuple(_warnings(environ)),
        )
        if settings.tenants_container == settings.runs_container:
            problems.append("COSMOS_RUNS_CONTAINER: is the container of the tenants too. Name two containers")
        if problems:
            problems += [f"{why} (warning)" for why in settings.warnings]
            heading = "correct these app settings (in local.settings.json, or in the Function App):"
            raise SettingsInvalid("\n  ".join([heading, *problems]))
        return settings


def _storage(environ: Mapping[str, str]) -> Account:
    """Read the storage account as the Functions host does, so that both use the same one."""
    if text := environ.get("AzureWebJobsStorage"):
        if text.strip().rstrip(";").lower() == "usedevelopmentstorage=true":
            return Account(setting="AzureWebJobsStorage", connection_string=_DEVELOPMENT_STORAGE)
        if not (_part(text, "AccountName") or _part(text, "QueueEndpoint")):
            raise ValueError(
                "AzureWebJobsStorage: not a storage connection string (no AccountName= in it). Copy it from the "
                "storage account's Access keys, or write UseDevelopmentStorage=true for a local Azurite"
            )
        _check_key("AzureWebJobsStorage", text)
        return Account(setting="AzureWebJobsStorage", connection_string=text)
    if text := environ.get(name := "AzureWebJobsStorage__queueServiceUri"):
        return Account(setting=name, url=_named(name, text))
    if text := environ.get(name := "AzureWebJobsStorage__accountName"):
        if not _ACCOUNT.fullmatch(text):
            got = "an address" if {"/", "."} & set(text) else _harmless(text)
            raise ValueError(
                f"{name}: expected the name of the storage account, 3 to 24 small letters and digits, got {got}"
            )
        return Account(setting=name, url=f"https://{text}.queue.core.windows.net")
    raise ValueError(
        "AzureWebJobsStorage: missing. Set it to a storage connection string (UseDevelopmentStorage=true for a "
        "local Azurite), or set AzureWebJobsStorage__accountName to use the app's identity"
    )


def _blobs(storage: Account, environ: Mapping[str, str]) -> Account:
    """Return the account of the queues as the account of its blobs, as the Functions host does."""
    if storage.url is None:
        return storage
    if text := environ.get(name := "AzureWebJobsStorage__blobServiceUri"):
        return Account(setting=name, url=_named(name, text))
    return Account(setting=storage.setting, url=storage.url.replace(".queue.", ".blob.", 1))


def _cosmos(environ: Mapping[str, str]) -> Account:
    if text := environ.get("COSMOS_CONNECTION_STRING"):
        for part in ("AccountEndpoint", "AccountKey"):
            if not _part(text, part):
                raise ValueError(
                    f"COSMOS_CONNECTION_STRING: no {part}= in it. Expected "
                    "AccountEndpoint=https://<account>.documents.azure.com:443/;AccountKey=<key>;"
                )
        _check_key("COSMOS_CONNECTION_STRING", text)
        return Account(setting="COSMOS_CONNECTION_STRING", connection_string=text)
    if text := environ.get(name := "COSMOS_ENDPOINT"):
        return Account(setting=name, url=_named(name, text))
    raise ValueError(
        "COSMOS_CONNECTION_STRING: missing. Set it to the account's connection string, or set COSMOS_ENDPOINT "
        "to https://<account>.documents.azure.com:443/ to use the app's identity"
    )


def _warnings(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each setting that is probably misspelt, or has no effect."""
    yield from _optional_warnings(environ)
    plain = {_plain(name): name for name in (*_KNOWN, *_READ_BY_HOST)}
    read_by_host = {name.lower() for name in _READ_BY_HOST}
    for name in environ:
        if name in _KNOWN or len(name) > _LONGEST_NAME or name.lower() in read_by_host:
            continue
        elsewhere = _NAMES_OF_OTHERS.get(_plain(name))
        close = get_close_matches(_plain(name), plain, n=1, cutoff=0.85)
        is_of_host = name.lower().startswith(_HOST_PREFIXES)
        what = f"{shown(name)}: {'the app does not know it' if is_of_host else 'unknown, and has no effect'}"
        if elsewhere:
            if not environ.get(elsewhere):
                yield f"{what}; did you mean {elsewhere}?"
        elif close:
            yield f"{what}; did you mean {plain[close[0]]}?"
        elif name.startswith(_OWN_PREFIXES):
            yield f"{what}. docs/settings.md lists the settings"
    for used, unused in (
        ("COSMOS_CONNECTION_STRING", "COSMOS_ENDPOINT"),
        ("AzureWebJobsStorage", "AzureWebJobsStorage__accountName"),
        ("AzureWebJobsStorage", "AzureWebJobsStorage__queueServiceUri"),
    ):
        if environ.get(used) and environ.get(unused):
            yield f"{unused}: has no effect, since {used} is set: remove one of them"


def _optional_warnings(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each malformed setting that flows do not need."""
    text = environ.get("DASHBOARD", "")
    if text.strip() and text.strip().lower() not in _DASHBOARD:
        yield f"DASHBOARD: expected {', '.join(_DASHBOARD[:-1])} or {_DASHBOARD[-1]}, got {_harmless(text)}: it is off"
    if environ.get("HEARTBEAT_URL") and _heartbeat_url(environ) is None:
        yield "HEARTBEAT_URL: expected an https:// address: no request is sent"
    for name in _OPENTELEMETRY:
        if environ.get(name) and environ[name].strip().lower() not in (*_YES, *_NO):
            yield f"{name}: expected true or false, got {_harmless(environ[name])}: it counts as false"


def _heartbeat_url(environ: Mapping[str, str]) -> str | None:
    try:
        return _https(environ.get("HEARTBEAT_URL", ""))
    except ValueError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


# https://learn.microsoft.com/azure/storage/common/storage-account-overview#storage-account-name
_ACCOUNT = re.compile("[a-z0-9]{3,24}")
# https://learn.microsoft.com/rest/api/storageservices/naming-queues-and-metadata#queue-names
_QUEUE = re.compile("(?=.{3,56}$)[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST_NAME = 100


def _queue_name(text: str) -> str:
    if not _QUEUE.fullmatch(text):
        raise ValueError(
            "expected 3 to 56 small letters, digits and single hyphens inside (the poison queue has -poison too), "
            f"got {_harmless(text)}"
        )
    return text


def _cosmos_name(text: str) -> str:
    if text != text.strip() or not is_legible(text) or re.search(r"[/\\?#]", text):
        raise ValueError(f"expected a name without / \\ ? # and without blanks around it, got {_harmless(text)}")
    return text


def _part(connection_string: str, name: str) -> str:
    """Return the value of a part of a `Name=value;…` string; empty where the part is missing."""
    parts = (item.partition("=") for item in connection_string.split(";"))
    return next((value for found, _, value in parts if found.strip().lower() == name.lower()), "")


def _check_key(setting: str, connection_string: str) -> None:
    if "<" in connection_string:
        raise ValueError(f"{setting}: the example's <placeholders> are still there. Put in your own")
    try:
        b64decode(_part(connection_string, "AccountKey"), validate=True)
    except ValueError:
        raise ValueError(f"{setting}: its AccountKey is not in base64. Copy the connection string again") from None


def _named(name: str, text: str) -> str:
    try:
        return _https(text)
    except ValueError as why:
        raise ValueError(f"{name}: {why}") from None


def _https(text: str) -> str:
    if "<" in text:
        raise ValueError("the example's <placeholders> are still there. Put in your own, or leave the setting out")
    parts = urlsplit(text.strip())
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"expected an https:// address, got {_harmless(text)}")
    return text.strip()


def _harmless(text: str) -> str:
    """Quote the value of a setting, unless it may be a key: that is never printed."""
    if "=" in text:
        return "a text with '=' in it, such as a connection string"
    return quoted(text) if len(text) <= _LONGEST_SHOWN else f"a text of {len(text)} characters"


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    except KeyError:
        raise ValueError(f"expected true or false, got {_harmless(text)}") from None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.strip()
        if not (re.fullmatch("[0-9]{1,18}", digits) and low <= int(digits) <= high):
            raise ValueError(f"expected a whole number from {low} to {high}, got {_harmless(text)}")
        return int(digits)

    return parse


def _host_option[T](host_json: Path, setting: str, parse: Callable[[Any], T], default: T) -> T:
    """Read an option of host.json by the app setting that overrides it; the defaults are those of the host."""
    try:
        option: Any = json.loads(host_json.read_bytes())
        for name in setting.split("__")[1:]:
            option = option[name]
        return parse(option)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return default  # the host itself refuses to start with a host.json it cannot read


def _limit(text: str) -> timedelta:
    return _UNLIMITED if str(text).strip() == "-1" else _time_span(text)


def _time_span(text: str) -> timedelta:
    """Read a time span of .NET without days: `00:01:00`."""
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2}(?:\.[0-9]{1,7})?)", str(text).strip())
    if not found:
        raise ValueError(f"expected hours, minutes and seconds such as 00:01:00, got {_harmless(str(text))}")
    hours, minutes, seconds = map(float, found.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)
