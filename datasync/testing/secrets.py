"""The vault of a test: it has the secrets that the test gives."""

from collections.abc import Callable, Hashable, Mapping
from datetime import datetime, timedelta
from typing import Any, override

from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.secrets import KeyVaultSecret, SecretProperties
from azure.keyvault.secrets.aio import SecretClient

from datasync.errors import SecretNotFound
from datasync.flow.options import secrets_mistakes
from datasync.flow.secrets import SecretRead, Vault, declared_secret
from datasync.flow.tokens import Token, Tokens, TokenSlot

_URL = "https://test.vault.azure.net"


class GivenSecrets(Vault):
    """A vault with the secrets of one tenant, and shared ones."""

    def __init__(self, tenant_id: str, secrets: Mapping[str, object], now: Callable[[], datetime]) -> None:
        """Make the vault.

        Args:
            tenant_id: The tenant.
            secrets: The values by name, as a flow declares it: `mysource--api-token`, or `shared--…`.
            now: Returns the present instant (aware).

        Raises:
            ValueError: a name is not that of a secret, or a value is not a text.

        """
        if mistakes := "; ".join(secrets_mistakes((*secrets,))):
            raise ValueError(mistakes)
        values = dict[str, str]()
        for name, value in secrets.items():
            if not isinstance(value, str):
                raise ValueError(f"secrets: the value of {name!r} must be a text, got {value!r}")  # noqa: TRY004 - as above
            values[declared_secret(tenant_id, name).lower()] = value
        super().__init__(lambda: _Client(values), now, timedelta(minutes=5))
        self.tokens = _GivenTokens(now, values)

    @override
    async def get(self, name: str, version: str | None = None, fresh_after: datetime | None = None) -> SecretRead:
        try:
            return await super().get(name, version, fresh_after)
        except SecretNotFound as error:
            error.add_note(
                "A test gives the secrets of its run: fake_run(…, secrets={'mysource--api-token': 'a token'})"
            )
            raise


class _GivenTokens(Tokens):
    """The access tokens of a process that has got some before: the secret `{system}--access-token` is one."""

    def __init__(self, now: Callable[[], datetime], secrets: Mapping[str, str]) -> None:
        super().__init__(now)
        self._secrets = secrets

    @override
    def slot(self, tenant_id: str, system: str, key: Hashable) -> TokenSlot:
        slot = super().slot(tenant_id, system, key)
        given = self._secrets.get(declared_secret(tenant_id, f"{system}--access-token").lower())
        if given and slot.is_unused:
            slot.token = Token(given, self.now() - timedelta(hours=1), renew=None)
        return slot


class _Client(SecretClient):
    """A SecretClient that reads a dictionary."""

    def __init__(self, values: Mapping[str, str]) -> None:
        # No super().__init__: there is no vault to connect to.
        self._values = values

    @property
    @override
    def vault_url(self) -> str:
        return _URL

    @override
    async def get_secret(self, name: str, version: str | None = None, **_: Any) -> KeyVaultSecret:
        if name.lower() not in self._values:
            raise ResourceNotFoundError(f"{name} is not there")
        return KeyVaultSecret(SecretProperties(vault_id=f"{_URL}/secrets/{name}/1"), self._values[name.lower()])

    @override
    async def close(self) -> None:
        """Do nothing: nothing is open."""
