"""Random secrets, in every form, in every place where a run writes a text: none is readable there."""

import asyncio
import html
import json
import logging
import string
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from io import StringIO
from random import Random
from threading import Thread
from urllib.parse import quote, quote_plus

import httpx
import pytest

from datasync.clock import Clock
from datasync.flow.failures import failure_of
from datasync.flow.log import RunLog
from datasync.flow.redact import SHORTEST, Redaction
from datasync.flow.watchdog import Watchdog
from datasync.run.execute import execute
from tests.fuzz.campaign import Campaign

CASES = 2_000
NAME = "crm--api-token"

# --- secrets

_ALPHABETS = (
    string.hexdigits,
    string.ascii_letters + string.digits,
    string.ascii_letters + string.digits + "+/=",
    string.ascii_letters + string.digits + string.punctuation,
    string.punctuation,
    string.ascii_letters + string.digits + string.punctuation + " \t\n",
    string.ascii_letters + "äöüÄÖÜßéèñçœŒÿıİşğ",
    string.digits + "αβγςσΣДжяЯ漢字かな",
    string.ascii_lowercase + "😀🔑🚀" + string.punctuation,
)


def _word(choices: Random, least: int, most: int) -> str:
    return "".join(choices.choices(choices.choice(_ALPHABETS), k=choices.randint(least, most)))


def _pem(choices: Random) -> str:
    lines = ["".join(choices.choices(_ALPHABETS[2], k=64)) for _ in range(choices.randint(1, 4))]
    return "\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", ""])


def _bundle(choices: Random) -> str:
    """Return a secret that is a JSON object, such as the key of a service account."""
    return json.dumps(
        {"type": "robot", "id": _word(choices, 8, 20), "key": _pem(choices), "more": [_word(choices, 8, 9)]}
    )


def _secret(choices: Random) -> str:
    kind = choices.random()
    if kind < 0.05:
        return _pem(choices)
    if kind < 0.1:
        return _bundle(choices)
    while True:
        secret = _word(choices, SHORTEST, 60 if kind < 0.6 else 16)
        if len(secret.strip()) >= SHORTEST:
            return secret


# --- forms


def _json(secret: str) -> str:
    return json.dumps(secret)[1:-1]


def _json_unicode(secret: str) -> str:
    return json.dumps(secret, ensure_ascii=False)[1:-1]


def _every(secret: str, pattern: str) -> str:
    return "".join(pattern.format(ord(each)) for each in secret)


def _percent(secret: str, pattern: str = "%{:02X}") -> str:
    return "".join(pattern.format(each) for each in secret.encode())


def _lower_hex(secret: str) -> str:
    return "".join(f"%{byte:02x}" if not chr(byte).isalnum() or byte > 127 else chr(byte) for byte in secret.encode())


def _latin(secret: str) -> bytes:
    """Return a text as aiohttp encodes it for basic authentication; nothing where it cannot."""
    try:
        return secret.encode("latin-1")
    except UnicodeEncodeError:
        return b""


def _go(secret: str) -> str:
    """Return a text as Go and .NET write it in JSON."""
    text = _json_unicode(secret)
    for each in "<>&'+":
        text = text.replace(each, f"\\u{ord(each):04x}")
    return text


