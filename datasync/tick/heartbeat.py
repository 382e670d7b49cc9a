"""Tells a monitor outside the app that ticks come: it raises the alarm when the requests stay away."""

import asyncio
from http import HTTPStatus

import httpx

from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import HeartbeatFailed

PATIENCE = 10
"""Seconds for the answer."""


async def beat(services: Services) -> None:
    """Send a GET request to HEARTBEAT_URL, if there is one. A failure is an event, and nothing else.

    The address is a secret: somebody who knows it can hide that ticks stay away. No message has it.
    """
    if (url := services.settings.heartbeat_url) is None:
        return
    try:
        # A client of its own: the connections of the flows belong to runs.
        async with (
            asyncio.timeout(PATIENCE),
            httpx.AsyncClient(timeout=PATIENCE) as client,
            client.stream("GET", url) as answer,
        ):
            status = answer.status_code
    except (TimeoutError, httpx.TimeoutException):
        emit(HeartbeatFailed(why=f"no answer in {PATIENCE} seconds"))
    except Exception as error:  # noqa: BLE001 - a monitor never stops a tick
        emit(HeartbeatFailed(why=type(error).__name__))  # its message may have the address
    else:
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            emit(HeartbeatFailed(why=f"the answer was {status}"))
