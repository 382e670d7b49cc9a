"""The host's checks of an app: names, schedules, %NAME%, connections."""

import json
from datetime import timedelta
from typing import Any

import pytest

from localdev.host.app import QueueTrigger, RetryPolicy, TimerTrigger, functions_of
from localdev.host.connections import resolve
from localdev.host.errors import HostError
from localdev.host.worker import IndexedFunction, RetryOptions

STORAGE = {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}


def indexed(name: str, *bindings: dict[str, Any], retry: RetryOptions | None = None) -> IndexedFunction:
    return IndexedFunction(name=name, id=name, bindings=tuple(json.dumps(one) for one in bindings), retry_options=retry)


def queue(queue_name: str = "jobs", connection: str = "AzureWebJobsStorage", name: str = "msg") -> dict[str, Any]:
    return {"type": "queueTrigger", "name": name, "queueName": queue_name, "connection": connection}


def timer(schedule: str = "0 0 * * * *", **more: Any) -> dict[str, Any]:
    return {"type": "timerTrigger", "name": "timer", "schedule": schedule, **more}


def test_percent_names_are_replaced_by_app_settings() -> None:
    """This works in schedules, queue names and connections, also inside a text. Queue names become lower case."""
    environ = {**STORAGE, "EVERY": "0 */5 * * * *", "STAGE": "Dev", "WHERE": "Storage"}
    functions = functions_of(
        [indexed("tick", timer("%EVERY%")), indexed("work", queue("jobs-%stage%", "%WHERE%"))], environ
    )
    tick, work = (function.trigger for function in functions)
    assert isinstance(tick, TimerTrigger)
    assert tick.schedule.text == "0 */5 * * * *"
    assert (tick.run_on_startup, tick.use_monitor) == (False, True)
    assert isinstance(work, QueueTrigger)
    assert work.queue == "jobs-dev"
    assert work.connection.setting == "AzureWebJobsStorage"


def test_all_errors_are_reported_together() -> None:
    """Each line names the function, the property, the value and the remedy."""
    with pytest.raises(HostError) as caught:
        functions_of(
            [
                indexed("tick", timer("%NOT_SET%")),
                indexed("tock", timer("0 0 0 * * 7")),
                indexed("work", queue("Jobs_1")),
                indexed("more", queue("%NOT_SET%-jobs")),
                indexed("lost", queue(connection="Elsewhere")),
                indexed("2nd", queue(name="my_msg")),
                indexed("host", timer(name="timer")),
            ],
            STORAGE,
        )
    for message in (
        "function 'tick': schedule '%NOT_SET%': %NOT_SET% does not resolve to a value. Set the app setting NOT_SET",
        "function 'tock': schedule '0 0 0 * * 7' is not a valid NCRONTAB expression: day of week field '7'",
        "function 'work': queue_name 'jobs_1' is not a valid queue name: 3 to 63 lower-case letters",
        "function 'more': queue_name '%NOT_SET%-jobs': %NOT_SET% does not resolve to a value",
        "function 'lost': connection 'Elsewhere' is not configured: set the app setting Elsewhere",
        "function '2nd': not a valid function name",
        "function '2nd': arg_name 'my_msg' is not a valid binding name; use letters and digits only",
        "function 'host': not a valid function name",
    ):
        assert message in str(caught.value)


def test_an_app_without_functions_is_an_error() -> None:
    """Azure accepts such an app, and nothing runs."""
    with pytest.raises(HostError, match="^0 functions found"):
        functions_of([], STORAGE)


def test_unsupported_functions_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """These are functions with other triggers, or with bindings besides their trigger."""
    output = {"type": "queue", "name": "out", "direction": "OUT"}
    functions = functions_of(
        [
            indexed("web", {"type": "blobTrigger", "name": "blob"}),
            indexed("both", timer(), output),
            indexed("tick", timer()),
        ],
        STORAGE,
    )
    assert [function.name for function in functions] == ["tick"]
    assert "Function 'web' (blobTrigger) is left out: the local host does not support it" in caplog.text
    assert "Function 'both' (queue, timerTrigger) is left out: the local host does not support it" in caplog.text


