"""App settings: connection strings, identity settings, and the messages for missing or malformed values."""

import json
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest

from datasync.errors import SettingsInvalid
from datasync.settings import DEFAULT_SCHEDULE, Settings, binding, dashboard_mode

KEYS = {
    "AzureWebJobsStorage": "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=c2VjcmV0",
    "COSMOS_CONNECTION_STRING": "AccountEndpoint=https://acme.documents.azure.com:443/;AccountKey=c2VjcmV0;",
}
QUEUES = "AzureFunctionsJobHost__extensions__queues__"
IDENTITY = {
    "AzureWebJobsStorage__accountName": "acme",
    "COSMOS_ENDPOINT": "https://acme.documents.azure.com:443/",
    "KEY_VAULT_URI": "https://acme.vault.azure.net/",
}


def test_connection_strings_are_used_unchanged() -> None:
    """With connection strings, two settings are enough."""
    read = Settings.from_environ(KEYS)

    assert read.storage.connection_string == KEYS["AzureWebJobsStorage"]
    assert read.cosmos.connection_string == KEYS["COSMOS_CONNECTION_STRING"]
    assert read.key_vault_url is None


def test_identity_needs_only_names_and_endpoints() -> None:
    """With the app's identity, account names and endpoints are enough. None of them is secret."""
    read = Settings.from_environ(IDENTITY)

    assert read.storage.url == "https://acme.queue.core.windows.net"
    assert read.recordings.url == "https://acme.blob.core.windows.net"
    assert read.cosmos.url == "https://acme.documents.azure.com:443/"
    assert read.key_vault_url == "https://acme.vault.azure.net/"


def test_the_queue_service_can_be_set_by_its_address() -> None:
    """`AzureWebJobsStorage__queueServiceUri` supports other clouds and private endpoints."""
    read = Settings.from_environ(
        {
            **IDENTITY,
            "AzureWebJobsStorage__queueServiceUri": "https://acme.queue.core.chinacloudapi.cn",
        }
    )

    assert read.storage.url == "https://acme.queue.core.chinacloudapi.cn"
    assert read.recordings.url == "https://acme.blob.core.chinacloudapi.cn"


def test_the_blob_service_can_be_set_by_its_address() -> None:
    """Private endpoints may have any names."""
    read = Settings.from_environ(
        {
            **IDENTITY,
            "AzureWebJobsStorage__queueServiceUri": "https://queues.example",
            "AzureWebJobsStorage__blobServiceUri": "https://blobs.example",
        }
    )

    assert (read.storage.url, read.recordings.url) == ("https://queues.example", "https://blobs.example")


def test_development_storage_means_the_local_emulator() -> None:
    """`UseDevelopmentStorage=true` means Azurite on its default ports, as in the Functions host."""
    read = Settings.from_environ({**KEYS, "AzureWebJobsStorage": "UseDevelopmentStorage=true"})

    assert "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1" in (read.storage.connection_string or "")


def test_a_setting_that_is_not_set_has_the_documented_default(tmp_path: Path) -> None:
    """Settings that are not set have the defaults of the settings reference."""
    read = Settings.from_environ(KEYS, host_json=tmp_path / "none")

    assert (read.cosmos_database, read.tenants_container, read.runs_container) == ("flowsync", "tenants", "runs")
    assert (read.queue_name, binding({}, "ORCHESTRATOR_SCHEDULE", DEFAULT_SCHEDULE)) == ("flow-jobs", "0 0 * * * *")
    assert read.run_retention == timedelta(days=30)
    assert (read.max_attempts, read.lookahead, read.spread) == (5, timedelta(), timedelta())
    assert Settings.from_environ({**KEYS, "QUEUE_NAME": "", "RUN_RETENTION_DAYS": ""}).queue_name == "flow-jobs"


def test_the_number_of_attempts_is_that_of_the_host(tmp_path: Path) -> None:
    """The limit is maxDequeueCount in host.json. The override setting takes precedence."""
    host_json = tmp_path / "host.json"
    host_json.write_text(json.dumps({"extensions": {"queues": {"maxDequeueCount": 3}}}))
    override = {"AzureFunctionsJobHost__extensions__queues__maxDequeueCount": "2"}

    assert Settings.from_environ(KEYS, host_json=host_json).max_attempts == 3
    assert Settings.from_environ({**KEYS, **override}, host_json=host_json).max_attempts == 2


