"""``lcl keys``, ``lcl audit``, ``lcl webhooks``."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.output import MADE, Cursor, Yes, ago, confirm, options
from api.client.payloads import Json

keys_group = typer.Typer(help="List, create and revoke API keys (for admins).", no_args_is_help=True)
webhooks_group = typer.Typer(help="Webhooks: addresses notified when runs end (for admins).", no_args_is_help=True)
Prefix = Annotated[str, typer.Argument(help="the part of the key before the dot")]
WebhookId = Annotated[str, typer.Argument(help="as `lcl webhooks list` prints it")]


@keys_group.command("list")
def list_keys(
    mine: Annotated[bool, typer.Option("--mine", help="only your own key (all roles)")] = False,
) -> None:
    """The keys, newest first, without their secrets."""
    keys = options.call(lambda client: [client.own_key()] if mine else client.keys())
    last_used = ("last used", lambda key: ago(key["last_used"]))
    options.print_items(keys, ("prefix", "owner", "role", last_used, "expires"), "no keys")


@keys_group.command()
def create(
    owner: Annotated[str, typer.Argument(help="whose runs it makes and sees")],
    role: Annotated[str, typer.Option(help="viewer, submitter or admin")] = "submitter",
    expires: Annotated[str | None, typer.Option(help="such as 2030-01-01T00:00:00Z; none: never")] = None,
) -> None:
    """Make a key and print it. It cannot be printed again."""
    key = options.call(lambda client: client.create_key(owner, role, expires))
    options.print(key, key["key"])


@keys_group.command()
def revoke(prefix: Prefix, yes: Yes = False) -> None:
    """Make a key invalid at once."""
    with options.client() as client:
        for key in client.keys():  # noqa: SIM118
            if key["prefix"] == prefix:  # of none the service says so
                confirm(f"make key {prefix} of {key['owner']} invalid?", yes)
        client.revoke_key(prefix)
    options.print({"prefix": prefix, "revoked": True}, f"{prefix} is revoked")


def audit(
    owner: Annotated[str | None, typer.Option(help="only actions with keys of this owner")] = None,
    action: Annotated[str | None, typer.Option(help="only this action, such as runs.cancel")] = None,
    object_: Annotated[str | None, typer.Option("--object", help="only about this id or name")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="number of entries")] = 50,
    cursor: Cursor = None,
) -> None:
    """Who did what, newest first (for admins)."""
    page = options.call(
        lambda client: client.audit(owner=owner, action=action, object=object_, limit=limit, cursor=cursor)
    )
    options.print_items(page, ("at", "owner", "prefix", "action", "object", "request_id"), "nothing was done yet")


@webhooks_group.command("list")
def list_webhooks(
    webhook_id: Annotated[str | None, typer.Argument(help="a webhook, whose last fifty messages are listed")] = None,
) -> None:
    """The webhooks without their secrets; with an id its messages and the errors of failed deliveries. Newest first."""
    if webhook_id is None:
        webhooks = options.call(lambda client: client.webhooks())
        events = ("events", lambda hook: ", ".join(hook["events"]))
        options.print_items(webhooks, ("id", "url", events, "owner", MADE), "no webhooks")
    else:
        run, state = ("run", lambda row: row["payload"]["run"]["id"]), ("state", _delivery_state)
        deliveries = options.call(lambda client: client.deliveries(webhook_id))
        options.print_items(deliveries, ("id", "event", run, state, "attempts", "error"), "no messages yet")


@webhooks_group.command()
def add(
    url: Annotated[str, typer.Argument(help="http(s), on a host that LCL_WEBHOOK_HOSTS allows")],
    event: Annotated[list[str] | None, typer.Option(help="such as run.failed; repeatable; none: every one")] = None,
) -> None:
    """Send events of runs to an address. Prints its id, and the secret that signs the messages; only here."""
    hook = options.call(lambda client: client.create_webhook(url, event or ()))
    options.print(hook, f"{hook['id']}\n{hook['secret']}")


@webhooks_group.command()
def delete(webhook_id: WebhookId, yes: Yes = False) -> None:
    """Send nothing more to a webhook, pending messages included."""
    with options.client() as client:
        question = f"delete webhook {webhook_id} and its pending messages?"
        options.delete(client.delete_webhook, webhook_id, question, yes)


def _delivery_state(row: Json) -> str:
    if row["done_at"] is None:
        return "waits" if row["error"] is None else "is tried again"
    return "delivered" if row["error"] is None else "given up"
