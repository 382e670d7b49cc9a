"""The objects that a flow may hand over: exceptions, counts, cursors, names of secrets, and types of settings."""

import contextlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from random import Random
from typing import Annotated, Any, Literal, override

import httpx
import msgspec
from azure.core.exceptions import HttpResponseError
from hypothesis import strategies as st
from msgspec import Meta

from datasync import Continue, GiveUp, RetryLater
from datasync.errors import CursorInvalid, FlowInvalid, SecretRefused
from datasync.flow.context import checked_count
from datasync.flow.failures import failure_of
from datasync.flow.options import settings_schema
from datasync.flow.redact import Redaction
from datasync.flow.registry import FlowRegistry
from datasync.flow.secrets import check_name, declared_secret, tenant_secret
from datasync.model.cursor import normalized
from datasync.model.decode import FieldError, decode
from tests.fuzz import grammar
from tests.fuzz.campaign import Campaign
from tests.stages import does_nothing

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)


class Mute(Exception):
    @override
    def __str__(self) -> str:
        raise RuntimeError(self.args)


class Odd(Exception):
    @override
    def __str__(self) -> str:
        return self.args[0]  # type: ignore[no-any-return] # as in code without types


class OddGroup(ExceptionGroup[Exception]):
    @override
    def __str__(self) -> str:
        raise RecursionError


def _raised(error: BaseException) -> BaseException:
    """Return an exception with a traceback."""
    with contextlib.suppress(BaseException):
        raise error
    return error


def _size(choices: Random) -> int:
    return 1_000 if choices.random() < 0.03 else choices.choice((1, 2, 5, 20))


def exception(choices: Random, levels: int = 3) -> BaseException:
    """Return an exception: alone, in groups, raised from another, with notes."""
    kinds = (_plain_error,) * 6 + (_answered,) * 2
    if levels:
        deeper = (_raised_from, _raised_from, _cycle, _deep, _group, _group)
        made = choices.choice(
            (*(partial(each, choices) for each in kinds), *(partial(each, choices, levels - 1) for each in deeper))
        )()
    else:
        made = choices.choice(kinds)(choices)
    if choices.random() < 0.2:
        notes: Any = choices.choice(([grammar.text(choices)], [grammar.value(choices)], "ab", None, 7))
        made.__notes__ = notes
    return _raised(made)


def _plain_error(choices: Random) -> BaseException:
    text = grammar.text(choices)
    name = text.replace("\0", "").encode(errors="replace").decode() or "E"
    return choices.choice(
        (
            choices.choice((ValueError, KeyError, OSError, RuntimeError, AssertionError))(grammar.value(choices)),
            choices.choice((Mute, Odd))(grammar.value(choices, 1)),
            UnicodeEncodeError("utf-8", text or "a", 0, 1, text),
            SyntaxError(text, (text, 1, 99, text)),
            choices.choice((RetryLater(timedelta(1), text), GiveUp(), Continue(), SystemExit(1))),
            type(name, (Exception,), {})(),
        )
    )


def _raised_from(choices: Random, levels: int) -> BaseException:
    made = exception(choices, levels)
    made.__cause__, made.__context__ = exception(choices, levels), choices.choice((None, made))
    return made


def _cycle(choices: Random, levels: int) -> BaseException:
    chain = [exception(choices, 0) for _ in range(_size(choices))]
    for each, cause in zip(chain, [*chain[1:], chain[0]], strict=True):
        each.__cause__ = cause
    return chain[0]


def _deep(choices: Random, levels: int) -> BaseException:
    made = exception(choices, 0)
    for _ in range(_size(choices)):
        made = BaseExceptionGroup(grammar.text(choices), [made])
    return made


def _group(choices: Random, levels: int) -> BaseException:
    if choices.random() < 0.1:
        return BaseExceptionGroup(grammar.text(choices), [exception(choices, 0) for _ in range(_size(choices))])
    members = [exception(choices, levels) for _ in range(choices.choice((1, 1, 2, 3)))]
    if choices.random() < 0.2 and (errors := [each for each in members if isinstance(each, Exception)]):
        return OddGroup("odd", errors)
    return BaseExceptionGroup(grammar.text(choices), members)


