"""The SecretClient of a flow: the secrets of its own tenant, which the process caches."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NoReturn, Self, override
from urllib.parse import urlsplit

from async_lru import alru_cache
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.keyvault.secrets import KeyVaultSecret
from azure.keyvault.secrets.aio import SecretClient

from datasync.errors import SecretNotFound, SecretRefused, ServiceUnavailable, ServiceUnreachable
from datasync.flow.tokens import Tokens, TokenSlot
from datasync.model.decode import shorten

RECENT = timedelta(seconds=10)
"""A value read within this time is not read again, so that failing runs do not flood the vault."""

_CLOCK_DIFFERENCE = timedelta(seconds=15)  # between two processes
_CACHED = 20_000
_LONG = 1_000  # characters of a secret, whose forms take 10 ms to make
_SHARED = "shared--"
_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")  # the names that Key Vault accepts


type Holder = Callable[[str], Awaitable[str]]
"""Returns the tenant that uses an id, in any case of its letters."""


@dataclass(frozen=True, slots=True)
class SecretRead:
    """A secret, and the instant (aware) at which the vault was asked for it."""

    secret: KeyVaultSecret
    at: datetime


class Vault:
    """The secrets of one Key Vault, cached. One instance per process: a vault answers 4,000 reads in 10 seconds.

    `tokens` are the access tokens that flows got for these secrets.
    """

    def __init__(
        self,
        connect: Callable[[], SecretClient],
        now: Callable[[], datetime],
        time_to_live: timedelta,
    ) -> None:
        """Make the vault without connecting: reading the first secret calls `connect`.

        `time_to_live` is the time for which a value is kept. With zero, each reader asks the vault.
        """
        self._connect = connect
        self._now = now
        self._connected: SecretClient | None = None
        self.tokens = Tokens(now)
        # Concurrent readers of one name, in any case, share one request; a failure is not kept.
        self._read_cached = alru_cache(
            maxsize=_CACHED if time_to_live else 0,
            ttl=time_to_live.total_seconds(),
            key=lambda name, version: (name.lower(), version),
        )(self._read)

    async def get(self, name: str, version: str | None = None, fresh_after: datetime | None = None) -> SecretRead:
        """Return a secret from the vault or the cache.

        Args:
            name: The name in the vault, compared without regard to case.
            version: One version of the secret; None is the newest.
            fresh_after: The instant (aware) at which an API refused the credentials of a run, in any process. A value
                that was read before it is read again.

        Raises:
            SettingsInvalid: no vault is configured.
            SecretNotFound: the vault has no such secret.
            ServiceUnavailable: the vault refused or could not be reached.

        """
        read = await self._read_cached(name, version)
        if fresh_after and read.at < min(fresh_after + _CLOCK_DIFFERENCE, self._now() - RECENT):
            self._read_cached.cache_invalidate(name, version)
            read = await self._read_cached(name, version)
        return read

    async def ping(self) -> None:
        """Try the vault. Raises as `get` does; a missing secret is not an error."""
        with suppress(SecretNotFound):
            await self.get("shared--datasync-check")

    async def names(self) -> list[str]:
        """Return the names of all secrets, 25 in a request. No value is read.

        Raises:
            SettingsInvalid: no vault is configured.
            ServiceUnavailable: the vault refused or could not be reached.

        """
        try:
            return [str(each.name) async for each in self.client.list_properties_of_secrets()]
        except AzureError as error:
            raise ServiceUnavailable(
                f"Key Vault did not list the names of its secrets: {_first_line(error)}. Give your identity the role "
                "Key Vault Secrets User, or check KEY_VAULT_URI and the network",
                "Key Vault",
                error.status_code if isinstance(error, HttpResponseError) else None,
            ) from None

    @property
    def client(self) -> SecretClient:
        """The client of the whole vault, made at its first use."""
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    async def _read(self, name: str, version: str | None) -> SecretRead:
        client, at = self.client, self._now()
        try:
            return SecretRead(await client.get_secret(name, version), at)
        except ResourceNotFoundError:
            raise SecretNotFound(
                f"secret {name!r} is not in {client.vault_url}. Add it: {command_to_set(name, client.vault_url)}"
            ) from None
        except HttpResponseError as error:
            raise ServiceUnavailable(_refused(client, name, error), "Key Vault") from None
        except AzureError as error:
            raise ServiceUnreachable(
                f"Key Vault {client.vault_url} could not be reached to read {name!r}: "
                f"{_first_line(error)}. Check KEY_VAULT_URI and the network",
                "Key Vault",
            ) from None

    async def close(self) -> None:
        """Forget every value, and close the client."""
        await self._read_cached.cache_close()
        if self._connected is not None:
            await self._connected.close()


def command_to_set(name: str, vault_url: str | None) -> str:
    """Return the command that sets a secret: that of `make start` if the vault is on this machine."""
    if _is_local(vault_url):
        return f"python -m localdev secret set {name} <value>"
    return f"az keyvault secret set --vault-name <vault> --name {name} --value <value>"


def command_to_delete(name: str, vault_url: str | None) -> str:
    """Return the command that deletes a secret: that of `make start` if the vault is on this machine."""
    if _is_local(vault_url):
        return f"python -m localdev secret delete {name}"
    return f"az keyvault secret delete --vault-name <vault> --name {name}"


def _is_local(vault_url: str | None) -> bool:
    return urlsplit(vault_url or "").hostname in ("127.0.0.1", "localhost", "::1")


def _refused(client: SecretClient, name: str, error: HttpResponseError) -> str:
    remedy = (
        "Enable the secret if it is disabled; otherwise give the app's identity the role Key Vault Secrets User"
        if error.status_code in (401, 403, None)
        else "It will be tried again"
    )
    return f"Key Vault {client.vault_url} refused to give {name!r}: {_first_line(error)}. {remedy}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


class TenantSecretClient(SecretClient):
    """A SecretClient that reads `tenants--{tenantId}--…` and `shared--…`, and nothing else.

    It guards against mistakes, not against attackers: flows run in one process.
    """

    def __init__(
        self,
        tenant_id: str,
        vault: Vault,
        on_read: Callable[[str, str | None], None],
        fresh_after: datetime | None = None,
        holder: Holder | None = None,
    ) -> None:
        """Make the client of one attempt.

        Args:
            tenant_id: The tenant whose secrets it reads.
            vault: Reads and caches them.
            on_read: Called with the name (within the tenant) and the value of each secret, in a thread if the value has
                more than 1,000 characters.
            fresh_after: The instant (aware) at which an API refused the credentials of an earlier attempt. Values that
                were read before it are read again. None uses cached values.
            holder: Returns the tenant whose secrets they are. None asks nobody.

        """
        # No super().__init__: it would build an HTTP pipeline for each run. The vault has one.
        self._tenant_id = tenant_id
        self._vault = vault
        self._on_read = on_read
        self._fresh_after = fresh_after
        self._holder = holder
        self._reads: dict[str, datetime] = {}

    @property
    def reads(self) -> Mapping[str, datetime]:
        """The secrets that the attempt has read: name (within the tenant) → the instant the vault was asked for it."""
        return MappingProxyType(self._reads)

    @property
    @override
    def vault_url(self) -> str:
        return self._vault.client.vault_url

    @override
    async def get_secret(self, name: str, version: str | None = None, **_: Any) -> KeyVaultSecret:
        """Return a secret of this tenant, or a shared one.

        Raises:
            SecretRefused: the name belongs to another tenant, or Key Vault does not accept the name or the version, or
                another tenant uses the same id in other letters.
            SecretNotFound: the vault has no such secret.
            SettingsInvalid: no vault is configured.
            ServiceUnavailable: the vault or Cosmos DB refused or could not be reached.

        """
        check_name(self._tenant_id, name)
        if version and not _NAME.fullmatch(version):
            raise SecretRefused(
                f"secret {name!r}: {shorten(version)!r} is not a version, which has letters and digits: "
                "leave it out to get the newest"
            )
        if not name.startswith(_SHARED):
            await self._check_claim(name)
        read = await self._vault.get(name, version or None, self._fresh_after)
        within = name.removeprefix(_prefix(self._tenant_id))
        await self.redact(within, read.secret.value or "")
        self._reads[within] = read.at
        return read.secret

    async def secret(self, system: str, key: str) -> str:
        """Return the value of `tenants--{tenantId}--{system}--{key}`; raises as `get_secret` does."""
        return (await self.get_secret(tenant_secret(self._tenant_id, system, key))).value or ""

    async def redact(self, name: str, value: str) -> None:
        """Replace a value by `<name>` in the log, the record and the errors of the run, as the secrets that it reads.

        For secrets that do not come from the vault, such as the session that an API has opened.
        """
        if len(value) > _LONG:
            await asyncio.to_thread(self._on_read, name, value)
        else:
            self._on_read(name, value)

    def read_again(self) -> None:
        """Read values again that were read more than ten seconds ago: an API has refused them."""
        self._fresh_after = self._vault.tokens.now()

    def token_slot(self, system: str, key: Hashable) -> TokenSlot:
        """Return the place in which the process keeps an access token of this tenant for a system."""
        return self._vault.tokens.slot(self._tenant_id, system, key)

    async def _check_claim(self, name: str) -> None:
        """Refuse a secret that Key Vault would give to another tenant as well."""
        holder = await self._holder(self._tenant_id) if self._holder else self._tenant_id
        if holder != self._tenant_id:
            raise SecretRefused(
                f"secret {name!r}: the tenant ids {self._tenant_id!r} and {holder!r} differ only in case, and Key "
                f"Vault does not distinguish them. {holder!r} was first: give tenant {self._tenant_id!r} another id"
            )

    @override
    async def close(self) -> None:
        """Do nothing: the vault's client is shared."""

    @override
    async def __aenter__(self) -> Self:
        return self

    @override
    async def __aexit__(self, *args: object) -> None:
        """Do nothing: the vault's client is shared."""


