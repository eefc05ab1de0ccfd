"""``lcl search``, ``lcl embed``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from api.cli.common import Refused, read_file, settings_of, show_json, show_table

BATCH = 64


def search(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(help="id or name of the collection")],
    text: Annotated[str | None, typer.Argument(help="what to look for")] = None,
    image: Annotated[Path | None, typer.Option(help="a picture to look for instead")] = None,
    target: Annotated[str, typer.Option(help="images or texts")] = "images",
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="hits")] = 10,
    where: Annotated[list[str] | None, typer.Option(help="label=value; repeatable")] = None,
) -> None:
    """The nearest pictures or texts of a collection.

    Example: lcl search sample "a red bird" -k 5
    """
    if (text is None) == (image is None):
        raise Refused("give either a text or --image FILE")
    settings = settings_of(context)
    wanted = dict(_pair(given) for given in where or [])
    picture = None if image is None else read_file(image)
    with settings.client() as client:
        found = client.search(collection, text=text, image=picture, target=target, k=k, where=wanted)
    if settings.as_json:
        show_json(found)
        return
    rows = [
        (f"{hit['score']:.4f}", hit["id"], hit.get("text", hit.get("caption")), _labels(hit)) for hit in found["hits"]
    ]
    show_table(("score", "id", "text", "labels"), rows, "nothing fits")


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


def _pair(given: str) -> tuple[str, str]:
    label, equals, value = given.partition("=")
    if not equals:
        raise Refused(f"--where {given!r}: write it as label=value")
    return label, value


def _labels(hit: dict[str, object]) -> str:
    labels = hit.get("labels")
    return ", ".join(f"{name}={value}" for name, value in labels.items()) if isinstance(labels, dict) else ""
