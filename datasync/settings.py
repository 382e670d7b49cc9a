"""App settings, read once from the environment (which is where Azure and `func` put them).

Every service can be named in the two forms Azure offers: a connection string, or an endpoint that is
reached with the app's identity. A connection string wins, as it does in the Functions host.
"""

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from datasync.errors import SettingsInvalid

HOST_JSON = Path(__file__).parent.parent / "host.json"

_QUEUE_LIMIT = 6 * 86_400  # seconds: a queue hides a message for at most 7 days, and the spread comes on top

_DEVELOPMENT_STORAGE = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    # The key every storage emulator has, published by Microsoft:
    # https://learn.microsoft.com/azure/storage/common/storage-use-azurite#well-known-storage-account-and-key
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
)


def orchestrator_schedule(environ: Mapping[str, str]) -> str:
    """Return the timer's NCRONTAB schedule: ORCHESTRATOR_SCHEDULE, hourly unless set."""
    return environ.get("ORCHESTRATOR_SCHEDULE") or "0 0 * * * *"


def queue_name(environ: Mapping[str, str]) -> str:
    """Return the name of the job queue: QUEUE_NAME, `flow-jobs` unless set."""
    return environ.get("QUEUE_NAME") or "flow-jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where a service is, and how to be let in: a connection string, or a URL for the app's identity."""

    connection_string: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the app is told from outside. docs/operating.md explains each setting."""

    storage: Service
    cosmos: Service
    key_vault_url: str | None
    """None where no vault is configured: only flows that read secrets need one."""
    key_vault_verify_challenge: bool
    """Off only for a vault that is not on Azure's domains, such as the local one."""
    queue_name: str
    cosmos_database: str
    tenants_container: str
    runs_container: str
    run_retention: timedelta
    """How long run records are kept."""
    tenants_at_once: int
    """How many tenants a tick works on concurrently."""
    lookahead: timedelta
    """How far ahead of its own time a tick plans runs, each to appear at its instant; zero: only what is due."""
    spread: timedelta
    """Over how long runs that are due at once are spread."""
    max_attempts: int
    """After how many failed attempts the host moves a job to the poison queue (host.json)."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, host_json: Path = HOST_JSON) -> Self:
        """Read all settings.

        Raises:
            SettingsInvalid: with a line for every setting that is missing or malformed.

        """
        problems: list[str] = []

        def read[T](name: str, parse: Callable[[str], T], default: T) -> T:
            try:
                return parse(environ[name]) if environ.get(name) else default
            except ValueError as why:
                problems.append(f"{name}: {why}")
                return default

        def service(read_one: Callable[[Mapping[str, str]], Service]) -> Service:
            try:
                return read_one(environ)
            except ValueError as why:
                problems.append(str(why))
                return Service()

        settings = cls(
            storage=service(_storage),
            cosmos=service(_cosmos),
            key_vault_url=read("KEY_VAULT_URI", _https, None),
            key_vault_verify_challenge=read("KEY_VAULT_VERIFY_CHALLENGE", _boolean, default=True),
            queue_name=queue_name(environ),
            cosmos_database=environ.get("COSMOS_DATABASE") or "flowsync",
            tenants_container=environ.get("COSMOS_TENANTS_CONTAINER") or "tenants",
            runs_container=environ.get("COSMOS_RUNS_CONTAINER") or "runs",
            run_retention=timedelta(days=read("RUN_RETENTION_DAYS", _whole(1, 3650), 30)),
            tenants_at_once=read("ORCHESTRATOR_CONCURRENCY", _whole(1, 1000), 32),
            lookahead=timedelta(seconds=read("ORCHESTRATOR_LOOKAHEAD", _whole(0, _QUEUE_LIMIT), 0)),
            spread=timedelta(seconds=read("ORCHESTRATOR_SPREAD", _whole(0, 86_400), 0)),
            max_attempts=read(
                "AzureFunctionsJobHost__extensions__queues__maxDequeueCount",
                _whole(1, 1_000_000),
                _max_dequeue_count(host_json),
            ),
        )
        if problems:
            raise SettingsInvalid(
                "\n  ".join(["app settings need attention (local.settings.json, or the Function App):", *problems])
            )
        return settings


def _storage(environ: Mapping[str, str]) -> Service:
    """Read the storage account as the Functions host does, so that both always mean the same one."""
    if text := environ.get("AzureWebJobsStorage"):
        if text.strip().rstrip(";").lower() == "usedevelopmentstorage=true":
            return Service(connection_string=_DEVELOPMENT_STORAGE)
        if not (_part(text, "AccountName") or _part(text, "QueueEndpoint")):
            raise ValueError(
                "AzureWebJobsStorage: not a storage connection string (no AccountName= in it). Copy it from the "
                "storage account's Access keys, or write UseDevelopmentStorage=true for a local Azurite"
            )
        _check_key("AzureWebJobsStorage", text)
        return Service(connection_string=text)
    if text := environ.get("AzureWebJobsStorage__queueServiceUri"):
        return Service(url=_named("AzureWebJobsStorage__queueServiceUri", text))
    if name := environ.get("AzureWebJobsStorage__accountName"):
        return Service(url=f"https://{name}.queue.core.windows.net")
    raise ValueError(
        "AzureWebJobsStorage: missing. Set it to a storage connection string (UseDevelopmentStorage=true for a "
        "local Azurite), or set AzureWebJobsStorage__accountName to use the app's identity"
    )


def _cosmos(environ: Mapping[str, str]) -> Service:
    if text := environ.get("COSMOS_CONNECTION_STRING"):
        for part in ("AccountEndpoint", "AccountKey"):
            if not _part(text, part):
                raise ValueError(
                    f"COSMOS_CONNECTION_STRING: no {part}= in it. Expected "
                    "AccountEndpoint=https://<account>.documents.azure.com:443/;AccountKey=<key>;"
                )
        _check_key("COSMOS_CONNECTION_STRING", text)
        return Service(connection_string=text)
    if text := environ.get("COSMOS_ENDPOINT"):
        return Service(url=_named("COSMOS_ENDPOINT", text))
    raise ValueError(
        "COSMOS_CONNECTION_STRING: missing. Set it to the account's connection string, or set COSMOS_ENDPOINT "
        "to https://<account>.documents.azure.com:443/ to use the app's identity"
    )


def _part(connection_string: str, name: str) -> str:
    """Return the value of a part of a `Name=value;…` string; empty where there is none."""
    parts = (item.partition("=") for item in connection_string.split(";"))
    return next((value for found, _, value in parts if found.strip().lower() == name.lower()), "")


def _check_key(setting: str, connection_string: str) -> None:
    if "<" in connection_string:
        raise ValueError(f"{setting}: the example's <placeholders> are still there. Put in your own")
    try:
        b64decode(_part(connection_string, "AccountKey"), validate=True)
    except ValueError:
        raise ValueError(f"{setting}: its AccountKey is not a key, which is in base64. Copy it anew") from None


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
        got = "a text with '=' in it, such as a connection string" if "=" in text else repr(text)
        raise ValueError(f"expected an https:// address, got {got}")
    return text.strip()


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    except KeyError:
        raise ValueError(f"expected true or false, got {text!r}") from None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.strip().isdecimal() and low <= int(text) <= high):
            raise ValueError(f"expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return parse


def _max_dequeue_count(host_json: Path) -> int:
    """Read `extensions.queues.maxDequeueCount`: 5 unless host.json says otherwise, as in the host."""
    try:
        queues = json.loads(host_json.read_bytes())["extensions"]["queues"]
        return int(queues["maxDequeueCount"])
    except (OSError, ValueError, LookupError, TypeError):
        return 5  # the host itself refuses to start with a host.json it cannot read
