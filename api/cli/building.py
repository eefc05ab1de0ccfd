"""``lcl data build``: a corpus made on this machine from published packages, then registered with the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.common import Refused, settings_of, show_json
from lcl_core.errors import UserError


def build(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="name of the dataset to make")],
    out: Annotated[Path, typer.Option(help="folder to make, inside the service's data roots")],
    only: Annotated[list[str] | None, typer.Option(help="a source; repeatable; default: all")] = None,
    licence: Annotated[str, typer.Option(help="any or permissive: which works are taken")] = "any",
    cache: Annotated[Path | None, typer.Option(help="folder of packages")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="download what the cache lacks, with npm and apt-get")] = False,
) -> None:
    """Make a corpus of published packages on this machine, and register it. An interrupted one goes on.

    ``python -m lcl_core.corpora list`` shows the sources; without the service, ``python -m lcl_core.corpora build``.
    """
    settings = settings_of(context)
    with settings.client() as client:
        if name in {row["name"] for row in client.datasets()}:
            raise Refused(f"dataset {name!r} exists already; choose another name")
        _make(out, only, licence, cache, fetch, quiet=settings.as_json)
        row = client.register_dataset(name, str(out.resolve()))
    if settings.as_json:
        show_json(row)
    else:
        typer.echo(f"registered {row['name']} (sha256 {row['content_hash']})")


def _make(out: Path, only: list[str] | None, licence: str, cache: Path | None, fetch: bool, quiet: bool) -> None:
    """Raises: Refused."""
    from lcl_core.corpora import build as building
    from lcl_core.corpora.cache import DEFAULT_CACHE, Cache
    from lcl_core.corpora.licences import checked_choice
    from lcl_core.corpora.sources import chosen

    say = (lambda text: None) if quiet else typer.echo
    try:
        plan = building.Plan(tuple(chosen(only)), licences=checked_choice(licence))
        building.build(plan, Cache(cache or DEFAULT_CACHE, fetch, say), out, say)
    except UserError as error:
        raise Refused(str(error)) from error
