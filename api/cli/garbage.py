"""``lcl gc``: for admins."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.common import ago, settings_of, show_json, show_table


def collect(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what there is")] = False,
) -> None:
    """Remove what nothing names in the service's home and store (for admins). Workers do so by themselves, too."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.garbage() if dry_run else client.collect_garbage()
    if settings.as_json:
        show_json(found)
        return
    rows = [
        (row["path"], row["bytes"], ago(row["seen_at"]) or "just now", "yes" if row["due"] else "")
        for row in found["items"]
    ]
    show_table(("path", "bytes", "known", "due"), rows, "nothing lies there for nothing")
    word = "could be freed" if dry_run else "are freed"
    typer.echo(f"{len(rows)} folders, {found['bytes']} bytes {word}")
