"""``lcl keys …`` and ``lcl audit``: for admins."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.common import ago, settings_of, show_json, show_table

group = typer.Typer(help="List, create, rotate and revoke API keys (for admins).", no_args_is_help=True)
Prefix = Annotated[str, typer.Argument(help="what stands before the dot of the key")]


@group.command("list")
def list_(context: typer.Context) -> None:
    """The keys, newest first; their secrets are nowhere."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.keys()
    if settings.as_json:
        show_json(found)
        return
    rows = [
        (row["prefix"], row["owner"], row["role"], ago(row["last_used"]), ago(row["rotated_at"]), row["expires"])
        for row in found
    ]
    show_table(("prefix", "owner", "role", "last used", "rotated", "expires"), rows, "no keys")


@group.command()
def mine(context: typer.Context) -> None:
    """The key that asks: whose it is and what it may (for everybody)."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.own_key()
    if settings.as_json:
        show_json(found)
        return
    show_table(("prefix", "owner", "role", "expires"), [[found[c] for c in ("prefix", "owner", "role", "expires")]], "")


@group.command()
def create(
    context: typer.Context,
    owner: Annotated[str, typer.Argument(help="whose runs it makes and sees")],
    role: Annotated[str, typer.Option(help="viewer, submitter or admin")] = "submitter",
    expires: Annotated[str | None, typer.Option(help="such as 2030-01-01T00:00:00Z; none: never")] = None,
) -> None:
    """Make a key and print it: this once."""
    settings = settings_of(context)
    with settings.client() as client:
        made = client.create_key(owner, role, expires)
    show_json(made) if settings.as_json else typer.echo(made["key"])


@group.command()
def rotate(
    context: typer.Context,
    prefix: Prefix,
    grace: Annotated[int | None, typer.Option(help="seconds that the old secret stays valid; none: a day")] = None,
) -> None:
    """Give a key a new secret and print it: this once."""
    settings = settings_of(context)
    with settings.client() as client:
        made = client.rotate_key(prefix, grace)
    show_json(made) if settings.as_json else typer.echo(made["key"])


@group.command()
def revoke(context: typer.Context, prefix: Prefix) -> None:
    """Make a key invalid at once."""
    with settings_of(context).client() as client:
        client.revoke_key(prefix)


def audit(
    context: typer.Context,
    owner: Annotated[str | None, typer.Option(help="only what keys of this owner asked for")] = None,
    action: Annotated[str | None, typer.Option(help="only this, such as runs.cancel")] = None,
    object_: Annotated[str | None, typer.Option("--object", help="only about this id or name")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="at most so many")] = 50,
    cursor: Annotated[str | None, typer.Option(help="go on after what a page before gave")] = None,
) -> None:
    """Who did what, newest first (for admins)."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.audit(owner=owner, action=action, object=object_, limit=limit, cursor=cursor)
    if settings.as_json:
        show_json(found)
        return
    columns = ("at", "owner", "prefix", "action", "object", "request_id")
    show_table(columns, [[row[column] for column in columns] for row in found["items"]], "nothing was done yet")
    if found["next_cursor"]:
        typer.echo(f"more: lcl audit --cursor {found['next_cursor']}")
