"""How the host reads host.json and local.settings.json."""

import json
import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from localdev.host.config import HostConfig, LocalSettings, setting, timespan
from localdev.host.errors import HostError


def write(folder: Path, content: Any) -> Path:
    path = folder / "file.json"
    path.write_text(json.dumps(content))
    return path


def host_config(folder: Path, content: Any = None, **environ: str) -> HostConfig:
    return HostConfig.load(write(folder, {"version": "2.0", **(content or {})}), environ)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("00:00:30", timedelta(seconds=30)),
        ("00:00:00.2", timedelta(milliseconds=200)),
        ("0:5", timedelta(minutes=5)),
        ("1.02:03:04.0050000", timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=5)),
        ("30", timedelta(days=30)),
    ],
)
def test_a_time_span_is_read_as_dot_net_reads_it(text: str, meaning: timedelta) -> None:
    """The form is `hh:mm:ss`, with days before a dot and fractions after a dot. A bare number means days."""
    assert timespan(text) == meaning


@pytest.mark.parametrize(
    "text", ["", "30s", "24:00:00", "00:60:00", "00:00:60", "-00:00:01", "1:2:3:4", "00:00:00.12345678"]
)
def test_an_invalid_time_span_is_refused(text: str) -> None:
    """The message shows the expected form."""
    with pytest.raises(ValueError, match="expected a time span"):
        timespan(text)


def test_the_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    """An empty host.json gives the values of Azure's documentation."""
    config = host_config(tmp_path)
    assert config.queues.batch_size == 16
    assert config.queues.new_batch_threshold == 8 * (os.cpu_count() or 1)
    assert config.queues.max_dequeue_count == 5
    assert config.queues.visibility_timeout == timedelta()
    assert config.queues.max_polling_interval == timedelta(minutes=1)
    assert config.queues.base64
    assert config.queues.hiding == timedelta(minutes=10)
    assert config.function_timeout == timedelta(minutes=30)


def test_host_json_changes_the_defaults(tmp_path: Path) -> None:
    """All values that the local host uses can be set. A batch size of 1 gives a threshold of 0."""
    queues = {
        "batchSize": 1,
        "maxDequeueCount": 2,
        "visibilityTimeout": "00:01:00",
        "maxPollingInterval": "00:00:05",
        "messageEncoding": "None",
    }
    content = {
        "functionTimeout": "-1",
        "logging": {"logLevel": {"default": "Warning"}},
        "extensions": {"queues": queues},
    }
    config = host_config(tmp_path, content)
    assert (config.queues.batch_size, config.queues.new_batch_threshold) == (1, 0)
    assert config.queues.max_dequeue_count == 2
    assert config.queues.visibility_timeout == timedelta(minutes=1)
    assert config.queues.max_polling_interval == timedelta(seconds=5)
    assert not config.queues.base64
    assert config.function_timeout is None
    assert config.log_level == logging.WARNING


def test_an_app_setting_overrides_host_json(tmp_path: Path) -> None:
    """`AzureFunctionsJobHost__…` replaces the value. Its case is ignored, as in .NET's configuration."""
    content = {"extensions": {"queues": {"batchSize": 4, "newBatchThreshold": 1}}}
    environ = {
        "AzureFunctionsJobHost__extensions__queues__batchSize": "8",
        "AZUREFUNCTIONSJOBHOST__EXTENSIONS__QUEUES__NEWBATCHTHRESHOLD": "3",
    }
    config = host_config(tmp_path, content, **environ)
    assert (config.queues.batch_size, config.queues.new_batch_threshold) == (8, 3)


@pytest.mark.parametrize(
    ("queues", "seconds"),
    [
        ({}, 2),
        ({"maxPollingInterval": "00:01:00"}, 2),
        ({"maxPollingInterval": "00:00:30"}, 30),
        ({"maxPollingInterval": "00:00:00.5"}, 0.5),
    ],
)
def test_in_development_the_default_polling_interval_is_2_seconds(
    tmp_path: Path, queues: dict[str, str], seconds: float
) -> None:
    """Only the default of one minute is replaced, as in the queue extension since version 5.0.0."""
    config = host_config(tmp_path, {"extensions": {"queues": queues}}, AZURE_FUNCTIONS_ENVIRONMENT="Development")
    assert config.queues.max_polling_interval == timedelta(seconds=seconds)


def test_in_development_an_app_setting_changes_the_polling_interval(tmp_path: Path) -> None:
    """An interval other than one minute is kept, also when it comes from an app setting."""
    environ = {
        "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
        "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:05",
    }
    assert host_config(tmp_path, **environ).queues.max_polling_interval == timedelta(seconds=5)


