"""Finds the credentials in URLs: the user information, and the query, in which some APIs expect keys."""

import re
from collections.abc import Iterator

# A URL ends at a blank or a quote. An apostrophe within a word, as in `?name=O'Brien`, is part of it.
_PART = r"""(?:[^\s'"]|'(?![\s'"\\,.;:)\]}>|]|$))"""
_URL = re.compile(
    rf"//(?P<address>(?:(?!\?){_PART})*+)(?P<query>\?{_PART}++)?"
    rf"|\?(?P<relative>[^\s'\"=?]++={_PART}*+)"  # no address; and without a `=`, it is a sentence
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
    last = text.rfind("@", start, end)
    while start < min(address_end, last):
        following = text.find("//", start, address_end)
        is_last = following < 0
        stop = address_end if is_last else following
        slash = text.find("/", start, stop)
        authority_end = stop if slash < 0 else slash
        at = text.rfind("@", start, authority_end)
        if _has_password(text[start:authority_end]):  # which may have an `@`, a `/` or a `?` that is not encoded
            at = text.rfind("@", start, stop if at >= 0 or not is_last else end)
        if at > start:
            yield start, at
        start = stop + 2


def _has_password(authority: str) -> bool:
    return ":" in authority and not authority.startswith("[") and not _PORT.fullmatch(authority)
