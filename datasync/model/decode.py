"""Decodes JSON objects into structs, and explains the first field that does not fit.

Documents are edited by hand and messages may be posted by hand. Decoding is strict about the fields it reads and
ignores fields it does not know, unless the struct forbids them. The expectation of a field is the description of its
`msgspec.Meta`, or words for its type.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from itertools import batched
from types import GenericAlias, UnionType
from typing import Annotated, Any, TypeAliasType, Union, get_args, get_origin

import msgspec

from datasync.model.expected import expected, one_of
from datasync.model.stored import gathered

NAME_LIMIT = 200
"""Characters of a name that becomes part of an id."""

NO_SURROGATES = "^[^\ud800-\udfff]*$"
"""Half of a surrogate pair, which JSON can carry, cannot be hashed, logged or stored."""

type Text = Annotated[str, msgspec.Meta(min_length=1, pattern=NO_SURROGATES, description="a text that is not empty")]

SHORT = 200
"""Characters of a value in a message."""

_MISSING = object()
_BATCH = 500  # parts of an object or a list that are converted at once, to find the one that does not fit


class FieldError(ValueError):
    """A field is missing or unknown, or holds a value that does not fit."""

    def __init__(self, path: str, expected: str = "", got: object = _MISSING, *, why: str | None = None) -> None:
        self.path = path
        """The field within the document, such as `flows[2].cron`; empty for the document as a whole."""
        self.why = why or _unexpected(expected, got)
        """The expectation and the value, without the path."""
        super().__init__(f"{path}: {self.why}" if path else self.why)


def _unexpected(expected: str, got: object) -> str:
    if got is _MISSING:
        return f"missing; expected {expected}"
    if isinstance(got, str) and has_half_a_pair(got):
        expected = f"{expected}, without half of a surrogate pair"
    text = _start_of(got)
    # Characters that move or hide others are escaped.
    return f"expected {expected}, got {text if text.isprintable() else _start_of(got, ensure_ascii=True)}"


def _start_of(value: object, *, ensure_ascii: bool = False) -> str:
    """Return the start of a value in JSON. An object or a list may have millions of parts, and is not written whole."""
    if not isinstance(value, Mapping | list):
        return shorten(json.dumps(value, ensure_ascii=ensure_ascii, default=str))
    text = ""
    for piece in json.JSONEncoder(ensure_ascii=ensure_ascii, default=str).iterencode(value):
        text += piece[: SHORT + 1]
        if len(text) > SHORT:
            return f"{shorten(text[:SHORT])}…"
    return shorten(text)


def decode[T: msgspec.Struct](shape: type[T], document: object, path: str = "", *, explains: bool = True) -> T:
    """Read a JSON object as a struct. The path of an error begins with `path`.

    Raises:
        FieldError: names the first field that does not fit, at any depth. Without `explains`, it names the object only,
            which takes a fraction of the time.

    """
    try:
        return _convert(gathered(shape, document), shape)
    except _REFUSALS as error:
        if not explains:
            raise FieldError(path, _expected(shape)) from None
        raise _fault(shape, document, path, error) from None


def own_fields(document: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """Return the fields of a stored document without those of Cosmos DB (`_etag` and others), `id`, `type` and `ttl`.

    The ETag, where there is one, becomes the field `etag`.
    """
    others = {"id", "type", "ttl", *without}
    own = {name: value for name, value in document.items() if name not in others and not name.startswith("_")}
    return {**own, "etag": document.get("_etag")}


_REFUSALS = (msgspec.ValidationError, ValueError, OverflowError)


def _convert[T](value: object, type_: type[T]) -> T:
    return msgspec.convert(value, type_, str_keys=True)


def _fault(type_: Any, value: object, path: str, refusal: Exception) -> FieldError:
    """Return the first fault within a value that msgspec refuses to convert."""
    try:
        for part_path, part_type, part in _parts(type_, value, path):
            try:
                _convert(part, part_type)
            except _REFUSALS as error:
                return _fault(part_type, part, part_path, error)
    except FieldError as fault:
        return fault
    if refusal.__cause__:  # an error that __post_init__ of a struct has raised
        return FieldError(path, why=str(refusal.__cause__))
    return FieldError(path, _expected(type_), value)


def _parts(type_: Any, value: object, path: str) -> Iterator[tuple[str, Any, object]]:
    """Yield the path, the type and the value of each part of an object or a list.

    Raises:
        FieldError: a field is missing or unknown.

    """
    members = _members(type_)  # of which msgspec allows one kind of object and one kind of list
    structs = [each for each in members if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    containers = [(get_origin(each), get_args(each)) for each in members if isinstance(get_origin(each), type)]
    if isinstance(value, Mapping):
        if structs:
            yield from _fields(_meant(structs, value, path), value, path)
        for kind, arguments in containers:
            if issubclass(kind, Mapping):
                yield from _unfit_members(arguments, value, path)
    if isinstance(value, list):
        for kind, arguments in containers:
            if kind is tuple and ... not in arguments:
                parts = zip(arguments, value, strict=False)
                yield from ((f"{path}[{at}]", part_type, part) for at, (part_type, part) in enumerate(parts))
            elif issubclass(kind, Collection) and not issubclass(kind, Mapping):
                yield from _unfit_items(arguments[0], value, path)


def _unfit_members(types: tuple[Any, ...], value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, object]]:
    """Yield the members of an object, without batches of them that fit."""
    for batch in batched(value.items(), _BATCH, strict=False):
        if not _fits(dict(batch), GenericAlias(dict, types)):
            yield from ((joined(path, name), types[1], part) for name, part in batch)


def _unfit_items(type_: Any, value: list[Any], path: str) -> Iterator[tuple[str, Any, object]]:
    """Yield the items of a list, without batches of them that fit."""
    for start in range(0, len(value), _BATCH):
        batch = value[start : start + _BATCH]
        if not _fits(batch, GenericAlias(list, type_)):
            yield from ((f"{path}[{at}]", type_, part) for at, part in enumerate(batch, start))


def _fits(value: object, type_: Any) -> bool:
    try:
        _convert(value, type_)
    except _REFUSALS:
        return False
    return True


def _members(type_: Any) -> list[Any]:
    """Return the members of a union, or the type alone, without aliases and annotations."""
    if isinstance(type_, TypeAliasType):
        return _members(type_.__value__)
    if get_origin(type_) is Annotated:
        return _members(get_args(type_)[0])
    if get_origin(type_) in (Union, UnionType):
        return [member for each in get_args(type_) for member in _members(each)]
    return [type_]


def _meant(structs: list[type[msgspec.Struct]], value: Mapping[str, Any], path: str) -> type[msgspec.Struct]:
    """Return the struct that an object is meant for: of tagged structs, the one that it names."""
    tags = {each.__struct_config__.tag: each for each in structs}
    field = structs[0].__struct_config__.tag_field
    if field is None or (len(structs) == 1 and field not in value):
        return structs[0]
    got = value.get(field, _MISSING)
    if not isinstance(got, str | int) or got not in tags:
        raise FieldError(joined(path, field), one_of(tags), got)
    return tags[got]


def _fields(struct: type[msgspec.Struct], value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, object]]:
    fields = _struct_fields(struct)
    config = struct.__struct_config__
    if config.forbid_unknown_fields:
        known = {field.encode_name for field in fields}
        for name in value.keys() - known - {config.tag_field}:
            raise FieldError(joined(path, name), why=_unknown(name, known))
    for field in fields:
        if field.encode_name in value:
            yield joined(path, field.encode_name), field.type, value[field.encode_name]
        elif field.required:
            raise FieldError(joined(path, field.encode_name), _expected(field.type))


@cache
def _struct_fields(struct: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(struct)


_described: dict[int, tuple[Any, str]] = {}
"""Types and their descriptions by `id()`, as not every type can be hashed. A document may have many mistakes."""


def _expected(type_: Any) -> str:
    known, words = _described.get(id(type_), (None, ""))
    if known is not type_:
        words = expected(type_)
        _described[id(type_)] = (type_, words)
    return words


def _unknown(name: str, known: Collection[str]) -> str:
    if close := get_close_matches(name, known, n=1):
        return f"unknown setting {name!r}; did you mean {close[0]!r}?"
    return f"unknown setting {shorten(name)!r}; expected {one_of(sorted(known)) if known else 'no settings'}"


def joined(path: str, name: str) -> str:
    """Return the path of a field: `settings.rules`, or `settings["a b"]` for a name that is not a short word."""
    if not re.fullmatch(r"[\w-]{1,100}", name):
        return f"{path}[{json.dumps(shorten(name), ensure_ascii=not name.isprintable())}]"
    return f"{path}.{name}" if path else name


def is_forbidden_in_ids(text: str) -> bool:
    r"""Return whether a text has a character that the id of a Cosmos DB document cannot hold: one of `/ \ ? #`."""
    return re.search(r"[/\\?#]", text) is not None


def fits_in_id(name: str) -> bool:
    """Return whether a name can be part of the id of a Cosmos DB document, which takes 255 characters."""
    return len(name) <= NAME_LIMIT and not is_forbidden_in_ids(name) and not has_half_a_pair(name)


def has_half_a_pair(text: str) -> bool:
    """Return whether a text has half of a surrogate pair."""
    return re.search("[\ud800-\udfff]", text) is not None


def shorten(text: str, limit: int = SHORT) -> str:
    """Cut a text for a message or a record, and state its length."""
    text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair cannot be printed
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
