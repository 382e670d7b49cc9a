"""Reads how long a server asks not to be called."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

from datasync.errors import RetryLater
from datasync.model.times import in_utc

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
_LONGEST = RetryLater.LONGEST.total_seconds()


def closed_until(response: httpx.Response, now: datetime) -> datetime | None:
    """Return the instant (aware) before which a server asks not to be called, if it asks for that.

    It does with `Retry-After` (RFC 9110, section 10.2.3) in an answer 403, 429 or 503, and with `X-RateLimit-Reset`
    where `X-RateLimit-Remaining` is 0 or the answer is 429. No standard describes the latter: APIs send seconds
    since 1970 or seconds from now. The instant is at most 7 days ahead. A header that cannot be read is ignored.
    """
    headers, times = response.headers, list[datetime | None]()
    if response.status_code in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        times.append(_retry_after(response, now))
    spent = headers.get("X-RateLimit-Remaining", "").strip() == "0"
    if spent or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        times.append(_reset(headers.get("X-RateLimit-Reset", ""), now))
    until = max(filter(None, times), default=now)
    return min(until, now + RetryLater.LONGEST) if until > now else None


def wait_asked(response: httpx.Response, now: datetime) -> timedelta:
    """Return the wait that an answer asks for before the next try; zero where it asks for none, or cannot be read."""
    until = closed_until(response, now) or _retry_after(response, now) or now
    return min(max(until - now, timedelta()), RetryLater.LONGEST)


def _retry_after(response: httpx.Response, now: datetime) -> datetime | None:
    """Read Retry-After: seconds from now, or a date."""
    text = response.headers.get("Retry-After", "").strip()
    try:
        return now + timedelta(seconds=float(text)) if _SECONDS.fullmatch(text) else in_utc(parsedate_to_datetime(text))
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
    except ValueError:
        return None


def _reset(text: str, now: datetime) -> datetime | None:
    """Read a number that is small enough for seconds from now as that, and any other as seconds since 1970."""
    if not _SECONDS.fullmatch(text.strip()):
        return None
    seconds = float(text)
    try:
        return now + timedelta(seconds=seconds) if seconds <= _LONGEST else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