FORMS: dict[str, Callable[[str], str]] = {
    "itself": str,
    "stripped": str.strip,
    "one line": lambda secret: " ".join(secret.split()),
    "capitals": str.upper,
    "small letters": str.lower,
    "title": str.title,
    "swapped case": str.swapcase,
    "repr": lambda secret: repr(secret)[1:-1],
    "ascii": lambda secret: ascii(secret)[1:-1],
    "repr of bytes": lambda secret: repr(secret.encode())[2:-1],
    "wrong charset": lambda secret: secret.encode().decode("latin-1"),
    "JSON": _json,
    "JSON in Unicode": _json_unicode,
    "JSON with escaped slashes": lambda secret: _json(secret).replace("/", r"\/"),
    "JSON of Go": _go,
    "JSON in JSON": lambda secret: _json(_json(secret)),
    "JSON in JSON in JSON": lambda secret: _json(_json_unicode(_json(secret))),
    "JSON in capitals": lambda secret: _json(secret.upper()),
    "quoted": quote,
    "quoted without exceptions": lambda secret: quote(secret, safe=""),
    "quoted with plus": quote_plus,
    "quoted in small letters": _lower_hex,
    "quoted everywhere": _percent,
    "quoted everywhere in small letters": lambda secret: _percent(secret, "%{:02x}"),
    "quoted twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "query of httpx": lambda secret: str(httpx.QueryParams({"k": secret})).removeprefix("k="),
    "path of httpx": lambda secret: httpx.URL("https://a.example/", params={"k": secret}).query.decode()[2:],
    "HTML": html.escape,
    "HTML without quotes": lambda secret: html.escape(secret, quote=False),
    "HTML in ASCII": lambda secret: html.escape(secret).encode("ascii", "xmlcharrefreplace").decode(),
    "HTML in decimals": lambda secret: _every(secret, "&#{};"),
    "HTML in padded decimals": lambda secret: _every(secret, "&#{:05};"),
    "HTML in hexadecimals": lambda secret: _every(secret, "&#x{:x};"),
    "HTML in capital hexadecimals": lambda secret: _every(secret, "&#X{:X};"),
    "HTML twice": lambda secret: html.escape(html.escape(secret)),
    "HTML of JSON": lambda secret: html.escape(_json(secret)),
    "JSON of HTML": lambda secret: _json(html.escape(secret)),
    "quoted JSON": lambda secret: quote(_json(secret)),
    "JSON of a quoted text": lambda secret: _json(quote_plus(secret)),
    "base64": lambda secret: b64encode(secret.encode()).decode(),
    "base64 for URLs": lambda secret: urlsafe_b64encode(secret.encode()).decode(),
    "base64 without padding": lambda secret: urlsafe_b64encode(secret.encode()).decode().rstrip("="),
    "base64, stripped": lambda secret: b64encode(secret.strip().encode()).decode(),
    "base64, quoted": lambda secret: quote(b64encode(secret.encode()).decode(), safe=""),
    "Basic": lambda secret: b64encode(b":" + secret.encode()).decode()[2:],
    "Basic with a user": lambda secret: b64encode(b"user:" + secret.encode()).decode()[7:],
    "Basic with a longer user": lambda secret: b64encode(b"robot7:" + secret.encode()).decode()[10:],
    "Basic of OAuth 2.0": lambda secret: b64encode(f"user:{quote_plus(secret)}".encode()).decode()[7:],
    "base64 of JSON": lambda secret: b64encode(f'{{"k": "{_json(secret)}'.encode()).decode()[10:],
    "base64 of JSON in Unicode": lambda secret: b64encode(_json_unicode(secret).encode()).decode(),
    "base64 of a path": lambda secret: b64encode(quote(secret, safe="").encode()).decode(),
    "base64 of capitals": lambda secret: b64encode(secret.upper().encode()).decode(),
    "base64 of base64": lambda secret: b64encode(b64encode(secret.encode())).decode(),
    "Basic in Latin-1": lambda secret: b64encode(b"user:" + _latin(secret)).decode()[7:],
}

_NAMES = [*FORMS]
_CASES_PER_SECRET = 10
_BEFORE = (
    " ", "", '"', "'", "=", "k=", ": ", "(", "[", ">", "\n", "/", "&k=", ",", "%20", "%22", '\\"', "&quot;", "\\n",
    '{"k": "',
    "Bearer ", "key ", "https://a.example/", "https://a.example/x?k=", "postgres://user:",
)  # fmt: skip
_AFTER = (" ", "", '"', "'", '\\"', "&b=1", "<", ")", "\n", "%22", "&quot;", ",", "]", '"}', "@db.example/x", "/y")


@dataclass(frozen=True)
class Case:
    """A secret, and a text with a form of it."""

    secret: str
    name: str
    form: str
    text: str
    sink: str


# --- places


class Sinks:
    """The places where a run writes texts. Each returns the text that can be read there."""

    def __init__(self, log: RunLog, records: list[logging.LogRecord], redact: Redaction, reports: "Reports") -> None:
        self._log = log
        self._reports = reports
        self._records = records
        self._redact = redact

    def _logged(self) -> str:
        record = self._records.pop()
        fields = {key: value for key, value in vars(record).items() if key not in _OF_EVERY_RECORD}
        return f"{record.getMessage()}\n{fields}"

    def message(self, text: str) -> str:
        self._log.info(text)
        return self._logged()

    def arguments(self, text: str) -> str:
        self._log.info("%s and %r", text, {"answer": text})
        return self._logged()

    def extra(self, text: str) -> str:
        self._log.info("done", extra={"answer": text, text: 1})
        return self._logged()

    def nested_extra(self, text: str) -> str:
        self._log.info("done", extra={"answer": {text: [text, (text, {"k": text})]}, "error": ValueError(text)})
        return self._logged()

    def exception(self, text: str) -> str:
        self._log.error("failed", exc_info=_raised(text))
        return self._logged()

    def group(self, text: str) -> str:
        self._log.error("failed", exc_info=ExceptionGroup("two", [_raised(text), ValueError("other")]))
        return self._logged()

    def traceback(self, text: str) -> str:
        return self._redact.traceback(_raised(text))

    def record(self, text: str) -> str:
        return str(failure_of(_raised(text), self._redact))

    def body(self, text: str) -> str:
        request = httpx.Request("GET", "https://api.example.com/")
        answer = httpx.Response(400, headers={"Content-Type": "text/plain"}, content=text.encode(), request=request)
        failure = failure_of(httpx.HTTPStatusError("refused", request=request, response=answer), self._redact)
        return failure.body or ""

    def future(self, text: str) -> str:
        return self._reports.of_a_future(_raised(text))

    def thread(self, text: str) -> str:
        return self._reports.of_a_thread(_raised(text))

    def count(self, text: str) -> str:
        return self._redact.line(text, 200)


