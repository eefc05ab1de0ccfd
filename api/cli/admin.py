"""``lcl keys``, ``lcl audit``, ``lcl webhooks``."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.output import Cursor, Yes, ago, confirm, global_options
from api.client.payloads import Json

keys_group = typer.Typer(help="List, create and revoke API keys (for admins).", no_args_is_help=True)
webhooks_group = typer.Typer(help="Webhooks: addresses notified when runs end (for admins).", no_args_is_help=True)
Prefix = Annotated[str, typer.Argument(help="the part of the key before the dot")]
WebhookId = Annotated[str, typer.Argument(help="as `lcl webhooks list` prints it")]


@keys_group.command("list")
def list_keys(
    context: typer.Context,
    mine: Annotated[bool, typer.Option("--mine", help="only your own key (all roles)")] = False,
) -> None:
    """The keys, newest first, without their secrets."""
    options = global_options(context)
    keys = options.call(lambda client: [client.own_key()] if mine else client.keys())
    rows = ((key["prefix"], key["owner"], key["role"], ago(key["last_used"]), key["expires"]) for key in keys)
    options.print_table(keys, ("prefix", "owner", "role", "last used", "expires"), rows, "no keys")


@keys_group.command()
def create(
    context: typer.Context,
    owner: Annotated[str, typer.Argument(help="whose runs it makes and sees")],
    role: Annotated[str, typer.Option(help="viewer, submitter or admin")] = "submitter",
    expires: Annotated[str | None, typer.Option(help="such as 2030-01-01T00:00:00Z; none: never")] = None,
) -> None:
    """Make a key and print it. It cannot be printed again."""
    options = global_options(context)
    key = options.call(lambda client: client.create_key(owner, role, expires))
    options.print(key, key["key"])


@keys_group.command()
def revoke(context: typer.Context, prefix: Prefix, yes: Yes = False) -> None:
    """Make a key invalid at once."""
    options = global_options(context)
    with options.client() as client:
        keys = client.keys()
        for key in keys:
            if key["prefix"] == prefix:
                confirm(f"make key {prefix} of {key['owner']} ({key['role']}) invalid?", yes)
        client.revoke_key(prefix)
    options.print({"prefix": prefix, "revoked": True}, f"{prefix} is revoked")


def audit(
    context: typer.Context,
    owner: Annotated[str | None, typer.Option(help="only actions with keys of this owner")] = None,
    action: Annotated[str | None, typer.Option(help="only this action, such as runs.cancel")] = None,
    object_: Annotated[str | None, typer.Option("--object", help="only about this id or name")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="number of entries")] = 50,
    cursor: Cursor = None,
) -> None:
    """Who did what, newest first (for admins)."""
    options = global_options(context)
    page = options.call(
        lambda client: client.audit(owner=owner, action=action, object=object_, limit=limit, cursor=cursor)
    )
    columns = ("at", "owner", "prefix", "action", "object", "request_id")
    rows = ([entry.get(column) for column in columns] for entry in page["items"])
    options.print_table(page, columns, rows, "nothing was done yet")
    if page["next_cursor"] and not options.as_json:
        typer.echo(f"more: lcl audit --cursor {page['next_cursor']}")


@webhooks_group.command("list")
def list_webhooks(
    context: typer.Context,
    webhook_id: Annotated[str | None, typer.Argument(help="a webhook, whose last fifty messages are listed")] = None,
) -> None:
    """The webhooks without their secrets; with an id its messages and the errors of failed deliveries. Newest first."""
    options = global_options(context)
    if webhook_id is None:
        webhooks = options.call(lambda client: client.webhooks())
        rows = (
            (hook["id"], hook["url"], ", ".join(hook["events"]), hook["owner"], ago(hook["created_at"]))
            for hook in webhooks
        )
        options.print_table(webhooks, ("id", "url", "events", "owner", "made"), rows, "no webhooks")
        return
    messages = options.call(lambda client: client.deliveries(webhook_id))
    deliveries = (
        (row["id"], row["event"], row["payload"]["run"]["id"], _delivery_state(row), row["attempts"], row["error"])
        for row in messages
    )
    columns = ("id", "event", "run", "state", "attempts", "error")
    options.print_table(messages, columns, deliveries, "no messages yet")


@webhooks_group.command()
def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="http(s), on a host that LCL_WEBHOOK_HOSTS allows")],
    event: Annotated[list[str] | None, typer.Option(help="such as run.failed; repeatable; none: every one")] = None,
) -> None:
    """Send events of runs to an address. Prints its id, and the secret that signs the messages; only here."""
    options = global_options(context)
    hook = options.call(lambda client: client.create_webhook(url, event or ()))
    options.print(hook, f"{hook['id']}\n{hook['secret']}")


@webhooks_group.command()
def delete(context: typer.Context, webhook_id: WebhookId, yes: Yes = False) -> None:
    """Send nothing more to a webhook, pending messages included."""
    options = global_options(context)
    with options.client() as client:
        for hook in client.webhooks():
            if hook["id"] == webhook_id:
                confirm(f"delete webhook {webhook_id} to {hook['url']} and its pending messages?", yes)
        client.delete_webhook(webhook_id)
    options.print_deleted(webhook_id)


def _delivery_state(row: Json) -> str:
    if row["done_at"] is None:
        return "waits" if row["error"] is None else "is tried again"
    return "delivered" if row["error"] is None else "given up"
