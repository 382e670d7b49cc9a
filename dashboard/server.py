"""Answers the requests of the page: access first, then the question or the change, and errors as sentences."""

import os
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec

from dashboard import page
from dashboard.access import LARGEST_BODY, LARGEST_DOCUMENT, Mode, check_page, operator, reader
from dashboard.actions import ACTIONS, Wanted
from dashboard.data import QUESTIONS, Asked, forget
from dashboard.web import Answer, Refused, Request, json_answer
from datasync.errors import DataSyncError, Kind
from datasync.flow.registry import FlowRegistry
from datasync.services import shared_services


async def index(mode: Mode, request: Request) -> Answer:
    """Return the page."""

    async def work() -> Answer:
        check_page(mode, request, os.environ)
        return page.index(request, mode)

    return await _explained(request, work)


async def asset(mode: Mode, request: Request, name: str) -> Answer:
    """Return a file of the page."""
    return await _explained(request, lambda: _file(mode, request, name))


async def data(mode: Mode, registry: FlowRegistry, request: Request, question: str) -> Answer:
    """Answer a question."""

    async def work() -> Answer:
        visitor = reader(mode, request, os.environ)
        if (ask := QUESTIONS.get(question)) is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no such data; there is {', '.join(QUESTIONS)}")
        services = shared_services()
        found = await ask(Asked(services, registry, services.clock.now(), visitor, request.query))
        return await json_answer(request, found)

    return await _explained(request, work)


async def action(mode: Mode, registry: FlowRegistry, request: Request, name: str) -> Answer:
    """Make a change."""

    async def work() -> Answer:
        largest = LARGEST_DOCUMENT if name == "tenant-put" else LARGEST_BODY
        visitor = operator(mode, request, os.environ, largest)
        if (act := ACTIONS.get(name)) is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such action")
        services = shared_services()
        try:
            done = await act(Wanted(services, registry, services.clock.now(), visitor, request.body))
        finally:  # also one that failed may have changed something
            forget()
        return await json_answer(request, {"ok": True, **msgspec.to_builtins(done)})

    return await _explained(request, work)


async def _file(mode: Mode, request: Request, name: str) -> Answer:
    check_page(mode, request, os.environ)
    return page.file(request, name)


async def _explained(request: Request, work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Do the work, and answer with its error as JSON: `{"error": "sentence"}`, perhaps with `problems`."""
    try:
        return await work()
    except Refused as error:
        problems = {"problems": error.problems} if error.problems else {}
        return await json_answer(request, {"error": str(error), **problems}, error.status)
    except DataSyncError as error:
        return await json_answer(request, {"error": str(error)}, STATUSES[error.kind])


STATUSES = {
    Kind.UNUSABLE: HTTPStatus.UNPROCESSABLE_ENTITY,
    Kind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Kind.INVALID: HTTPStatus.BAD_REQUEST,
    Kind.REFUSED: HTTPStatus.CONFLICT,
    Kind.CHANGED: HTTPStatus.CONFLICT,
    Kind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Kind.NOT_LET_IN: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of the answer about an error."""
