"""The log of a run, without secrets."""

import html
import json
import logging
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, quote_plus, urlencode

import pytest

from datasync.flow.log import RunLog
from datasync.flow.redact import TEXT, Redaction
from datasync.telemetry.emit import configure


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("token s3cret-token", "token <crm--token>"),
        ("s3cret-token-and-more", "<crm--token>-and-more"),
        ("GET https://a.example/x?api_key=1&b=2 failed", "GET https://a.example/x?*** failed"),
        ("'https://a.example/x?api_key=1'", "'https://a.example/x?***'"),
        ("https://user:pass@a.example/", "https://***@a.example/"),
        ("https://t0ken@a.example/", "https://***@a.example/"),
        ("https://user:p@ss/w0rd@a.example/", "https://***@a.example/"),
        ("https://user:p?ss@a.example/", "https://***"),
        ("postgres://user:pass@db.example/x", "postgres://***@db.example/x"),
        ("AMQPS://user:pass@a.example", "AMQPS://***@a.example"),
        ("sftp://u:p@a.example,sftp://u:p@b.example", "sftp://***@a.example,sftp://***@b.example"),
        ("redis://:pass@a.example", "redis://***@a.example"),
        ("//user:pass@a.example/x", "//***@a.example/x"),
        ("wss://a.example/x?k3y", "wss://a.example/x?***"),
        ("HTTPS://A.EXAMPLE/X?API_KEY=1", "HTTPS://A.EXAMPLE/X?***"),
        ("GET orders?api_key=1", "GET orders?***"),
        ("GET ?api_key=1", "GET ?***"),
        ("GET ../x.php?a=O'Brien&api_key=1 failed", "GET ../x.php?*** failed"),
        ("https%3A%2F%2Fu%3Ap%40a.example%2Fx%3Fk%3D1", "https%3A%2F%2F***%40a.example%2Fx%3F***"),
        ("https://a.example/@scope/package", "https://a.example/@scope/package"),
        ("https://a.example:8443/@scope", "https://a.example:8443/@scope"),
        ("// see a@b.example", "// see a@b.example"),
        ("https://a.example:8443/x", "https://a.example:8443/x"),
        ("https://s3cret.example/x?a=b", "https://<crm--part>.example/x?***"),
        ("GET /x/y?api_key=1&b=2 failed", "GET /x/y?*** failed"),
        ('{"next": "/x?api_key=1"}', '{"next": "/x?***"}'),
        (r'{"next": "https:\/\/a.example\/x?api_key=1"}', r'{"next": "https:\/\/a.example\/x?***"}'),
        ("see(https://a.example/x?api_key=1)", "see(https://a.example/x?***"),
        ("why?https://a.example/x?api_key=1", "why?https://a.example/x?***"),
        ("is it so? yes", "is it so? yes"),
        ("so?https://a.example/x", "so?https://a.example/x"),
        ("this and/or?that", "this and/or?that"),
    ],
)
def test_secrets_are_removed(text: str, redacted: str) -> None:
    """Secrets that a run has read are replaced by their names. The user and the query of a URL become ***."""
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


SECRET = 'p@ss/wörd "1"+<&'
"""A secret with characters that each encoding writes in another way."""


@pytest.mark.parametrize(
    "form",
    [
        json.dumps({"echo": SECRET}),
        json.dumps({"echo": SECRET}, ensure_ascii=False),
        json.dumps({"echo": SECRET}).replace("/", r"\/"),
        html.escape(f"<p>{SECRET}</p>"),
        urlencode({"echo": SECRET}),
        urlencode({"echo": SECRET}, quote_via=quote),
        f"/echo/{quote(SECRET, safe='')}",
    ],
)
def test_a_secret_is_removed_from_a_body(form: str) -> None:
    """An API may return the secret as JSON, with or without escapes for `/` and non-ASCII, as HTML, or as a form."""
    redact = Redaction()
    redact.add("crm--key", f"{SECRET}\n")

    assert redact(form).count("<crm--key>") == 1
    assert "rd" not in redact(form)


