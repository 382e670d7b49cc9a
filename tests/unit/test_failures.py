"""The failure that a record keeps of an exception."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, override

import httpx
import msgspec
import pytest
from azure.core.exceptions import HttpResponseError
from azure.core.rest import HttpRequest

from datasync.errors import RetryLater, ServiceUnavailable
from datasync.flow.failures import failure_of
from datasync.flow.redact import Redaction
from datasync.model.decode import FieldError
from datasync.model.failure import Failure, fingerprint

NOON = datetime(2025, 8, 23, 12, 0, 5, tzinfo=UTC)

type Flow = Callable[[], Awaitable[None]]


async def failure_in(flow: Flow, redact: Redaction | None = None, **options: object) -> Failure:
    """Run a flow, and return its failure."""
    try:
        await flow()
    except Exception as error:  # noqa: BLE001 - any error of a flow is of interest
        return failure_of(error, redact or Redaction(), flow, **options)  # type: ignore[arg-type]
    pytest.fail("the flow did not fail")


async def get(response: httpx.Response, url: str = "https://api.example.com/orders") -> httpx.Response:
    """Send a request that gets this answer; raise for an error status."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response)) as client:
        return (await client.get(url)).raise_for_status()


async def test_a_failure_names_the_class_the_status_and_the_host() -> None:
    """The message is one line. A query, which may hold a key, is left out."""

    async def flow() -> None:
        await get(httpx.Response(503, text="try\n later"), "https://user:pw@api.example.com:8443/orders?key=k3y")

    failure = await failure_in(flow)

    assert (failure.kind, failure.status, failure.host) == ("HTTPStatusError", 503, "api.example.com")
    assert failure.message.startswith(
        "HTTPStatusError: Server error '503 Service Unavailable' for url 'https://***@api"
    )
    assert "k3y" not in failure.message
    assert "\n" not in failure.message
    assert failure.body == "try later"


async def test_a_server_that_cannot_be_reached_is_named() -> None:
    """It has the host, but not a status."""

    def refuse(request: httpx.Request) -> NoReturn:
        raise httpx.ConnectTimeout("no answer", request=request)

    async def flow() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
            await client.get("https://api.example.com/orders")

    failure = await failure_in(flow)

    assert failure == Failure(
        message="ConnectTimeout: no answer",
        kind="ConnectTimeout",
        host="api.example.com",
        fingerprint=failure.fingerprint,
    )


async def test_a_fingerprint_is_that_of_the_texts_before_they_are_redacted() -> None:
    """It is the same whether or not the run has read a secret that is part of the host."""

    async def flow() -> None:
        await get(httpx.Response(503), "https://acme.example.com/orders")

    redact = Redaction()
    redact.add("shop--account", "acme.example")
    plain, redacted = await failure_in(flow), await failure_in(flow, redact)

    assert redacted.host is not None
    assert "acme" not in redacted.host
    assert "acme" not in redacted.message
    place = f"{__name__}.get"
    assert plain.fingerprint == redacted.fingerprint == fingerprint("HTTPStatusError", 503, "acme.example.com", place)


async def test_an_error_of_httpx_without_a_request_has_no_host() -> None:
    """A flow may raise such an error itself."""

    async def flow() -> None:
        raise httpx.ReadTimeout("too slow")

    assert (await failure_in(flow)).host is None


class AzureResponse:
    status_code = 409
    reason = "Conflict"

    def __init__(self) -> None:
        self.request = HttpRequest("PUT", "https://acme.blob.core.windows.net/export?sig=s1g")


async def test_an_error_of_an_azure_service_has_its_status_and_host() -> None:
    """A flow may use a client of the Azure SDK."""

    async def flow() -> None:
        raise HttpResponseError("the lease is lost", response=AzureResponse())  # type: ignore[arg-type]

    failure = await failure_in(flow)

    assert (failure.kind, failure.status, failure.host) == (
        "HttpResponseError",
        409,
        "acme.blob.core.windows.net",
    )


class SyncFailed(Exception):
    pass


async def explicitly() -> None:
    try:
        await get(httpx.Response(422, json={"error": "phone"}))
    except httpx.HTTPStatusError as error:
        raise SyncFailed("lead 7 was refused") from error


