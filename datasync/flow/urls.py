"""Finds the credentials in URLs: the user information, and the query, in which some APIs expect keys."""

import re
from collections.abc import Iterator

# A URL ends at a blank or a quote. An apostrophe within a word, as in `?name=O'Brien`, is part of it.
_PART = r"""(?:[^\s'"]|'(?![\s'"\\,.;:)\]}>|]|$))"""
_URL = re.compile(
    rf"//(?P<address>(?:(?!\?){_PART})*+)(?P<query>\?{_PART}++)?"
    rf"|\?(?P<relative>[^\s'\"=?]++={_PART}*+)"  # without an address. Without a `=`, as in "and/or?this", it is a sentence
)
_PORT = re.compile(r"[^:]*:[0-9]*(?:[/?]|$)")


def credentials(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of a text that are the user information or the query of a URL, absolute or relative.

    The text is searched once, however long it is, and whether or not it has blanks.
    """
    for match in _URL.finditer(text):
        if match["relative"]:
            yield match.span("relative")
            continue
        yield from _users(text, match.start("address"), match.end("address"), match.end())
        if match["query"]:
            yield match.start("query") + 1, match.end()


def _users(text: str, start: int, address_end: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the user information of each authority in an address, which can hold several: `kafka://u:p@a,kafka://…`."""
    while start < address_end and text.find("@", start, end) >= 0:
        following = text.find("//", start, address_end)
        is_last = following < 0
        stop = address_end if is_last else following
        slash = text.find("/", start, stop)
        authority_end = stop if slash < 0 else slash
        at = text.rfind("@", start, authority_end)
        if at < 0 and _has_password(text[start:authority_end]):
            at = text.rfind("@", start, end if is_last else stop)  # a password with a `/` or a `?` that is not encoded
        if at > start:
            yield start, at
        start = stop + 2


def _has_password(authority: str) -> bool:
    return ":" in authority and not authority.startswith("[") and not _PORT.fullmatch(authority)