def test_a_bare_number_means_days_and_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`"visibilityTimeout": 5` means five days, which is almost always a mistake."""
    config = host_config(tmp_path, {"extensions": {"queues": {"visibilityTimeout": 5}}})
    assert config.queues.visibility_timeout == timedelta(days=5)
    assert "extensions.queues.visibilityTimeout is 5, and the host reads a bare number as DAYS" in caplog.text


def test_all_invalid_values_are_reported_together(tmp_path: Path) -> None:
    """Each line has the key (or the app setting), the value and the allowed values."""
    content = {
        "functionTimeout": "00:00:00",
        "logging": {"logLevel": {"default": "Loud"}},
        "extensions": {
            "queues": {
                "batchSize": 33,
                "maxDequeueCount": 0,
                "visibilityTimeout": "8.00:00:00",
                "maxPollingInterval": "00:00:00.099",
                "messageEncoding": "utf8",
            }
        },
    }
    environ = {"AzureFunctionsJobHost__extensions__queues__newBatchThreshold": "-1"}
    with pytest.raises(HostError) as caught:
        host_config(tmp_path, content, **environ)
    for message in (
        "extensions.queues.batchSize is 33: expected a whole number from 1 to 32",
        "extensions.queues.maxDequeueCount is 0: expected a whole number from 1",
        "extensions.queues.visibilityTimeout is '8.00:00:00': expected at most 7 days",
        "extensions.queues.maxPollingInterval is '00:00:00.099': expected at least 100 ms",
        "extensions.queues.messageEncoding is 'utf8': expected base64 or none",
        "AzureFunctionsJobHost__extensions__queues__newBatchThreshold is '-1': expected a whole number from 0",
        "functionTimeout is '00:00:00': expected a time span",
        "logging.logLevel.default is 'Loud': expected Trace",
    ):
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "must hold a JSON object"), ("{}", 'write "version": "2.0"')],
)
def test_an_invalid_host_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The message names the file."""
    path = tmp_path / "host.json"
    path.write_text(text)
    with pytest.raises(HostError, match=rf"host\.json.*{message}"):
        HostConfig.load(path, {})


def test_messages_can_be_hidden_for_a_shorter_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The local host has a variable for this, and says so, because Azure has none."""
    caplog.set_level("INFO")
    assert host_config(tmp_path, LOCALDEV_MESSAGE_HIDING="2").queues.hiding == timedelta(seconds=2)
    assert "LOCALDEV_MESSAGE_HIDING: messages are hidden for 2 s during their run (on Azure: 600 s)" in caplog.text


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "2s", "604801"])
def test_an_invalid_hiding_time_is_refused(tmp_path: Path, text: str) -> None:
    """The message has the variable, the value and the limits, which are those of the queue service."""
    with pytest.raises(HostError) as caught:
        host_config(tmp_path, LOCALDEV_MESSAGE_HIDING=text)
    assert str(caught.value) == (
        f"LOCALDEV_MESSAGE_HIDING is {text!r}: expected a whole number from 1 to 604800, in seconds; "
        "without it, 600 are used, as on Azure"
    )


def test_a_missing_host_json_is_refused(tmp_path: Path) -> None:
    """The message explains --app."""
    with pytest.raises(HostError, match=r"host\.json is missing. Give --app the directory of a function app"):
        HostConfig.load(tmp_path / "host.json", {})


def test_local_settings_are_optional(tmp_path: Path) -> None:
    """Without the file, all settings come from the environment."""
    assert LocalSettings.load(tmp_path / "local.settings.json").values == {}


def test_local_settings_do_not_replace_the_environment(tmp_path: Path) -> None:
    """A variable that is already set is kept. AZURE_FUNCTIONS_ENVIRONMENT becomes Development if it is not set."""
    settings = LocalSettings.load(write(tmp_path, {"IsEncrypted": False, "Values": {"A": "file", "B": "file"}}))
    environ = {"A": "outer"}
    settings.apply(environ)
    assert environ == {"A": "outer", "B": "file", "AZURE_FUNCTIONS_ENVIRONMENT": "Development"}


def test_local_settings_can_have_the_port(tmp_path: Path) -> None:
    """The key is `Host.LocalHttpPort`, as for Core Tools."""
    assert LocalSettings.load(write(tmp_path, {"IsEncrypted": False, "Host": {"LocalHttpPort": 7072}})).port == 7072


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Values": {}}, '"IsEncrypted" is missing, which means true.*Write "IsEncrypted": false'),
        ({"IsEncrypted": True}, '"IsEncrypted" is True.*Write "IsEncrypted": false'),
        ({"IsEncrypted": False, "Values": []}, '"Values" must be an object'),
        ({"IsEncrypted": False, "Values": {"A": 1, "B": "b", "C": {}}}, "values must be strings, in quotes: A, C$"),
        ({"IsEncrypted": False, "Host": {"LocalHttpPort": "7072"}}, "\"LocalHttpPort\" is '7072'; expected a port"),
    ],
)
def test_invalid_local_settings_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    """The message names the file and the remedy. It shows no values, as they can be secrets."""
    with pytest.raises(HostError, match=rf"file\.json: {message}"):
        LocalSettings.load(write(tmp_path, content))


def test_the_name_of_a_setting_is_compared_without_case() -> None:
    """.NET's configuration does the same. An empty setting counts as not set."""
    environ = {"Schedule": "now", "empty": ""}
    assert setting(environ, "SCHEDULE") == "now"
    assert setting(environ, "empty") is None