def check_name(tenant_id: str, name: str) -> None:
    """Check that a flow of a tenant may read a secret of this name.

    Raises:
        SecretRefused: the name belongs to another tenant, or Key Vault does not accept it.

    """
    if not _NAME.fullmatch(name):
        raise SecretRefused(
            f"secret {name!r}: Key Vault takes names of 1 to 127 letters, digits and '-'. "
            "Change the tenant's id, or the name that the flow asks for"
        )
    if name.startswith(_SHARED):
        return
    if "--" in tenant_id or tenant_id.startswith("-") or tenant_id.endswith("-"):
        raise SecretRefused(
            f"secret {name!r}: the tenant id {tenant_id!r} cannot be part of a secret's name, where '--' separates "
            "the parts: use letters, digits and single '-' inside"
        )
    if not name.startswith(_prefix(tenant_id)):
        raise SecretRefused(
            f"secret {name!r}: a flow of tenant {tenant_id!r} reads names that start with {_prefix(tenant_id)!r} "
            "or 'shared--'"
        )


def tenant_secret(tenant_id: str, system: str, key: str) -> str:
    """Return the name of a tenant's secret: `tenants--{tenantId}--{system}--{key}`."""
    return f"{_prefix(tenant_id)}{system}--{key}"


def declared_secret(tenant_id: str, name: str) -> str:
    """Return the name in the vault of a secret that a flow declares: `system--key` of the tenant, or `shared--…`."""
    return name if name.startswith(_SHARED) else f"{_prefix(tenant_id)}{name}"


def _prefix(tenant_id: str) -> str:
    return f"tenants--{tenant_id}--"


def _refuse(operation: str) -> Callable[..., NoReturn]:
    def refused(self: TenantSecretClient, *_: object, **__: object) -> NoReturn:
        raise SecretRefused(
            f"kv.{operation}: the client of a flow only reads secrets (get_secret, secret), "
            f"here for tenant {self._tenant_id!r}"
        )

    return refused


# Every other operation of a SecretClient would reach beyond the tenant, in this version of the SDK and the next.
for _operation, _ in inspect.getmembers(SecretClient, callable):
    if not _operation.startswith("_") and _operation not in vars(TenantSecretClient):
        setattr(TenantSecretClient, _operation, _refuse(_operation))