@pytest.mark.parametrize(
    ("secret", "form"),
    [
        ("h<s\\🚀jvra!", ascii("h<s\\🚀jvra!")),
        ("(<\\'", "(&lt;\\'"),
        ("&{|/)'^\\", "&amp;{|\\/)&#x27;^\\\\)"),
        ("Straße İı", "STRASSE İI"),
        ("pässword", repr("pässword".encode())),
        ("two words+more", "TWO+WORDS%2bMORE"),
        ("'[a]\n;b;\nlonger than eight", "  | '[a]\n  | ;b;\n  | longer than eight"),
    ],
)
def test_a_secret_is_removed_in_unusual_forms(secret: str, form: str) -> None:
    """Escapes of several kinds, and letters whose capitals are two letters."""
    redact = Redaction()
    redact.add("crm--key", secret)

    redacted = redact(f"before {form} after")

    assert "<crm--key>" in redacted
    assert len(redacted) <= len("before    | '<crm--key>'\\ after")


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
@pytest.mark.parametrize("user", ["", "a:", "ab:", "abc:"])
def test_a_secret_is_removed_in_base64(encode: Callable[[bytes], bytes], user: str) -> None:
    """The credentials of basic authentication are `user:secret` in base64. The text around the secret can be longer."""
    redact = Redaction()
    redact.add("crm--password", "s3cret-pässword?>>\n")
    encoded = encode(f"{user}s3cret-pässword?>>".encode()).decode()

    redacted = redact(f"Basic {encoded}")

    assert "<crm--password>" in redacted
    assert len(redacted) - len("Basic <crm--password>") <= len(user) * 4 / 3 + 6


@pytest.mark.parametrize("secret", ["pk/3fQ+9aZ==", 's3cr3t&pass word"x', "pässwörd-geheim", "AbCd8Q~xyz.123/+=zz"])
@pytest.mark.parametrize(
    "write",
    [
        lambda secret: f"id:{quote_plus(secret)}",  # RFC 6749, section 2.3.1
        lambda secret: json.dumps({"client_secret": secret}),
        lambda secret: json.dumps({"client_secret": secret}, ensure_ascii=False),
        lambda secret: urlencode({"a": 1, "client_secret": secret, "b": 2}),
        lambda secret: urlencode({"a": 1, "client_secret": secret}, quote_via=quote),
        lambda secret: f"/login/{quote(secret, safe='')}",
        str.upper,
        str.lower,
        lambda secret: b64encode(secret.encode()).decode(),
    ],
)
def test_an_escaped_secret_is_removed_in_base64(write: Callable[[str], str], secret: str) -> None:
    """As OAuth 2.0 writes it, in JSON, in a form, in another case, or in base64 again."""
    redact = Redaction()
    redact.add("crm--key", secret)

    assert "<crm--key>" in redact(f"Basic {b64encode(write(secret).encode()).decode()} end")


@pytest.mark.parametrize(
    ("secret", "text", "redacted"),
    [
        ("abcXYZ123abc", "abcXYZ123abcXYZ123abc", "<crm--key>"),
        ("abcXYZ123abc", "a abcXYZ123abcXYZ123abcXYZ123abc b abcXYZ123abc", "a <crm--key> b <crm--key>"),
        ("aaaaa", "b" + "a" * 100_000 + "b", "b<crm--key>b"),
    ],
)
def test_occurrences_of_a_secret_that_overlap_are_removed(secret: str, text: str, redacted: str) -> None:
    """A secret may end as it begins."""
    redact = Redaction()
    redact.add("crm--key", secret)

    assert redact(text) == redacted


def test_a_secret_is_added_in_a_thread_while_texts_are_redacted() -> None:
    """Neither fails, and no secret is lost."""
    redact = Redaction()
    secrets = [(f"crm--{n}", f"s3cret{n:04}" * 120) for n in range(60)]

    with ThreadPoolExecutor(4) as threads:
        added = [threads.submit(redact.add, *each) for each in secrets]
        while not all(each.done() for each in added):
            redact("a text without a secret")
    for each in added:
        each.result()

    assert all(redact(secret) == f"<{name}>" for name, secret in secrets)


