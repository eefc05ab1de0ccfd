"""``lcl webhooks …``: addresses that are told how runs end; for admins."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.common import ago, settings_of, show_json, show_table

group = typer.Typer(help="Addresses that are told how runs end (for admins).", no_args_is_help=True)
WebhookId = Annotated[str, typer.Argument(help="as `lcl webhooks list` prints it")]


@group.command("list")
def list_(context: typer.Context) -> None:
    """The webhooks, newest first; their secrets are nowhere."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.webhooks()
    if settings.as_json:
        show_json(found)
        return
    rows = [(row["id"], row["url"], ", ".join(row["events"]), row["owner"], ago(row["created_at"])) for row in found]
    show_table(("id", "url", "events", "owner", "made"), rows, "no webhooks")


@group.command()
def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="http(s), on a host that LCL_WEBHOOK_HOSTS allows")],
    event: Annotated[list[str] | None, typer.Option(help="such as run.failed; repeatable; none: every one")] = None,
) -> None:
    """Tell an address of runs from now on. Prints its id, and the secret its messages are signed with: this once."""
    settings = settings_of(context)
    with settings.client() as client:
        made = client.create_webhook(url, event or ())
    show_json(made) if settings.as_json else typer.echo(f"{made['id']}\n{made['secret']}")


@group.command()
def deliveries(context: typer.Context, webhook_id: WebhookId) -> None:
    """The last fifty messages to one, newest first, and why those that were not heard were not."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.deliveries(webhook_id)
    if settings.as_json:
        show_json(found)
        return
    rows = [
        (row["id"], row["event"], row["payload"]["run"]["id"], _state(row), row["attempts"], row["error"])
        for row in found
    ]
    show_table(("id", "event", "run", "state", "attempts", "error"), rows, "it was told nothing yet")


@group.command()
def delete(context: typer.Context, webhook_id: WebhookId) -> None:
    """Tell it nothing more, not even what waits."""
    with settings_of(context).client() as client:
        client.delete_webhook(webhook_id)


def _state(row: dict[str, Any]) -> str:
    if row["done_at"] is None:
        return "waits" if row["error"] is None else "is tried again"
    return "delivered" if row["error"] is None else "given up"
