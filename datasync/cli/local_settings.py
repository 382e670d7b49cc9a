"""The settings that func takes from local.settings.json."""

import json
from pathlib import Path

from datasync.errors import SettingsInvalid


def local_settings(file: Path) -> dict[str, str]:
    """Return the settings that a local.settings.json holds.

    Raises:
        SettingsInvalid: it cannot be used; the message never holds a value, which may be a secret.

    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsInvalid(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsInvalid(f"{file} is not JSON in UTF-8: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("Values"), dict):
        raise SettingsInvalid(f'{file} has no object "Values"; local.settings.json.example shows one')
    if content.get("IsEncrypted", True) is not False:
        raise SettingsInvalid(
            f'{file} does not say "IsEncrypted": false, and only Core Tools can decrypt: func settings decrypt'
        )
    values: dict[str, str] = content["Values"]
    if wrong := [name for name, value in content["Values"].items() if not isinstance(value, str)]:
        raise SettingsInvalid(f"{file}: values must be texts, in quotes: {', '.join(wrong)}")
    return values
