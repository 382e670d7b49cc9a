"""The last lines that a flow has logged, for the record of its run."""

import logging
from collections import deque
from itertools import count

import msgspec

from datasync.clock import Clock
from datasync.model.display import shown_line
from datasync.model.run import LogLine

MOST = 20
"""The most lines that are kept."""

LONGEST = 200
"""The most characters of a line."""

LARGEST = 4096
"""The most bytes of all lines, as they are stored. Of long lines, fewer are kept."""


class Tail:
    """The last lines of one attempt, which begins now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.monotonic()
        self._numbers = count(1)
        self._last = deque[tuple[int, LogLine]](maxlen=MOST)

    def add(self, level: int, text: str) -> None:
        """Add a line, without secrets. Threads of the flow may add lines, too."""
        line = LogLine(
            level=logging.getLevelName(level).lower(),
            seconds=round(self._clock.monotonic() - self._started, 3),
            text=shown_line(text, LONGEST),
        )
        self._last.append((next(self._numbers), line))

    def kept(self) -> tuple[tuple[LogLine, ...], int]:
        """Return the lines to keep, oldest first, and the number of those left out before them."""
        numbered = list(self._last)
        lines = [line for _, line in numbered]
        sizes = [len(msgspec.json.encode(line.content())) for line in lines]
        while sum(sizes) > LARGEST:
            del sizes[0], lines[0]
        number_of_all = max((number for number, _ in numbered), default=0)
        return tuple(lines), number_of_all - len(lines)
