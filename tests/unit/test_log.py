"""Log lines: a sentence, its fields, and never a secret."""

import logging

import pytest

from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.telemetry.emit import configure, emit
from datasync.telemetry.events import RunStarted


def test_a_line_is_a_sentence_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    """Fields stand behind the sentence, and ride along for handlers that keep structure."""
    caplog.set_level(logging.INFO)
    emit(RunStarted(subject="acme/weather", run="5f", attempt=2))

    (record,) = caplog.records
    assert record.getMessage() == "START acme/weather run=5f attempt=2"
    assert record.fields == {"run": "5f", "attempt": 2}  # type: ignore[attr-defined]


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
def test_secrets_are_taken_out(text: str, redacted: str) -> None:
    """What a run has read from the vault, and what URLs carry, is replaced by its name, or by ***."""
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
def test_a_secret_is_taken_out_in_every_form_it_takes(form: str) -> None:
    """Stripped, in one line, quoted, in a traceback's frame, in a URL."""
    redact = Redaction()
    redact.add("crm--key", "-----BEGIN KEY-----\nMIIEvQ1BADANBg\n-----END KEY-----\n")

    assert "MIIEvQ1BADANBg" not in redact(f"before {form} after")
    assert "<crm--key>" in redact(form)


def test_half_a_surrogate_pair_is_written_out() -> None:
    """A truncated emoji from an API must not break the log or the record."""
    redacted = Redaction()("broken \ud83d")

    assert redacted == "broken \\ud83d"
    redacted.encode()


def test_a_format_that_does_not_fit_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """As elsewhere in logging: the text and its arguments are logged as they are."""
    run_log = RunLog("acme/weather", {}, Redaction())

    caplog.set_level(logging.INFO, "datasync")
    run_log.info("%d items", "three")
    run_log.info("%(n)s items", {"n": 3})
    run_log.error("failed", exc_info=ValueError("why"))

    first, second, third = (record.getMessage() for record in caplog.records)
    assert first == "acme/weather: %d items ('three',)"
    assert second == "acme/weather: 3 items"
    assert third == "acme/weather: failed\nValueError: why"


def test_what_is_too_short_to_be_a_secret_is_left_alone() -> None:
    """A vault may hold a `1` or nothing at all; blanking those out would blank out everything."""
    redact = Redaction()
    for value in ("", None, "1"):
        redact.add("crm--flag", value)

    assert redact("attempt 1 of 11") == "attempt 1 of 11"


def test_an_exception_is_one_line() -> None:
    """Its class, its message and its notes, without line breaks, and not endless."""
    error = ValueError("first\n  second")
    error.add_note("noted")

    assert Redaction().one_line(error) == "ValueError: first second noted"
    assert Redaction().one_line(TimeoutError()) == "TimeoutError"
    assert len(Redaction().one_line(ValueError("x" * 100_000))) == 2000


def test_a_runs_logger_is_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    """It takes %-arguments and exceptions, names the run, and takes out its secrets."""
    redact = Redaction()
    redact.add("crm--token", "s3cret-token")
    run_log = RunLog("acme/weather", {"run": "5f"}, redact)

    caplog.set_level(logging.INFO, "datasync")
    run_log.debug("not at this level: %s", "s3cret-token")
    run_log.info("%d items with %s", 3, "s3cret-token")
    try:
        int("bad s3cret-token")
    except ValueError:
        run_log.exception("went on")

    first, _ = (record.getMessage() for record in caplog.records)
    assert first == "acme/weather: 3 items with <crm--token>"
    assert "literal for int() with base 10: 'bad <crm--token>'" in caplog.text
    assert "s3cret-token" not in caplog.text
    assert {record.funcName for record in caplog.records} == {"test_a_runs_logger_is_a_logger"}


def test_libraries_do_not_log_their_requests() -> None:
    """A request's URL may carry a key, so the libraries that would log it are kept to warnings."""
    configure()

    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
    assert not logging.getLogger("azure.core.pipeline.policies.http_logging_policy").isEnabledFor(logging.INFO)
    assert logging.getLogger("datasync").isEnabledFor(logging.INFO)
