"""Growing waiting times: between two polls of an empty queue, and between two attempts of a timer function.

Source: Azure/azure-webjobs-sdk, RandomizedExponentialBackoffStrategy.cs.
"""

import random
from datetime import timedelta


class Backoff:
    """The waiting times 1, 2, 3, 5, 9 … × `minimum`, up to `maximum`. The part above `minimum` varies by 20 %.

    If both are the same, all waiting times are.
    """

    def __init__(self, minimum: timedelta, maximum: timedelta) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self.reset()

    def reset(self) -> None:
        """Start from the shortest time again."""
        self._exponent = 0
        self._last: timedelta | None = None

    def next(self) -> timedelta:
        """Return the time to wait now."""
        if self._last != self._maximum:
            self._last = min(self._grown(), self._maximum)
            self._exponent += 1
        return self._last

    def _grown(self) -> timedelta:
        if self._exponent == 0:
            return self._minimum
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - not for security
        return self._minimum + self._minimum * (1 << (self._exponent - 1)) * jitter