def _answered(choices: Random) -> BaseException:
    url = choices.choice(
        ("https://example.com/a?key=word", "http://[::1]:1/", "https://xn--nxasmq6b/", "/relative", "")
    )
    request = httpx.Request("GET", url)
    if choices.random() < 0.3:
        error = choices.choice((httpx.ReadTimeout, httpx.ConnectError, httpx.TooManyRedirects))(grammar.text(choices))
        if choices.random() < 0.5:
            error.request = request
        return error
    if choices.random() < 0.3:
        refused = HttpResponseError(message=grammar.text(choices))
        refused.status_code = choices.choice((None, 403, 999, "403"))  # type: ignore[assignment] # as an SDK might
        return refused
    kind = choices.choice(
        ("application/json", "text/plain; charset=", "text/x;charset=rot13", "a/b+json;charset=base64", "\xff", "")
    )
    content = grammar.written(choices, grammar.value(choices))
    response = httpx.Response(
        choices.choice((200, 401, 403, 429, 500, 599)),
        headers=[(b"Content-Type", kind.encode("latin-1"))],
        content=content,
        request=request,
    )
    return httpx.HTTPStatusError(grammar.text(choices), request=request, response=response)


@dataclass(frozen=True)
class Raised:
    """An exception, and the seed of the choices from which it is made."""

    seed: int
    error: BaseException = field(repr=False)


def test_any_exception_of_a_flow_is_described(campaign: Campaign) -> None:
    """The description can be stored, and holds no secret."""

    def make(choices: Random) -> Raised:
        seed = choices.getrandbits(64)
        return Raised(seed, exception(Random(seed)))  # noqa: S311 - not for security

    def check(case: Raised) -> None:
        error, secret = case.error, f"secret-{case.seed}"
        with contextlib.suppress(TypeError):  # its notes are not a list
            error.add_note(f"a note with {secret}")
        redact = Redaction()
        redact.add("a--b", secret)
        failure = failure_of(error, redact, does_nothing, {"a--b": NOW})
        stored = json.dumps(msgspec.to_builtins(failure), ensure_ascii=False)
        stored.encode()
        assert secret not in stored
        assert len(failure.message) <= 2_000
        printed = redact.traceback(error)
        printed.encode()
        assert secret not in printed

    campaign.run(300, make, check)


def test_any_name_of_a_secret_is_that_of_the_tenant_or_refused(campaign: Campaign) -> None:
    """No name of another tenant is accepted."""

    def make(choices: Random) -> tuple[str, str]:
        tenant = choices.choice(("acme", "Acme", "a-b", "a--b", "-a", grammar.text(choices)))
        system, key = grammar.text(choices), choices.choice(("key", grammar.text(choices)))
        name = choices.choice(
            (
                tenant_secret(tenant, system, key),
                tenant_secret(choices.choice(("other", "acme--b", grammar.text(choices))), system, key),
                declared_secret(tenant, f"{system}--{key}"),
                grammar.noisy(choices, "tenants--acme--mysource--key"),
                grammar.noisy(choices, "shared--key"),
                grammar.text(choices),
            )
        )
        return tenant, name

    def check(case: tuple[str, str]) -> None:
        tenant, name = case
        try:
            check_name(tenant, name)
        except SecretRefused:
            return
        assert name.startswith(("shared--", f"tenants--{tenant}--"))
        assert name.isascii()
        assert len(name) <= 127

    campaign.run(3_000, make, check)


_odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((2**53, 2**53 + 1, -(2**53) - 1, 10**60, 10**400)),
    st.floats(),
    st.text(st.characters(codec=None), max_size=20),
    st.sampled_from((b"bytes", {1, 2}, NOW, timedelta(1), object(), Exception, 1j, ("a", 1), "x" * 20_000)),
)
_enormous = st.integers(15_000, 20_000).map(lambda bits: 1 << bits)  # too many digits to be written
_values = st.recursive(
    _odd,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(_odd.filter(lambda each: not isinstance(each, set)), inner, max_size=5)
    ),
    max_leaves=20,
)


