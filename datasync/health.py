"""The health of the services outside the process."""

import asyncio

from datasync.errors import DataSyncError
from datasync.services import Part, Services

_PATIENCE = 60  # seconds for an answer: the retries of the clients end earlier


async def ping(services: Services) -> dict[str, str]:
    """Try each part once, at the same time and independently.

    Returns:
        For each part its name, and `ok`, or one line with the error and its remedy.

    """
    parts = services.parts
    answers = await asyncio.gather(*map(_answer, parts))
    return {part.name: answer for part, answer in zip(parts, answers, strict=True)}


async def _answer(part: Part) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await part.client().ping()
    except TimeoutError:
        return f"no answer in {_PATIENCE} seconds. Check {part.setting}, and the network"
    except DataSyncError as error:
        return " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001 - each client has errors of its own, for a key that is not base64, say
        return f"{part.setting} cannot be used ({type(error).__name__}: {error}). Copy it again"
    return "ok"