def test_the_time_between_two_attempts_is_that_of_the_host(tmp_path: Path) -> None:
    """It is visibilityTimeout in host.json, by default zero as in the host. The override setting takes precedence."""
    host_json = tmp_path / "host.json"
    host_json.write_text(json.dumps({"extensions": {"queues": {"visibilityTimeout": "00:05:00"}}}))
    override = {"AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "01:00:01.5"}

    assert Settings.from_environ(KEYS, host_json=host_json).retry_delay == timedelta(minutes=5)
    assert Settings.from_environ({**KEYS, **override}, host_json=host_json).retry_delay == timedelta(seconds=3601.5)
    assert Settings.from_environ(KEYS, host_json=tmp_path / "none").retry_delay == timedelta()


def test_the_time_limit_of_an_invocation_is_that_of_the_host(tmp_path: Path) -> None:
    """It is functionTimeout in host.json, by default half an hour. `-1` means none. The override takes precedence."""
    host_json = tmp_path / "host.json"
    host_json.write_text(json.dumps({"functionTimeout": "00:10:00"}))
    override = {"AzureFunctionsJobHost__functionTimeout": "-1"}

    assert Settings.from_environ(KEYS, host_json=host_json).function_timeout == timedelta(minutes=10)
    assert Settings.from_environ({**KEYS, **override}, host_json=host_json).function_timeout > timedelta(days=3650)
    assert Settings.from_environ(KEYS, host_json=tmp_path / "none").function_timeout == timedelta(minutes=30)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"AzureWebJobsStorage": ""}, "AzureWebJobsStorage: missing. Set it to a storage connection string"),
        ({"AzureWebJobsStorage": "acme"}, r"AzureWebJobsStorage: not a storage connection string \(no AccountName="),
        (
            {"AzureWebJobsStorage": "", "AzureWebJobsStorage__queueServiceUri": "acme"},
            "AzureWebJobsStorage__queueServiceUri: expected an https:// address, got 'acme'",
        ),
        ({"COSMOS_CONNECTION_STRING": ""}, "COSMOS_CONNECTION_STRING: missing. .* or set COSMOS_ENDPOINT"),
        ({"COSMOS_CONNECTION_STRING": "AccountEndpoint=https://a/;"}, "COSMOS_CONNECTION_STRING: no AccountKey= in it"),
        ({"COSMOS_CONNECTION_STRING": "the-account"}, "COSMOS_CONNECTION_STRING: no AccountEndpoint= in it"),
        (
            {"COSMOS_CONNECTION_STRING": "AccountEndpoint=https://a/;AccountKey=nokey;"},
            "COSMOS_CONNECTION_STRING: its AccountKey is not in base64. Copy the connection string again",
        ),
        (
            {"AzureWebJobsStorage": "AccountName=a;AccountKey=nokey"},
            "AzureWebJobsStorage: its AccountKey is not in",
        ),
        ({"COSMOS_CONNECTION_STRING": "", "COSMOS_ENDPOINT": "acme"}, "COSMOS_ENDPOINT: expected an https:// address"),
        ({"KEY_VAULT_URI": "acme"}, "KEY_VAULT_URI: expected an https:// address, got 'acme'"),
        ({"KEY_VAULT_URI": "https://<your-vault>.vault.azure.net/"}, "KEY_VAULT_URI: the example's <placeholders> are"),
        ({"COSMOS_CONNECTION_STRING": "AccountEndpoint=<a>;AccountKey=<k>;"}, "the example's <placeholders> are still"),
        ({"KEY_VAULT_URI": "AccountKey=c2VjcmV0"}, "KEY_VAULT_URI: expected an https:// address, got a text with '='"),
        ({"KEY_VAULT_URI": "http://acme"}, "KEY_VAULT_URI: expected an https:// address"),
        ({"RECORD_FAILURES": "maybe"}, "RECORD_FAILURES: expected true or false, got 'maybe'"),
        ({"KEY_VAULT_VERIFY_CHALLENGE": "maybe"}, "KEY_VAULT_VERIFY_CHALLENGE: expected true or false, got 'maybe'"),
        ({"RUN_RETENTION_DAYS": "0"}, "RUN_RETENTION_DAYS: expected a whole number from 1 to 3650, got '0'"),
        ({"SECRET_CACHE_SECONDS": "3601"}, "SECRET_CACHE_SECONDS: expected a whole number from 0 to 3600, got '3601'"),
        ({"SECRET_CACHE_SECONDS": "1m"}, "SECRET_CACHE_SECONDS: expected a whole number from 0 to 3600, got '1m'"),
        ({"RUN_RETENTION_DAYS": "a month"}, "RUN_RETENTION_DAYS: expected a whole number"),
        (
            {"ORCHESTRATOR_LOOKAHEAD": "1h"},
            "ORCHESTRATOR_LOOKAHEAD: expected a whole number from 0 to 518400, got '1h'",
        ),
        ({"ORCHESTRATOR_SPREAD": "1.5"}, "ORCHESTRATOR_SPREAD: expected a whole number from 0 to 86400, got '1.5'"),
        ({"ORCHESTRATOR_CONCURRENCY": "-1"}, "ORCHESTRATOR_CONCURRENCY: expected a whole number from 1 to 1000"),
        (
            {"AzureFunctionsJobHost__extensions__queues__maxDequeueCount": "many"},
            "maxDequeueCount: expected a whole number",
        ),
        *[
            (
                {"AzureFunctionsJobHost__extensions__queues__visibilityTimeout": span},
                "visibilityTimeout: expected hours, minutes and seconds such as 00:01:00",
            )
            for span in ("inf:0:0", "nan:0:0", "1e999:0:0", "-1:0:0", "1", "00:01")
        ],
        *[
            ({"RUN_RETENTION_DAYS": number}, "RUN_RETENTION_DAYS: expected a whole number from 1 to 3650")
            for number in ("\uff13\uff10", "9" * 5000, "1e1", "NaN")
        ],
        *[
            (
                {"AzureWebJobsStorage": "", "AzureWebJobsStorage__accountName": name},
                f"AzureWebJobsStorage__accountName: expected the name of the storage account, .* got {got}",
            )
            for name, got in [
                ("https://acme.blob.core.windows.net/", "an address"),
                ("acme.queue.core.windows.net", "an address"),
                ("AccountName=acme;AccountKey=c2VjcmV0", "a text with '='"),
                ("Acme", "'Acme'"),
                (" acme", "' acme'"),
            ]
        ],
        ({"QUEUE_NAME": "Flow_Jobs"}, "QUEUE_NAME: expected 3 to 56 small letters, .* got 'Flow_Jobs'"),
        ({"QUEUE_NAME": "flow--jobs"}, "QUEUE_NAME: expected"),
        ({"QUEUE_NAME": "https://acme.queue.core.windows.net/jobs"}, "QUEUE_NAME: expected"),
        ({"COSMOS_DATABASE": "a/b"}, "COSMOS_DATABASE: expected a name without"),
        ({"COSMOS_TENANTS_CONTAINER": "tenants "}, "COSMOS_TENANTS_CONTAINER: expected a name without"),
        ({"COSMOS_RUNS_CONTAINER": "tenants"}, "COSMOS_RUNS_CONTAINER: is the container of the tenants too"),
        (
            {"AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "5 minutes"},
            "visibilityTimeout: expected hours, minutes and seconds such as 00:01:00, got '5 minutes'",
        ),
    ],
)
def test_a_bad_setting_is_named_with_its_remedy(changed: dict[str, str], why: str) -> None:
    """The message names the setting and the remedy, and contains no key."""
    with pytest.raises(SettingsInvalid, match=why) as refused:
        Settings.from_environ({**KEYS, **changed})

    assert "c2VjcmV0" not in str(refused.value)


