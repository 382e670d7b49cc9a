"""The answers of `datasync/operate/` as lines: columns without borders, times in UTC."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from datasync.model.display import shown
from datasync.model.times import utc_text
from datasync.operate.queue import QueueLook, Queues

_GAP = "   "


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a header and rows in columns. Foreign texts cannot leave their column."""
    cells = [[*header], *([shown(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    for row in cells:
        yield _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def age(span: timedelta) -> str:
    """Render a time span in its largest unit and the next one: `2 h 5 min`."""
    seconds = max(int(span.total_seconds()), 0)
    for name, length, small, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            rest = seconds % length // part
            return f"{seconds // length} {name}" + (f" {rest} {small}" if rest else "")
    return f"{seconds} s"


def time(instant: datetime | None) -> str:
    """Render an instant; `-` where there is none."""
    return utc_text(instant) if instant else "-"


def queues(found: Queues, now: datetime) -> Iterator[str]:
    """Yield the lines of both queues."""
    yield from _queue(found.jobs, now)
    yield ""
    yield from _queue(found.poison, now)


def _queue(found: QueueLook, now: datetime) -> Iterator[str]:
    yield f"{found.name}: {found.length} message{'' if found.length == 1 else 's'}"
    if found.front:
        yield from table(
            ("tenant", "flow", "run", "waits", "deliveries"),
            [
                (
                    each.tenant_id or "not a job",
                    each.flow_name or "-",
                    each.run_id or "-",
                    age(now - each.inserted_utc),
                    str(each.deliveries),
                )
                for each in found.front
            ],
        )
