"""Reads the current weather of a tenant's place: the smallest flow there is, and one that needs no secret."""

from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRun
from flows.registry import flow

PUBLIC_API = "https://api.open-meteo.com"


@flow("weather")
async def weather(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
    """Fetch the temperature and the wind at `settings.latitude`, `settings.longitude` (degrees; Chicago unless set)."""
    response = await run.http.get(
        f"{run.settings.get('baseUrl', PUBLIC_API)}/v1/forecast",
        params={
            "latitude": run.settings.get("latitude", 41.88),
            "longitude": run.settings.get("longitude", -87.63),
            "current": "temperature_2m,wind_speed_10m",
        },
    )
    response.raise_for_status()
    current = response.json()["current"]
    run.log.info("%s °C, wind %s km/h", current["temperature_2m"], current["wind_speed_10m"])
    run.count(readings=1)
