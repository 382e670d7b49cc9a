"""The forms of a secret that are not its text in another case or with escapes: its parts, and base64."""

import json
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

_SHORTEST_PART = 8  # characters: a shorter part of a secret, such as the line `},`, is not secret


def parts_of(secret: str) -> set[str]:
    """Return a secret, and where it is JSON the texts in it; each without blanks around it, too."""
    return {each for part in (secret, *_texts_in(secret)) for each in (part, part.strip())}


def written(part: str) -> Iterator[str]:
    """Yield a text as programs write it: itself, its lines, in capitals and small letters, and as bytes."""
    yield from (part, part.upper(), part.lower())  # the capitals of some letters, such as ß, are two
    if not part.isascii():
        yield part.encode().decode("latin-1")  # an answer that is read with the wrong charset, or the repr of bytes
        yield part.encode("ascii", errors="backslashreplace").decode()
        yield ascii(part)[1:-1]  # like the one before, with escapes for backslashes and quotes
    yield from (text for line in part.splitlines() if len(text := line.strip()) >= _SHORTEST_PART)


def in_base64(secret: str) -> set[str]:
    """Return the characters that a text becomes in base64, alone or within other data such as `user:secret`.

    The data may be a form, JSON, or base64 again. OAuth 2.0 escapes the secret before: RFC 6749, section 2.3.1.

    A character has six bits, so there are three forms, one for each remainder of the place by three. Characters at
    the ends that also depend on the data around the secret are left out.
    """
    escaped = {quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    inner = {secret, secret.upper(), secret.lower(), *escaped, json.dumps(secret, ensure_ascii=False)[1:-1]}
    encoded = {each.encode() for each in inner} | {b64encode(secret.encode())}
    if not secret.isascii():
        encoded.add(secret.encode("latin-1", errors="ignore"))  # as aiohttp does it for basic authentication
    found = set[str]()
    for data in encoded:
        for before in range(3):
            first, end = -(-before * 8 // 6), (before + len(data)) * 8 // 6
            found.add(b64encode(bytes(before) + data).decode()[first:end])
    return found


def base64_letters(text: str) -> str:
    """Return a text of the same length with one letter for each pair that means the same: `+-` and `/_`."""
    return text.replace("-", "+").replace("_", "/")


def _texts_in(secret: str) -> Iterator[str]:
    """Yield the texts in a secret that is a JSON object or array, such as the key of a service account."""
    try:
        pending = [json.loads(secret)]
    except (ValueError, RecursionError):
        return
    while pending:
        match pending.pop():
            case dict() as members:
                pending.extend(members.values())
            case list() as items:
                pending.extend(items)
            case str() as text if len(text) >= _SHORTEST_PART:
                yield text.encode(errors="backslashreplace").decode()
