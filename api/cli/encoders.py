"""``lcl encoders …``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import CommandError, Yes, ago, confirm, global_options, print_json, print_table, progress_bar

group = typer.Typer(help="List, compare, export and import encoders.", no_args_is_help=True)
Encoder = Annotated[str, typer.Argument(help="id or name of the encoder")]


class ArchiveFormat(StrEnum):
    """What an encoder can leave as."""

    lcl = "lcl"
    huggingface = "huggingface"
    openclip = "openclip"
    timm = "timm"
    onnx = "onnx"


@group.command("list")
def list_(context: typer.Context) -> None:
    """The encoders, newest first."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.encoders()
    if settings.as_json:
        print_json(found)
        return
    rows = [
        (row["id"], row["name"], row["info"].get("parameters"), row["info"].get("images_seen"), ago(row["created_at"]))
        for row in found
    ]
    print_table(("id", "name", "parameters", "images seen", "made"), rows, "no encoders yet; a pretrain run makes one")


@group.command()
def show(context: typer.Context, encoder: Encoder) -> None:
    """An encoder and its figures."""
    settings = global_options(context)
    with settings.client() as client:
        row, figures = client.encoder(encoder), client.encoder_figures(encoder)
    if settings.as_json:
        print_json({**row, "figures": figures})
        return
    typer.echo(f"{row['id']}  {row['name']}  sha256 {row['hash']}")
    columns = ("task", "split", "variant", "transfer", "metric", "value", "chance", "untrained")
    rows = [[_number(figure.get(column)) for column in columns] for figure in figures]
    print_table(columns, rows, "not evaluated yet; lcl submit evaluate does it")


@group.command()
def compare(context: typer.Context, left: Encoder, right: Encoder) -> None:
    """Two encoders on the same tasks and data; with paired tests where the answers of both are still there."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.compare_encoders(left, right)
    if settings.as_json:
        print_json(found)
        return
    columns = ("task", "split", "variant", "transfer", "metric", "left", "right", "difference", "95 %", "p")
    rows = [[*(_number(row.get(column)) for column in columns[:8]), *_test(row)] for row in found["rows"]]
    print_table(columns, rows, "they were not evaluated on the same task and data yet")


@group.command()
def export(
    context: typer.Context,
    encoder: Encoder,
    file: Annotated[Path | None, typer.Argument(help="tar file to write; default ENCODER.tar")] = None,
    format: Annotated[ArchiveFormat, typer.Option(help="lcl: as it is; else rewritten for others")] = ArchiveFormat.lcl,
) -> None:
    """Download an encoder's directory as a tar; unpacked, it is what from_pretrained, or the other library, reads."""
    target = file or Path(f"{Path(encoder).name}.tar")
    try:
        with global_options(context).client() as client, progress_bar(target.name, unit="bytes") as tell:
            client.export_encoder(encoder, target, format.value, tell)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}") from error
    typer.echo(str(target))


@group.command("import")
def import_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="name that it gets")],
    path: Annotated[str, typer.Argument(help="directory on the server, inside its data roots")],
    allow_twin: Annotated[
        bool, typer.Option("--allow-twin", help="though its weights are known and other files of it differ")
    ] = False,
) -> None:
    """Copy an encoder into the service: one of ours, OpenCLIP's, timm's or Hugging Face's, recognised by its files."""
    settings = global_options(context)
    with settings.client() as client:
        row = client.import_encoder(name, path, allow_twin)
    if settings.as_json:
        print_json(row)
    else:
        typer.echo(row["id"])


@group.command()
def delete(context: typer.Context, encoder: Encoder, yes: Yes = False) -> None:
    """Remove an encoder and its files, unless something needs it; for its owner and admins."""
    with global_options(context).client() as client:
        row = client.encoder(encoder)
        confirm(f"delete encoder {row['name']} ({row['id']}) of {row['owner']} and its files?", yes)
        client.delete_encoder(row["id"])
    typer.echo(f"{row['id']} is deleted")


def _test(row: dict[str, Any]) -> tuple[str, str]:
    """Interval of the difference and p-value; empty where the answers are gone."""
    if row.get("p") is None:
        return "", ""
    low, high = row["interval"]
    return f"{low:.4f} – {high:.4f}", f"{row['p']:.4f}"


def _number(value: object) -> object:
    return f"{value:.4f}" if isinstance(value, float) else value
