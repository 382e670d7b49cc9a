"""Describes the JSON that a type accepts, in words: `a whole number from 1 to 5`, `one of 'a', 'b'`, `a list`."""

from collections.abc import Iterable
from typing import Any, get_args

from msgspec import Meta, inspect

from datasync.model import times

_PLAIN: dict[type[inspect.Type], str] = {
    inspect.AnyType: "any value",
    inspect.NoneType: "null",
    inspect.BoolType: "true or false",
    inspect.BytesType: "a text in base64",
    inspect.DateTimeType: times.EXPECTED,
    inspect.DateType: "a date such as 2025-08-23",
    inspect.TimeType: "a time of day such as 13:45:00",
    inspect.TimeDeltaType: "a duration such as PT1H30M",
    inspect.UUIDType: "a UUID",
    inspect.DecimalType: "a number",
    inspect.StructType: "an object",
}


def expected(type_: Any) -> str:
    """Describe the JSON value of a type: with the description of its `msgspec.Meta`, or with words for its kind."""
    described = [each.description for each in get_args(type_) if isinstance(each, Meta) and each.description]
    return described[-1] if described else _words(inspect.type_info(type_))


def one_of(values: Iterable[object]) -> str:
    """Return a choice of values: `one of 'a', 'b'`."""
    listed = [*map(repr, values)]
    return f"one of {', '.join(listed)}" if len(listed) > 1 else listed[0]


def _words(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata(type=inner, extra_json_schema=schema):
            return (schema or {}).get("description") or _words(inner)
        case inspect.IntType() | inspect.FloatType():
            return _number(info)
        case inspect.StrType():
            return _text(info)
        case inspect.UnionType() | inspect.LiteralType() | inspect.EnumType():
            return _choice(info)
    return _PLAIN.get(type(info)) or _container(info)


def _choice(info: inspect.UnionType | inspect.LiteralType | inspect.EnumType) -> str:
    match info:
        case inspect.UnionType(types=types):
            return " or ".join(dict.fromkeys(map(_words, types)))
        case inspect.LiteralType(values=values):
            return one_of(values)
        case inspect.EnumType(cls=enum):
            return one_of(member.value for member in enum)


def _number(info: inspect.IntType | inspect.FloatType) -> str:
    kind = "a whole number" if isinstance(info, inspect.IntType) else "a number"
    if info.ge is not None and info.le is not None:
        return f"{kind} from {info.ge} to {info.le}"
    bounds = {"of at least": info.ge, "above": info.gt, "of at most": info.le, "below": info.lt}
    limits = [f"{words} {bound}" for words, bound in bounds.items() if bound is not None]
    if info.multiple_of is not None:
        limits.append(f"divisible by {info.multiple_of}")
    return " ".join([kind, " and ".join(limits)]).rstrip()


def _text(info: inspect.StrType) -> str:
    if info.pattern is not None:
        return f"a text that matches {info.pattern}"
    if info.min_length == 1 and info.max_length is None:
        return "a text that is not empty"
    return f"a text{_length(info.min_length, info.max_length, 'character')}"


def _container(info: inspect.Type) -> str:
    match info:
        case inspect.DictType(key_type=inspect.StrType(min_length=None, max_length=None, pattern=None)):
            return f"an object{_length(info.min_length, info.max_length, 'field')}"
        case inspect.DictType(key_type=key):
            return f"an object in which each name is {_words(key)}"
        case inspect.TupleType(item_types=parts) | inspect.NamedTupleType(fields=parts):
            return f"a list of {len(parts)} values"
        case inspect.CollectionType(min_length=least, max_length=most):
            return f"a list{_length(least, most, 'value')}"
        case inspect.DataclassType(cls=cls) | inspect.TypedDictType(cls=cls):
            return f"an object with the fields of {cls.__name__}"
    return "another value"


def _length(least: int | None, most: int | None, unit: str) -> str:
    if least is not None and most is not None:
        return f" of {least} to {most} {unit}s"
    if least is not None:
        return f" of at least {least} {unit}{'' if least == 1 else 's'}"
    return "" if most is None else f" of at most {most} {unit}{'' if most == 1 else 's'}"
