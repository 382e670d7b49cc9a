"""Follows docs/first-flow.md in a fresh clone, as a newcomer does, and measures how long it takes.

The commands run in two terminals, the files are changed, and the printed lines are compared with those of the page.
Then the flow is edited again and again, and the time from each edit to its result is measured, in three ways. The exit
code is 1 if a target is missed. The clone installs its own packages: to download them counts, too.
"""

import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
FIRST_FLOW = 300
"""Seconds: the target for the whole page."""
EDIT = 3
"""Seconds: the target from an edit to its result."""

_FLOW = Path("flows", "shop_to_crm.py")
_TEST = "python -m pytest -q tests/flows/test_shop_to_crm.py"
_TRY = 'python -m datasync try "shop→crm" --tenant acme --local --since 7d'
_ENQUEUE = 'python -m datasync enqueue acme "shop→crm" --local'
_PATIENCE = 600  # seconds for one command: the installation downloads packages
_BLOCK = re.compile(r"^(?:## (?P<title>[^\n]+)|```(?P<language>\w+)\n(?P<text>.*?)^```)$", re.MULTILINE | re.DOTALL)
_DEMO_APIS = "http://127.0.0.1:8080"


class DifferentFromPageError(Exception):
    """A command of the page failed, or printed something else than the page says."""

    def __init__(self, command: str, reason: str, output: str) -> None:
        super().__init__(f"$ {command}\n{output}\n{reason}")


@dataclass(frozen=True, slots=True)
class Step:
    """One block of the page: commands with the lines that they print, or the change of a file."""

    section: str
    language: str
    text: str
    expected: tuple[str, ...] = ()
    """The lines that the page shows after the commands."""

    @property
    def commands(self) -> list[str]:
        """The commands, one for each line."""
        return self.text.splitlines()


@dataclass
class Measured:
    """Seconds of the sections of the page, and from each edit to its result."""

    sections: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    edits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def misses(self) -> list[str]:
        """The targets that were missed."""
        missed = [name for name, seconds in self.edits.items() if statistics.median(seconds) >= EDIT]
        return missed if sum(self.sections.values()) < FIRST_FLOW else ["the page", *missed]


def steps(page: str) -> list[Step]:
    """Return the steps of a page in their order."""
    found, section = list[Step](), ""
    for match in _BLOCK.finditer(page):
        if match["title"]:
            section = match["title"]
        elif match["language"] == "output":
            before = found.pop()
            found.append(Step(section, before.language, before.text, tuple(match["text"].splitlines())))
        else:
            found.append(Step(section, match["language"], match["text"]))
    return found


def pattern(line: str) -> str:
    """Return a pattern of a line of the page. `…` stands for any text; numbers and blanks may differ."""
    parts = [re.sub(r"(?:\\ )+", r"\\s+", re.sub(r"\d+", r"\\d+", re.escape(part))) for part in line.split("…")]
    return ".*".join(parts)


def change(folder: Path, text: str) -> None:
    """Replace the lines with `-` by those with `+`, in the file that the first line names."""
    first, *lines = text.splitlines()
    file = folder / first.removeprefix("--- ")
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] == sign) for sign in "-+")
    content = file.read_text(encoding="utf-8")
    if content.count(old) != 1:
        raise DifferentFromPageError(f"edit {file}", "The file does not have these lines once:", old)
    file.write_text(content.replace(old, new), encoding="utf-8")


@dataclass
class Terminal:
    """A shell in which one command runs after the other."""

    shell: asyncio.subprocess.Process
    output: str = ""
    """All that was printed."""
    printed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        """Read the output of the shell, until it ends."""
        assert self.shell.stdout  # noqa: S101 - a pipe
        while chunk := await self.shell.stdout.read(65_536):
            self.output += chunk.decode(errors="replace")
            self.printed.set()

    def type(self, text: str) -> None:
        """Type a line."""
        assert self.shell.stdin  # noqa: S101 - a pipe
        self.shell.stdin.write(f"{text}\n".encode())

    async def wait_for(self, expected: str, start: int, command: str) -> re.Match[str]:
        """Wait until the output from a place on has a match of a pattern.

        Raises:
            DifferentFromPageError: it has none in time.

        """
        try:
            async with asyncio.timeout(_PATIENCE):
                while not (found := re.search(expected, self.output[start:])):
                    self.printed.clear()
                    await self.printed.wait()
                return found
        except TimeoutError:
            reason = f"The output has no {expected!r} after {_PATIENCE} s."
            raise DifferentFromPageError(command, reason, self.output[start:]) from None

    async def run(self, command: str) -> str:
        """Run a command to its end, and return its output.

        Raises:
            DifferentFromPageError: its exit code is not 0.

        """
        start = len(self.output)
        self.type(f'{command}\nprintf "\\n<ended %s>\\n" $?')
        ended = await self.wait_for(r"\n<ended (\d+)>\n", start, command)
        output = self.output[start : start + ended.start()]
        if ended[1] != "0":
            raise DifferentFromPageError(command, f"The exit code is {ended[1]}.", output)
        return output


