"""Answers that break the rules of HTTP: the flow gets a response, or an error that httpx or DataSync documents."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from random import Random

import httpx
import pytest_asyncio

from datasync.errors import DataSyncError, RetryLater
from datasync.flow.failures import failure_of
from datasync.flow.http import new_client, new_transport
from datasync.flow.redact import Redaction
from datasync.flow.retry_after import closed_until
from datasync.flow.usage import HttpUsage
from tests.fuzz import grammar, hostile
from tests.fuzz.campaign import Campaign
from tests.fuzz.hostile import Answer, Server, hostile_server
from tests.stages import FakeClock, does_nothing

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
DOCUMENTED = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict, DataSyncError, RetryLater)


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[Server]:
    async with hostile_server() as running:
        yield running


async def test_any_answer_is_a_response_or_a_documented_error(campaign: Campaign, server: Server) -> None:
    """However the flow reads it. The error can be described, and a pause is one that the queue can keep."""
    async with new_transport() as transport:

        async def check(answer: Answer) -> None:
            server.answer = answer
            usage = HttpUsage(FakeClock())
            try:
                async with new_client(transport, usage) as client:
                    client.follow_redirects = answer.redirects
                    async with client.stream(answer.method, server.url) as response:
                        await _read(response, answer.way)
                    assert 0 <= response.status_code < 1_000
                    response.raise_for_status()
            except DOCUMENTED as error:
                check_error(error)
            usage.totals()
            assert usage.closed_until is None or usage.closed_until - usage.clock.now() <= RetryLater.LONGEST

        await campaign.run_async(300, hostile.answer, check)


def check_error(error: Exception) -> None:
    failure_of(error, Redaction(), does_nothing)
    if isinstance(error, RetryLater):
        assert timedelta() <= error.delay <= RetryLater.LONGEST


async def _read(response: httpx.Response, way: str) -> None:
    match way:
        case "read":
            await response.aread()
        case "bytes":
            async for _ in response.aiter_bytes():
                pass
        case "lines":
            async for _ in response.aiter_lines():
                pass
        case "raw":
            async for _ in response.aiter_raw():
                pass
    if way == "read":
        assert isinstance(response.text, str)
    assert isinstance(response.reason_phrase, str)
    assert all(isinstance(text, str) for _, text in response.headers.items())
    assert isinstance(response.links, dict)
    assert isinstance(response.cookies, httpx.Cookies)


def test_any_request_for_a_pause_is_read_or_ignored(campaign: Campaign) -> None:
    """The pause has at most seven days."""

    def make(choices: Random) -> httpx.Response:
        def content() -> bytes:
            made = choices.choice((grammar.text(choices), grammar.time(choices), str(grammar.number(choices))))
            return choices.choice((made, grammar.noisy(choices, "Sat, 23 Aug 2025 13:00:00 GMT"))).encode(
                errors="replace"
            )

        names = ("Retry-After", "X-RateLimit-Reset", "X-RateLimit-Remaining")
        headers = [
            (name.encode(), choices.choice((content(), b"0", b"60"))) for name in names if choices.random() < 0.7
        ]
        return httpx.Response(choices.choice((200, 403, 429, 503)), headers=headers)

    def check(response: httpx.Response) -> None:
        until = closed_until(response, NOW)
        assert until is None or timedelta() < until - NOW <= RetryLater.LONGEST

    campaign.run(2_000, make, check)
