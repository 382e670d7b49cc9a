"""Random secrets, in every form, in every place where a run writes a text: none is readable there."""

import html
import json
import logging
import string
from base64 import b64encode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from urllib.parse import quote, quote_plus

import httpx
import pytest

from datasync.flow.failures import failure_of
from datasync.flow.log import RunLog
from datasync.flow.redact import SHORTEST, Redaction

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
    """The places where a run writes texts. Each returns what can be read there."""

    def __init__(self, log: RunLog, records: list[logging.LogRecord], redact: Redaction) -> None:
        self._log = log
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

    def count(self, text: str) -> str:
        return self._redact.line(text, 200)


_OF_EVERY_RECORD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))
SINKS = [name for name in vars(Sinks) if not name.startswith("_")]


def _raised(text: str) -> ValueError:
    error = ValueError(text)
    error.add_note(f"noted {text}")
    return error


def cases(seed: int, count: int) -> Iterator[Case]:
    """Yield cases: the same for the same seed."""
    choices, secret = Random(seed), ""  # noqa: S311 - not for security
    for number in range(count):
        if number % _CASES_PER_SECRET == 0:
            secret = _secret(choices)
        name = choices.choice(_NAMES)
        form = FORMS[name](secret)
        text = f"{choices.choice(_BEFORE)}{form}{choices.choice(_AFTER)}"
        yield Case(secret, name, form, text, choices.choice(SINKS))


@lru_cache(maxsize=1)
def _redaction(secret: str) -> Redaction:
    redact = Redaction()
    redact.add(NAME, secret)
    return redact


def check(case: Case, log: logging.Handler) -> str | None:
    """Return what is readable of the secret, if anything is."""
    if len(case.form) < SHORTEST:
        return None
    records = list[logging.LogRecord]()
    log.emit = records.append  # type: ignore[assignment, method-assign]
    redact = _redaction(case.secret)
    read = getattr(Sinks(RunLog("acme/weather", {}, redact), records, redact), case.sink)
    written = read(case.text)
    length = min(len(case.form), 6)
    parts = {case.form[at : at + length] for at in range(len(case.form) - length + 1)}
    left = {part for part in parts if part in written}
    if left:  # what is in the text in any case, such as `ValueError`, is not of the secret
        around = case.text.replace(case.form, "")
        harmless = f"{read(around)} {around} <{NAME}>"
        left = {part for part in left if part not in harmless and part.strip(" \n\t\\")}
    return f"{case} wrote {written!r}, with {left}" if left else None


@pytest.fixture
def handler() -> Iterator[logging.Handler]:
    logger, made = logging.getLogger("datasync"), logging.Handler()
    before = (logger.level, logger.propagate, list(logger.handlers))
    logger.setLevel(logging.INFO)
    logger.propagate, logger.handlers = False, [made]
    yield made
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1], before[2]


def test_no_form_of_a_secret_is_readable_anywhere(request: pytest.FixtureRequest, handler: logging.Handler) -> None:
    """Of `--fuzz-scale` times 2,000 cases, none leaves six characters of a secret readable."""
    seed, scale = request.config.getoption("--fuzz-seed"), request.config.getoption("--fuzz-scale")

    found = Counter[str]()
    examples = dict[str, str]()
    for case in cases(seed, CASES * scale):
        if left := check(case, handler):
            found[case.name] += 1
            examples[case.name] = min(left, examples.get(case.name, left), key=len)

    assert not found, f"--fuzz-seed={seed}: {found}\n" + "\n".join(examples.values())