def test_a_secret_with_a_thousand_texts_is_removed() -> None:
    """Each of its texts, in each form."""
    texts = [f"s3cret-{n:04}/key" for n in range(1000)]
    redact = Redaction()
    redact.add("crm--keys", json.dumps(texts))

    assert redact(" ".join(texts[500:510])) == " ".join(["<crm--keys>"] * 10)
    assert redact(b64encode(texts[700].encode()).decode()) == "<crm--keys>"
    assert redact("a %s3cret-0999%2fkey") == "a %<crm--keys>"


def test_the_texts_of_a_secret_in_json_are_removed() -> None:
    """A flow uses the parts of such a secret, such as the key of a service account."""
    redact = Redaction()
    redact.add("crm--account", '{"type":"robot","keys":[{"id":1,"key":"s3cret-key\\npart"}]}')

    assert redact("the robot with s3cret-key\npart") == "the robot with <crm--account>"


@pytest.mark.parametrize("secret", ["[" * 100_000, '["half \\ud83d pair"]', "half \ud83d pair", "12345678", "null"])
def test_any_text_can_be_a_secret(secret: str) -> None:
    """Deeply nested JSON and half a surrogate pair do not break the run."""
    redact = Redaction()
    redact.add("crm--odd", secret)

    assert redact(f"before {secret} after") == "before <crm--odd> after"


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
    assert third == "acme/weather: failed\n  ValueError: why"


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