class Reports:
    """The output of Python about exceptions that nobody reads, in a process that has run a flow."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def of_a_future(self, error: Exception) -> str:
        records = list[logging.LogRecord]()
        log, handler = logging.getLogger("asyncio"), logging.Handler()
        handler.emit = records.append  # type: ignore[assignment, method-assign]
        log.addHandler(handler)
        log.propagate = False
        future = self._loop.create_future()
        future.set_exception(error)
        self._loop.call_exception_handler({"message": "not read", "exception": error, "future": future})
        future.exception()
        log.removeHandler(handler)
        log.propagate = True
        return "".join(logging.Formatter().format(record) for record in records)

    def of_a_thread(self, error: Exception) -> str:
        def fail() -> None:
            raise error

        with redirect_stderr(StringIO()) as printed:
            thread = Thread(target=fail)
            thread.start()
            thread.join()
        return printed.getvalue()


@pytest.fixture
def reports() -> Iterator[Reports]:
    async def run_a_flow() -> None:
        watchdog = Watchdog(Clock())
        stop = asyncio.get_running_loop().create_future()
        log, minute = RunLog("acme/weather", {}, Redaction()), timedelta(minutes=1)
        await execute(pause, subject="acme/weather", timeout=minute, stop=stop, watchdog=watchdog, log=log)
        watchdog.stop()

    async def pause() -> None:
        await asyncio.sleep(0)

    hook, threading.excepthook = threading.excepthook, threading.__excepthook__
    with asyncio.Runner() as runner:
        runner.run(run_a_flow())
        yield Reports(runner.get_loop())
    threading.excepthook = hook


_OF_EVERY_RECORD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))
SINKS = [name for name in vars(Sinks) if not name.startswith("_")]


def _raised(text: str) -> ValueError:
    error = ValueError(text)
    error.add_note(f"noted {text}")
    return error


class Cases:
    """Makes cases, ten for each secret."""

    def __init__(self) -> None:
        self._count = 0
        self._secret = ""

    def __call__(self, choices: Random) -> Case:
        """Make the next case."""
        if self._count % _CASES_PER_SECRET == 0:
            self._secret = _secret(choices)
        self._count += 1
        name = choices.choice(_NAMES)
        form = FORMS[name](self._secret)
        text = f"{choices.choice(_BEFORE)}{form}{choices.choice(_AFTER)}"
        return Case(self._secret, name, form, text, choices.choice(SINKS))


@lru_cache(maxsize=1)
def _redaction(secret: str) -> Redaction:
    redact = Redaction()
    redact.add(NAME, secret)
    return redact


_READABLE = {name: type(f"Readable as {name}", (AssertionError,), {}) for name in FORMS}
"""An error for each form, so that a campaign lists each."""


def check(case: Case, log: logging.Handler, reports: Reports) -> None:
    """Raise an error if something of the secret is readable."""
    if len(case.form) < SHORTEST:
        return
    records = list[logging.LogRecord]()
    log.emit = records.append  # type: ignore[assignment, method-assign]
    redact = _redaction(case.secret)
    read = getattr(Sinks(RunLog("acme/weather", {}, redact), records, redact, reports), case.sink)
    written = read(case.text)
    length = min(len(case.form), 6)
    parts = {case.form[at : at + length] for at in range(len(case.form) - length + 1)}
    left = {part for part in parts if part in written}
    if left:  # text that is there in any case, such as `ValueError`, is not of the secret
        around = case.text.replace(case.form, "")
        harmless = f"{read(around)} {around} <{NAME}>"
        left = {part for part in left if part not in harmless and part.strip(" \n\t\\")}
    if left:
        raise _READABLE[case.name](f"it wrote {written!r}, with {left}")


@pytest.fixture
def handler() -> Iterator[logging.Handler]:
    logger, made = logging.getLogger("datasync"), logging.Handler()
    before = (logger.level, logger.propagate, list(logger.handlers))
    logger.setLevel(logging.INFO)
    logger.propagate, logger.handlers = False, [made]
    yield made
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1], before[2]


def test_no_form_of_a_secret_is_readable_anywhere(
    campaign: Campaign, handler: logging.Handler, reports: Reports
) -> None:
    """Six characters of a secret are not readable, in any form and in any place."""
    campaign.run(CASES, Cases(), lambda case: check(case, handler, reports))
