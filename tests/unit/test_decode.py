"""The first field that does not fit a type: its exact path, the expectation in words, and the value."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta

from datasync.model.decode import FieldError, decode


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Item(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    sku: str
    unit_price: Annotated[float, Meta(gt=0)] = 1
    tags: list[str] = []


class Fixed(msgspec.Struct, tag="fixed"):
    amount: int


class Free(msgspec.Struct):
    note: Any


class Percent(msgspec.Struct, tag="percent"):
    percent: int


class Span(msgspec.Struct):
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"first={self.first} must not be above last={self.last}")


@dataclass
class Point:
    x: int


class Place(TypedDict):
    city: str


class Pair(NamedTuple):
    left: int
    right: int


type Amount = Annotated[int, Meta(description="an amount in cents")]


class Everything(msgspec.Struct):
    flag: bool = False
    whole: int = 0
    number: float = 0
    text: str = ""
    filled: Annotated[str, Meta(min_length=1)] = "x"
    short: Annotated[str, Meta(max_length=3)] = ""
    sized: Annotated[str, Meta(min_length=2, max_length=3)] = "xx"
    digits: Annotated[str, Meta(pattern=r"^\d+$")] = "1"
    share: Annotated[int, Meta(ge=1, le=5)] = 1
    positive: Annotated[int, Meta(ge=1)] = 1
    even: Annotated[int, Meta(gt=0, multiple_of=2)] = 2
    amount: Amount = 0
    budget: Amount | None = None
    size: Literal["s", "m"] = "s"
    only: Literal["x"] = "x"
    color: Color = Color.RED
    price: Decimal = Decimal(0)
    at: datetime | None = None
    day: date | None = None
    hour: time | None = None
    length: timedelta | None = None
    key: UUID | None = None
    raw: bytes = b""
    either: int | str = 0
    item: Item | None = None
    items: list[Item] = []
    some: Annotated[list[int], Meta(min_length=1)] = msgspec.field(default_factory=lambda: [1])
    unique: set[int] = set()
    pair: tuple[int, str] = (1, "a")
    many: tuple[int, ...] = ()
    prices: dict[str, float] = {}
    by_number: dict[int, str] = {}
    by_size: dict[Literal["s", "m"], int] = {}
    nested: dict[str, list[Item]] = {}
    discount: Fixed | Percent | None = None
    single: Fixed | None = None
    span: Span | None = None
    free: Free | None = None
    point: Point | None = None
    place: Place | None = None
    tuple_: Pair | None = None


@pytest.mark.parametrize(
    ("document", "path", "why"),
    [
        ({"flag": "yes"}, "flag", 'expected true or false, got "yes"'),
        ({"whole": 1.5}, "whole", "expected a whole number, got 1.5"),
        ({"whole": True}, "whole", "expected a whole number, got true"),
        ({"number": "100"}, "number", 'expected a number, got "100"'),
        ({"text": None}, "text", "expected a text, got null"),
        ({"filled": ""}, "filled", 'expected a text that is not empty, got ""'),
        ({"short": "long"}, "short", 'expected a text of at most 3 characters, got "long"'),
        ({"sized": "x"}, "sized", 'expected a text of 2 to 3 characters, got "x"'),
        ({"digits": "a"}, "digits", r'expected a text that matches ^\d+$, got "a"'),
        ({"digits": "\ud800"}, "digits", r"expected a text that matches ^\d+$, without half of a surrogate pair"),
        ({"share": 6}, "share", "expected a whole number from 1 to 5, got 6"),
        ({"positive": 0}, "positive", "expected a whole number of at least 1, got 0"),
        ({"even": 3}, "even", "expected a whole number above 0 and divisible by 2, got 3"),
        ({"amount": "1 $"}, "amount", 'expected an amount in cents, got "1 $"'),
        ({"budget": "1 $"}, "budget", 'expected an amount in cents or null, got "1 $"'),
        ({"size": "xl"}, "size", "expected one of 'm', 's', got \"xl\""),
        ({"only": "y"}, "only", "expected 'x', got \"y\""),
        ({"color": "green"}, "color", "expected one of 'red', 'blue', got \"green\""),
        ({"price": "much"}, "price", 'expected a number, got "much"'),
        ({"at": "soon"}, "at", 'expected an ISO 8601 time such as 2025-08-23T01:00:00Z or null, got "soon"'),
        ({"day": "soon"}, "day", 'expected a date such as 2025-08-23 or null, got "soon"'),
        ({"hour": 9}, "hour", "expected a time of day such as 13:45:00 or null, got 9"),
        ({"length": "1 hour"}, "length", 'expected a duration such as PT1H30M or null, got "1 hour"'),
        ({"key": "1"}, "key", 'expected a UUID or null, got "1"'),
        ({"raw": "?"}, "raw", 'expected a text in base64, got "?"'),
        ({"either": []}, "either", "expected a whole number or a text, got []"),
        ({"item": 5}, "item", "expected an object or null, got 5"),
        ({"item": {}}, "item.sku", "missing; expected a text"),
        (
            {"items": [{"sku": "a"}, {"sku": "b", "unitPrice": -1}]},
            "items[1].unitPrice",
            "expected a number above 0, got -1",
        ),
        ({"items": [{"sku": "a", "tags": ["x", 5]}]}, "items[0].tags[1]", "expected a text, got 5"),
        (
            {"items": [{"sku": "a", "unit_price": 1}]},
            "items[0].unit_price",
            "unknown setting 'unit_price'; did you mean 'unitPrice'?",
        ),
        (
            {"items": [{"sku": "a", "note": 1}]},
            "items[0].note",
            "unknown setting 'note'; expected one of 'sku', 'tags', 'unitPrice'",
        ),
        ({"some": []}, "some", "expected a list of at least 1 value, got []"),
        ({"unique": [1, "a"]}, "unique[1]", 'expected a whole number, got "a"'),
        ({"pair": [1, 2]}, "pair[1]", "expected a text, got 2"),
        ({"pair": [1]}, "pair", "expected a list of 2 values, got [1]"),
        ({"many": [1, 2, "a"]}, "many[2]", 'expected a whole number, got "a"'),
        ({"prices": {"a": 1, "b": "x"}}, "prices.b", 'expected a number, got "x"'),
        ({"prices": {"home & garden": "x"}}, 'prices["home & garden"]', 'expected a number, got "x"'),
        ({"prices": {"x" * 1000: "x"}}, f'prices["{"x" * 200}… (1000 characters)"]', 'expected a number, got "x"'),
        ({"by_number": {"1": "a", "2": 3}}, "by_number.2", "expected a text, got 3"),
        (
            {"by_number": {"one": "a"}},
            "by_number",
            'expected an object in which each name is a whole number, got {"one": "a"}',
        ),
        (
            {"by_size": {"xl": 1}},
            "by_size",
            "expected an object in which each name is one of 'm', 's', got {\"xl\": 1}",
        ),
        ({"nested": {"a": [{"sku": 1}]}}, "nested.a[0].sku", "expected a text, got 1"),
        ({"discount": {"type": "percent", "percent": "5"}}, "discount.percent", 'expected a whole number, got "5"'),
        ({"discount": {"type": "free"}}, "discount.type", "expected one of 'fixed', 'percent', got \"free\""),
        ({"discount": {"type": []}}, "discount.type", "expected one of 'fixed', 'percent', got []"),
        ({"discount": {"amount": 5}}, "discount.type", "missing; expected one of 'fixed', 'percent'"),
        ({"single": {"type": "percent", "amount": 5}}, "single.type", "expected 'fixed', got \"percent\""),
        ({"single": {"amount": "5"}}, "single.amount", 'expected a whole number, got "5"'),
        ({"span": {"first": 2, "last": 1}}, "span", "first=2 must not be above last=1"),
        ({"free": {}}, "free.note", "missing; expected any value"),
        ({"point": {"x": "a"}}, "point", 'expected an object with the fields of Point or null, got {"x": "a"}'),
        ({"place": {}}, "place", "expected an object with the fields of Place or null, got {}"),
        ({"item": {"sku": "- at `$"}, "whole": "x - at `$.item`"}, "whole", "expected a whole number"),
        ({"prices": {" - at `$": "x"}}, 'prices[" - at `$"]', 'expected a number, got "x"'),
        ({"prices": {"\ud800": "x"}}, 'prices["\\\\ud800"]', 'expected a number, got "x"'),
        ({"prices": {"a\u202eb": "x"}}, 'prices["a\\u202eb"]', 'expected a number, got "x"'),
        ({"color": "- at `$"}, "color", "expected one of 'red', 'blue', got \"- at `$\""),
        ({"tuple_": [1]}, "tuple_", "expected a list of 2 values or null, got [1]"),
    ],
)
def test_the_error_names_the_path_the_expectation_and_the_value(document: Any, path: str, why: str) -> None:
    """The path leads to the deepest field that does not fit. The words are for people who edit documents."""
    with pytest.raises(FieldError) as refused:
        decode(Everything, document)

    assert refused.value.path == path
    assert refused.value.why.startswith(why)


def test_the_path_begins_where_the_caller_says() -> None:
    """A caller that decodes a part of a document names the place of the part."""
    for document, path in [
        ({"sku": 5}, "flows[2].settings.sku"),
        ([], "flows[2].settings"),
        ({"sku": "a", "a b": 1}, 'flows[2].settings["a b"]'),
    ]:
        with pytest.raises(FieldError) as refused:
            decode(Item, document, "flows[2].settings")
        assert refused.value.path == path


def test_documents_that_fit_are_decoded() -> None:
    """Missing fields have their defaults, and unknown fields are ignored."""
    read = decode(
        Everything,
        {
            "items": [{"sku": "a", "unitPrice": 2}],
            "discount": {"type": "percent", "percent": 5},
            "by_number": {"1": "one"},
            "at": "2025-08-23T01:00:00Z",
            "note": "ignored",
        },
    )

    assert read.items == [Item("a", 2)]
    assert read.discount == Percent(5)
    assert read.by_number == {1: "one"}
    assert read.at == datetime.fromisoformat("2025-08-23T01:00:00Z")
    assert read.text == ""


def test_a_value_with_characters_that_nobody_sees_is_escaped() -> None:
    """The error also reaches places that print it as it is, such as the exceptions of an invocation."""
    with pytest.raises(FieldError, match=r'got "a\\u202eb"'):
        decode(Item, {"sku": "s", "unitPrice": "a\u202eb"})


@pytest.mark.parametrize("at", [0, 499, 500, 1_234, 19_999])
def test_the_fault_in_a_long_list_or_a_large_object_is_found(at: int) -> None:
    """They are converted in batches, of which one is searched."""
    items = [{"sku": "a"} for _ in range(20_000)]
    with pytest.raises(FieldError) as in_list:
        decode(Everything, {"items": [*items[:at], {"sku": 5}, *items[at:]]})
    with pytest.raises(FieldError) as in_object:
        decode(Everything, {"by_number": {str(n): "x" if n != at else 5 for n in range(20_000)}})

    assert in_list.value.path == f"items[{at}].sku"
    assert in_object.value.path == f"by_number.{at}"
