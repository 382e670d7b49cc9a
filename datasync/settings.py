"""App settings, read once from the environment, where Azure and `func` put them.

Each account can be given in the two forms that Azure offers: a connection string, or an endpoint that the app reaches
with its identity. A connection string wins, as it does in the Functions host.
"""

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from datasync.errors import SettingsInvalid

HOST_JSON = Path(__file__).parent.parent / "host.json"

_QUEUE_LIMIT = 6 * 86_400  # seconds: a queue hides a message for at most 7 days, and the spread comes on top

_LONGEST_SHOWN = 16  # characters: a longer value may be a key in the wrong setting

_DEVELOPMENT_STORAGE = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    # The key of every storage emulator, published by Microsoft:
    # https://learn.microsoft.com/azure/storage/common/storage-use-azurite#well-known-storage-account-and-key
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
)


DEFAULT_SCHEDULE = "0 0 * * * *"
DEFAULT_QUEUE = "flow-jobs"


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
    cosmos: Account
    key_vault_url: str | None = field(repr=False)
    """None where no vault is configured: only flows that read secrets need one."""
    key_vault_verify_challenge: bool
    """False only for a vault outside Azure's domains, such as the local one."""
    queue_name: str
    cosmos_database: str
    tenants_container: str
    runs_container: str
    run_retention: timedelta
    """How long run records are kept."""
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

        settings = cls(
            storage=account(_storage),
            cosmos=account(_cosmos),
            key_vault_url=read("KEY_VAULT_URI", _https, None),
            key_vault_verify_challenge=read("KEY_VAULT_VERIFY_CHALLENGE", _boolean, default=True),
            queue_name=environ.get("QUEUE_NAME") or DEFAULT_QUEUE,
            cosmos_database=environ.get("COSMOS_DATABASE") or "flowsync",
            tenants_container=environ.get("COSMOS_TENANTS_CONTAINER") or "tenants",
            runs_container=environ.get("COSMOS_RUNS_CONTAINER") or "runs",
            run_retention=timedelta(days=read("RUN_RETENTION_DAYS", _whole(1, 3650), 30)),
            tenants_at_once=read("ORCHESTRATOR_CONCURRENCY", _whole(1, 1000), 32),
            lookahead=timedelta(seconds=read("ORCHESTRATOR_LOOKAHEAD", _whole(0, _QUEUE_LIMIT), 0)),
            spread=timedelta(seconds=read("ORCHESTRATOR_SPREAD", _whole(0, 86_400), 0)),
            concurrency_per_tenant=read("CONCURRENCY_PER_TENANT", _whole(1, 1000), 16),
            max_attempts=read(
                "AzureFunctionsJobHost__extensions__queues__maxDequeueCount",
                _whole(1, 1_000_000),
                _queue_option(host_json, "maxDequeueCount", int, 5),
            ),
            retry_delay=read(
                "AzureFunctionsJobHost__extensions__queues__visibilityTimeout",
                _time_span,
                _queue_option(host_json, "visibilityTimeout", _time_span, timedelta()),
            ),
        )
        if problems:
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
        return Account(setting=name, url=f"https://{text}.queue.core.windows.net")
    raise ValueError(
        "AzureWebJobsStorage: missing. Set it to a storage connection string (UseDevelopmentStorage=true for a "
        "local Azurite), or set AzureWebJobsStorage__accountName to use the app's identity"
    )


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
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"a text of {len(text)} characters"


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    except KeyError:
        raise ValueError(f"expected true or false, got {_harmless(text)}") from None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.strip().isdecimal() and low <= int(text) <= high):
            raise ValueError(f"expected a whole number from {low} to {high}, got {_harmless(text)}")
        return int(text)

    return parse


def _queue_option[T](host_json: Path, option: str, parse: Callable[[Any], T], default: T) -> T:
    """Read `extensions.queues` of host.json; the defaults are those of the host."""
    try:
        return parse(json.loads(host_json.read_bytes())["extensions"]["queues"][option])
    except (OSError, ValueError, LookupError, TypeError):
        return default  # the host itself refuses to start with a host.json it cannot read


def _time_span(text: str) -> timedelta:
    """Read a time span of .NET without days: `00:01:00`."""
    try:
        hours, minutes, seconds = map(float, str(text).split(":"))
    except ValueError:
        raise ValueError(f"expected hours, minutes and seconds such as 00:01:00, got {_harmless(text)}") from None
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)