def test_every_bad_setting_is_named_at_once() -> None:
    """The message lists all settings that must be corrected."""
    with pytest.raises(SettingsInvalid) as refused:
        Settings.from_environ({"RUN_RETENTION_DAYS": "x"})

    assert [line.partition(":")[0].strip() for line in str(refused.value).splitlines()[1:]] == [
        "AzureWebJobsStorage",
        "COSMOS_CONNECTION_STRING",
        "RUN_RETENTION_DAYS",
    ]


KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQ"


@pytest.mark.parametrize(
    "name",
    [
        "AzureWebJobsStorage",
        "AzureWebJobsStorage__queueServiceUri",
        "AzureWebJobsStorage__accountName",
        "COSMOS_CONNECTION_STRING",
        "COSMOS_ENDPOINT",
        "KEY_VAULT_URI",
        "KEY_VAULT_VERIFY_CHALLENGE",
        "RUN_RETENTION_DAYS",
        "RECORD_FAILURES",
        "DASHBOARD",
        "HEARTBEAT_URL",
        "PYTHON_ENABLE_OPENTELEMETRY",
        "ORCHESTRATOR_LOOKAHEAD",
        "AzureFunctionsJobHost__extensions__queues__visibilityTimeout",
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        KEY,
        f"AccountName=a;AccountKey={KEY}=;AccountEndpoint=https://a/",
        f"AccountName=a;AccountKey={KEY}!;AccountEndpoint=https://a/",
        f"https://a.example/?sig={KEY}",
        f"https://{KEY}@a.example/",
        f"http://user:{KEY}@a.example/",
    ],
)
def test_no_key_is_shown_whatever_setting_it_is_in(name: str, value: str) -> None:
    """Neither in an error nor in the repr of the settings."""
    environ = {**KEYS, name: value}
    if "__" in name or name == "COSMOS_ENDPOINT":  # which a connection string replaces
        del environ["COSMOS_CONNECTION_STRING" if name == "COSMOS_ENDPOINT" else "AzureWebJobsStorage"]
    if name.startswith("AzureFunctions"):
        environ = {**KEYS, name: value}
    try:
        shown = repr(Settings.from_environ(environ))
    except SettingsInvalid as error:
        shown = f"{error} {error!r}"

    assert KEY not in shown


