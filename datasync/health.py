"""The health of the services outside the process."""

import asyncio

from datasync.errors import DataSyncError
from datasync.services import ExternalService, Services

_PATIENCE = 60  # seconds for an answer: the retries of the clients end earlier


async def ping(services: Services) -> dict[str, str]:
    """Try each service once, at the same time and independently.

    Returns:
        For each service its name, and `ok`, or one line with the error and its remedy.

    """
    external = services.external
    answers = await asyncio.gather(*map(_answer, external))
    return {each.name: answer for each, answer in zip(external, answers, strict=True)}


async def _answer(service: ExternalService) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await service.client().ping()
    except TimeoutError:
        return f"no answer in {_PATIENCE} seconds. Check {service.setting}, and the network"
    except DataSyncError as error:
        return " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001 - each client has errors of its own, for a key that is not base64, say
        return f"{service.setting} cannot be used ({type(error).__name__}: {error}). Copy it again"
    return "ok"