@asynccontextmanager
async def terminal(folder: Path, environ: Mapping[str, str]) -> AsyncGenerator[Terminal]:
    """Open a shell in a folder. At the end, its command is stopped as by Ctrl-C, and then the shell."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "--noprofile", "--norc"),
        cwd=folder,
        env=dict(environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    opened = Terminal(shell)
    reader = asyncio.create_task(opened.read())
    try:
        opened.type("trap : INT")
        yield opened
    finally:
        assert shell.stdin  # noqa: S101 - a pipe
        shell.stdin.close()
        os.killpg(shell.pid, signal.SIGINT)
        await shell.wait()
        await reader


async def follow(folder: Path, environ: Mapping[str, str], *, rounds: int) -> Measured:
    """Follow the page in a folder with the repository, and measure its sections, and edits.

    Args:
        folder: The folder.
        environ: The environment of the terminals.
        rounds: How often the flow is edited in each way.

    Raises:
        DifferentFromPageError: a command failed, or printed something else than the page says.

    """
    measured, demo_apis = Measured(), _DEMO_APIS
    async with terminal(folder, environ) as first, terminal(folder, environ) as second:
        for step in steps((folder / "docs" / "first-flow.md").read_text(encoding="utf-8")):
            begin = time.perf_counter()
            if step.language == "diff":
                change(folder, step.text)
            elif step.section == "Install and start" and step.expected:
                first.type(step.text)
                for line in step.expected:
                    await first.wait_for(pattern(line), 0, step.text)
                demo_apis = (await first.wait_for(r"Demo APIs +(\S+)", 0, step.text))[1]
            else:
                output = "".join(
                    [await second.run(command.replace(_DEMO_APIS, demo_apis)) for command in step.commands]
                )
                for line in step.expected:
                    if not re.search(pattern(line), output):
                        raise DifferentFromPageError(step.text, f"The output has no line like: {line}", output)
            measured.sections[step.section] += time.perf_counter() - begin
        await _edit(folder, first, second, measured, rounds)
    return measured


async def _edit(folder: Path, app: Terminal, shell: Terminal, measured: Measured, rounds: int) -> None:
    """Change the name of the count in the flow, and wait until each way to run it shows the new one."""
    file, name = folder / _FLOW, "items"
    for number in range(rounds):
        for way in ("test", "try", "app"):
            new = f"items_{way}_{number}"
            text = file.read_text(encoding="utf-8").replace(f"count({name}=", f"count({new}=")
            name, start, begin = new, len(app.output), time.perf_counter()
            file.write_text(text, encoding="utf-8")
            if way == "test":
                shell.type(_TEST)
                await shell.wait_for(rf"{new}[^~]*failed", len(shell.output), _TEST)
            elif way == "try":
                await shell.run(f"{_TRY} | grep {new}=")
            else:
                await app.wait_for("Host started again", start, "save the flow")
                await shell.run(_ENQUEUE)
                await app.wait_for(f"succeeded.*{new}=", start, _ENQUEUE)
            measured.edits[way].append(time.perf_counter() - begin)


def use_ports(page: Path, ports: str) -> None:
    """Let `make start` of a page use other ports: `free`, or those from a number on."""
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("--no-demo", f"--no-demo --ports {ports}"), encoding="utf-8")


def _clone(folder: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)  # noqa: S603, S607 - our own


def show(measured: Measured) -> None:
    """Print the measured times."""
    for section, seconds in measured.sections.items():
        click.echo(f"{seconds:7.1f} s  {section}")
    click.echo(f"{sum(measured.sections.values()):7.1f} s  in all, of {FIRST_FLOW}\n\nFrom an edit to its result:")
    for way, all_seconds in measured.edits.items():
        median, longest = statistics.median(all_seconds), max(all_seconds)
        click.echo(f"{median:7.1f} s  {way:<5} (longest {longest:.1f} s, target {EDIT} s)")


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Edits in each way.")
@click.option("--ports", default="", metavar="free|N", help="Other ports for the services of `make start`.")
def main(rounds: int, ports: str) -> None:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory(prefix="datasync-") as parent:
        folder = Path(parent) / "datasync"
        _clone(folder)
        page = folder / "docs" / "first-flow.md"
        if ports:
            use_ports(page, ports)
        environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        try:
            measured = asyncio.run(follow(folder, environ, rounds=rounds))
        except DifferentFromPageError as error:
            raise click.ClickException(str(error)) from None
    show(measured)
    if measured.misses:
        click.echo(f"Missed: {', '.join(measured.misses)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
