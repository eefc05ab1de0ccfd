"""``lcl encoders …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from api.cli.output import MADE, Yes, options, print_table, progress_bar

group = typer.Typer(help="List, compare, export and import encoders.", no_args_is_help=True)
ArchiveFormat = Literal["lcl", "huggingface", "timm", "onnx"]
Encoder = Annotated[str, typer.Argument(help="id or name of the encoder")]


@group.command("list")
def list_() -> None:
    """The encoders, newest first."""
    encoders = options.call(lambda client: client.encoders())
    parameters = ("parameters", lambda row: row["info"].get("parameters"))
    images = ("images seen", lambda row: row["info"].get("images_seen"))
    options.print_items(encoders, ("id", "name", parameters, images, MADE), "no encoders yet; a pretrain run makes one")


@group.command()
def show(encoder: Encoder) -> None:
    """An encoder and its metrics."""
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
def compare(left: Encoder, right: Encoder) -> None:
    """Two encoders on the same tasks and data; with paired tests if the predictions of both are stored.

    Figures of evaluations with different settings have no difference; the last column names the settings.
    Exit status 1 if they have no evaluation in common.
    """
    comparison = options.call(lambda client: client.compare_encoders(left, right))
    columns = ("task", "split", "variant", "transfer", "metric", "left", "right", "difference", "95 %", "p", "note")
    rows = (
        [*(_format_number(row.get(name)) for name in columns[:8]), *_test(row), row.get("reason") or ""]
        for row in comparison["rows"]
    )
    commands = [f"lcl submit evaluate --set encoder={comparison[side]['name']}" for side in ("left", "right")]
    options.print_table(comparison, columns, rows, f"not evaluated on the same data: {'; '.join(commands)}")
    if not comparison["rows"]:
        raise typer.Exit(1)


@group.command()
def export(
    encoder: Encoder,
    file: Annotated[Path | None, typer.Argument(help="tar file to write; default ENCODER.tar")] = None,
    format: Annotated[ArchiveFormat, typer.Option(help="lcl: as it is; else converted")] = "lcl",
) -> None:
    """Download an encoder as a tar file, whose content from_pretrained or the other library loads."""
    target = file or Path(f"{Path(encoder).name}.tar")
    with options.client() as client, progress_bar(target.name, unit="bytes") as on_progress:
        client.export_encoder(encoder, target, format, on_progress)
    options.print_file(target)


@group.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="name of the encoder")],
    path: Annotated[str, typer.Argument(help="directory on the server, inside its data roots")],
) -> None:
    """Copy an encoder into the service: LCL, OpenCLIP, timm or Hugging Face, detected by its files."""
    row = options.call(lambda client: client.import_encoder(name, path))
    options.print(row, row["id"])


@group.command()
def delete(encoder: Encoder, yes: Yes = False) -> None:
    """Remove an encoder and its files, unless something uses it; for its owner and admins."""
    with options.client() as client:
        row = client.encoder(encoder)
        question = f"delete encoder {row['name']} ({row['id']}) of {row['owner']} and its files?"
        options.delete(client.delete_encoder, row["id"], question, yes)


def _test(row: dict[str, Any]) -> tuple[str, str]:
    """Interval of the difference and p-value; empty without stored predictions."""
    if row.get("p") is None:
        return "", ""
    low, high = row["interval"]
    return f"{low:.4f} – {high:.4f}", f"{row['p']:.4f}"


def _format_number(value: object) -> object:
    return f"{value:.4f}" if isinstance(value, float) else value
