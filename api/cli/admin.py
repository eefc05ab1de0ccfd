"""``lcl keys``, ``lcl audit``, ``lcl webhooks``, ``lcl gc``, ``lcl quota``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.output import ago, global_options, print_json, print_table

keys_group = typer.Typer(help="List, create, rotate and revoke API keys (for admins).", no_args_is_help=True)
Prefix = Annotated[str, typer.Argument(help="what stands before the dot of the key")]


@keys_group.command("list")
def list_keys(context: typer.Context) -> None:
    """The keys, newest first; their secrets are nowhere."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.keys()
    if settings.as_json:
        print_json(found)
        return
    rows = [
        (row["prefix"], row["owner"], row["role"], ago(row["last_used"]), ago(row["rotated_at"]), row["expires"])
        for row in found
    ]
    print_table(("prefix", "owner", "role", "last used", "rotated", "expires"), rows, "no keys")


@keys_group.command()
def mine(context: typer.Context) -> None:
    """The key that asks: whose it is and what it may (for everybody)."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.own_key()
    if settings.as_json:
        print_json(found)
        return
    print_table(
        ("prefix", "owner", "role", "expires"), [[found[c] for c in ("prefix", "owner", "role", "expires")]], ""
    )


@keys_group.command()
def create(
    context: typer.Context,
    owner: Annotated[str, typer.Argument(help="whose runs it makes and sees")],
    role: Annotated[str, typer.Option(help="viewer, submitter or admin")] = "submitter",
    expires: Annotated[str | None, typer.Option(help="such as 2030-01-01T00:00:00Z; none: never")] = None,
) -> None:
    """Make a key and print it: this once."""
    settings = global_options(context)
    with settings.client() as client:
        made = client.create_key(owner, role, expires)
    print_json(made) if settings.as_json else typer.echo(made["key"])


@keys_group.command()
def rotate(
    context: typer.Context,
    prefix: Prefix,
    grace: Annotated[int | None, typer.Option(help="seconds that the old secret stays valid; none: a day")] = None,
) -> None:
    """Give a key a new secret and print it: this once."""
    settings = global_options(context)
    with settings.client() as client:
        made = client.rotate_key(prefix, grace)
    print_json(made) if settings.as_json else typer.echo(made["key"])


@keys_group.command()
def revoke(context: typer.Context, prefix: Prefix) -> None:
    """Make a key invalid at once."""
    with global_options(context).client() as client:
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
    settings = global_options(context)
    with settings.client() as client:
        found = client.audit(owner=owner, action=action, object=object_, limit=limit, cursor=cursor)
    if settings.as_json:
        print_json(found)
        return
    columns = ("at", "owner", "prefix", "action", "object", "request_id")
    print_table(columns, [[row[column] for column in columns] for row in found["items"]], "nothing was done yet")
    if found["next_cursor"]:
        typer.echo(f"more: lcl audit --cursor {found['next_cursor']}")


webhooks_group = typer.Typer(help="Addresses that are told how runs end (for admins).", no_args_is_help=True)
WebhookId = Annotated[str, typer.Argument(help="as `lcl webhooks list` prints it")]


@webhooks_group.command("list")
def list_webhooks(context: typer.Context) -> None:
    """The webhooks, newest first; their secrets are nowhere."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.webhooks()
    if settings.as_json:
        print_json(found)
        return
    rows = [(row["id"], row["url"], ", ".join(row["events"]), row["owner"], ago(row["created_at"])) for row in found]
    print_table(("id", "url", "events", "owner", "made"), rows, "no webhooks")


@webhooks_group.command()
def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="http(s), on a host that LCL_WEBHOOK_HOSTS allows")],
    event: Annotated[list[str] | None, typer.Option(help="such as run.failed; repeatable; none: every one")] = None,
) -> None:
    """Tell an address of runs from now on. Prints its id, and the secret its messages are signed with: this once."""
    settings = global_options(context)
    with settings.client() as client:
        made = client.create_webhook(url, event or ())
    print_json(made) if settings.as_json else typer.echo(f"{made['id']}\n{made['secret']}")


@webhooks_group.command()
def deliveries(context: typer.Context, webhook_id: WebhookId) -> None:
    """The last fifty messages to one, newest first, and why those that were not heard were not."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.deliveries(webhook_id)
    if settings.as_json:
        print_json(found)
        return
    rows = [
        (row["id"], row["event"], row["payload"]["run"]["id"], _delivery_state(row), row["attempts"], row["error"])
        for row in found
    ]
    print_table(("id", "event", "run", "state", "attempts", "error"), rows, "it was told nothing yet")


@webhooks_group.command()
def delete(context: typer.Context, webhook_id: WebhookId) -> None:
    """Tell it nothing more, not even what waits."""
    with global_options(context).client() as client:
        client.delete_webhook(webhook_id)


def _delivery_state(row: dict[str, Any]) -> str:
    if row["done_at"] is None:
        return "waits" if row["error"] is None else "is tried again"
    return "delivered" if row["error"] is None else "given up"


def collect_garbage(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what there is")] = False,
) -> None:
    """Remove what nothing names in the service's home and store (for admins). Workers do so by themselves, too."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.garbage() if dry_run else client.collect_garbage()
    if settings.as_json:
        print_json(found)
        return
    rows = [
        (row["path"], row["bytes"], ago(row["seen_at"]) or "just now", "yes" if row["due"] else "")
        for row in found["items"]
    ]
    print_table(("path", "bytes", "known", "due"), rows, "nothing lies there for nothing")
    word = "could be freed" if dry_run else "are freed"
    typer.echo(f"{len(rows)} folders, {found['bytes']} bytes {word}")


def show_quotas(context: typer.Context) -> None:
    """Unfinished runs and stored bytes of the key's owner, and their limits (for admins: everybody's)."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.quotas()
    if settings.as_json:
        print_json(found)
        return
    rows = [
        (row["owner"], _usage(row["runs"], row["runs_limit"]), _usage(row["bytes"], row["bytes_limit"]))
        for row in found
    ]
    print_table(("owner", "unfinished runs", "bytes"), rows, "nobody has anything")


def _usage(used: int, limit: int | None) -> str:
    return f"{used:,}" if limit is None else f"{used:,} of {limit:,}"
