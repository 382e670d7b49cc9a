"""Structs that keep the fields of later versions, at any depth, when this version writes them again.

Their times are in UTC. A person who edits a document may write a time without an offset.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Annotated, Any, Self, TypeAliasType, Union, get_args, get_origin, override

import msgspec
from msgspec.structs import force_setattr

from datasync.model.times import EXPECTED, in_utc

_UNKNOWN = "unknown"


class LenientEnum(StrEnum):
    """A choice in a stored document, or in a message, that a later version may have extended."""

    @classmethod
    @override
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = unknown._value_ = value
        return unknown


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a stored document, or of a message, that a later version may have extended."""

    unknown: dict[str, Any] = {}
    """Fields that this version does not know."""

    def __post_init__(self) -> None:
        """Write the times in UTC. Raises ValueError if one lies outside the years 1 to 9999."""
        for name, encoded in _times(type(self)).items():
            time = getattr(self, name)
            if isinstance(time, datetime) and time.tzinfo is not UTC:
                try:
                    force_setattr(self, name, in_utc(time))
                except OverflowError:
                    raise ValueError(f"{encoded}: expected {EXPECTED}, got {time.isoformat()}") from None

    def content(self) -> dict[str, Any]:
        """Return the JSON object to store, with the unknown fields in their places."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        for field in msgspec.structs.fields(self):
            match getattr(self, field.name):
                case Stored() as part if field.encode_name in fields:
                    fields[field.encode_name] = part.content()
                case tuple() as parts if any(isinstance(part, Stored) for part in parts):
                    fields[field.encode_name] = [part.content() for part in parts]
        fields.pop(_UNKNOWN, None)
        return {**self.unknown, **fields}


def gathered(shape: type[msgspec.Struct], value: object) -> object:
    """Return a JSON object with the fields that a struct does not know in its field `unknown`, at any depth."""
    parts = _stored_parts(shape)
    if not isinstance(value, Mapping) or not (parts or issubclass(shape, Stored)):
        return value
    fields = {name: _gathered_part(parts[name], part) if name in parts else part for name, part in value.items()}
    if not issubclass(shape, Stored):
        return fields
    known = {*shape.__struct_encode_fields__} - {_UNKNOWN}
    own = {name: part for name, part in fields.items() if name in known}
    return {**own, _UNKNOWN: {name: part for name, part in fields.items() if name not in known}}


def _gathered_part(shape: type[Stored], value: object) -> object:
    return [gathered(shape, each) for each in value] if isinstance(value, list) else gathered(shape, value)


@cache
def _stored_parts(shape: type[msgspec.Struct]) -> dict[str, type[Stored]]:
    """Return the fields of a struct that hold such structs, alone or in a list."""
    found = {field.encode_name: _stored_in(field.type) for field in msgspec.structs.fields(shape)}
    return {name: part for name, part in found.items() if part is not None}


def _stored_in(type_: Any) -> type[Stored] | None:
    return next((each for each in _classes(type_) if issubclass(each, Stored)), None)


@cache
def _times(shape: type[Stored]) -> dict[str, str]:
    """Return the fields of a struct that hold a time, with their names in JSON."""
    fields = msgspec.structs.fields(shape)
    return {field.name: field.encode_name for field in fields if datetime in _classes(field.type)}


def _classes(type_: Any) -> Iterator[type]:
    """Yield the classes in a type such as `Annotated[Lease | None, …]` or `tuple[Attempt, ...]`."""
    if isinstance(type_, TypeAliasType):
        yield from _classes(type_.__value__)
    elif get_origin(type_) in (Annotated, Union, UnionType, tuple):
        for each in get_args(type_):
            yield from _classes(each)
    elif isinstance(type_, type):
        yield type_
