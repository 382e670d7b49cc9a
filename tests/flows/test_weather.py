"""flows/weather.py, the example of a minimal flow."""

import httpx
import pytest

from datasync.testing import FakeRuns, MockRouter
from flows.weather import weather

FORECAST = "https://weather.example/v1/forecast"
CHICAGO = {"baseUrl": "https://weather.example", "latitude": 41.88, "longitude": -87.63}


async def test_it_reads_the_weather_at_the_tenants_location(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """The location and the API come from the tenant's settings. The reading is logged and counted."""
    mock_api.get(FORECAST, params={"latitude": "41.88", "longitude": "-87.63"}).respond(
        json={"current": {"temperature_2m": 21.5, "wind_speed_10m": 9}}
    )
    run = fake_run(weather, settings=CHICAGO)

    await run.call()

    assert run.counts == {"readings": 1}
    assert run.lines == ["21.5 °C, wind 9 km/h"]


async def test_an_error_of_the_api_fails_the_run(fake_run: FakeRuns, mock_api: MockRouter) -> None:
    """The error contains the answer of the API."""
    mock_api.get(FORECAST).respond(400)

    with pytest.raises(httpx.HTTPStatusError, match="Client error '400 Bad Request' for url"):
        await fake_run(weather, settings=CHICAGO).call()
