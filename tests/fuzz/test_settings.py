"""App settings and the files beside them: settings, or one error that names the problem and shows no key."""

from collections.abc import Mapping
from pathlib import Path
from random import Random

from datasync.cli.local_settings import local_settings
from datasync.errors import SettingsInvalid
from datasync.settings import Settings
from tests.fuzz import grammar
from tests.fuzz.campaign import Campaign

KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
STORAGE = f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY};EndpointSuffix=core.windows.net"
COSMOS = f"AccountEndpoint=https://a.documents.azure.com:443/;AccountKey={KEY};"
QUEUES = "AzureFunctionsJobHost__extensions__queues__"
CORRECT = {
    "AzureWebJobsStorage": STORAGE,
    "AzureWebJobsStorage__accountName": "account",
    "AzureWebJobsStorage__queueServiceUri": "https://account.queue.core.windows.net",
    "COSMOS_CONNECTION_STRING": COSMOS,
    "COSMOS_ENDPOINT": "https://a.documents.azure.com:443/",
    "COSMOS_DATABASE": "datasync",
    "KEY_VAULT_URI": "https://a.vault.azure.net/",
    "KEY_VAULT_VERIFY_CHALLENGE": "true",
    "QUEUE_NAME": "flow-jobs",
    "TENANTS_CONTAINER": "tenants",
    "RUNS_CONTAINER": "runs",
    "RUN_RETENTION_DAYS": "90",
    "ORCHESTRATOR_CONCURRENCY": "32",
    "ORCHESTRATOR_LOOKAHEAD": "60",
    "ORCHESTRATOR_SPREAD": "300",
    "ORCHESTRATOR_SCHEDULE": "0 * * * * *",
    "CONCURRENCY_PER_TENANT": "16",
    f"{QUEUES}maxDequeueCount": "5",
    f"{QUEUES}visibilityTimeout": "00:01:00",
}
HOST_JSON = {
    "version": "2.0",
    "extensions": {"queues": {"maxDequeueCount": 5, "visibilityTimeout": "00:01:00", "batchSize": 16}},
    "functionTimeout": "00:10:00",
}
LOCAL = {"IsEncrypted": False, "Values": {"FUNCTIONS_WORKER_RUNTIME": "python", **CORRECT}, "Host": {"CORS": "*"}}


def _environ(choices: Random) -> dict[str, str]:
    """Return an environment: texts without NUL, which the system does not allow."""
    kept = {name: text for name, text in CORRECT.items() if choices.random() < 0.7}
    changed = grammar.mutated(choices, {**kept, "COSMOS_DATABASE": "datasync"})
    if not isinstance(changed, dict):
        changed = {}
    return {
        str(name).replace("\0", ""): str(value).replace("\0", "") for name, value in changed.items() if _fits(value)
    }


def check_error(text: str) -> None:
    text.encode()
    assert KEY not in text


def _fits(value: object) -> bool:
    return not isinstance(value, int) or abs(value) < 10**4_000


def test_any_settings_are_read_or_refused(campaign: Campaign, tmp_path: Path) -> None:
    """The error names the settings. It shows no account key."""
    host_json = tmp_path / "host.json"

    def make(choices: Random) -> tuple[dict[str, str], bytes]:
        return _environ(choices), grammar.written(choices, grammar.mutated(choices, HOST_JSON))

    def check(case: tuple[Mapping[str, str], bytes]) -> None:
        environ, content = case
        host_json.write_bytes(content)
        try:
            settings = Settings.from_environ(environ, host_json=host_json)
        except SettingsInvalid as error:
            check_error(str(error))
            return
        assert settings.max_attempts > 0
        assert settings.retry_delay.total_seconds() >= 0

    campaign.run(800, make, check)


def test_any_local_settings_are_read_or_refused(campaign: Campaign, tmp_path: Path) -> None:
    """The values that are read can be the environment of a process. The error shows no account key."""
    file = tmp_path / "local.settings.json"

    def make(choices: Random) -> bytes:
        return grammar.written(choices, grammar.mutated(choices, LOCAL))

    def check(content: bytes) -> None:
        file.write_bytes(content)
        try:
            values = local_settings(file)
        except SettingsInvalid as error:
            check_error(str(error))
            return
        for name, text in values.items():
            assert name
            assert not {"=", "\0"} & {*name}, name
            assert "\0" not in text
            (name + text).encode()

    campaign.run(800, make, check)