def test_the_repr_shows_no_key_in_place_of_a_name() -> None:
    """A key without a slash may have been pasted into any setting."""
    names = ("QUEUE_NAME", "COSMOS_DATABASE", "COSMOS_TENANTS_CONTAINER", "COSMOS_RUNS_CONTAINER")
    keys = {name: f"k3y-of-{name.lower().replace('_', '-')}" for name in names}

    assert "k3y-of" not in repr(Settings.from_environ({**KEYS, **keys}))


def test_the_repr_of_the_settings_names_the_settings_of_the_accounts() -> None:
    """Their connection strings are left out."""
    shown = repr(Settings.from_environ(KEYS))

    assert "Account(setting='COSMOS_CONNECTION_STRING')" in shown
    assert "c2VjcmV0" not in shown


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KEY_VAULT_URL", "KEY_VAULT_URI"),
        ("KEYVAULT_URI", "KEY_VAULT_URI"),
        ("key_vault_uri", "KEY_VAULT_URI"),
        ("ORCHESTRATOR_LOOK_AHEAD", "ORCHESTRATOR_LOOKAHEAD"),
        ("ORCHESTRATOR_LOOKAHAED", "ORCHESTRATOR_LOOKAHEAD"),
        ("ORCHESTRATOR_CRON", None),
        ("COSMOS_DB", None),
        ("COSMOS_DATABASE_NAME", "COSMOS_DATABASE"),
        ("COSMOS_TENANT_CONTAINER", "COSMOS_TENANTS_CONTAINER"),
        ("Cosmos__ConnectionString", "COSMOS_CONNECTION_STRING"),
        ("COSMOS_ENDPOINT_", "COSMOS_ENDPOINT"),
        ("QUEUENAME", "QUEUE_NAME"),
        ("CONCURRENCY_PER_TENANTS", "CONCURRENCY_PER_TENANT"),
        ("RUN_RETENTION_DAY", "RUN_RETENTION_DAYS"),
    ],
)
def test_a_misspelt_setting_is_a_warning(name: str, meant: str | None) -> None:
    """The app runs without it. The warning has the name that is meant, where one is similar, and no value."""
    (warning,) = Settings.from_environ({**KEYS, name: "c2VjcmV0"}).warnings

    assert warning.startswith(f"{name}: unknown, and has no effect")
    assert (f"did you mean {meant}?" in warning) is (meant is not None)
    assert "c2VjcmV0" not in warning


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AzureWebJobsStorage__account", "AzureWebJobsStorage__accountName"),
        ("AZUREWEBJOBSSTORAGE__ACCOUNTNAME", "AzureWebJobsStorage__accountName"),
        ("AzureWebJobsStorage__blobServicUri", "AzureWebJobsStorage__blobServiceUri"),
        (f"{QUEUES}maxDequeCount", f"{QUEUES}maxDequeueCount"),
        (f"{QUEUES}maxdequeuecount", f"{QUEUES}maxDequeueCount"),
    ],
)
def test_a_misspelt_setting_of_the_host_is_not_known_to_the_app(name: str, meant: str) -> None:
    """The host may read it, since it does not distinguish capitals. The warning does not say that it has no effect."""
    assert Settings.from_environ({**KEYS, name: "5"}).warnings == (
        f"{name}: the app does not know it; did you mean {meant}?",
    )