@pytest.mark.parametrize(
    "extra",
    [
        {"answer": "s3cret-token"},
        {"answer": {"token": "s3cret-token"}},
        {"answer": {"s3cret-token": 1}},
        {"answer": [{"deep": ("s3cret-token", {"s3cret-token"})}]},
        {"answer": ValueError("s3cret-token")},
        {"answer": b"s3cret-token"},
        {"answer": {"a": {"b": {"c": {"d": {"e": {"f": {"g": "s3cret-token"}}}}}}}},
        {"answer": ["s3cret-token"] * 1_000},
        {"s3cret-token": 1},
    ],
)
def test_secrets_are_removed_from_the_extra_fields_of_a_line(
    extra: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """At any depth, in names and in values of any type."""
    redact = Redaction()
    redact.add("crm--token", "s3cret-token")

    caplog.set_level(logging.INFO, "datasync")
    RunLog("acme/weather", {}, redact).info("done", extra=extra)

    fields = str(vars(caplog.records[0]))
    assert "s3cret-token" not in fields
    assert "<crm--token>" in fields


def test_unseen_characters_in_extra_fields_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    """So they cannot forge a line of a log that prints the fields."""
    caplog.set_level(logging.INFO, "datasync")
    RunLog("acme/weather", {}, Redaction()).info("done", extra={"answer": ["ok\nFAIL\x1b[2J\u202e"], "k\u200b": 1})

    (record,) = caplog.records
    assert record.answer == ["ok\n  FAIL\\x1b[2J\\u202e"]  # type: ignore[attr-defined]
    assert vars(record)["k\\u200b"] == 1


def test_harmless_extra_fields_are_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    """Numbers stay numbers, lists stay lists, and objects stay objects."""
    answer = {"orders": [1, 2.5, None, True], "name": "Zürich"}

    caplog.set_level(logging.INFO, "datasync")
    RunLog("acme/weather", {}, Redaction()).info("done", extra={"answer": answer, "number": 12345})

    (record,) = caplog.records
    assert (record.answer, record.number) == (answer, 12345)  # type: ignore[attr-defined]


def test_an_object_whose_text_cannot_be_shown_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """Neither as an argument nor in `extra`."""

    class Broken:
        def __str__(self) -> str:
            raise LookupError("no text")

    caplog.set_level(logging.INFO, "datasync")
    RunLog("acme/weather", {}, Redaction()).info(Broken(), extra={"answer": Broken()})

    (record,) = caplog.records
    assert record.getMessage() == "acme/weather: (its text cannot be shown: LookupError) ()"
    assert record.answer == "(its text cannot be shown: LookupError)"  # type: ignore[attr-defined]


def test_an_exception_can_be_given_as_three_values(caplog: pytest.LogCaptureFixture) -> None:
    """As `sys.exc_info` returns it."""
    error = ValueError("why")

    caplog.set_level(logging.INFO, "datasync")
    RunLog("acme/weather", {}, Redaction()).error("failed", exc_info=(ValueError, error, None))

    assert caplog.messages == ["acme/weather: failed\n  ValueError: why"]


def test_a_text_in_a_log_line_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Further lines are indented, and characters that nobody sees are escaped."""
    caplog.set_level(logging.INFO, "datasync")
    RunLog("acme/weather", {}, Redaction()).info("got %s", "ok\r\nFAIL acme/crm\rDONE\x1b[31m\u202e\u200b\ttab")

    assert caplog.messages == ["acme/weather: got ok\n  FAIL acme/crm\\rDONE\\x1b[31m\\u202e\\u200b\ttab"]


@pytest.mark.parametrize("lead", [0, 1, 3, 7, 11, 12, 13])
@pytest.mark.parametrize("form", ["s3cret-token", "s3cret%2Dtoken", r"s3cr\u0065t-token", "czNjcmV0LXRva2Vu"])
def test_a_cut_leaves_no_half_of_a_secret(lead: int, form: str, caplog: pytest.LogCaptureFixture) -> None:
    """A long text is cut before it is searched, and a secret at the cut is replaced, too."""
    redact = Redaction()
    redact.add("crm--key", "s3cret-token")
    long = "x" * (TEXT - lead) + form + "y" * 100_000

    caplog.set_level(logging.INFO, "datasync")
    RunLog("acme/weather", {}, redact).info(long)
    texts = [caplog.messages[0], redact.line(long, TEXT - lead + 2), redact.traceback(ValueError(long))]
    texts.append(redact.traceback(ValueError("x\n" + form * 10_000)))
    texts.append(redact.traceback(ValueError("x\n" + f"{form}\n" * 10_000)))

    for text in texts:
        assert len(text) < TEXT + 2_000
        for part in (form[:4], form[-4:]):
            assert part not in text


def test_a_cut_leaves_no_half_of_a_secret_with_long_escapes() -> None:
    """HTML in a URL needs up to 18 characters for one."""
    secret = "".join(f"{n:03}-" for n in range(40))
    redact = Redaction()
    redact.add("crm--key", secret)
    form = "".join(f"%{ord(each):02x}" for char in secret for each in f"&#x{ord(char):x};")

    assert redact.start("x" * (TEXT - 100) + form + "y" * 100_000).startswith("x" * (TEXT - 100) + "<crm--key>")


def test_the_end_of_a_long_traceback_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """It has the exception. A query in which the gap lies is left out, too."""
    redact = Redaction()
    query = "&".join(f"name{n}=value{n}" for n in range(10_000))

    text = redact.traceback(ValueError(f"https://a.example/x?{query}\nthe last line"))

    assert text.startswith("ValueError: https://a.example/x?***")
    assert text.endswith("the last line")
    assert "value" not in text.removeprefix("ValueError")


def failing(number: int) -> ValueError:
    """Return an exception that was raised."""
    try:
        raise ValueError(f"failure {number}")  # noqa: TRY301 - its traceback is printed
    except ValueError as error:
        return error


def test_of_a_thousand_exceptions_the_first_is_printed() -> None:
    """A flow that makes a thousand requests at once has as many failures. Printing them all would block the loop."""
    text = Redaction().traceback(ExceptionGroup("many", [failing(n) for n in range(1000)]))

    assert text.startswith("Traceback (most recent call last):\nExceptionGroup: many (1000 sub-exceptions): ")
    assert "The tracebacks of the other exceptions are left out." in text
    assert 'raise ValueError(f"failure {number}")' in text
    assert text.endswith("ValueError: failure 0")


def test_a_few_exceptions_are_all_printed() -> None:
    """Each has its traceback."""
    text = Redaction().traceback(ExceptionGroup("some", [failing(n) for n in range(9)]))

    assert all(f"ValueError: failure {n}" in text for n in range(9))


def test_groups_in_groups_are_described_without_end() -> None:
    """The innermost of a thousand groups is not named."""
    error: Exception = ValueError("inside")
    for _ in range(1000):
        error = ExceptionGroup("group", [error])

    assert Redaction().one_line(error).startswith("ExceptionGroup: group (1 sub-exception): ExceptionGroup: group")
    assert "ExceptionGroup: group" in Redaction().traceback(error)


def test_half_a_surrogate_pair_in_a_note_is_printed_escaped() -> None:
    """It cannot be encoded."""
    error = failing(0)
    error.add_note("\ud800")

    assert Redaction().traceback(error).endswith("\\ud800")


LONG = 200_000
HOSTILE = (
    "x",
    "/",
    "?",
    "%41",
    "\\",
    "&amp;",
    "://",
    "http://a:b@",
    "'",
    "?a=",
    "+",
    " ",
    "\n",
    '{\\"a\\": ',
    "ß",
    "a?b",
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_long_text_is_searched_in_one_pass(unit: str) -> None:
    """Texts without blanks end soon, and two megabytes of one letter.

    In time proportional to the square of the length, they would take minutes.
    """
    redact = Redaction()
    redact.add("crm--token", "s3cret-token")

    length = 10 * LONG if unit == "x" else LONG
    redacted = redact(unit * (length // len(unit)) + " s3cret-token")

    assert redacted.endswith(("<crm--token>", "***"))
    assert "s3cret" not in redacted


@pytest.mark.parametrize(
    "extra",
    [
        {f"field-{n}": "\\u0041" * 3_000 for n in range(100)},
        {"all": [["\\u0041" * 3_000] * 100] * 100},
        {"all": {f"{n}": {f"{n}": "x" * 900 for n in range(100)} for n in range(100)}},
        {f"{n}": n for n in range(50_000)},
        {"all": [[[[[0] * 100] * 100] * 100] * 10]},
    ],
    ids=["texts", "lists", "objects", "names", "deep"],
)
def test_the_extra_fields_of_a_line_share_the_length_of_one_text(
    extra: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """To remove the secrets from each of them would take seconds. Omitted parts are marked."""
    caplog.set_level(logging.INFO, "datasync")

    RunLog("acme/weather", {}, Redaction()).info("done", extra=extra)

    (record,) = caplog.records
    fields = {name: value for name, value in vars(record).items() if name in ("…", *extra)}
    written = json.dumps(fields, ensure_ascii=False)
    assert len(written) < 3 * TEXT
    assert "…" in written


def test_a_short_secret_whose_end_begins_an_escape_is_removed() -> None:
    """Here, the backslash at its end and the slash after it are read as the escape of a slash."""
    redact = Redaction()
    redact.add("crm--token", "%]'\\")

    assert redact("a %]&#x27;\\/y b") == "a <crm--token>y b"
    assert redact("a %]'y b") == "a %]'y b"


@pytest.mark.parametrize("form", ["%ca>", "%ca&gt;", "%CA%3E", "%25ca&gt;"])
def test_a_short_secret_that_looks_like_an_escape_is_removed(form: str) -> None:
    """Without its escapes, it has two characters. Other texts that have the same two are left as they are."""
    redact = Redaction()
    redact.add("crm--token", "%ca>")

    assert redact(f"a {form} b") == "a <crm--token> b"
    assert redact("a &gt; b > c") == "a &gt; b > c"


def test_a_deep_traceback_has_its_last_calls() -> None:
    """Python takes a tenth of a second for a thousand calls."""

    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
        raise ValueError("at the bottom")

    with pytest.raises(ValueError, match="at the bottom") as raised:
        deeper(900)
    printed = Redaction().traceback(raised.value)

    assert printed.endswith("ValueError: at the bottom\n(Of each traceback, the last 100 calls are shown.)")
    assert "[Previous line repeated 96 more times]" in printed


def test_libraries_do_not_log_their_requests() -> None:
    """The URL of a request may contain a key, so these libraries log only warnings and errors."""
    configure()

    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
    assert not logging.getLogger("azure.core.pipeline.policies.http_logging_policy").isEnabledFor(logging.INFO)
    assert logging.getLogger("datasync").isEnabledFor(logging.INFO)
