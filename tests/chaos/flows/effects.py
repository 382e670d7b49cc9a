"""The log of effects: a file outside the app, which each flow appends to.

Each line is a JSON object with an `event`: `begin` and `end` of an execution, `effect`, or `note`. A line is one
`write` to a file that is opened with O_APPEND, so lines of several processes do not mix. It begins with a line break,
since a killed process may leave a part of a line.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from datasync import FlowRun
from datasync.clock import Clock

_file = os.open(os.environ["CHAOS_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Execution:
    """One execution of a flow."""

    def __init__(self, tenant_id: str, run: FlowRun) -> None:
        self.id = uuid.uuid4().hex
        start, end = run.window.start, run.window.end
        self._write(
            "begin",
            tenant=tenant_id,
            flow=run.flow_name,
            run=run.run_id,
            attempt=run.attempt,
            scheduled=run.scheduled_utc.isoformat(),
            window=[start and start.isoformat(), end.isoformat()],
            clock=Clock().now().isoformat(),
        )

    def effect(self, name: str = "work") -> None:
        """Write the effect for which the flow exists."""
        self._write("effect", name=name)

    def note(self, text: str) -> None:
        """Write a fact that a test waits for."""
        self._write("note", text=text)

    def end(self, how: str) -> None:
        """Write the end: `returned`, or the name of the exception."""
        self._write("end", how=how)

    def _write(self, event: str, **fields: object) -> None:
        line = {
            "event": event,
            "execution": self.id,
            "pid": os.getpid(),
            "monotonic": time.monotonic(),
            "wall": time.time(),
            **fields,
        }
        os.write(_file, f"\n{json.dumps(line)}\n".encode())


@contextmanager
def execution(tenant_id: str, run: FlowRun) -> Iterator[Execution]:
    """Log the begin and the end of an execution. A killed process leaves no end."""
    started = Execution(tenant_id, run)
    try:
        yield started
    except BaseException as error:
        started.end(type(error).__name__)
        raise
    started.end("returned")
