"""``lcl collections …``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import CommandError, ago, global_options, parse_pairs, print_json, print_table, read_file
from api.client import NewItem

group = typer.Typer(help="List, show, fill, export and delete collections.", no_args_is_help=True)
Collection = Annotated[str, typer.Argument(help="id or name of the collection")]
ITEMS_PER_REQUEST, BYTES_PER_REQUEST = 64, 24 << 20  # of one request


@group.command("list")
def list_(context: typer.Context) -> None:
    """The collections, newest first."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.collections()
    if settings.as_json:
        print_json(found)
        return
    rows = [
        (row["id"], row["name"], row["images"], row["texts"], row["changes"], row["owner"], ago(row["created_at"]))
        for row in found
    ]
    columns = ("id", "name", "pictures", "texts", "changes", "owner", "made")
    print_table(columns, rows, "no collections yet; an index run makes one")


@group.command()
def show(context: typer.Context, collection: Collection) -> None:
    """A collection, and the labels that a search can be filtered by."""
    settings = global_options(context)
    with settings.client() as client:
        row = client.collection(collection)
    if settings.as_json:
        print_json(row)
        return
    typer.echo(f"{row['id']}  {row['name']}  {row['images']} pictures, {row['texts']} texts, {row['dim']} numbers each")
    if row["vectors"]:
        typer.echo(f"searched by PostgreSQL in {row['vectors']}_images and {row['vectors']}_texts")
    typer.echo(f"encoder {row['encoder_id'] or 'gone'}  sha256 {row['encoder_hash']}")
    rows = [(label, len(values), ", ".join(values[:8])) for label, values in row["labels"].items()]
    print_table(("label", "values", "such as"), rows, "its pictures have no labels")


@group.command()
def add(
    context: typer.Context,
    collection: Collection,
    files: Annotated[list[Path], typer.Argument(help="picture files; the file's name is the picture's")],
    caption: Annotated[list[str] | None, typer.Option(help="of every file; repeatable")] = None,
    label: Annotated[list[str] | None, typer.Option(help="label=value, of every file; repeatable")] = None,
    split: Annotated[str, typer.Option(help="of every file")] = "",
    source: Annotated[str, typer.Option(help="of every file")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="in the place of older ones of the same name")] = False,
) -> None:
    """Add pictures; the next search finds them. Prints their ids.

    Example: lcl collections add sample bird.png --caption "a red bird" --label group=animals
    """
    settings = global_options(context)
    facts: NewItem = {"image": b"", "captions": list(caption or ()), "labels": dict(parse_pairs("--label", label))}
    facts |= {"split": split, "source": source}
    _check_names(files)
    ids: list[str] = []
    with settings.client() as client:
        for batch in _batches(files):
            items: list[NewItem] = [{**facts, "image": data, "name": file.name} for file, data in batch]
            ids += client.add_items(collection, items, replace=replace)["ids"]
    if settings.as_json:
        print_json([{"file": str(file), "id": identity} for file, identity in zip(files, ids, strict=True)])
        return
    for file, identity in zip(files, ids, strict=True):
        typer.echo(f"{file}\t{identity}")


@group.command()
def remove(
    context: typer.Context,
    collection: Collection,
    items: Annotated[list[str], typer.Argument(help="ids, as a search prints them")],
) -> None:
    """Take pictures out of a collection."""
    with global_options(context).client() as client:
        for item in items:
            client.remove_item(collection, item)


@group.command()
def export(
    context: typer.Context,
    collection: Collection,
    file: Annotated[Path | None, typer.Argument(help="file to write; default COLLECTION.jsonl")] = None,
    target: Annotated[str, typer.Option(help="images or texts")] = "images",
) -> None:
    """Download records and vectors as JSON lines, changes included."""
    path = file or Path(f"{Path(collection).name}.jsonl")
    try:
        with global_options(context).client() as client:
            client.export_collection(collection, path, target)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    typer.echo(str(path))


@group.command()
def delete(context: typer.Context, collection: Collection) -> None:
    """Remove a collection and its folder; for its owner and admins."""
    with global_options(context).client() as client:
        client.delete_collection(collection)


def _check_names(files: Sequence[Path]) -> None:
    """Raises: Refused, before anything is sent."""
    seen: dict[str, Path] = {}
    for file in files:
        if file.name in seen:
            raise CommandError(f"{file} has the name of {seen[file.name]}; add them one by one under other names")
        seen[file.name] = file
        if not file.is_file():
            raise CommandError(f"{file} is no file")


def _batches(files: Sequence[Path]) -> Iterator[list[tuple[Path, bytes]]]:
    """What one request takes. Raises: Refused for a file that cannot be read, before anything of its batch is sent."""
    batch: list[tuple[Path, bytes]] = []
    size = 0
    for file in files:
        data = read_file(file)
        if batch and (len(batch) == ITEMS_PER_REQUEST or size + len(data) > BYTES_PER_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append((file, data))
        size += len(data)
    if batch:
        yield batch
