"""``lcl encoders …``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import Yes, ago, confirm, global_options, print_table, progress_bar

group = typer.Typer(help="List, compare, export and import encoders.", no_args_is_help=True)
Encoder = Annotated[str, typer.Argument(help="id or name of the encoder")]


class ArchiveFormat(StrEnum):
    """Formats of an exported encoder."""

    lcl = "lcl"
    huggingface = "huggingface"
    openclip = "openclip"
    timm = "timm"
    onnx = "onnx"


@group.command("list")
def list_(context: typer.Context) -> None:
    """The encoders, newest first."""
    options = global_options(context)
    encoders = options.call(lambda client: client.encoders())
    rows = (
        (row["id"], row["name"], row["info"].get("parameters"), row["info"].get("images_seen"), ago(row["created_at"]))
        for row in encoders
    )
    columns = ("id", "name", "parameters", "images seen", "made")
    options.print_table(encoders, columns, rows, "no encoders yet; a pretrain run makes one")


@group.command()
def show(context: typer.Context, encoder: Encoder) -> None:
    """An encoder and its metrics."""
    options = global_options(context)
    with options.client() as client:
        row, figures = client.encoder(encoder), client.encoder_figures(encoder)
    options.print({**row, "figures": figures}, f"{row['id']}  {row['name']}  sha256 {row['hash']}")
    if not options.as_json:
        columns = ("task", "split", "variant", "transfer", "metric", "value", "chance", "untrained")
        rows = [
            [*(_format_number(figure.get(column)) for column in columns), figure.get("run_id") or "model card"]
            for figure in figures
        ]
        print_table((*columns, "measured by"), rows, "not evaluated yet; lcl submit evaluate does it")


@group.command()
def compare(context: typer.Context, left: Encoder, right: Encoder) -> None:
    """Two encoders on the same tasks and data; with paired tests if the predictions of both are stored.

    Figures of evaluations with different settings have no difference; the last column names the settings.
    Exit status 1 if they have no evaluation in common.
    """
    options = global_options(context)
    comparison = options.call(lambda client: client.compare_encoders(left, right))
    columns = ("task", "split", "variant", "transfer", "metric", "left", "right", "difference", "95 %", "p", "note")
    rows = (
        [*(_format_number(row.get(name)) for name in columns[:8]), *_test(row), row.get("reason") or ""]
        for row in comparison["rows"]
    )
    options.print_table(comparison, columns, rows, "they were not evaluated on the same task and data yet")
    if not comparison["rows"]:
        raise typer.Exit(1)


@group.command()
def export(
    context: typer.Context,
    encoder: Encoder,
    file: Annotated[Path | None, typer.Argument(help="tar file to write; default ENCODER.tar")] = None,
    format: Annotated[ArchiveFormat, typer.Option(help="lcl: as it is; else converted")] = ArchiveFormat.lcl,
) -> None:
    """Download an encoder as a tar file, whose content from_pretrained or the other library loads."""
    options, target = global_options(context), file or Path(f"{Path(encoder).name}.tar")
    with options.client() as client, progress_bar(target.name, unit="bytes") as on_progress:
        client.export_encoder(encoder, target, format.value, on_progress)
    options.print_file(target)


@group.command("import")
def import_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="name of the encoder")],
    path: Annotated[str, typer.Argument(help="directory on the server, inside its data roots")],
) -> None:
    """Copy an encoder into the service: LCL, OpenCLIP, timm or Hugging Face, detected by its files."""
    options = global_options(context)
    row = options.call(lambda client: client.import_encoder(name, path))
    options.print(row, row["id"])


@group.command()
def delete(context: typer.Context, encoder: Encoder, yes: Yes = False) -> None:
    """Remove an encoder and its files, unless something uses it; for its owner and admins."""
    options = global_options(context)
    with options.client() as client:
        row = client.encoder(encoder)
        confirm(f"delete encoder {row['name']} ({row['id']}) of {row['owner']} and its files?", yes)
        client.delete_encoder(row["id"])
    options.print_deleted(row["id"])


def _test(row: dict[str, Any]) -> tuple[str, str]:
    """Interval of the difference and p-value; empty without stored predictions."""
    if row.get("p") is None:
        return "", ""
    low, high = row["interval"]
    return f"{low:.4f} – {high:.4f}", f"{row['p']:.4f}"


def _format_number(value: object) -> object:
    return f"{value:.4f}" if isinstance(value, float) else value
