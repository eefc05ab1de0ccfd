"""``lcl search``, ``lcl duplicates``, ``lcl embed``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from api.cli.common import Refused, pairs_of, read_file, settings_of, show_json, show_table

BATCH = 64


def search(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(help="id or name of the collection")],
    text: Annotated[str | None, typer.Argument(help="what to look for")] = None,
    image: Annotated[Path | None, typer.Option(help="a picture to look for")] = None,
    item: Annotated[str | None, typer.Option(help="id of an item, whose neighbours are looked for")] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="text=, image= or item=NUMBER: how much it counts; repeatable")
    ] = None,
    target: Annotated[str, typer.Option(help="images or texts")] = "images",
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="hits")] = 10,
    where: Annotated[list[str] | None, typer.Option(help="label=value; repeatable")] = None,
    offset: Annotated[int, typer.Option(min=0, max=9000, help="hits to leave out")] = 0,
) -> None:
    """The nearest pictures or texts of a collection to a text, a picture, an item, or to several of them together.

    Examples: lcl search sample "a red bird" -k 5;
    lcl search sample "red" --image bird.png --weight text=0.5
    """
    if text is None and image is None and item is None:
        raise Refused("give a text, --image FILE or --item ID")
    settings = settings_of(context)
    wanted = dict(pairs_of("--where", where))
    weights = {name: _number(name, value) for name, value in pairs_of("--weight", weight, "text=0.5")}
    picture = None if image is None else read_file(image)
    with settings.client() as client:
        found = client.search(
            collection,
            text=text,
            image=picture,
            item=item,
            weights=weights or None,
            target=target,
            k=k,
            where=wanted,
            offset=offset,
        )
    if settings.as_json:
        show_json(found)
        return
    rows = [
        (f"{hit['score']:.4f}", hit["id"], hit.get("text", hit.get("caption")), _labels(hit)) for hit in found["hits"]
    ]
    show_table(("score", "id", "text", "labels"), rows, "nothing fits")


def duplicates(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(help="id or name of the collection")],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="cosine from which on two are linked")] = 0.95,
    limit: Annotated[int, typer.Option(min=1, max=100, help="groups")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="groups to pass over")] = 0,
) -> None:
    """Groups of pictures of a collection that are nearly the same, the largest first."""
    settings = settings_of(context)
    with settings.client() as client:
        found = client.duplicates(collection, threshold=threshold, offset=offset, limit=limit)
    if settings.as_json:
        show_json(found)
        return
    rows = [
        (offset + place, group["size"], f"{item['score']:.4f}", item["id"], item["caption"])
        for place, group in enumerate(found["groups"], start=1)
        for item in group["items"]
    ]
    show_table(("group", "size", "score", "id", "text"), rows, "none is that near to another")


def embed(
    context: typer.Context,
    encoder: Annotated[str, typer.Argument(help="id or name of the encoder")],
    images: Annotated[list[Path] | None, typer.Argument(help="picture files")] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text to embed; repeatable")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON-lines file; default standard output")] = None,
) -> None:
    """Vectors of pictures and texts, one JSON object a line: {"input", "embedding"}."""
    if not images and not text:
        raise Refused("give picture files, or texts with --text")
    names = [str(image) for image in images or []] + list(text or [])
    data = [read_file(image) for image in images or []]
    vectors: list[list[float]] = []
    with settings_of(context).client() as client:
        for start in range(0, len(data), BATCH):
            vectors += client.embed_images(encoder, data[start : start + BATCH])
        if text:
            vectors += client.embed_texts(encoder, text)
    rows = zip(names, vectors, strict=True)
    lines = "".join(
        json.dumps({"input": name, "embedding": vector}, ensure_ascii=False) + "\n" for name, vector in rows
    )
    if out is None:
        typer.echo(lines, nl=False)
        return
    try:
        out.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{out} cannot be written: {error.strerror}") from error
    typer.echo(f"{len(vectors)} vectors in {out}")


def _number(name: str, value: str) -> float:
    """Raises: Refused."""
    try:
        return float(value)
    except ValueError:
        raise Refused(f"--weight '{name}={value}': {value!r} is no number") from None


def _labels(hit: dict[str, object]) -> str:
    labels = hit.get("labels")
    return ", ".join(f"{name}={value}" for name, value in labels.items()) if isinstance(labels, dict) else ""
