"""The options of the `@flow` decorator, and the mistakes in them."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal

import msgspec

from datasync.errors import SecretRefused
from datasync.flow.secrets import check_name, declared_secret


class Overlap(StrEnum):
    """The rule for a run that meets another run of the same flow and tenant."""

    ONCE = "once"
    """It is skipped, and the other's end sends one more."""
    SKIP = "skip"
    """It is skipped."""
    ALLOW = "allow"
    """Both run."""


type Cooldown = Literal["tenant", "provider"]
"""The runs that wait when a provider asks for a pause: those of the tenant, or those of all tenants."""

MOST_PARTS = 1000

_PROVIDER = re.compile(r"[0-9A-Za-z._-]{1,64}")
_PART = "[0-9A-Za-z]+(?:-[0-9A-Za-z]+)*"
_SECRET = re.compile(f"(?!(?i:tenants)--){_PART}(?:--{_PART})+")
_SHORTEST_TENANT = "t"


def option_mistakes(
    *,
    aliases: object,
    timeout: object,
    overlap: object,
    parts: object,
    settings: object,
    secrets: object,
    provider: object,
    cooldown: object,
) -> Iterator[str]:
    """Yield a sentence for each option with a wrong value: the option, the value, and the value expected."""
    if not isinstance(aliases, tuple):
        yield f"aliases={aliases!r} must be a tuple of names: ({aliases!r},)"
    if not isinstance(timeout, timedelta) or timeout <= timedelta():
        yield f"timeout={timeout!r} must be a timedelta above zero"
    if overlap not in [*Overlap]:
        yield f"overlap={overlap!r} must be one of {_listed(Overlap)}"
    if not isinstance(parts, int) or isinstance(parts, bool) or not 1 <= parts <= MOST_PARTS:
        yield f"parts={parts!r} must be a whole number from 1 to {MOST_PARTS}"
    yield from _settings_mistakes(settings)
    yield from secrets_mistakes(secrets)
    yield from _cooldown_mistakes(provider, cooldown)


def settings_schema(settings: type[msgspec.Struct]) -> str:
    """Return the JSON schema of a settings type without its default values: the same text in every process.

    Raises:
        TypeError, NameError: a field has a type that JSON cannot be decoded to, or one that is not defined.

    """
    return json.dumps(_without_defaults(msgspec.json.schema(settings)), sort_keys=True)


def _without_defaults(schema: Any, *, are_names: bool = False) -> Any:
    """Remove the default values, since the order of a set differs between processes."""
    if isinstance(schema, list):
        return [_without_defaults(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_defaults(value, are_names=not are_names and key in ("properties", "$defs"))
        for key, value in schema.items()
        if are_names or key != "default"
    }


def _settings_mistakes(settings: object) -> Iterator[str]:
    if settings is None:
        return
    if not isinstance(settings, type) or not issubclass(settings, msgspec.Struct):
        yield (
            f"settings={settings!r} must be a msgspec.Struct type, such as `class Rules(msgspec.Struct)`. "
            "A union or another type can be the type of one of its fields"
        )
        return
    try:
        settings_schema(settings)
    except (TypeError, NameError) as error:
        why = " ".join(str(error).split())
        yield (
            f"settings={settings.__name__} has a field that JSON cannot be decoded to. "
            f"Change its type, or define the type before the flow: {why}"
        )


def secrets_mistakes(secrets: object) -> Iterator[str]:
    """Yield a sentence for each name that is not that of a secret: `system--key` within the tenant, or `shared--…`."""
    if not isinstance(secrets, tuple):
        yield f'secrets={secrets!r} must be a tuple of names, such as ("mysource--api-token",)'
        return
    for name in secrets:
        if not isinstance(name, str) or not _SECRET.fullmatch(name):
            yield (
                f"secrets: {name!r} must be the name of a secret within the tenant, such as 'mysource--api-token', or "
                "'shared--…': letters, digits and '-', with '--' between the parts"
            )
            continue
        try:
            check_name(_SHORTEST_TENANT, declared_secret(_SHORTEST_TENANT, name))
        except SecretRefused:
            yield f"secrets: {name!r} is too long; Key Vault takes names of 127 characters, the tenant's id included"


def _cooldown_mistakes(provider: object, cooldown: object) -> Iterator[str]:
    if provider is not None and not (isinstance(provider, str) and _PROVIDER.fullmatch(provider)):
        yield f"provider={provider!r} must be a name of up to 64 letters, digits, '.', '_' and '-', such as 'mysource'"
    if cooldown not in ("tenant", "provider"):
        yield f"cooldown={cooldown!r} must be one of {_listed(('tenant', 'provider'))}"
    elif cooldown == "provider" and provider is None:
        yield "cooldown='provider' needs a provider: add provider=, such as provider='mysource'"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(repr(str(value)) for value in values)
