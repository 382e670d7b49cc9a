"""The results of runs, as the demo and `tick` print them: a table, and a line for each problem."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datasync.model.display import shown
from datasync.model.run import RunRecord
from datasync.operate.why import command

COLOURS = {"succeeded": "green", "dead": "red", "failed": "red"}
"""The colours of outcomes. The others are yellow."""

_COLUMNS = ("tenant", "flow", "outcome", "attempts", "seconds", "counts", "next run")
_NUMBERS = ("attempts", "seconds")


def runs_table(
    records: Iterable[RunRecord],
    next_runs: Mapping[tuple[str, str], str | None],
    unfinished: Sequence[tuple[str, str]] = (),
) -> Table:
    """Return a table of runs. `next_runs` has the times by tenant and flow, and `unfinished` runs without a record."""
    table = Table(title="Runs", title_justify="left", title_style="bold")
    for heading in _COLUMNS:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left", overflow="fold")
    for run in records:
        table.add_row(
            cell(run.tenant_id),
            cell(run.flow_name),
            f"[{COLOURS.get(str(run.outcome), 'yellow')}]{run.outcome}[/]",
            str(run.attempt_count),
            f"{sum((each.finished_utc - each.started_utc).total_seconds() for each in run.attempts):.2f}",
            " ".join(f"{cell(name)}={number}" for name, number in run.counts.items()),
            next_runs.get((run.tenant_id, run.flow_name)) or "",
        )
    for tenant, flow in unfinished:
        table.add_row(cell(tenant), cell(flow), "[yellow]not ended[/]", "", "", "", next_runs.get((tenant, flow)) or "")
    return table


def print_problems(console: Console, problems: Iterable[str]) -> None:
    """Print the problems of documents."""
    for problem in problems:
        console.print(f"[red]•[/] document: {escape(problem)}", soft_wrap=True)


def print_errors(console: Console, records: Iterable[RunRecord], *, is_started: bool) -> None:
    """Print the errors of runs that have ended with one, or that fail.

    With `is_started`, the services of `make start` have the runs, and each error names the command to look into it.
    """
    for run in records:
        if run.error and run.outcome and run.outcome.is_failing:
            why = escape(run.error.message)
            console.print(f"[red]•[/] run: {cell(run.tenant_id)}/{cell(run.flow_name)}: {why}", soft_wrap=True)
            if is_started:
                line = cell(following(run.run_id, is_recorded=run.recording is not None))
                console.print(f"  {line}", soft_wrap=True)


def following(run_id: str, *, is_recorded: bool) -> str:
    """Return the command to look into a run of the services of `make start`: it is replayed, or else shown."""
    return f"next: {command('replay' if is_recorded else 'show', run_id, '--local')}"


def cell(text: str) -> str:
    """Return a foreign text for a table or a line."""
    return escape(shown(text))