async def implicitly() -> None:
    try:
        await get(httpx.Response(422, json={"error": "phone"}))
    except httpx.HTTPStatusError:
        raise SyncFailed("lead 7 was refused")  # noqa: B904 - the test is about this form


@pytest.mark.parametrize("flow", [explicitly, implicitly])
async def test_an_error_raised_from_an_http_error_has_its_status_and_host(flow: Flow) -> None:
    """The class and the message are those of the error that the flow raised."""
    failure = await failure_in(flow)

    assert (failure.kind, failure.message) == ("SyncFailed", "SyncFailed: lead 7 was refused")
    assert (failure.status, failure.host, failure.body) == (422, "api.example.com", '{"error":"phone"}')


async def test_an_error_raised_from_none_has_no_status() -> None:
    """The flow states that the answer is not the cause."""

    async def flow() -> None:
        try:
            await get(httpx.Response(404))
        except httpx.HTTPStatusError:
            raise SyncFailed("no such lead") from None

    assert (await failure_in(flow)).status is None


async def test_errors_that_are_each_others_cause_are_read_once() -> None:
    """A chain of causes can be a circle."""

    async def flow() -> None:
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        raise first

    assert (await failure_in(flow)).message == "ValueError: first"


LATER = RetryLater(timedelta(hours=1))
TIMEOUT = httpx.ReadTimeout("slow", request=httpx.Request("GET", "https://api.example.com/orders"))


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([ValueError("1"), KeyError("2")], "ValueError"),
        ([LATER, ValueError("1")], "ValueError"),
        ([ValueError("1"), TIMEOUT], "ReadTimeout"),
        ([ValueError("1"), ExceptionGroup("inner", [LATER, TIMEOUT])], "ReadTimeout"),
    ],
)
def test_of_a_group_the_member_that_says_most_counts(errors: list[Exception], kind: str) -> None:
    """An error of HTTP counts before others, and a signal after them. The message is that of the group."""
    failure = failure_of(ExceptionGroup("two tasks failed", errors), Redaction())

    assert failure.kind == kind
    assert failure.message.startswith("ExceptionGroup: two tasks failed (2 sub-exceptions): ")


async def test_a_status_counts_before_a_host() -> None:
    """Of several errors of HTTP in a group, the one with an answer is chosen."""

    async def flow() -> None:
        answers = await asyncio.gather(get(httpx.Response(500)), return_exceptions=True)
        raise ExceptionGroup("batch", [TIMEOUT, *(each for each in answers if isinstance(each, Exception))])

    failure = await failure_in(flow)

    assert (failure.kind, failure.status) == ("HTTPStatusError", 500)


@pytest.mark.parametrize(
    ("content_type", "content", "body"),
    [
        ("application/json", b'{"error":\n "no such lead"}', '{"error": "no such lead"}'),
        ("application/problem+json; charset=utf-8", '{"titel": "ungültig"}'.encode(), '{"titel": "ungültig"}'),
        ("text/plain; charset=latin-1", "ungültig".encode("latin-1"), "ungültig"),
        ("text/plain; charset=base64", b"a charset that is not for texts", "a charset that is not for texts"),
        ("text/plain; charset=punycode", b"-" + b"b" * 500_000, "-" + "b" * 299),
        ("text/plain; charset=undefined", b"a codec that always fails", "a codec that always fails"),
        ("text/plain", b"\xff\xfe is not utf-8", "\ufffd\ufffd is not utf-8"),
        ("text/html", b"<h1>Not\n found</h1>" + b" " * 9, "<h1>Not found</h1>"),
        ("text/plain", b"x" * 1_000_000, "x" * 300),
        ("text/plain", b"  ", None),
        ("image/png", b"PNG", None),
        ("application/octet-stream", b"bytes", None),
        ("", b"no type", None),
    ],
)
async def test_the_start_of_a_body_is_kept_if_it_is_json_or_text(
    content_type: str, content: bytes, body: str | None
) -> None:
    """It is one line of at most 300 characters."""

    async def flow() -> None:
        await get(httpx.Response(400, headers={"Content-Type": content_type}, content=content))

    assert (await failure_in(flow)).body == body


