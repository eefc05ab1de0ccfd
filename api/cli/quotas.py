"""``lcl quota``."""

from __future__ import annotations

import typer

from api.cli.common import settings_of, show_json, show_table


def show(context: typer.Context) -> None:
    """Unfinished runs and stored bytes of the key's owner, and their limits (for admins: everybody's)."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.quotas()
    if settings.as_json:
        show_json(found)
        return
    rows = [
        (row["owner"], _of(row["runs"], row["runs_limit"]), _of(row["bytes"], row["bytes_limit"])) for row in found
    ]
    show_table(("owner", "unfinished runs", "bytes"), rows, "nobody has anything")


def _of(used: int, limit: int | None) -> str:
    return f"{used:,}" if limit is None else f"{used:,} of {limit:,}"
