"""The health of the app, for a monitor without a key."""

from http import HTTPStatus

from async_lru import alru_cache

from dashboard.web import Answer, Request, json_answer
from datasync.errors import SettingsInvalid
from datasync.flow.registry import FlowRegistry
from datasync.operate.health import AppHealth, app_health
from datasync.services import shared_services

KEPT = 10
"""Seconds for which a process gives the same answer: requests without a key must not cost request units."""


async def health(registry: FlowRegistry, request: Request) -> Answer:
    """Return 200, or 503 with the reasons."""
    found = await checked_health(registry)
    return await json_answer(request, found, HTTPStatus.OK if found.is_well else HTTPStatus.SERVICE_UNAVAILABLE)


@alru_cache(maxsize=1, ttl=KEPT)
async def checked_health(registry: FlowRegistry) -> AppHealth:
    """Return the health of the app, which is the same for KEPT seconds."""
    try:
        services = shared_services()
    except SettingsInvalid:
        return AppHealth(is_well=False, problems=("The app settings are not valid: the log has the reasons.",))
    return await app_health(services, registry, services.clock.now())