async def test_a_body_that_the_flow_has_not_read_is_not_kept() -> None:
    """A flow may check the status of a streamed answer before it reads it."""

    async def parts() -> AsyncGenerator[bytes]:
        yield b"part"

    async def flow() -> None:
        answer = httpx.Response(400, headers={"Content-Type": "text/plain"}, content=parts())
        transport = httpx.MockTransport(lambda _: answer)
        async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", "https://a.example") as got:
            got.raise_for_status()

    failure = await failure_in(flow)

    assert (failure.status, failure.body) == (400, None)


async def test_no_text_of_a_failure_holds_a_secret() -> None:
    """The secrets of the run are replaced in the message, the host and the body, also in encoded forms."""
    redact = Redaction()
    redact.add("crm--host", "s3cret-host.example.com")
    redact.add("crm--token", 's3cret/"token"+1')
    secret = 's3cret/"token"+1'
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    echoed = {"token": secret, "authorization": f"Basic {basic}", "next": "/orders?page=2&api_key=k3y"}

    async def flow() -> None:
        await get(httpx.Response(400, json=echoed), "https://s3cret-host.example.com/x?token=1")

    failure = await failure_in(flow, redact)
    texts = json.dumps(msgspec.to_builtins(failure))

    assert failure.host == "<crm--host>"
    assert "<crm--token>" in (failure.body or "")
    for hidden in ("s3cret", "k3y", "token=1", basic[8:24]):
        assert hidden not in texts


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_name_the_secrets_of_the_run(status: int) -> None:
    """The message says when each secret was read from the vault, and the next attempt can read it again."""
    reads = {"shared--geocoder--key": NOON, "crm--api-token": NOON - timedelta(minutes=3)}

    async def flow() -> None:
        await get(httpx.Response(status))

    failure = await failure_in(flow, secrets=reads)

    assert failure.credentials_refused
    assert failure.message.endswith(
        ". Secrets used: crm--api-token (read from the vault at 2025-08-23T11:57:05Z), "
        "shared--geocoder--key (read from the vault at 2025-08-23T12:00:05Z)"
    )
    assert not (await failure_in(flow)).message.endswith(")")


async def test_secrets_are_named_within_the_limit_of_the_line() -> None:
    """A long message is cut, not the names; more than ten names are counted."""
    reads = {f"crm--key-{n:02}": NOON for n in range(12)}

    async def flow() -> None:
        try:
            await get(httpx.Response(401))
        except httpx.HTTPStatusError as error:
            raise SyncFailed("x" * 5_000) from error

    failure = await failure_in(flow, secrets=reads)

    assert len(failure.message) == 2_000
    assert failure.message.endswith("crm--key-09 (read from the vault at 2025-08-23T12:00:05Z), 2 more")


async def test_other_errors_do_not_name_the_secrets() -> None:
    """They have another cause, such as an outage of the API, or the vault itself."""

    async def outage() -> None:
        await get(httpx.Response(500))

    async def vault() -> None:
        raise ServiceUnavailable("Key Vault refused to give 'a': Forbidden")

    for flow in (outage, vault):
        failure = await failure_in(flow, secrets={"crm--api-token": NOON})
        assert not failure.credentials_refused
        assert "Secrets used" not in failure.message


class Unprintable(Exception):
    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__()
        self._text = text

    @override
    def __str__(self) -> str:
        return self._text()


def endless() -> str:
    return endless()


def broken() -> str:
    raise LookupError("no text")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (endless, "Unprintable: (its text cannot be shown: RecursionError)"),
        (broken, "Unprintable: (its text cannot be shown: LookupError)"),
        (lambda: 5, "Unprintable: (its text cannot be shown: TypeError)"),
        (lambda: "half \ud83d", "Unprintable: half \\ud83d"),
        (lambda: "x" * 3_000_000, "Unprintable: " + "x" * 1987),
    ],
)
async def test_a_text_that_cannot_be_shown_does_not_lose_the_failure(text: Callable[[], str], message: str) -> None:
    """The class and the fingerprint remain, and the failure can be encoded."""

    async def flow() -> None:
        raise Unprintable(text)

    failure = await failure_in(flow)

    assert failure.message == message
    assert msgspec.json.decode(msgspec.json.encode(failure), type=Failure) == failure


