"""Removes the secrets that a run has read from its logs, records and errors.

A text is searched as it is written, in lower case, and again with one level of its escapes removed, until it has none.
So one search finds a secret in any case and in any mix of encodings, and takes time in proportion to the text.
"""

import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from threading import Lock

from datasync.flow.decoded import Decoded, decodings, in_one_line, without_unfinished_escape
from datasync.flow.forms import base64_letters, in_base64, parts_of, written
from datasync.flow.urls import credentials
from datasync.model.display import shown

LINE = 2000
"""The most characters of a line in a record."""

TEXT = 16_000
"""The most characters of a text, or of a traceback, in a log line. Application Insights cuts a message after 32,768:
https://learn.microsoft.com/azure/azure-monitor/fundamentals/service-limits#application-insights"""

SHORTEST = 4
"""Characters: a shorter secret is left in texts, since it would blank out everything."""

_MOST_PRINTED = 100  # exceptions in one traceback
_MOST_CALLS = 100  # in one traceback. Python takes 0.1 ms for each
_FEWEST_CALLS = 2  # of each exception
_HEAD = 4_000  # characters of a long traceback before the gap
_MARGIN = 2_000  # characters: the longest user information of a URL that is found at a cut
_EXPANSION = 18  # times the length of a secret in UTF-8 that a form of it is long at most, at a cut: `&#x41;` in a URL
_MANY = 64  # forms, of which each is searched
_LONG_EXPANSION = 4  # the same for long secrets
_LONG_MARGIN = 24_000  # characters
_SLOW = 20_000  # characters, which can take 10 ms if they are nothing but escapes
_BASE64 = re.compile(r"[0-9A-Za-z+/_-]")
_BASE64_END = re.compile(r"[0-9A-Za-z+/_-]?(?:=|%3[dD])*")


