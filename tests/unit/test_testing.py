"""datasync.testing: runs of flows in tests."""

import logging
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.secrets.aio import SecretClient

from datasync import (
    IDEMPOTENT,
    Continue,
    FlowRegistry,
    FlowRun,
    GiveUp,
    ResponseTooLarge,
    RetryLater,
    TenantSecretClient,
    Window,
    response_limits,
)
from datasync.errors import CursorInvalid, FlowFailed, FlowSettingsInvalid, FlowUnknown, SecretRefused, TenantInvalid
from datasync.flow.registry import Flow
from datasync.testing import FakeRuns, MockRouter
from flows.weather import weather

ROOT = Path(__file__).parent.parent.parent
ITEMS = "https://source.example/items"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def flow(function: Callable[..., Any], **options: Any) -> Flow:
    """Return a function as a flow of a registry of its own."""
    registry = FlowRegistry()
    registry.flow("items", **options)(function)
    return registry.resolve("items")


@flow
async def items(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
    response = await run.http.get(ITEMS)
    response.raise_for_status()
    run.log.info("%d items", len(response.json()))
    run.count(items=len(response.json()))


async def test_a_flow_of_the_app_runs(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """A test names the function of the flow. The run has its name, the settings and a tenant."""
    mock_api.get("https://weather.example/v1/forecast", params={"latitude": "1"}).respond(
        json={"current": {"temperature_2m": 21, "wind_speed_10m": 3}}
    )
    run = fake_run(weather, settings={"baseUrl": "https://weather.example", "latitude": 1})

    await run.call()

    assert run.counts == {"readings": 1}
    assert run.lines == ["21 °C, wind 3 km/h"]
    assert (run.flow_name, run.tenant.id, run.tenant.timezone) == ("weather", "acme", "UTC")
    assert (run.attempt, run.part, run.run_id) == (1, 1, "test-run")


async def test_a_test_may_call_the_function_itself(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """The run is the third argument of the flow."""
    mock_api.get("https://api.open-meteo.com/v1/forecast").respond(
        json={"current": {"temperature_2m": 21, "wind_speed_10m": 3}}
    )
    run = fake_run(weather, tenant="globex")

    await weather(run.tenant.id, run.kv, run)

    assert run.counts == {"readings": 1}


async def test_a_flow_without_run_is_called_without_it(fake_run: FakeRuns) -> None:
    """`(tenant_id, kv)` is a complete contract."""
    seen = list[str]()

    async def short(tenant_id: str, kv: SecretClient) -> None:
        seen.append((await kv.get_secret(f"tenants--{tenant_id}--mysource--api-token")).value or "")

    await fake_run(flow(short), secrets={"mysource--api-token": "s3cret"}).call()

    assert seen == ["s3cret"]


async def test_a_function_that_is_not_registered_is_named(fake_run: FakeRuns) -> None:
    """The message says what to do."""

    async def forgotten(tenant_id: str, kv: SecretClient) -> None: ...

    with pytest.raises(FlowUnknown, match="forgotten is not a flow. Decorate it with @flow"):
        fake_run(forgotten)


# --- requests


async def test_answers_come_in_their_order_and_retries_do_not_wait(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """The client of the run repeats a request as in the app. Its clock goes on by the pauses."""
    answers = [httpx.Response(503), httpx.Response(429, headers={"Retry-After": "50"}), httpx.Response(200, json=[1])]
    route = mock_api.get(ITEMS).mock(side_effect=answers)
    run = fake_run(items)

    await run.call()

    assert (route.call_count, run.counts) == (3, {"items": 1})


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout("slow"), httpx.RemoteProtocolError])
async def test_errors_of_the_network_are_repeated(
    fake_run: FakeRuns, mock_api: MockRouter, error: type[Exception] | Exception
) -> None:
    """A route can raise the exceptions of httpx. The flow gets them after the last retry, as they are."""
    mock_api.get(ITEMS).mock(side_effect=[error, httpx.Response(200, json=[1, 2])])
    run = fake_run(items)
    await run.call()
    assert run.counts == {"items": 2}

    mock_api.get(ITEMS).mock(side_effect=error)
    with pytest.raises(error if isinstance(error, type) else type(error)) as raised:
        await fake_run(items).call()
    assert len(mock_api.calls) == 2 + 5
    assert raised.value.__suppress_context__


async def test_a_function_can_answer(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """It gets the request, and what it raises reaches the test."""

    async def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept"] == "text/csv", "the flow asks for JSON"
        return httpx.Response(200)

    mock_api.get(ITEMS).mock(side_effect=answer)

    with pytest.raises(AssertionError, match="the flow asks for JSON"):
        await fake_run(items).call()


async def test_a_request_without_a_route_fails(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """The message has the request, the routes and the line to add. It is not repeated."""

    async def pushes(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        await run.http.post("https://target.example/items", params={"dry": 1}, json=[], extensions=IDEMPOTENT)

    mock_api.get(ITEMS, name="source")
    with pytest.raises(AssertionError, match="no route of mock_api matches POST https://target.example/items") as why:
        await fake_run(flow(pushes)).call()

    assert 'mock_api.post("https://target.example/items").respond(json=…)' in str(why.value)
    assert "source.example" in str(why.value)
    mock_api.pop("source")


async def test_no_request_reaches_the_network(fake_run: FakeRuns) -> None:
    """Also in a test that does not use `mock_api`."""
    with pytest.raises(AssertionError, match="Its routes: none"):
        await fake_run(items).call()


async def test_a_route_cannot_pass_a_request_on(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """A test needs no network."""
    mock_api.get(ITEMS).pass_through()

    with pytest.raises(AssertionError, match="mock_api sends nothing to the network"):
        await fake_run(items).call()


async def test_a_list_of_answers_has_an_end(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """The message says so, in the place of a StopIteration."""
    mock_api.get(ITEMS).mock(side_effect=[httpx.Response(503), httpx.Response(503)])

    with pytest.raises(AssertionError, match=f"mock_api has no answer left for GET {ITEMS}"):
        await fake_run(items).call()


async def test_answers_are_limited_and_decoded(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """The limits of the app apply."""

    async def small(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        response = await run.http.get(ITEMS, extensions=response_limits(max_body=100))
        run.count(size=len(response.content))

    body = zlib.compress(b"0" * 100)
    mock_api.get(ITEMS).respond(content=body, headers={"Content-Encoding": "deflate"})
    run = fake_run(flow(small))
    await run.call()
    assert run.counts == {"size": 100}

    mock_api.get(ITEMS).respond(text="0" * 101)
    with pytest.raises(ResponseTooLarge, match="more than 100 bytes"):
        await fake_run(flow(small)).call()


@pytest.mark.vcr
async def test_a_cassette_answers(fake_run: FakeRuns) -> None:
    """In a test with the marker of pytest-recording, requests go through the network, where vcrpy answers them."""
    run = fake_run(items)

    await run.call()

    assert run.counts == {"items": 3}


@pytest.mark.vcr("test_a_cassette_answers.yaml")
async def test_a_request_that_is_not_in_the_cassette_fails(fake_run: FakeRuns) -> None:
    """It is not sent. It is repeated no more than any other exception of a flow."""

    async def asks(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        await run.http.get("https://source.example/orders")

    with pytest.raises(Exception, match="(?s)Can't play back this request.*source.example/orders"):
        await fake_run(flow(asks)).call()


# --- secrets


async def test_a_run_has_the_secrets_of_its_test(fake_run: FakeRuns) -> None:
    """They have the names that a flow declares. `kv.reads` has those that the flow has read."""
    read = list[str]()

    async def reads(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        read.extend([await kv.secret("mysource", "api-token"), await kv.secret("MySource", "API-token")])
        read.append((await kv.get_secret("shared--geocoder--key")).value or "")

    secrets = {"mysource--api-token": "of acme", "shared--geocoder--key": "of all", "mytarget--api-token": "unread"}
    run = fake_run(flow(reads), secrets=secrets)
    await run.call()

    assert read == ["of acme", "of acme", "of all"]
    assert {"mysource--api-token", "shared--geocoder--key"} <= set(run.kv.reads)
    assert "mytarget--api-token" not in run.kv.reads


async def test_a_missing_secret_is_the_error_of_the_app(fake_run: FakeRuns) -> None:
    """A note says how to add it to the test."""

    async def reads(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        await kv.secret("mysource", "api-token")

    with pytest.raises(ResourceNotFoundError, match="secret 'tenants--acme--mysource--api-token' is not in") as missing:
        await fake_run(flow(reads)).call()

    assert "fake_run(…, secrets={'mysource--api-token': 'a token'})" in missing.value.__notes__[0]


async def test_a_flow_cannot_read_the_secrets_of_another_tenant(fake_run: FakeRuns) -> None:
    """`kv` is the client of the app."""

    async def reads(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        await kv.get_secret("tenants--globex--mysource--api-token")

    with pytest.raises(SecretRefused, match="a flow of tenant 'acme' reads names that start with"):
        await fake_run(flow(reads)).call()


@pytest.mark.parametrize(
    ("secrets", "why"),
    [
        ({"tenants--acme--mysource--api-token": "x"}, "must be the name of a secret within the tenant"),
        ({"token": "x"}, "must be the name of a secret within the tenant"),
        ({"mysource--api-token": 5}, "the value of 'mysource--api-token' must be a text, got 5"),
    ],
)
def test_wrong_secrets_are_named(secrets: dict[str, Any], why: str) -> None:
    """Before the flow runs."""
    with pytest.raises(ValueError, match=why):
        FakeRuns()(items, secrets=secrets)


async def test_secrets_do_not_appear_in_lines(fake_run: FakeRuns, caplog: pytest.LogCaptureFixture) -> None:
    """The log of the run removes them, as in the app."""

    async def tells(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        run.log.warning("the token is %s", await kv.secret("mysource", "api-token"))

    run = fake_run(flow(tells), secrets={"mysource--api-token": "s3cret"})
    await run.call()

    assert run.lines == ["the token is <mysource--api-token>"]
    assert [(each.levelno, each.message) for each in caplog.records] == [
        (logging.WARNING, "acme/items: the token is <mysource--api-token>")
    ]


# --- settings, tenant, window


class Rules(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    min_total: float = 0


def test_settings_have_the_declared_type() -> None:
    """They are decoded as those of a document."""
    declared = flow(items.function, settings=Rules)

    assert FakeRuns()(declared, settings={"minTotal": 5}).settings == Rules(min_total=5)
    assert FakeRuns()(declared).settings == Rules()
    assert FakeRuns()(items, settings={"minTotal": 5}).settings == {"minTotal": 5}
    assert FakeRuns()(items).settings == {}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"minTotal": "5"}, r'acme/items flows\[0\].settings.minTotal: expected a number, got "5"'),
        ({"minTotals": 5}, "unknown setting 'minTotals'; did you mean 'minTotal'?"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], why: str) -> None:
    """The message is that of the app."""
    with pytest.raises(FlowSettingsInvalid, match=why):
        FakeRuns()(flow(items.function, settings=Rules), settings=settings)


def test_settings_are_an_object() -> None:
    """As in a document."""
    with pytest.raises(TenantInvalid, match="settings: expected an object"):
        FakeRuns()(items, settings=5)  # type: ignore[arg-type]


def test_the_id_of_the_tenant_is_checked() -> None:
    """As in a document."""
    with pytest.raises(TenantInvalid, match="an id has none of"):
        FakeRuns()(items, tenant="a/b")


def test_the_window_ends_at_the_present_instant() -> None:
    """By default it has no start, as in the first run."""
    run = FakeRuns()(items)
    assert (run.window.start, run.window.end) == (None, run.scheduled_utc)

    offset = NOON.astimezone(tz=None)
    run = FakeRuns()(items, window=Window(start=offset - timedelta(days=1), end=offset))
    assert (run.window, run.scheduled_utc) == (Window(start=NOON - timedelta(days=1), end=NOON), NOON)
    assert run.window.end.tzinfo is UTC


@pytest.mark.parametrize(
    ("window", "why"),
    [
        (Window(start=None, end=datetime(2026, 3, 1)), "expected aware times"),  # noqa: DTZ001 - the mistake
        (Window(start=NOON, end=NOON - timedelta(days=1)), "it ends before it starts"),
    ],
)
def test_wrong_windows_are_refused(window: Window, why: str) -> None:
    """The app has no such window."""
    with pytest.raises(ValueError, match=why):
        FakeRuns()(items, window=window)


# --- the end of a run


async def test_the_cursor_is_kept_at_the_end(fake_run: FakeRuns) -> None:
    """As JSON gives it back. The next run of a test starts with it."""

    async def moves(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        run.cursor = (run.cursor or [0])[0] + 1, "page"

    run = fake_run(flow(moves))
    await run.call()
    assert run.kept == [1, "page"]

    run = fake_run(flow(moves), cursor=run.kept)
    await run.call()
    assert run.kept == [2, "page"]


async def test_a_checkpoint_is_kept_after_a_failure(fake_run: FakeRuns) -> None:
    """The cursor after it is not."""

    async def fails(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        run.cursor = 1
        await run.checkpoint()
        run.cursor = 2
        raise ZeroDivisionError

    run = fake_run(flow(fails), cursor=0)
    assert run.kept == 0
    with pytest.raises(ZeroDivisionError):
        await run.call()

    assert run.kept == 1


@pytest.mark.parametrize("cursor", [object(), "x" * 20_000])
async def test_a_cursor_that_cannot_be_kept_fails(fake_run: FakeRuns, cursor: object) -> None:
    """At the checkpoint, and at the end."""

    async def moves(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        run.cursor = cursor
        with pytest.raises(CursorInvalid):
            await run.checkpoint()

    with pytest.raises(CursorInvalid):
        await fake_run(flow(moves)).call()
    with pytest.raises(CursorInvalid):
        fake_run(items, cursor=cursor)


async def test_a_flow_whose_runs_overlap_has_no_cursor_and_no_window(fake_run: FakeRuns) -> None:
    """A test cannot give it what the app does not."""

    async def moves(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        with pytest.raises(CursorInvalid):
            await run.checkpoint()
        run.cursor = 1

    overlapping = flow(moves, overlap="allow")
    with pytest.raises(CursorInvalid, match="is not kept for a flow with overlap"):
        await fake_run(overlapping).call()
    with pytest.raises(CursorInvalid):
        fake_run(overlapping, cursor=1)
    with pytest.raises(ValueError, match="has no start"):
        fake_run(overlapping, window=Window(start=NOON, end=NOON))


@pytest.mark.parametrize(
    ("signal", "kept"), [(RetryLater(timedelta(hours=1)), 0), (GiveUp("no"), 0), (Continue(NOON), 1)]
)
async def test_signals_reach_the_test(fake_run: FakeRuns, signal: Exception, kept: int) -> None:
    """A part that is done keeps its cursor."""

    async def ends(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        run.cursor = 1
        raise signal

    run = fake_run(flow(ends), cursor=0, window=Window(start=None, end=NOON))
    with pytest.raises(type(signal)) as raised:
        await run.call()

    assert raised.value is signal
    assert run.kept == kept


async def test_of_a_group_of_signals_the_test_gets_the_one_that_the_app_follows(fake_run: FakeRuns) -> None:
    """Two tasks that both have to wait: the longer wait."""

    async def ends(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        raise ExceptionGroup("tasks", [RetryLater(timedelta(hours=1)), RetryLater(timedelta(hours=2))])

    with pytest.raises(RetryLater) as raised:
        await fake_run(flow(ends)).call()

    assert raised.value.delay == timedelta(hours=2)


async def test_a_long_retry_after_ends_the_run(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """The client of the run raises the signal."""
    mock_api.get(ITEMS).respond(429, headers={"Retry-After": "3600"})

    with pytest.raises(RetryLater) as raised:
        await fake_run(items).call()

    assert raised.value.delay == timedelta(hours=1)


async def test_a_part_ends_within_the_window(fake_run: FakeRuns) -> None:
    """In the app, the attempt would fail."""

    async def ends(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        raise Continue(run.window.end + timedelta(seconds=1))

    with pytest.raises(FlowFailed, match="the run's window ends at"):
        await fake_run(flow(ends)).call()


# --- the fixtures, in a process of their own


UNUSED = """
import pytest

def test_unused(mock_api):
    mock_api.get("https://source.example/items")

@pytest.mark.respx(assert_all_called=False)
def test_allowed(mock_api):
    mock_api.get("https://source.example/items")
"""


def test_an_unused_route_fails_the_test(tmp_path: Path) -> None:
    """Unless the test has the marker of respx."""
    (tmp_path / "test_unused.py").write_text(UNUSED, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "datasync.testing.plugin", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "ERROR test_unused.py::test_unused - AssertionError: RESPX: some routes" in ended.stdout
    assert "2 passed, 1 error" in ended.stdout
