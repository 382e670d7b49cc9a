"""The log of a run, without secrets."""

import logging

import pytest

from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.telemetry.emit import configure


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("token s3cret-token", "token <crm--token>"),
        ("s3cret-token-and-more", "<crm--token>-and-more"),
        ("GET https://a.example/x?api_key=1&b=2 failed", "GET https://a.example/x?*** failed"),
        ("'https://a.example/x?api_key=1'", "'https://a.example/x?***'"),
        ("https://user:pass@a.example/", "https://user:***@a.example/"),
        ("https://a.example:8443/x", "https://a.example:8443/x"),
        ("https://s3cret.example/x?a=b", "https://<crm--part>.example/x?***"),
        ("is it so? yes", "is it so? yes"),
    ],
)
def test_secrets_are_removed(text: str, redacted: str) -> None:
    """Secrets that a run has read are replaced by their names. Query strings and passwords in URLs become ***."""
    redact = Redaction()
    redact.add("crm--token", "s3cret-token")
    redact.add("crm--part", "s3cret")

    assert redact(text) == redacted


@pytest.mark.parametrize(
    "form",
    [
        "-----BEGIN KEY-----\nMIIEvQ1BADANBg\n-----END KEY-----\n",
        "-----BEGIN KEY-----\nMIIEvQ1BADANBg\n-----END KEY-----",
        "-----BEGIN KEY----- MIIEvQ1BADANBg -----END KEY-----",
        "  | -----BEGIN KEY-----\n  | MIIEvQ1BADANBg\n  | -----END KEY-----",
        repr("-----BEGIN KEY-----\nMIIEvQ1BADANBg\n-----END KEY-----\n"),
        "-----BEGIN%20KEY-----%0AMIIEvQ1BADANBg%0A-----END%20KEY-----%0A",
    ],
)
def test_a_secret_is_removed_in_every_form(form: str) -> None:
    """The secret is removed if it is stripped, on one line, quoted, in a traceback, or in a URL."""
    redact = Redaction()
    redact.add("crm--key", "-----BEGIN KEY-----\nMIIEvQ1BADANBg\n-----END KEY-----\n")

    assert "MIIEvQ1BADANBg" not in redact(f"before {form} after")
    assert "<crm--key>" in redact(form)


def test_half_a_surrogate_pair_is_escaped() -> None:
    """A truncated emoji from an API does not break the log or the record."""
    redacted = Redaction()("broken \ud83d")

    assert redacted == "broken \\ud83d"
    redacted.encode()


def test_a_wrong_format_string_does_not_fail_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """The format string and its arguments are logged unchanged, and no error is raised."""
    run_log = RunLog("acme/weather", {}, Redaction())

    caplog.set_level(logging.INFO, "datasync")
    run_log.info("%d items", "three")
    run_log.info("%(n)s items", {"n": 3})
    run_log.error("failed", exc_info=ValueError("why"))

    first, second, third = (record.getMessage() for record in caplog.records)
    assert first == "acme/weather: %d items ('three',)"
    assert second == "acme/weather: 3 items"
    assert third == "acme/weather: failed\nValueError: why"


def test_a_value_too_short_to_be_a_secret_is_not_redacted() -> None:
    """Very short values, such as `1`, are not redacted, since they occur in ordinary text."""
    redact = Redaction()
    for value in ("", None, "1"):
        redact.add("crm--flag", value)

    assert redact("attempt 1 of 11") == "attempt 1 of 11"


def test_an_exception_becomes_one_line() -> None:
    """The line holds the class, the message and the notes. It has a maximum length."""
    error = ValueError("first\n  second")
    error.add_note("noted")

    assert Redaction().one_line(error) == "ValueError: first second noted"
    assert Redaction().one_line(TimeoutError()) == "TimeoutError"
    assert len(Redaction().one_line(ValueError("x" * 100_000))) == 2000


def test_a_runs_logger_is_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    """It accepts %-arguments and exceptions. It adds the tenant and the flow, and removes the secrets of the run."""
    redact = Redaction()
    redact.add("crm--token", "s3cret-token")
    run_log = RunLog("acme/weather", {"run": "5f"}, redact)

    caplog.set_level(logging.INFO, "datasync")
    run_log.debug("not at this level: %s", "s3cret-token")
    run_log.info("%d items with %s", 3, "s3cret-token")
    try:
        int("bad s3cret-token")
    except ValueError:
        run_log.exception("continued")

    first, _ = (record.getMessage() for record in caplog.records)
    assert first == "acme/weather: 3 items with <crm--token>"
    assert "literal for int() with base 10: 'bad <crm--token>'" in caplog.text
    assert "s3cret-token" not in caplog.text
    assert {record.funcName for record in caplog.records} == {"test_a_runs_logger_is_a_logger"}


def test_libraries_do_not_log_their_requests() -> None:
    """The URL of a request may contain a key, so these libraries log only warnings and errors."""
    configure()

    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
    assert not logging.getLogger("azure.core.pipeline.policies.http_logging_policy").isEnabledFor(logging.INFO)
    assert logging.getLogger("datasync").isEnabledFor(logging.INFO)
