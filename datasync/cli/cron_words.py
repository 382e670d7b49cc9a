"""Describes a cron expression in words, where that is possible in a few exact words."""

from collections.abc import Collection, Sequence

from datasync.cron import LAST, CronSchedule, Fields, Values
from datasync.model.display import quoted

_MOST = 4  # values that are listed
_RANGE = 3  # values from which on neighbours are a range
_MINUTE, _HOUR, _DAY = 60, 60, 24  # the seconds, the minutes, and the hours of one

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", LAST: "last"}


def describe(schedule: CronSchedule) -> str:
    """Return the times in words, such as `every 10 s` or `Monday to Friday at 09:00`; else `by the cron '…'`."""
    fields = schedule.fields
    days, months = _days(fields), _months(fields.month)
    seconds, minutes, hours = (sorted(each.numbers) for each in fields[:3])
    interval = _interval(seconds, minutes, hours)
    clock = _clock(seconds, minutes, hours)
    if days is None or months is None or not (interval or clock):
        return f"by the cron {quoted(schedule.expression)}"
    words = f"{days or 'every day'} at {clock}" if clock else f"{interval}{days and f', {days}'}"
    return f"{words}{months and f', in {months}'}"


def _interval(seconds: Sequence[int], minutes: Sequence[int], hours: Sequence[int]) -> str | None:
    """Describe times at the same distance, all day or in some hours in a row."""
    second, minute, hour = seconds[0], minutes[0], hours[0]
    if len(minutes) == _HOUR and (step := _step(seconds, _MINUTE)):
        every = _every(step, "second", "minute", "s")
        every += f" {'at' if step == _MINUTE else 'from'} second {second}" if second else ""
    elif len(seconds) == 1 and (step := _step(minutes, _HOUR)) and (step < _HOUR or _are_neighbours(hours)):
        every = _every(step, "minute", "hour", "min")
        every += f" {'at' if step == _HOUR else 'from'} minute {minute}" if minute else ""
        every += f" at second {second}" if second else ""
    elif len(seconds) == len(minutes) == 1 and (step := _step(hours, _DAY)):
        return f"every {step} h from {_time(hour, minute, second)}"
    else:
        return None
    if len(hours) == _DAY:
        return every
    in_hours = f" {hour:02}" if len(hours) == 1 else f"s {hour:02} to {hours[-1]:02}"
    return f"{every}, in the hour{in_hours}" if _are_neighbours(hours) else None


def _every(step: int, one: str, whole: str, unit: str) -> str:
    return f"every {one}" if step == 1 else f"every {whole}" if step == _MINUTE else f"every {step} {unit}"


def _clock(seconds: Sequence[int], minutes: Sequence[int], hours: Sequence[int]) -> str | None:
    """List a few times of day."""
    if len(seconds) * len(minutes) * len(hours) > _MOST:
        return None
    return _listed([_time(hour, minute, second) for hour in hours for minute in minutes for second in seconds])


def _time(hour: int, minute: int, second: int) -> str:
    return f"{hour:02}:{minute:02}{f':{second:02}' if second else ''}"


def _are_neighbours(values: Sequence[int]) -> bool:
    return values[-1] - values[0] == len(values) - 1


def _step(values: Sequence[int], size: int) -> int | None:
    """Return the distance of values that divide a minute or an hour into equal parts."""
    step = size // len(values)
    return step if [*values] == [*range(values[0], size, step)] and step * len(values) == size else None


def _days(fields: Fields) -> str | None:
    """Describe the days of the month and of the week; empty for all days, None if it takes more words."""
    day, weekday = fields.day, fields.weekday
    is_any_weekday = not weekday.nth and len(weekday.numbers) == len(_WEEKDAYS)
    if not day.nearest and len(day.numbers) == 31:  # noqa: PLR2004 - of the month
        return "" if is_any_weekday else _of_week(weekday)
    return _of_month(day) if is_any_weekday else None


def _of_week(weekday: Values) -> str | None:
    places = sorted((number - 1) % 7 for number in weekday.numbers)
    if weekday.nth:
        return f"on the {_ORDINALS[weekday.nth]} {_WEEKDAYS[places[0]]} of the month"
    return _in_row(places, _WEEKDAYS)


def _of_month(day: Values) -> str | None:
    numbers = sorted(day.numbers)
    if numbers == [LAST]:
        return f"on the last {'weekday' if day.nearest else 'day'} of the month"
    if numbers[0] < 0 or len(numbers) > _MOST:
        return None
    if day.nearest:
        return f"on the weekday nearest to day {numbers[0]} of the month"
    return f"on day{'s' if len(numbers) > 1 else ''} {_listed([*map(str, numbers)])} of the month"


def _months(month: Values) -> str | None:
    return "" if len(month.numbers) == len(_MONTHS) else _in_row([n - 1 for n in sorted(month.numbers)], _MONTHS)


def _in_row(places: Sequence[int], names: Sequence[str]) -> str | None:
    """Name values: neighbours as a range, a few as a list."""
    if len(places) >= _RANGE and _are_neighbours(places):
        return f"{names[places[0]]} to {names[places[-1]]}"
    return _listed([names[place] for place in places]) if len(places) <= _MOST else None


def _listed(texts: Collection[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last
