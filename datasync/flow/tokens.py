"""The access tokens of a process, each for one tenant."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from datasync.errors import TokenRefused

RECENT = timedelta(seconds=10)
"""A token that was issued within this time is not replaced: an API that refuses all of them must not cost many."""

_KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Token:
    """An access token."""

    value: str
    issued: datetime
    """The instant (aware) at which it was asked for."""
    renew: datetime | None
    """The instant (aware) from which on another one is asked for. None: when the API refuses it."""


@dataclass(slots=True)
class TokenSlot:
    """The place of one access token. The lock is held while another token is asked for."""

    now: Callable[[], datetime]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    token: Token | None = None
    refusals: int = 0
    """How often the server gave no token."""
    refusal: TokenRefused | None = None
    """The last of these errors."""
    replaced: tuple[str, str] | None = None
    """A refresh token of the vault, and the one that the server has issued in its place."""

    @property
    def is_unused(self) -> bool:
        """Whether no token was asked for yet."""
        return self.token is None and self.refusal is None

    def usable(self, instead_of: Token | None = None) -> Token | None:
        """Return the token, unless it is about to expire, or is the one that an API has refused and not recent."""
        now, token = self.now(), self.token
        if token is None or (token.renew and now >= token.renew):
            return None
        return None if token == instead_of and now - token.issued > RECENT else token


class Tokens:
    """The slots of a process."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self._slots = dict[Hashable, TokenSlot]()

    def slot(self, tenant_id: str, system: str, key: Hashable) -> TokenSlot:
        """Return the slot of a tenant for a key within a system. Tenants never share one.

        Of more than 20,000, the oldest are left.
        """
        place = (tenant_id, system, key)
        if place not in self._slots:
            if len(self._slots) >= _KEPT:
                del self._slots[next(iter(self._slots))]
            self._slots[place] = TokenSlot(self.now)
        return self._slots[place]
