"""Cursors: the JSON value that a flow keeps from run to run."""

import json
from typing import Any

from datasync.errors import CursorInvalid

LARGEST = 16_384
"""Bytes of a cursor as JSON."""

_DEEPEST = 64  # levels: Cosmos DB allows 128 in a document
_LARGEST_NUMBER = 2**53  # Cosmos DB stores numbers as IEEE 754 doubles, which hold whole numbers exactly up to here


def normalized(cursor: Any) -> Any:
    """Return a cursor as JSON gives it back: with lists for tuples, and plain types.

    Raises:
        CursorInvalid: it is not JSON, has more than 16 KB, or has a value that would change in the database.

    """
    try:
        text = json.dumps(cursor, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CursorInvalid(
            f"run.cursor is not a JSON value ({error}): use texts, numbers, lists and dictionaries"
        ) from None
    if size > LARGEST:
        raise CursorInvalid(
            f"run.cursor has {size:,} bytes as JSON, and {LARGEST:,} are kept: keep a position, not the data"
        )
    _check(value, _DEEPEST)
    return value


def _check(value: Any, levels: int) -> None:
    if levels == 0:
        raise CursorInvalid(f"run.cursor has more than {_DEEPEST} levels: keep a position, not data")
    if isinstance(value, int | float) and abs(value) > _LARGEST_NUMBER:
        raise CursorInvalid(
            f"run.cursor has the number {value!r}, and numbers beyond 2**53 are not stored exactly: use a text"
        )
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check(part, levels - 1)
