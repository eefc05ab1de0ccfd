"""``lcl collections …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import (
    MADE,
    Yes,
    confirm,
    options,
    parse_labels,
    parse_pairs,
    print_json,
    print_table,
    read_lines,
)
from api.client import ApiError, UserError
from api.client.payloads import Json, readable_path

group = typer.Typer(help="List, show, fill, export and delete collections.", no_args_is_help=True)
Collection = Annotated[str, typer.Argument(help="id or name of the collection")]


@group.command("list")
def list_() -> None:
    """The collections, newest first."""
    collections = options.call(lambda client: client.collections())
    columns = ("id", "name", "images", "texts", "changes", "owner", MADE)
    options.print_items(collections, columns, "no collections yet; an index run makes one")


@group.command()
def show(collection: Collection) -> None:
    """A collection, and the labels that a search can be filtered by."""
    row = options.call(lambda client: client.collection(collection))
    lines = [f"{row['id']}  {row['name']}  {row['images']} images, {row['texts']} texts, {row['dim']} numbers each"]
    if row["vectors"]:  # an index other than the collection's files
        lines.append(f"searched by Qdrant in {row['vectors']}_images and _texts")
    if not row["text_vectors"]:
        lines.append("its encoder reads images alone: search with an image, or the words of captions")
    lines.append(f"encoder {row['encoder_id'] or 'gone'}  sha256 {row['encoder_hash']}")
    options.print(row, "\n".join(lines))
    if not options.as_json:
        labels = [
            (label, row["label_types"][label], row["label_counts"][label], ", ".join(values[:8]))
            for label, values in row["labels"].items()
        ]
        print_table(("label", "type", "values", "such as"), labels, "its images have no labels")


@group.command()
def add(
    collection: Collection,
    files: Annotated[list[Path], typer.Argument(help="image files; the name of the file is the name of the item")],
    caption: Annotated[list[str] | None, typer.Option(help="of every file; repeatable")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="label=value, of every file; repeatable, also for the values of a set")
    ] = None,
    split: Annotated[str, typer.Option(help="of every file")] = "",
    source: Annotated[str, typer.Option(help="of every file")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="replace items of the same name")] = False,
) -> None:
    """Add images; the next search finds them. Prints their ids.

    Example: lcl collections add sample bird.png --caption "a red bird" --label group=animals
    """
    metadata: Json = {"captions": list(caption or ()), "labels": parse_labels("--label", label)}
    metadata |= {"split": split, "source": source}
    added = []
    with options.client() as client:
        for file in files:
            item = {**metadata, "image": file.read_bytes(), "name": readable_path(file.name)}
            try:
                (item_id,) = client.add_items(collection, [item], replace=replace)["ids"]
            except ApiError as error:
                raise UserError(error.message.removeprefix(f"{error.field}: "), file=file) from error
            added.append({"file": readable_path(file), "id": item_id})
            if not options.as_json:
                typer.echo(f"{readable_path(file)}\t{item_id}")
    if options.as_json:
        print_json(added)


@group.command()
def label(
    collection: Collection,
    items: Annotated[list[str] | None, typer.Argument(help="ids, as a search prints them")] = None,
    ids: Annotated[
        Path | None, typer.Option(help="file with an id a line, such as the page's map downloads", metavar="FILE")
    ] = None,
    values: Annotated[list[str] | None, typer.Option("--set", help="label=value; repeatable")] = None,
    unset: Annotated[list[str] | None, typer.Option(help="label to remove; repeatable")] = None,
    add: Annotated[list[str] | None, typer.Option(help="label=value, which a set gains; repeatable")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="label=value, which a set loses; repeatable")] = None,
) -> None:
    """Change labels of images; the next search filters by them.

    Example: lcl collections label sample --ids selected-ids.txt --add tags=checked
    """
    chosen = [*(items or ()), *(read_lines(ids) if ids else ())]
    if not chosen:
        raise UserError("no images are named; give their ids, or --ids FILE with an id a line")
    labels = {**parse_labels("--set", values), **dict.fromkeys(unset or ())}
    gained, lost = parse_pairs("--add", add), parse_pairs("--remove", remove)
    if not (labels or gained or lost):
        raise UserError("nothing is changed; give --set, --unset, --add or --remove")
    changed = options.call(
        lambda client: client.change_labels(collection, chosen, labels=labels, add=gained, remove=lost)
    )
    options.print({"changed": changed}, f"{changed} of {len(chosen)} images changed")


@group.command()
def remove(
    collection: Collection,
    items: Annotated[list[str], typer.Argument(help="ids, as a search prints them")],
    yes: Yes = False,
) -> None:
    """Remove images from a collection."""
    with options.client() as client:
        confirm(f"remove {', '.join(items)} from collection {client.collection(collection)['name']}?", yes)
        for item in items:
            client.remove_item(collection, item)
    answer = [{"id": item, "deleted": True} for item in items]
    options.print(answer, "\n".join(f"{item} is removed" for item in items))


@group.command()
def export(
    collection: Collection,
    file: Annotated[Path | None, typer.Argument(help="file to write; default COLLECTION.jsonl")] = None,
    target: Annotated[str, typer.Option(help="images or texts")] = "images",
) -> None:
    """Download records and vectors of all current items as JSON lines."""
    path = file or Path(f"{Path(collection).name}.jsonl")
    options.call(lambda client: client.export_collection(collection, path, target))
    options.print_file(path)


@group.command()
def delete(collection: Collection, yes: Yes = False) -> None:
    """Remove a collection and its folder; for its owner and admins."""
    with options.client() as client:
        row = client.collection(collection)
        question = f"delete collection {row['name']} ({row['images']} images) of {row['owner']}?"
        options.delete(client.delete_collection, row["id"], question, yes, row["name"])
