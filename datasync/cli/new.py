"""The command that writes the files of a new flow."""

import json
import shlex
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click

from datasync.author.new import NewFlow, new_flow
from datasync.cli.common import EXITS, Command, load_flows, say
from datasync.cli.local_settings import DEMO_APIS, started_settings
from datasync.errors import DataSyncError, SettingsInvalid
from datasync.operate.why import command

_USUAL_DEMO_APIS = "http://127.0.0.1:8080"
"""The address of the demo APIs of `make start`, unless it was started with other ports."""


@click.command(
    "new",
    cls=Command,
    example='new "my-source→my-target"',
    wrong="the flow exists already",
    short_help="Write a flow, its test and a tenant document.",
)
@click.argument("name", metavar="NAME")
@click.option(
    "--tenant", "tenant_id", metavar="TENANT", default="acme", show_default=True, help="The tenant that gets the flow."
)
@click.pass_obj
def new(now: datetime, *, name: str, tenant_id: str) -> None:
    """Write the files of a new flow, in the folder of the app. The test passes at once.

    NAME is that of the flow, such as "my-source→my-target": it copies items of one API to another. With the name of one
    system, it reads from it. No file is overwritten.
    """
    try:
        made = new_flow(Path(), load_flows("flows"), name, tenant_id, now)
    except DataSyncError as error:
        say(f"Error: {error}", err=True)
        sys.exit(EXITS[error.kind])
    try:
        demo_apis = started_settings()[DEMO_APIS]
    except (SettingsInvalid, KeyError):
        demo_apis = _USUAL_DEMO_APIS
    for line in _lines(made, demo_apis):
        click.echo(line)


def _lines(made: NewFlow, demo_apis: str) -> Iterator[str]:
    flow, test, tenant = (path.as_posix() for path in (made.flow, made.test, made.tenant))
    width = max(map(len, (flow, test, tenant)))
    yield f"{flow:<{width}}   the flow: change it for your APIs"
    yield f"{test:<{width}}   its test"
    if made.is_new_tenant:
        yield f"{tenant:<{width}}   a tenant document with the flow, which is due now"
    else:
        yield f"{tenant:<{width}}   exists, and is not changed. Add this entry to its flows:"
        yield f"  {json.dumps(made.entry, ensure_ascii=False)}"
    yield ""
    yield "Its secrets, while `make start` runs. The demo APIs have such items, for any token:"
    for name in made.secrets:
        yield f"  python -m localdev secret set {name} {_demo_value(name, demo_apis)}"
    yield "In Azure:"
    for name in made.secrets:
        yield f'  az keyvault secret set --vault-name "<vault>" --name {name} --value "<value>"'
    yield ""
    yield "Now:"
    yield f"  python -m pytest {test}"
    yield f"  python -m localdev tenant {shlex.quote(tenant)}"
    yield f"  {command('try', made.name, '--tenant', made.tenant_id, '--local')}"
    yield "  make tick"


def _demo_value(secret: str, demo_apis: str) -> str:
    """Return the value of a secret with which a new flow calls the demo APIs."""
    _, _, system, key = secret.split("--")
    return f"{demo_apis}/{system}" if key == "api-base" else f"token-of-{system}"


COMMANDS: tuple[click.Command, ...] = (new,)
"""The commands of this module. `main.py` registers them."""