def test_any_cursor_is_kept_as_it_is_or_refused(campaign: Campaign) -> None:
    """A cursor that is kept comes back from the database unchanged."""

    def check(cursor: Any) -> None:
        try:
            kept = normalized(cursor)
        except CursorInvalid as error:
            str(error).encode()
            return
        text = json.dumps(kept, allow_nan=False, ensure_ascii=False)
        text.encode()
        assert json.loads(text) == kept
        assert normalized(kept) == kept

    campaign.explore(400, _values | _enormous | _enormous.map(lambda each: [each]), check)


def test_any_count_is_a_whole_number_or_refused(campaign: Campaign) -> None:
    """The error is about the count, and can be printed."""

    def check(case: tuple[str, object]) -> None:
        try:
            number = checked_count(*case)
        except (TypeError, ValueError) as error:
            check_error(str(error))
            return
        assert abs(number) <= 2**53

    def check_error(text: str) -> None:
        text.encode()
        assert text.startswith("run.count")  # and is not Python's own

    campaign.explore(300, st.tuples(st.text(max_size=5), _values | _enormous), check)


_names = st.sampled_from(("a", "aB", "b_c", "type", "id"))
_plain: st.SearchStrategy[Any] = st.sampled_from(
    (
        *(int, float, str, bool, datetime, bytes, None, Any, Literal["a", "b"], Literal[1, 2]),
        *(
            Annotated[int, Meta(ge=1, le=5)],
            Annotated[str, Meta(min_length=1, pattern="^a+$")],
            Annotated[float, Meta(gt=0)],
        ),
        *(
            Annotated[int, Meta(multiple_of=3, description="a third")],
            Annotated[list[int], Meta(max_length=2)],
            timedelta,
        ),
    )
)


_made = count()


def _struct(fields: list[tuple[str, Any]], forbid: bool, rename: str | None) -> type[msgspec.Struct]:  # noqa: FBT001
    kinds: Any = [*dict(fields).items()]
    return msgspec.defstruct(f"Made{next(_made)}", kinds, forbid_unknown_fields=forbid, rename=rename)  # type: ignore[arg-type]


def _containers(inner: Any) -> tuple[Any, ...]:
    return list[inner], dict[str, inner], tuple[inner, ...], None if inner is None else inner | None


_types = st.recursive(
    _plain,
    lambda inner: st.one_of(
        inner.flatmap(lambda each: st.sampled_from(_containers(each))),
        st.builds(
            _struct, st.lists(st.tuples(_names, inner), max_size=4), st.booleans(), st.sampled_from((None, "camel"))
        ),
    ),
    max_leaves=6,
)
_structs = st.builds(
    _struct,
    st.lists(st.tuples(_names, _types), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from((None, "camel")),
)
_json: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats()
    | st.sampled_from(("", "a", "b", "2025-08-23", "\ud800", "`- at `$`")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names | st.text(max_size=2), inner, max_size=4),
    max_leaves=12,
)


def test_any_settings_fit_their_type_or_the_error_names_the_field(campaign: Campaign) -> None:
    """Types of all shapes, and values of all shapes."""

    def check(case: tuple[type[msgspec.Struct], Any]) -> None:
        shape, content = case
        with contextlib.suppress(FieldError):
            decode(shape, content, "flows[0].settings")

    # A type is examined once, when its flow is registered.
    registered = _structs.map(lambda shape: settings_schema(shape) and shape)
    campaign.explore(400, st.tuples(registered, _json | st.dictionaries(_names, _json, max_size=5)), check)


def test_any_options_of_a_flow_are_accepted_or_refused(campaign: Campaign) -> None:
    """The error is a FlowInvalid."""
    names = ("aliases", "timeout", "overlap", "parts", "settings", "secrets", "provider", "cooldown")
    options = st.dictionaries(st.sampled_from(names), _values | _values.map(lambda each: (each,)), max_size=3)

    def check(case: tuple[Any, dict[str, Any]]) -> None:
        name, chosen = case
        with contextlib.suppress(FlowInvalid):
            FlowRegistry().flow(name, **chosen)(does_nothing)

    campaign.explore(300, st.tuples(_odd, options), check)
