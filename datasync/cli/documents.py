"""The commands for tenant documents: `tenant`, `add-flow`, `secrets`."""

import json
from typing import Any

import click

from datasync.cli import text
from datasync.cli.common import (
    Command,
    Exit,
    Group,
    Session,
    acting,
    confirmed,
    flows_option,
    load_flows,
    operating,
)
from datasync.operate.action import Ask, is_known
from datasync.operate.add_flow import Addition, NewEntry
from datasync.operate.add_flow import add_flow as add_to_tenants
from datasync.operate.documents import put_tenant, remove_tenant
from datasync.operate.documents import secrets as find_secrets
from datasync.operate.documents import tenants as find_tenants
from datasync.operate.why import command

_of_flows = flows_option("Package that contains the flow files, which check the entries.")


@click.group("tenant", cls=Group, example="tenant list", short_help="List, get, put or remove tenant documents.")
def tenant() -> None:
    """List tenants, print, store or remove their documents."""


@tenant.command(
    "list",
    cls=Command,
    example="tenant list",
    wrong="a document cannot be used, or a service is away",
    short_help="List the tenants.",
)
@operating
async def tenant_list(session: Session) -> Exit:
    """List all tenants."""
    found = await find_tenants(session.services)
    session.answer(found, text.tenants(found))
    return Exit.WRONG if any(line.problem for line in found) else Exit.FINE


@tenant.command(
    "get",
    cls=Command,
    example="tenant get acme-cabinets > acme-cabinets.json",
    wrong="a service is away",
    short_help="Print a tenant document.",
)
@click.argument("tenant_id", metavar="TENANT")
@operating
async def tenant_get(session: Session, tenant_id: str) -> Exit:
    """Print the document of a tenant, as JSON, as it is stored.

    Edit it and give it to `tenant put`. Its `_etag` tells whether somebody else has changed the document meanwhile.
    """
    document = await session.services.tenants.document(tenant_id)
    session.print_json({name: value for name, value in document.items() if not name.startswith("_") or name == "_etag"})
    session.note(f"To change it, edit it in a file, and store that: {command('tenant', 'put', 'FILE')}")
    return Exit.FINE


def _document(_: click.Context, __: click.Parameter, path: str) -> dict[str, Any]:
    try:
        with click.open_file(path, "rb") as stream:
            read = json.loads(stream.read().decode("utf-8-sig"))
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path} is not JSON in UTF-8: {error}") from None
    if not isinstance(read, dict):
        raise click.BadParameter(f"{path} is not a tenant document, which is a JSON object")
    return read


@tenant.command(
    "put",
    cls=Command,
    example="tenant put acme-cabinets.json",
    wrong="the document has a problem, or a service is away",
    short_help="Store a tenant document.",
)
@click.argument("document", metavar="FILE", callback=_document)
@_of_flows
@acting
async def tenant_put(session: Session, ask: Ask, *, document: dict[str, Any], package: str) -> Exit:
    """Check a tenant document as `validate` does, and store it. FILE holds one document; - is standard input.

    A document with the `_etag` of `tenant get` replaces the stored one, unless that was changed meanwhile. One without
    it is a new tenant.
    """
    found = await put_tenant(session.services, load_flows(package), ask, document)
    session.answer(found, text.done(found))
    return Exit.FINE


@tenant.command(
    "remove",
    cls=Command,
    example="tenant remove acme-cabinets",
    wrong="it is not possible, or a service is away",
    short_help="Remove a paused tenant.",
)
@click.argument("tenant_id", metavar="TENANT")
@click.option("--yes", "typed", metavar="TENANT", help="Do not ask: the id of the tenant once more.")
@acting
async def tenant_remove(session: Session, ask: Ask, *, tenant_id: str, typed: str | None) -> Exit:
    """Delete the document of a paused tenant and the states of its flows, and list its secrets.

    The id has to be typed at a terminal, or given with --yes. The records of its runs stay until they expire. The
    secrets are not deleted: the commands for that are printed.
    """
    if typed is None and not await is_known(session.services, ask):
        await session.services.tenants.document(tenant_id)
        confirmed(f"To remove tenant {tenant_id!r}, type its id", tenant_id, f"--yes {tenant_id}")
    elif typed not in (None, tenant_id):
        raise click.BadParameter(f"{typed!r} is not the tenant {tenant_id!r}: nothing was done", param_hint="'--yes'")
    found = await remove_tenant(session.services, ask, tenant_id=tenant_id)
    session.answer(found, text.removed(found, session.services.settings))
    return Exit.FINE


def _settings(_: click.Context, __: click.Parameter, value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        read = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"expected a JSON object: {error}") from None
    if not isinstance(read, dict):
        raise click.BadParameter(f"expected a JSON object, got {value!r}")
    return read


@click.command(
    "add-flow",
    cls=Command,
    example='add-flow weather --cron "0 30 6 * * *" --all',
    wrong="a tenant has a problem with the entry, or a service is away",
    short_help="Add a flow to many tenants.",
)
@click.argument("flow_name", metavar="FLOW")
@click.option("--cron", metavar="CRON", required=True, help="Six fields, seconds first, in quotes.")
@click.option("--tz", "timezone", metavar="ZONE", help="An IANA name, or tenant for the tenant's own.  [default: UTC]")
@click.option("--with", "flow_settings", metavar="JSON", callback=_settings, help="The settings of the entry.")
@click.option("--all", "of_all", is_flag=True, help="All tenants.")
@click.option("--tenant", "tenant_ids", metavar="TENANT", multiple=True, help="This tenant. Can be repeated.")
@click.option("--apply", "is_applied", is_flag=True, help="Change the documents. Without it, they are only listed.")
@_of_flows
@acting
async def add_flow(
    session: Session,
    ask: Ask,
    *,
    flow_name: str,
    cron: str,
    timezone: str | None,
    flow_settings: dict[str, Any] | None,
    of_all: bool,
    tenant_ids: tuple[str, ...],
    is_applied: bool,
    package: str,
) -> Exit:
    """Add an entry for a flow to tenants that have none. It first runs at the next time of its cron.

    Without --apply, nothing is changed.
    """
    if of_all == bool(tenant_ids):
        raise click.UsageError("name the tenants with --tenant, or take all of them with --all")
    entry = NewEntry(flow=flow_name, cron=cron, timezone=timezone, settings=flow_settings)
    found = await add_to_tenants(
        session.services,
        load_flows(package),
        ask,
        entry,
        tenant_ids=None if of_all else tenant_ids,
        is_applied=is_applied,
    )
    session.answer(found, text.additions(found))
    if not is_applied and any(line.what is Addition.ADD for line in found):
        session.note("Nothing was changed: --apply adds the entries")
    return Exit.WRONG if any(line.what is Addition.PROBLEM for line in found) else Exit.FINE


@click.command(
    "secrets",
    cls=Command,
    example="secrets acme-cabinets",
    wrong="a declared secret is missing, or a service is away",
    short_help="List the names of a tenant's secrets.",
)
@click.argument("tenant_id", metavar="TENANT")
@_of_flows
@operating
async def secrets(session: Session, tenant_id: str, package: str) -> Exit:
    """List the secrets that the flows of a tenant declare, and those that the vault has. Values are not read."""
    found = await find_secrets(session.services, load_flows(package), tenant_id)
    session.answer(found, text.secrets(found, session.services.settings))
    return Exit.FINE if all(line.is_present for line in found) else Exit.WRONG


COMMANDS: tuple[click.Command, ...] = (tenant, add_flow, secrets)
"""The commands of this module. `main.py` registers them."""