class Redaction:
    """Replaces the secrets of one run by their names."""

    def __init__(self, *, keeps_queries: bool = False) -> None:
        """Make a redaction without secrets. With `keeps_queries`, URLs keep what is not one of them."""
        self._keeps_queries = keeps_queries
        self._known: set[tuple[str, str]] = set()
        self._forms = _Forms()
        self._margin = _MARGIN
        self._changes = Lock()

    def add(self, name: str, secret: str | None, label: str | None = None) -> None:
        """Add a secret, in all its forms. Forms with fewer than 4 characters are left in texts.

        If the secret is JSON, its texts are secrets too. A long secret takes a tenth of a second: use a thread, and
        this object at the same time.

        Args:
            name: The name of the secret.
            secret: Its value.
            label: The text in its place; None for `<name>`.

        """
        secret, label = printable(secret or ""), label or f"<{name}>"
        if (label, secret) in self._known:
            return
        forms = _Forms()
        if len(secret) >= SHORTEST:
            forms.add(label, secret)
        with self._changes:
            self._known.add((label, secret))
            self._margin = max(self._margin, _margin(len(secret.encode())))
            self._forms = self._forms.and_those(forms)

    @property
    def is_slow(self) -> bool:
        """Whether the secrets are so long that much text is searched around each cut. Use a thread then."""
        return self._margin > _SLOW

    def __call__(self, text: str) -> str:
        """Return the text with `<name>` for each secret, and `***` for the query and the user of any URL."""
        return self._between(printable(text), 0, None)

    def start(self, text: str, limit: int = TEXT) -> str:
        """Return the first characters of a text, which may be long. It ends with its length if it was cut."""
        if len(text) <= limit:
            return self(text)
        return f"{self._first(text, limit)}… ({len(text)} characters)"

    def line(self, text: str, limit: int = LINE) -> str:
        """Return a text in one line of at most `limit` characters."""
        return shown(" ".join(self._first(text, limit * 8).split()), limit * 8)[:limit]

    def one_line(self, error: BaseException, limit: int = LINE) -> str:
        """Describe an exception in one line: class, message and notes, and the first three exceptions of a group."""
        return self.line(_described(error), limit)

    def traceback(self, error: BaseException) -> str:
        """Return the traceback, as Python prints it. If it is long, it has a gap.

        Of many calls, which would take long to print, it has the last ones. Of more than a hundred exceptions, it has
        the outermost one and the first in it.
        """
        text = "".join(_printed(error)).rstrip()
        if len(text) <= TEXT:
            return self(text)
        return f"{self._first(text, _HEAD)}…\n… ({len(text)} characters) …\n{self._last(text, TEXT - _HEAD)}"

    def _first(self, text: str, limit: int) -> str:
        """Return the first characters. More are searched, so that no secret is cut in two before it is found."""
        return self._between(printable(text[: limit + self._margin]), 0, limit)

    def _last(self, text: str, limit: int) -> str:
        """Return the last characters, from the start of a line on: a query in which the cut lies is not recognised."""
        at = text.find("\n", len(text) - limit) + 1
        start = max(at - self._margin, 0)
        before = printable(text[start:at])
        return self._between(before + printable(text[at:]), len(before), None) if at else ""

    def _between(self, text: str, start: int, end: int | None) -> str:
        """Return a part of a text without the secrets in it."""
        end = len(text) if end is None else min(end, len(text))
        pieces = list[str]()
        for first, last, label in _merged(self._found(text)):
            if last <= start:
                continue
            if first >= end:
                break
            pieces += (text[start:first], label)
            start = last
        return "".join([*pieces, text[start:end]])

    def _found(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield the spans to replace, in any order. They may overlap."""
        forms, path = self._forms, list[Decoded]()
        for each in decodings(text):
            path.append(each)
            yield from _replaced(path, forms.texts)
            for first, last, label in _replaced(path, forms.short_texts):
                if last - first >= SHORTEST:
                    yield first, last, label
            yield from _replaced(path, forms.unfinished_texts, and_next=True)
            for first, last, label in _replaced(path, forms.short_unfinished_texts, and_next=True):
                if last - first > SHORTEST:  # with an escape, to which the end of the secret belongs
                    yield first, last, label
            if forms.one_line_texts:
                for line in in_one_line(each.text):
                    yield from _replaced([*path, line], forms.one_line_texts)
            for first, last, label in _replaced(path, forms.base64, as_searched=base64_letters):
                yield *_whole(text, first, last), label
            for first, last in () if self._keeps_queries else credentials(each.text):
                yield *_origin(path, first, last), "***"


class _Forms:
    """The forms of secrets: text → label of the secret. Forms that a redaction searches are replaced, never changed."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.unfinished_texts: dict[str, str] = {}
        self.short_texts: dict[str, str] = {}
        self.short_unfinished_texts: dict[str, str] = {}
        self.one_line_texts: dict[str, str] = {}
        self.base64: dict[str, str] = {}

    def and_those(self, others: "_Forms") -> "_Forms":
        """Return these forms and others together."""
        both = _Forms()
        for kind, texts in vars(both).items():
            texts.update(getattr(self, kind))
            texts.update(getattr(others, kind))
        return both

    def add(self, label: str, secret: str) -> None:
        """Add the forms of a secret."""
        for part in parts_of(secret):
            for form in in_base64(part):
                _keep(self.base64, label, base64_letters(form.lower()))
            for text in (each.text for form in written(part) for each in decodings(form)):
                if 0 < len(text) < SHORTEST:  # that of a secret with escapes of its own
                    self.short_texts[_with_blanks(text)] = label
                _keep(self.texts, label, text)
                self._add_unfinished(label, text)
                for each in in_one_line(text):
                    if (line := each.text.strip()) != text:
                        _keep(self.one_line_texts, label, line)

    def _add_unfinished(self, label: str, text: str) -> None:
        finished = without_unfinished_escape(text)
        if finished == text:
            return
        _keep(self.unfinished_texts, label, finished)
        if len(finished) == SHORTEST - 1:
            self.short_unfinished_texts[_with_blanks(finished)] = label


def _margin(length: int) -> int:
    """Return how many characters to search behind a cut for a secret with so many bytes."""
    return max(min(_EXPANSION * length, _LONG_MARGIN), _LONG_EXPANSION * length)


def printable(text: str) -> str:
    """Escape half a surrogate pair, which cannot be printed."""
    return text.encode(errors="backslashreplace").decode()


def _keep(texts: dict[str, str], label: str, text: str) -> None:
    if len(text) >= SHORTEST:
        texts[_with_blanks(text)] = label


def _with_blanks(text: str) -> str:
    """Return a text as it is searched: URLs write a blank as `+`."""
    return text.replace("+", " ")


def _replaced(
    path: list[Decoded],
    texts: dict[str, str],
    *,
    and_next: bool = False,
    as_searched: Callable[[str], str] = str,
) -> Iterator[tuple[int, int, str]]:
    """Yield the places of texts in the last text of a path, as places in the first one."""
    if not texts:
        return
    searched = _with_blanks(as_searched(path[-1].text))
    for text, label in _possible(texts, searched):
        for start in _places(text, searched):
            end = min(start + len(text) + and_next, len(searched))
            yield *_origin(path, start, end), label


def _possible(texts: dict[str, str], searched: str) -> Iterable[tuple[str, str]]:
    """Return the texts that may occur: of many, those whose first characters do. To search each would take longer."""
    if len(texts) <= _MANY:
        return texts.items()
    starts = {searched[at : at + SHORTEST] for at in range(len(searched))}
    return [(text, label) for text, label in texts.items() if len(text) < SHORTEST or text[:SHORTEST] in starts]


def _places(text: str, searched: str) -> Iterator[int]:
    """Yield where a text begins. Of occurrences that overlap with one, the last is enough: they have no gap."""
    start = searched.find(text)
    while start >= 0:
        yield start
        end = start + len(text)
        last = searched.rfind(text, start + 1, end + len(text) - 1)
        start = last if last >= 0 else searched.find(text, end)


def _origin(path: list[Decoded], start: int, end: int) -> tuple[int, int]:
    for each in reversed(path):
        start, end = each.origin(start, end)
    return start, end


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span with the characters of base64 at its ends that hold a part of the secret, too."""
    if start and _BASE64.match(text, start - 1):
        start -= 1
    last = _BASE64_END.match(text, end)
    return start, last.end() if last else end


def _merged(spans: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Yield the spans in their order, with overlapping ones as one span, which has the label of the longest."""
    first, last, label, longest = 0, 0, "", 0
    for start, end, text in sorted(spans):
        if start >= last:
            if last:
                yield first, last, label
            first, last, label, longest = start, end, text, end - start
        else:
            if end - start > longest:
                label, longest = text, end - start
            last = max(last, end)
    if last:
        yield first, last, label


def _printed(error: BaseException) -> Iterator[str]:
    if few := _few(error):
        limit = max(_MOST_CALLS // len(few), _FEWEST_CALLS)
        calls = max(sum(1 for _ in traceback.walk_tb(each.__traceback__)) for each in few)
        yield from traceback.format_exception(error, limit=-limit)
        if calls > limit:
            yield f"(Of each traceback, the last {limit} calls are shown.)\n"
        return
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__, limit=-_MOST_CALLS // 2)
    yield f"{_described(error)}\n(The tracebacks of the other exceptions are left out.)\n"
    first = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if first is not error and _few(first):
        yield "The first one:\n"
        yield from _printed(first)


def _few(error: BaseException) -> list[BaseException]:
    """Return an exception with its causes, its contexts and its members; none if they are more than a hundred."""
    pending, seen = [error], dict[int, BaseException]()
    while pending and len(seen) <= _MOST_PRINTED:
        each = pending.pop()
        if id(each) not in seen:
            seen[id(each)] = each
            pending += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
            pending += [other for other in (each.__cause__, each.__context__) if other]
    return [*seen.values()] if len(seen) <= _MOST_PRINTED else []


def _described(error: BaseException, depth: int = 3) -> str:
    text = _text(error)
    if isinstance(error, BaseExceptionGroup) and depth:
        text += ": " + "; ".join(_described(each, depth - 1) for each in error.exceptions[:3])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return " ".join(filter(None, [str(error), *map(str, getattr(error, "__notes__", ()))]))
    except Exception as broken:  # noqa: BLE001 - the text of an exception is code of the flow or of a library
        return f"(its text cannot be shown: {type(broken).__name__})"
