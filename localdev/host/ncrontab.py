"""NCRONTAB, the schedules of timer triggers: {second} {minute} {hour} {day} {month} {day of week}, in UTC.

Five fields mean six with second 0. Day and day of week must both match. `? L W #` and weekday 7 are not supported.
Sources: https://github.com/atifaziz/NCrontab and …/azure-functions/functions-bindings-timer#ncrontab-expressions.

This parser refuses two texts that the real host accepts with another meaning: a step of 0 (the host takes 1), and a
range that runs backwards (the host exchanges the ends: `22-2` means 2 to 22).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Self

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

# Each combination of 29 February and a weekday occurs within 40 years, also around 2100.
_HORIZON_DAYS = 366 * 41


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...]

    def parse(self, text: str) -> tuple[int, ...]:
        """Return the values that match the field, ascending."""
        try:
            return tuple(sorted({value for item in text.split(",") for value in self._item(item)}))
        except ValueError as why:
            raise ValueError(f"{self.name} field {text!r}: {why}") from None

    def _item(self, item: str) -> range:
        base, slash, step = item.partition("/")
        if slash and not (step.isdecimal() and int(step)):
            raise ValueError(f"step {step!r} must be a whole number from 1")
        every = int(step) if slash else 1
        if base == "*":
            return range(self.low, self.high + 1, every)
        start, dash, end = base.partition("-")
        first = self._value(start)
        last = self._value(end) if dash else self.high if slash else first
        if first > last:
            raise ValueError(f"{base!r} runs backwards. Write {start}-{self.high},{self.low}-{end} instead")
        return range(first, last + 1, every)

    def _value(self, text: str) -> int:
        if text.isdecimal() and text.isascii():
            if self.low <= int(text) <= self.high:
                return int(text)
        elif len(text) >= 3:  # noqa: PLR2004 - the length of Jan, Mon
            for offset, name in enumerate(self.names):
                if name.lower().startswith(text.lower()):
                    return self.low + offset
        names = f", or {self.names[0][:3]} to {self.names[-1][:3]}" if self.names else ""
        raise ValueError(f"{text!r} is not a value from {self.low} to {self.high}{names}")


_FIELDS = (
    _Field("second", 0, 59, ()),
    _Field("minute", 0, 59, ()),
    _Field("hour", 0, 23, ()),
    _Field("day", 1, 31, ()),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _WEEKDAYS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A parsed NCRONTAB expression."""

    text: str
    times: tuple[time, ...]
    """The times of a day at which it fires, ascending."""
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an expression of six or five fields.

        Raises:
            ValueError: the message names the field, its text and the mistake.

        """
        parts = text.split()
        if len(parts) == 5:  # noqa: PLR2004 - the form without seconds
            parts = ["0", *parts]
        if len(parts) != len(_FIELDS):
            raise ValueError(
                f"{len(parts)} fields, expected 6: {{second}} {{minute}} {{hour}} {{day}} {{month}} {{day of week}}"
            )
        second, minute, hour, days, months, weekdays = (
            field.parse(part) for field, part in zip(_FIELDS, parts, strict=True)
        )
        return cls(
            text=text,
            times=tuple(time(h, m, s, tzinfo=UTC) for h in hour for m in minute for s in second),
            days=frozenset(days),
            months=frozenset(months),
            weekdays=frozenset(weekdays),
        )

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first occurrence after an instant (aware), in UTC, or None if no day ever matches."""
        moment = moment.astimezone(UTC)
        today = moment.date()
        for ahead in range(_HORIZON_DAYS):
            day = today + timedelta(days=ahead)
            if day.month in self.months and day.day in self.days and day.isoweekday() % 7 in self.weekdays:
                for at in self.times:
                    if (occurrence := datetime.combine(day, at)) > moment:
                        return occurrence
        return None
