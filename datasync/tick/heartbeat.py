"""Tells a monitor outside the app that ticks come: it raises the alarm when the requests stay away."""

import asyncio
from http import HTTPStatus

import httpx

from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import HeartbeatFailed

_PATIENCE = 10  # seconds for the answer, with all retries


async def beat(services: Services) -> None:
    """Send a GET request to HEARTBEAT_URL, if there is one. A failure is an event, and nothing else.

    The address is a secret: whoever knows it can hide that ticks stay away. It is in no message.
    """
    if (url := services.settings.heartbeat_url) is None:
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            answer = await services.http_transport.handle_async_request(httpx.Request("GET", url))
            await answer.aclose()
    except TimeoutError:
        emit(HeartbeatFailed(why=f"no answer in {_PATIENCE} seconds"))
    except Exception as error:  # noqa: BLE001 - a monitor never stops a tick
        emit(HeartbeatFailed(why=type(error).__name__))  # its message may have the address
    else:
        if not HTTPStatus(200) <= answer.status_code < HTTPStatus(300):
            emit(HeartbeatFailed(why=f"the answer was {answer.status_code}"))