def fixed_delay(seconds: int = 1, count: int = 3) -> RetryOptions:
    return RetryOptions(retry_strategy="fixed_delay", max_retry_count=count, delay_interval=timedelta(seconds=seconds))


def exponential_backoff(minimum: int, maximum: int, count: int = 3) -> RetryOptions:
    return RetryOptions(
        retry_strategy="exponential_backoff",
        max_retry_count=count,
        minimum_interval=timedelta(seconds=minimum),
        maximum_interval=timedelta(seconds=maximum),
    )


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        (None, RetryPolicy(max_count=0, minimum=timedelta(), maximum=timedelta())),
        (fixed_delay(5), RetryPolicy(max_count=3, minimum=timedelta(seconds=5), maximum=timedelta(seconds=5))),
        (
            exponential_backoff(5, 60, count=-1),
            RetryPolicy(max_count=-1, minimum=timedelta(seconds=5), maximum=timedelta(minutes=1)),
        ),
    ],
    ids=["none", "fixed delay", "exponential backoff"],
)
def test_a_timer_has_the_retries_of_its_policy(options: RetryOptions | None, policy: RetryPolicy) -> None:
    """There are two strategies. Without a policy, nothing is tried again."""
    (function,) = functions_of([indexed("tick", timer(), retry=options)], {})
    assert isinstance(function.trigger, TimerTrigger)
    assert function.trigger.retries == policy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (fixed_delay(count=-2), "max_retry_count is -2; expected -1 (no limit) or more"),
        (
            exponential_backoff(60, 5),
            "the minimum_interval 0:01:00 of its retries is longer than the maximum_interval 0:00:05",
        ),
        (
            RetryOptions(retry_strategy="linear", max_retry_count=1),
            "the retry strategy 'linear' does not exist; use fixed_delay or exponential_backoff",
        ),
    ],
    ids=["count", "intervals", "strategy"],
)
def test_an_invalid_retry_policy_is_an_error(options: RetryOptions, message: str) -> None:
    """The message names the function, the value and the expectation."""
    with pytest.raises(HostError) as caught:
        functions_of([indexed("tick", timer(), retry=options)], {})
    assert f"function 'tick': {message}" in str(caught.value)


def test_the_retry_policy_of_a_queue_trigger_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """On Azure, queue triggers do not support retry policies. The warning names the settings that they have instead."""
    functions_of([indexed("work", queue(), retry=fixed_delay())], STORAGE)
    assert "Function 'work': its retry policy is not applied" in caplog.text
    assert "visibilityTimeout and maxDequeueCount" in caplog.text


def test_a_function_can_be_disabled_by_an_app_setting() -> None:
    """The setting is `AzureWebJobs.<name>.Disabled`, as on Azure."""
    environ = {**STORAGE, "AzureWebJobs.tick.Disabled": "true", "AzureWebJobs.tock.Disabled": "false"}
    tick, tock = functions_of([indexed("tick", timer()), indexed("tock", timer())], environ)
    assert (tick.disabled, tock.disabled) == (True, False)


def test_a_connection_is_looked_up_with_its_prefix_first() -> None:
    """`Jobs` means AzureWebJobsJobs if it is set, else Jobs. An empty connection means AzureWebJobsStorage."""
    assert resolve("Jobs", {"Jobs": "b", "AzureWebJobsJobs": "a"}).connection_string == "a"
    assert resolve("Jobs", {"Jobs": "b"}).connection_string == "b"
    assert resolve("", {"AzureWebJobsStorage": "USEDEVELOPMENTSTORAGE=True;"}).setting == "AzureWebJobsStorage"


def test_a_connection_can_use_an_identity() -> None:
    """The account is given by its URL or its name, and the identity by `managedidentity` and a client id."""
    assert (
        resolve("X", {"X__queueServiceUri": "https://a.queue.core.windows.net"}).url
        == "https://a.queue.core.windows.net"
    )
    identity = resolve("X", {"X__accountName": "a", "X__credential": "managedidentity", "X__clientId": "me"})
    assert identity.url == "https://a.queue.core.windows.net"
    assert identity.managed_identity
    assert identity.client_id == "me"


def test_a_connection_string_is_not_shown() -> None:
    """It contains the key of the account."""
    assert "secret" not in repr(resolve("X", {"X": "AccountKey=secret"}))
