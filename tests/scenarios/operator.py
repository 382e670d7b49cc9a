"""An operator who has never seen the app, and knows only the output of its command line."""

import asyncio
import re
import shlex

from click.testing import CliRunner, Result

from datasync.cli.main import cli
from tests.scenarios.company import Company, forget_flows

_COMMAND = re.compile(r"(?:python -m )?\bdatasync (\S.*)$", re.MULTILINE)


class Operator:
    """Runs only commands whose every word was printed before. Begins with `datasync --help`."""

    def __init__(self, company: Company) -> None:
        self._company = company
        self._printed = "--help"
        self._last: Result | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the last command."""
        assert self._last is not None
        return self._last.exit_code

    @property
    def answer(self) -> str:
        """The standard output of the last command."""
        assert self._last is not None
        return self._last.stdout

    async def run(self, line: str, **own: object) -> str:
        """Run a command line, and return its output.

        Args:
            line: The words after `datasync`. All must have been printed.
            **own: Words of the operator's own, such as the name of a file: `tenant put {file}`.

        """
        for word in shlex.split(line):
            if word not in {f"{{{name}}}" for name in own}:
                assert self._has_read(word), f"{line!r}: nothing that was printed has {word!r}:\n{self._printed}"
        return await self._run([each.format(**own) if own else each for each in shlex.split(line)])

    async def follow(self, beginning: str) -> str:
        """Run the command that the last output names, which begins with these words."""
        return await self._run(shlex.split(self.named(beginning)))

    def named(self, beginning: str) -> str:
        """Return the command that the last output names, which begins with these words."""
        assert self._last is not None
        found = [each for each in _COMMAND.findall(self._last.output) if f"{each} ".startswith(f"{beginning} ")]
        assert found, f"the output names no command {beginning!r}:\n{self._last.output}"
        return str(found[0])

    def _has_read(self, word: str) -> bool:
        return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", self._printed) is not None

    async def _run(self, words: list[str]) -> str:
        forget_flows()
        environ = self._company.world.environ
        self._last = await asyncio.to_thread(CliRunner().invoke, cli, words, obj=self._company.now, env=environ)
        assert self._last.exception is None or isinstance(self._last.exception, SystemExit), self._last.exception
        self._printed += f"\n{self._last.output}"
        return self._last.output
