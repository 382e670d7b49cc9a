"""Shows foreign texts: names, ids, values of documents, answers of APIs. None of them can forge or hide a line."""

import re

from datasync.model.decode import NAME_LIMIT

# Characters that no reader sees, or that move, reorder or hide others: controls (C0, C1), line and paragraph
# separators, bidirectional controls, the blank of Braille, and the code points with the property
# Default_Ignorable_Code_Point (zero-width characters, variation selectors, tags).
# https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IN_LINES = re.compile(f"[{_UNSEEN}]")
_IN_A_LINE = re.compile(f"[{_UNSEEN}\t\n]")


def is_legible(text: str) -> bool:
    """Return whether a name has no character that nobody sees, and no blank other than a space."""
    return text.isprintable() and not _IN_A_LINE.search(text)


def quoted(value: object) -> str:
    """Return a value in quotes for a sentence, as `shown` does."""
    return shown(repr(value))


def shown(text: str, limit: int = NAME_LIMIT) -> str:
    r"""Return a text for a line: unseen characters as `\x1b` or `\u202e`, and at most `limit` characters.

    A longer text ends with its length.
    """
    escaped = _IN_A_LINE.sub(_escape, text[: limit + 1])
    if len(escaped) <= limit:
        return escaped
    rest = f"… ({len(text)} characters)"
    return escaped[: max(limit - len(rest), 0)] + rest


def shown_line(text: str, limit: int) -> str:
    """Return a sentence in one line, as `shown` does, with its line breaks and runs of blanks as single blanks."""
    return shown(" ".join(text.split()), limit)


def shown_lines(text: str) -> str:
    """Return a text of several lines, with unseen characters escaped. Lines after the first are indented.

    So a line that does not begin with a blank was begun by the app.
    """
    return _IN_LINES.sub(_escape, text.replace("\r\n", "\n")).replace("\n", "\n  ")


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