async def test_notes_that_are_not_a_list_do_not_lose_the_failure() -> None:
    """Any code can set the attribute."""

    async def flow() -> None:
        error = ValueError("text")
        error.__notes__ = 7  # type: ignore[assignment]
        raise error

    assert (await failure_in(flow)).message == "ValueError: (its text cannot be shown: TypeError)"


SOURCE = """
import json

async def orders(value):
    await read(value)

async def read(value):
    json.loads(value)

class Client:
    async def send(self, value):
        json.loads(value)

async def leads(value):
    await Client().send(value)
"""


def flows_from(source: str) -> dict[str, Callable[[str], Awaitable[None]]]:
    """Return the functions of a flow file."""
    module: dict[str, Any] = {"__name__": "flows.orders"}
    exec(source, module)  # noqa: S102 - a deployment changes the lines of a file
    return module


async def fingerprint_in(source: str, name: str, value: str) -> str:
    function = flows_from(source)[name]
    with pytest.raises(ValueError, match="Expecting|Extra data") as raised:
        await function(value)
    return failure_of(raised.value, Redaction(), function).fingerprint


async def test_a_fingerprint_does_not_depend_on_lines_and_values() -> None:
    """It is the same in another version of the file with the same functions, and for another text of the error."""
    first = await fingerprint_in(SOURCE, "orders", "nothing")

    assert await fingerprint_in("# a comment\n\n" + SOURCE, "orders", "nothing") == first
    assert await fingerprint_in(SOURCE, "orders", "[1] tail") == first
    assert len(first) == 16


async def test_a_fingerprint_depends_on_the_innermost_function_of_the_flow() -> None:
    """The functions of libraries below it do not count, and methods have the name of their class."""
    places = {
        "flows.orders.read": await fingerprint_in(SOURCE, "orders", "nothing"),
        "flows.orders.Client.send": await fingerprint_in(SOURCE, "leads", "nothing"),
    }

    assert places == {place: fingerprint("JSONDecodeError", None, None, place) for place in places}


async def test_without_a_frame_of_the_flow_its_function_counts() -> None:
    """An error can come from another task, or from the framework."""
    orders = flows_from(SOURCE)["orders"]

    failure = failure_of(TimeoutError("cancelled after 0:10:00"), Redaction(), orders)

    assert failure.fingerprint == fingerprint("TimeoutError", None, None, "flows.orders.orders")


def test_each_part_of_a_fingerprint_counts() -> None:
    """Class, status, host and function make the fingerprint. Its value is stored, so it never changes."""
    prints = {
        fingerprint("HTTPStatusError", 503, "api.example.com", "flows.orders.read"),
        fingerprint("SyncFailed", 503, "api.example.com", "flows.orders.read"),
        fingerprint("HTTPStatusError", 500, "api.example.com", "flows.orders.read"),
        fingerprint("HTTPStatusError", 503, "api.example.org", "flows.orders.read"),
        fingerprint("HTTPStatusError", 503, "api.example.com", "flows.orders.send"),
        fingerprint("HTTPStatusError", None, None, "flows.orders.read"),
    }

    assert len(prints) == 6
    assert fingerprint("HTTPStatusError", 503, "API.example.com", "flows.orders.read") in prints
    assert fingerprint("HTTPStatusError", 503, "api.example.com", "flows.orders.read") == "78a7438ff3dd93e2"


def test_a_failure_is_stored_as_an_object() -> None:
    """Fields without a value are left out."""
    failure = Failure(message="ValueError: text", kind="ValueError", fingerprint="0123")

    stored = msgspec.to_builtins(failure)

    assert stored == {"class": "ValueError", "message": "ValueError: text", "fingerprint": "0123"}
    assert Failure.read(stored) == failure


def test_an_error_of_an_older_record_is_read() -> None:
    """Version 0.1 wrote the message alone. Fields of a newer version are kept."""
    assert Failure.read("ValueError: text") == Failure(message="ValueError: text")
    assert Failure.read({"message": "text", "severity": 3}) == Failure(message="text", unknown={"severity": 3})
    assert Failure.read(None) is None


@pytest.mark.parametrize("value", [7, [], {}, {"message": "text", "status": "503"}])
def test_an_error_that_was_edited_and_cannot_be_read_is_refused(value: object) -> None:
    """The exception is that of other documents, which names the field."""
    with pytest.raises(FieldError):
        Failure.read(value)