@pytest.mark.parametrize(
    "name",
    [
        "AzureWebJobsStorage__tenantId",
        "AzureWebJobsStorage__clientSecret",
        "AzureWebJobsStorage__fileServiceUri",
        "AzureWebJobsStorage__managedIdentityResourceId",
        "AzureWebJobsStorage__blobserviceuri",
        "AZUREWEBJOBSSTORAGE__CREDENTIAL",
        f"{QUEUES}batchsize",
        "AzureFunctionsJobHost__extensions__queues__maxDegreeOfParallelism",
    ],
)
def test_a_setting_that_only_the_host_reads_is_no_warning(name: str) -> None:
    """The host reads it in any capitals."""
    assert Settings.from_environ({**KEYS, name: "x"}).warnings == ()


@pytest.mark.parametrize("name", ["VAULT_URI", "VAULT_URL", "AZURE_KEY_VAULT_URI", "AZURE_KEYVAULT_URL"])
def test_the_address_of_the_vault_under_another_name_is_a_warning(name: str) -> None:
    """It belongs to another program if the app has its own setting too."""
    address = "https://a.vault.azure.net/"

    assert Settings.from_environ({**KEYS, name: address}).warnings == (
        f"{name}: unknown, and has no effect; did you mean KEY_VAULT_URI?",
    )
    assert Settings.from_environ({**KEYS, "KEY_VAULT_URI": address, name: address}).warnings == ()


def test_the_name_of_a_setting_cannot_forge_a_line() -> None:
    """The error is printed in full, with the warnings."""
    name = "COSMOS_X\n  COSMOS_DATABASE: \u202e\x1b[2J\u3164"
    with pytest.raises(SettingsInvalid) as error:
        Settings.from_environ({name: "x"})

    assert "COSMOS_X\\n  COSMOS_DATABASE: \\u202e\\x1b[2J\\u3164: unknown" in str(error.value)


@pytest.mark.parametrize(
    ("text", "mode"),
    [("", "off"), ("off", "off"), ("key", "key"), (" Entra ", "entra"), ("OFF", "off")],
)
def test_the_dashboard_is_off_unless_a_protection_is_named(text: str, mode: str) -> None:
    """An empty setting counts as not set."""
    environ = {**KEYS, "DASHBOARD": text}

    assert dashboard_mode(environ) == mode
    assert Settings.from_environ(environ).warnings == ()


@pytest.mark.parametrize("text", ["on", "true", "keys", "none", "public", "entra,key"])
def test_a_wrong_protection_of_the_dashboard_is_a_warning_and_turns_it_off(text: str) -> None:
    """Flows run without it."""
    environ = {**KEYS, "DASHBOARD": text}

    assert dashboard_mode(environ) == "off"
    assert Settings.from_environ(environ).warnings == (
        f"DASHBOARD: expected off, key or entra, got {text!r}: it is off",
    )


