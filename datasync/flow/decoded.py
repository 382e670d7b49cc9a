"""Texts in one case and without escapes, with the way back to the places in the text as it is written."""

import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from html.entities import html5

_DEPTH = 6
"""How often a text is decoded: JSON in JSON in JSON, in a URL, in a list that is printed."""

# All patterns are for texts in lower case.
_HEX = "[0-9a-f]"
_NEXT = "%[89ab][0-9a-f]"  # a further byte of a character in UTF-8
_ESCAPE = re.compile(
    rf"\\(?:u(?P<high>d[89ab]{_HEX}{{2}})\\u(?P<low>d[c-f]{_HEX}{{2}})|(?:u(?P<unit>{_HEX}{{4}})|x(?P<byte>{_HEX}{{2}}))"
    r"|(?P<char>[\"'/\\nrtbf]))"
    rf"|(?P<percent>%[c-d]{_HEX}{_NEXT}|%e{_HEX}(?:{_NEXT}){{2}}|%f{_HEX}(?:{_NEXT}){{3}}|%{_HEX}{{2}})"
    rf"|&(?:\#(?P<decimal>[0-9]{{1,8}})|\#x(?P<hexadecimal>{_HEX}{{1,8}})|(?P<named>[a-z][0-9a-z]{{1,31}}));"
)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_BLANKS = re.compile(r"\s{2,}|[^\S ]")
_FRAME = re.compile(r"\s*\n[\s|]*|\s{2,}|[^\S ]")
_UNFINISHED = re.compile(
    r"(?:\\(?:u[0-9a-f]{0,3}|x[0-9a-f]?)?|%[0-9a-f]?|&(?:\#[0-9]*|\#x[0-9a-f]*|[a-z][0-9a-z]*)?)\Z"
)
# The letters whose folded form is longer, and the dotless i, whose capital is that of `i`.
_LONGER = re.compile(
    "[ßİŉǰΐΰևẖẗẘẙẚẞὐὒὔὖᾀᾁᾂᾃᾄᾅᾆᾇᾈᾉᾊᾋᾌᾍᾎᾏᾐᾑᾒᾓᾔᾕᾖᾗᾘᾙᾚᾛᾜᾝᾞᾟᾠᾡᾢᾣᾤᾥᾦᾧᾨᾩᾪᾫᾬᾭᾮᾯᾲᾳᾴᾶᾷᾼῂῃῄῆῇῌῒΐῖῗῢΰῤῦῧῲῳῴῶῷῼﬀﬁﬂﬃﬄﬅﬆﬓﬔﬕﬖﬗı]"
)
_NAMES: dict[str, str] = {}


class Decoded:
    """A text that was made of another one by the replacement of some of its parts."""

    def __init__(self, before: str, pattern: re.Pattern[str], replacement: Callable[[str], str]) -> None:
        self._before = before
        self._pattern = pattern
        self._replacement = replacement
        self.text = pattern.sub(lambda match: replacement(match[0]), before)

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the span in the other text of a span in this one."""
        return self._origin(start)[0], self._origin(end - 1)[1]

    def _origin(self, at: int) -> tuple[int, int]:
        parts = self._parts
        index = bisect_right(parts.starts, at) - 1
        if index < 0:
            return at, at + 1
        if at < parts.ends[index]:
            return parts.old_starts[index], parts.old_ends[index]
        old = parts.old_ends[index] + at - parts.ends[index]
        return old, old + 1

    @cached_property
    def _parts(self) -> "_Parts":  # few texts hold a secret, so few need it
        parts, last, length = _Parts(), 0, 0
        for match in self._pattern.finditer(self._before):
            start, end = match.span()
            length += start - last
            parts.starts.append(length)
            parts.old_starts.append(start)
            length += len(self._replacement(match[0]))
            parts.ends.append(length)
            parts.old_ends.append(end)
            last = end
        return parts


class _Parts:
    """Where the replacements begin and end, in the text and in the one before."""

    def __init__(self) -> None:
        self.starts, self.ends = array("Q"), array("Q")
        self.old_starts, self.old_ends = array("Q"), array("Q")


def decodings(text: str) -> list[Decoded]:
    """Return a text in one case, then without one level of escapes, then without two, until no escape is left.

    Each is made of the one before. The escapes are those of JSON, Python, URLs and HTML.
    """
    found = [Decoded(text, _LONGER, _folded)]
    found[0].text = found[0].text.casefold()  # each of the other letters stays one letter
    while len(found) <= _DEPTH:
        before = found[-1].text
        after = Decoded(before, _ESCAPE, _unescaped)
        if after.text == before:
            break
        found.append(after)
    return found


def in_one_line(text: str) -> Iterator[Decoded]:
    """Yield a text with each run of blanks and line breaks as one blank; then without the frame of an exception group.

    Python draws that frame as `|` before each line.
    """
    for pattern in (_BLANKS, _FRAME):
        yield Decoded(text, pattern, lambda _: " ")


def without_unfinished_escape(text: str) -> str:
    r"""Return a text without an escape at its end that the next characters would complete: `\`, `%4` or `&lt`."""
    return _UNFINISHED.sub("", text)


def _folded(text: str) -> str:
    return text.casefold().replace("ı", "i")


@lru_cache(maxsize=8192)
def _unescaped(escape: str) -> str:
    match = _ESCAPE.fullmatch(escape)
    if match is None:
        raise ValueError(f"{escape!r} is not an escape")
    kind = match.lastgroup or ""
    value = match[kind]
    if kind == "char":
        return _CONTROLS.get(value, value)
    if kind == "percent":
        return _folded(_character(bytes.fromhex(value.replace("%", ""))))
    if kind == "named":
        return _named(value) or match[0]
    if kind == "low":
        return _folded(chr(0x10000 + (int(match["high"], 16) - 0xD800) * 0x400 + int(value, 16) - 0xDC00))
    code = int(value, 10 if kind == "decimal" else 16)
    return _folded(chr(code)) if code <= sys.maxunicode else match[0]


def _character(encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded.decode("latin-1")


def _named(name: str) -> str | None:
    """Return the text of a name in HTML, in lower case, such as `quot`."""
    if not _NAMES:
        lower = {each.rstrip(";").lower(): text for each, text in html5.items()}
        _NAMES.update((each, _folded(text)) for each, text in lower.items())
    return _NAMES.get(name)
