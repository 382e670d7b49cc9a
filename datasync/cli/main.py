"""The command line. Only this package imports click, which is not deployed.

Click passes the current time to the commands as `obj`. `common.py` has the exit codes.
"""

from typing import override

import click

from datasync.cli import act, author, checks, dead, documents, new, operate, replay, simulate
from datasync.cli.common import MEANINGS, Exit, say_interrupted, write_examples, write_exit_codes

_GROUPS = {
    "Look into a running app": operate.COMMANDS,
    "Run, pause and resume flows": act.COMMANDS,
    "Dead runs, and what a flow keeps": (*dead.COMMANDS, *act.MEMORY),
    "Tenants": documents.COMMANDS,
    "Write a flow": (*new.COMMANDS, *author.COMMANDS, *replay.COMMANDS),
    "Check before you deploy": (*checks.COMMANDS, *simulate.COMMANDS),
}

_FIRST = (
    ("status", "What is wrong, and the next command."),
    ("incidents", "Which errors, for how many tenants."),
    ("why TENANT FLOW", "Why a flow does not run, and the fix."),
)


class _Program(click.Group):
    """All commands, in groups: first those that look, then those that act."""

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Start with"):
            formatter.write_dl([(f"{ctx.info_name} {words}", what) for words, what in _FIRST], col_max=50)
        width = max(map(len, self.commands))
        for heading, commands in _GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{each.name:<{width}}", each.get_short_help_str(100)) for each in commands])

    @override
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(
            ctx,
            formatter,
            "status --local",
            "runs --failed --since 24h --settings local.settings.json",
            "enqueue TENANT FLOW --wait",
            "COMMAND --help",
        )
        write_exit_codes(formatter, MEANINGS)

    @override
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say_interrupted()
            ctx.exit(Exit.INTERRUPTED)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Find out which flows of which tenants do not run, and why; act on them; check what you deploy.

    The commands on a running app read its settings from the environment, from a file (--settings FILE), or from `make
    start` on this machine (--local). For an app on Azure, sign in with `az login` first. --json prints the answer as
    JSON.
    """


for _command in (each for _commands in _GROUPS.values() for each in _commands):
    cli.add_command(_command)