def test_the_heartbeat_goes_to_an_https_address_only() -> None:
    """Another one is a warning without the value, and flows run without it."""
    assert Settings.from_environ(KEYS).heartbeat_url is None
    assert Settings.from_environ({**KEYS, "HEARTBEAT_URL": "https://a/b"}).heartbeat_url == "https://a/b"
    for text in ("http://monitor/secret", "secret", "https://", "https://<your monitor>"):
        read = Settings.from_environ({**KEYS, "HEARTBEAT_URL": text})

        assert read.heartbeat_url is None
        assert read.warnings == ("HEARTBEAT_URL: expected an https:// address: no request is sent",)


@pytest.mark.parametrize("name", ["PYTHON_ENABLE_OPENTELEMETRY", "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY"])
@pytest.mark.parametrize(
    "text", ["", "0", "1", "true", " TRUE ", "t", "yes", "Y", "false", "f", "no", "n", "on", "enabled"]
)
def test_the_app_traces_where_the_worker_of_azure_does(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the worker's library. A text that it does not know is a warning."""
    monkeypatch.setenv(name, text)
    worker = import_module("azure_functions_runtime.utils.app_setting_manager")
    read = Settings.from_environ({**KEYS, name: text})

    assert read.traces == worker.is_envvar_true(name)
    is_known = not text or worker.is_envvar_true(name) or worker.is_envvar_false(name)
    assert read.warnings == (() if is_known else (f"{name}: expected true or false, got {text!r}: it counts as false",))


def test_other_environment_variables_are_no_settings_of_the_app() -> None:
    """A process on Azure has hundreds of them."""
    others = (
        "PATH", "HOME", "USER", "HOSTNAME", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID",
        "AZURE_TOKEN_CREDENTIALS", "FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION",
        "APPLICATIONINSIGHTS_CONNECTION_STRING", "AzureWebJobsDashboard", "AzureWebJobsScriptRoot",
        "AzureWebJobsSecretStorageType", "AzureWebJobs.run_flow.Disabled", "AzureFunctionsJobHost__logging__logLevel",
        "DEPLOYMENT_STORAGE_CONNECTION_STRING", "WEBSITE_SITE_NAME", "IDENTITY_ENDPOINT", "MSI_ENDPOINT",
        "VAULT_ADDR", "DATABASE_URL", "QUEUE", "x" * 100_000,
    )  # fmt: skip

    assert Settings.from_environ({**KEYS, **dict.fromkeys(others, "1")}).warnings == ()


def test_a_setting_that_another_one_replaces_is_a_warning() -> None:
    """A connection string wins over an endpoint, which is then not used."""
    read = Settings.from_environ({**KEYS, "COSMOS_ENDPOINT": "https://other.documents.azure.com/"})

    assert read.warnings == (
        "COSMOS_ENDPOINT: has no effect, since COSMOS_CONNECTION_STRING is set: remove one of them",
    )


def test_an_error_about_settings_has_the_warnings_too() -> None:
    """The setting that is missing is probably the one that is misspelt."""
    with pytest.raises(SettingsInvalid, match="COSMOS_CONECTION_STRING: unknown, .* mean COSMOS_CONNECTION_STRING"):
        Settings.from_environ({"COSMOS_CONECTION_STRING": "x"})


@pytest.mark.parametrize(
    "option",
    [
        '{"maxDequeueCount": 1e400}',
        '{"maxDequeueCount": NaN}',
        '{"maxDequeueCount": 0}',
        '{"maxDequeueCount": -1}',
        '{"maxDequeueCount": 10000000000000000000000}',
        '{"maxDequeueCount": true}',
        '{"maxDequeueCount": null}',
        '{"visibilityTimeout": "inf:0:0"}',
        '{"visibilityTimeout": "-00:01:00"}',
        '{"visibilityTimeout": 1e400}',
        "5",
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_a_host_json_that_the_host_refuses_has_the_defaults(tmp_path: Path, option: str) -> None:
    """The host itself does not start with such a file."""
    host_json = tmp_path / "host.json"
    host_json.write_text(f'{{"extensions": {{"queues": {option}}}}}')

    read = Settings.from_environ(KEYS, host_json=host_json)

    assert (read.max_attempts, read.retry_delay) == (5, timedelta())
