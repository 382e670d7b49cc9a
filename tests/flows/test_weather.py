"""flows/weather.py, the example of a minimal flow."""

import logging

import pytest

from datasync.errors import FlowFailed
from localdev.demo_apis import DemoApis
from tests.flows.conftest import RunFlow


async def test_it_reads_the_weather_at_the_tenants_location(
    run_flow: RunFlow, apis: DemoApis, caplog: pytest.LogCaptureFixture
) -> None:
    """The location and the API come from the tenant's settings. The reading is logged and counted."""
    caplog.set_level(logging.INFO)

    run = await run_flow("weather", {"baseUrl": apis.url, "latitude": 41.88, "longitude": -87.63})

    assert (run.outcome, run.counts) == ("succeeded", {"readings": 1})
    assert "acme-cabinets/weather: " in caplog.text
    assert "°C, wind" in caplog.text


async def test_an_error_of_the_api_fails_the_run(run_flow: RunFlow, apis: DemoApis) -> None:
    """The error contains the answer of the API."""
    with pytest.raises(FlowFailed, match="HTTPStatusError: Client error '400 Bad Request' for url"):
        await run_flow("weather", {"baseUrl": apis.url, "latitude": "north"})
