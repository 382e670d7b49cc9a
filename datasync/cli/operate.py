"""The commands that look into a running app. `datasync/operate/` has the answers, `text.py` their lines."""

import click

from datasync.cli import text
from datasync.cli.common import Exit, OperatingCommand, Session, operating
from datasync.operate.queue import queues


@click.command("queue", cls=OperatingCommand, short_help="Show the job queue and the poison queue.")
@operating
async def queue(session: Session) -> Exit:
    """Show the length of the job queue and of the poison queue, and the messages at the front.

    Nothing is taken from the queues. Exit code 1 if a message waits in the poison queue.
    """
    found = await queues(session.services)
    session.answer(found, text.queues(found, session.now))
    return Exit.FINE if found.is_well else Exit.WRONG


COMMANDS: tuple[click.Command, ...] = (queue,)
"""The commands of this module. `main.py` registers them."""
