"""The health of the services outside the process."""

import asyncio

import msgspec

from datasync.errors import DataSyncError, Kind
from datasync.services import ExternalService, Services

_PATIENCE = 60  # seconds for an answer: the retries of the clients end earlier


class Answer(msgspec.Struct, frozen=True):
    """The answer of a service."""

    text: str = "ok"
    """`ok`, or one line with the error and its remedy."""
    is_well: bool = True
    is_refused: bool = False
    """Whether the service refused the key or the identity."""


async def ping(services: Services) -> dict[str, Answer]:
    """Try each service once, at the same time and independently. Return the answers by the names of the services."""
    external = services.external
    answers = await asyncio.gather(*map(_answer, external))
    return {each.name: answer for each, answer in zip(external, answers, strict=True)}


async def _answer(service: ExternalService) -> Answer:
    try:
        async with asyncio.timeout(_PATIENCE):
            await service.client().ping()
    except TimeoutError:
        return Answer(f"no answer in {_PATIENCE} seconds. Check {service.setting}, and the network", is_well=False)
    except DataSyncError as error:
        is_refused = error.kind is Kind.NOT_LET_IN
        return Answer(" ".join(str(error).split()), is_well=False, is_refused=is_refused)
    except Exception as error:  # noqa: BLE001 - each client has errors of its own, for a key that is not base64, say
        why = f"{service.setting} cannot be used ({type(error).__name__}: {error}). Copy it again"
        return Answer(why, is_well=False)
    return Answer()
