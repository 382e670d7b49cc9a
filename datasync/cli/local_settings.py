"""Reads settings from local.settings.json, as func does, and those of `make start`."""

import json
from pathlib import Path

from datasync.errors import SettingsInvalid
from datasync.model.decode import has_half_a_pair
from datasync.model.display import shown

DEMO_APIS = "LOCALDEV_DEMO_APIS"
"""The name, among these settings, of the address of the demo's APIs."""

STARTED = Path(__file__).parents[2] / ".local" / "started.json"
"""The settings of the services of `make start`, as long as it runs. It has the form of a local.settings.json."""


def started_settings() -> dict[str, str]:
    """Return the settings of the services that `make start` runs.

    Raises:
        SettingsInvalid: it does not run.

    """
    if STARTED.exists():
        settings = local_settings(STARTED)
        if Path(settings.get("SSL_CERT_FILE", "")).is_file():  # gone after a kill, unlike the settings
            return settings
    raise SettingsInvalid(f"no services run on this machine: run `make start` in {STARTED.parents[1]} first")


def local_settings(file: Path) -> dict[str, str]:
    """Return the settings in a local.settings.json.

    Raises:
        SettingsInvalid: The file cannot be used. The message contains no values, since they may be secrets.

    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsInvalid(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsInvalid(f"{file} is not JSON in UTF-8: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("Values"), dict):
        raise SettingsInvalid(f'{file} has no object "Values"; see local.settings.json.example')
    if content.get("IsEncrypted", True) is not False:
        raise SettingsInvalid(
            f'{file} does not contain "IsEncrypted": false. Add it, or decrypt the file: func settings decrypt'
        )
    values: dict[str, str] = content["Values"]
    if wrong := [name for name, value in content["Values"].items() if not isinstance(value, str)]:
        raise SettingsInvalid(f"{file}: values must be strings, in quotes: {', '.join(map(_shown, wrong))}")
    if wrong := [name for name, value in values.items() if not (_is_name(name) and _is_value(value))]:
        raise SettingsInvalid(
            f"{file}: an environment variable cannot hold these: {', '.join(map(_shown, wrong))}. "
            "A name is not empty and has no '='. Names and values have no NUL and no half of a surrogate pair"
        )
    return values


def _is_name(text: str) -> bool:
    return bool(text) and "=" not in text and _is_value(text)


def _is_value(text: str) -> bool:
    return "\0" not in text and not has_half_a_pair(text)


def _shown(name: str) -> str:
    return shown(name) or "''"
