"""Decodes JSON objects into structs, and explains the first field that does not fit.

Documents are edited by hand and messages may be posted by hand. Decoding is strict about the fields it reads and
ignores fields it does not know. The expectation of a field is the description of its `msgspec.Meta`.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, get_args

import msgspec

NAME_LIMIT = 200
"""Characters of a name that becomes part of an id."""

NO_SURROGATES = "^[^\ud800-\udfff]*$"
"""Half of a surrogate pair, which JSON can carry, cannot be hashed, logged or stored."""

type Text = Annotated[str, msgspec.Meta(min_length=1, pattern=NO_SURROGATES, description="a text that is not empty")]

_MISSING = object()


class FieldError(ValueError):
    """A field is missing or holds a value that does not fit."""

    def __init__(self, path: str, expected: str, got: object = _MISSING) -> None:
        self.path = path
        """The field within the document, such as `flows[2].cron`; empty for the document as a whole."""
        self.expected = expected
        self.got = got
        super().__init__(f"{path}: {self.why}" if path else self.why)

    @property
    def why(self) -> str:
        """The expectation and the value, without the path."""
        if self.got is _MISSING:
            return f"missing; expected {self.expected}"
        return f"expected {self.expected}, got {shorten(json.dumps(self.got, ensure_ascii=False, default=str))}"


def decode[T: msgspec.Struct](shape: type[T], document: object) -> T:
    """Read a JSON object as a struct.

    Raises:
        FieldError: names the first field that does not fit.

    """
    try:
        return msgspec.convert(document, shape)
    except (msgspec.ValidationError, ValueError, OverflowError):
        raise _fault(shape, document) from None


def unknown_fields(shape: type[msgspec.Struct], document: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """Return the fields of a stored document that a struct does not have, so that they survive when it is written.

    The fields of Cosmos DB itself (`_etag` and others), `id`, `type` and `ttl` are left out.
    """
    known = {*shape.__struct_encode_fields__, "id", "type", "ttl", *without}
    return {name: value for name, value in document.items() if name not in known and not name.startswith("_")}


def _fault(shape: type[msgspec.Struct], document: object) -> FieldError:
    if not isinstance(document, Mapping):
        return FieldError("", "an object", document)
    for field in msgspec.structs.fields(shape):
        name, expected = field.encode_name, _expected(field.type)
        if name not in document:
            if field.required:
                return FieldError(name, expected)
            continue
        try:
            msgspec.convert(document[name], field.type)
        except (msgspec.ValidationError, ValueError, OverflowError):
            return FieldError(name, _whole(expected, document[name]), document[name])
    return FieldError("", f"the fields of a {shape.__name__}", dict(document))


def _whole(expected: str, value: object) -> str:
    halved = isinstance(value, str) and has_half_a_pair(value)
    return f"{expected}, without half of a surrogate pair" if halved else expected


def _expected(type_: Any) -> str:
    """Return the description on a field's type."""
    annotated = getattr(type_, "__value__", type_)
    described = [each.description for each in get_args(annotated) if isinstance(each, msgspec.Meta)]
    return next(filter(None, reversed(described)), "another value")


def is_forbidden_in_ids(text: str) -> bool:
    r"""Return whether a text has a character that the id of a Cosmos DB document cannot hold: one of `/ \ ? #`."""
    return re.search(r"[/\\?#]", text) is not None


def fits_in_id(name: str) -> bool:
    """Return whether a name can be part of the id of a Cosmos DB document, which takes 255 characters."""
    return len(name) <= NAME_LIMIT and not is_forbidden_in_ids(name) and not has_half_a_pair(name)


def has_half_a_pair(text: str) -> bool:
    """Return whether a text has half of a surrogate pair."""
    return re.search("[\ud800-\udfff]", text) is not None


def shorten(text: str, limit: int = 200) -> str:
    """Cut a text for a message or a record, and state its length."""
    text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair cannot be printed
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
