"""Reads the current weather at a tenant's location. An example of a minimal flow, without secrets."""

from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRun
from flows.registry import flow

PUBLIC_API = "https://api.open-meteo.com"


@flow("weather")
async def weather(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
    """Log temperature and wind at `settings.latitude` and `settings.longitude` (degrees; default: Chicago)."""
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
