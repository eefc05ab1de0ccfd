"""``lcl data …``: corpora as the service sees them. Paths lie on the server."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from api.cli.common import settings_of, show_json, show_table

group = typer.Typer(help="Validate, register and look at datasets.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="name of the dataset")]
Place = Annotated[str, typer.Argument(help="folder or zip on the server, inside its data roots")]


@group.command("list")
def list_(context: typer.Context) -> None:
    """The registered datasets."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.datasets()
    if settings.as_json:
        show_json(found)
        return
    rows = [(row["name"], row["path"], row["owner"]) for row in found]
    show_table(("name", "path", "owner"), rows, "no datasets yet; lcl data register adds one")


@group.command()
def validate(context: typer.Context, path: Place) -> None:
    """Read every line of a corpus and try some of its pictures; nothing is registered."""
    settings = settings_of(context)
    with settings.client() as client:
        report = client.validate_dataset(path)
    _show_figures(report, settings.as_json)
    if report["image_check"]["unreadable"]:
        raise typer.Exit(1)


@group.command()
def register(context: typer.Context, name: Name, path: Place) -> None:
    """Validate a corpus and give it a name."""
    settings = settings_of(context)
    with settings.client() as client:
        row = client.register_dataset(name, path)
    if settings.as_json:
        show_json(row)
    else:
        typer.echo(f"registered {row['name']} (sha256 {row['content_hash']})")


@group.command()
def stats(context: typer.Context, name: Name) -> None:
    """Counts of documents, pictures, captions, splits and labels."""
    settings = settings_of(context)
    with settings.client() as client:
        _show_figures(client.dataset_statistics(name), settings.as_json)


@group.command()
def preview(
    context: typer.Context,
    name: Name,
    view: Annotated[str, typer.Option(help="interleaved or pairs")] = "interleaved",
    offset: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 3,
) -> None:
    """Some documents, their pictures in place."""
    settings = settings_of(context)
    with settings.client() as client:
        page = client.dataset_documents(name, offset, limit, view)
    if settings.as_json:
        show_json(page)
        return
    for item in page["items"]:
        typer.secho(item["id"], bold=True)
        for segment in item["segments"]:
            typer.echo(_segment(segment))
        typer.echo()
    typer.echo(f"{len(page['items'])} of {page['total']}")


def _segment(segment: dict[str, Any]) -> str:
    if "image" in segment:
        match = f"  (similarity {segment['similarity']:.2f})" if "similarity" in segment else ""
        return f"  [{segment['image']}]{match}"
    return textwrap.fill(segment["text"], 100, initial_indent="  ", subsequent_indent="  ")


def _show_figures(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(report)
        return
    counts = ("documents", "sentences", "pairs", "captions", "images")
    rows: list[tuple[object, object]] = [(name, report[name]) for name in counts]
    rows += [(f"split {name}", number) for name, number in report["splits"].items()]
    rows += [(f"label {name}", f"{facts['values']} values") for name, facts in report["labels"].items()]
    checked = report["image_check"]
    rows.append(("pictures tried", f"{checked['tried']}, {checked['unreadable']} unreadable"))
    show_table(("what", "how many"), rows, "")
    for problem in checked["first"]:
        typer.secho(problem, fg="red", err=True)
