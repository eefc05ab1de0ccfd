"""``lcl search``, ``lcl duplicates``, ``lcl embed``, ``lcl embed-folder``, ``lcl caption``, ``lcl continue``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import CommandError, global_options, parse_pairs, print_json, print_table, progress_bar, read_file
from api.client import Client, Skipped, TextDelta

IMAGES_PER_REQUEST = 64


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
        raise CommandError("give a text, --image FILE or --item ID")
    settings = global_options(context)
    wanted = dict(parse_pairs("--where", where))
    weights = {name: _parse_weight(name, value) for name, value in parse_pairs("--weight", weight, "text=0.5")}
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
        print_json(found)
        return
    rows = [
        (f"{hit['score']:.4f}", hit["id"], hit.get("text", hit.get("caption")), _labels(hit)) for hit in found["hits"]
    ]
    print_table(("score", "id", "text", "labels"), rows, "nothing fits")


def duplicates(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(help="id or name of the collection")],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="cosine from which on two are linked")] = 0.95,
    limit: Annotated[int, typer.Option(min=1, max=100, help="groups")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="groups to pass over")] = 0,
) -> None:
    """Groups of pictures of a collection that are nearly the same, the largest first."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.duplicates(collection, threshold=threshold, offset=offset, limit=limit)
    if settings.as_json:
        print_json(found)
        return
    rows = [
        (offset + place, group["size"], f"{item['score']:.4f}", item["id"], item["caption"])
        for place, group in enumerate(found["groups"], start=1)
        for item in group["items"]
    ]
    print_table(("group", "size", "score", "id", "text"), rows, "none is that near to another")


def embed(
    context: typer.Context,
    encoder: Annotated[str, typer.Argument(help="id or name of the encoder")],
    images: Annotated[list[Path] | None, typer.Argument(help="picture files")] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text to embed; repeatable")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON-lines file; default standard output")] = None,
) -> None:
    """Vectors of pictures and texts, one JSON object a line: {"input", "embedding"}."""
    if not images and not text:
        raise CommandError("give picture files, or texts with --text")
    names = [str(image) for image in images or []] + list(text or [])
    data = [read_file(image) for image in images or []]
    vectors: list[list[float]] = []
    with global_options(context).client() as client:
        for start in range(0, len(data), IMAGES_PER_REQUEST):
            vectors += client.embed_images(encoder, data[start : start + IMAGES_PER_REQUEST])
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
        raise CommandError(f"{out} cannot be written: {error.strerror}") from error
    typer.echo(f"{len(vectors)} vectors in {out}")


def _parse_weight(name: str, value: str) -> float:
    """Raises: Refused."""
    try:
        return float(value)
    except ValueError:
        raise CommandError(f"--weight '{name}={value}': {value!r} is no number") from None


def _labels(hit: dict[str, object]) -> str:
    labels = hit.get("labels")
    return ", ".join(f"{name}={value}" for name, value in labels.items()) if isinstance(labels, dict) else ""


def embed_folder(
    context: typer.Context,
    encoder: Annotated[str, typer.Argument(help="id or name of the encoder")],
    folder: Annotated[Path, typer.Argument(help="with pictures, in folders of its own too")],
    out: Annotated[Path | None, typer.Option(help="JSON-lines file; default standard output")] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="pictures in a request")] = 32,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="requests under way")] = 4,
) -> None:
    """Vectors of all pictures in a folder, one JSON object a line: {"input", "embedding"}.

    A file that cannot be read is skipped, and named with the reason.
    """
    skipped: list[Skipped] = []
    count = 0
    try:
        with ExitStack() as stack:
            target = stack.enter_context(out.open("w", encoding="utf-8")) if out else None
            client = stack.enter_context(global_options(context).client())
            tell = stack.enter_context(progress_bar(folder.name, unit="pictures"))
            found = client.embed_folder(
                encoder, folder, batch=batch, at_once=at_once, on_skip=skipped.append, on_progress=tell
            )
            for path, vector in found:
                line = json.dumps({"input": str(path), "embedding": vector}, ensure_ascii=False)
                typer.echo(line, file=target)
                count += 1
    except OSError as error:
        raise CommandError(f"{error.filename or out}: {error.strerror}") from error
    for path, reason in skipped:
        typer.echo(f"skipped {path}: {reason}", err=True)
    if out:
        typer.echo(f"{count} vectors in {out}")


Encoder = Annotated[str, typer.Argument(help="id or name of the encoder")]
Tokens = Annotated[int, typer.Option(min=1, max=256, help="length at most")]
Beams = Annotated[int, typer.Option(min=1, max=16, help="more than one: beam search")]
Mass = Annotated[float | None, typer.Option(help="sample from this much of the probability")]
Temperature = Annotated[float, typer.Option(help="of the sampling")]
Seed = Annotated[int, typer.Option(min=0, help="of the sampling")]
Stream = Annotated[bool, typer.Option("--stream", help="print words as they are written")]


def caption(
    context: typer.Context,
    encoder: Encoder,
    images: Annotated[list[Path], typer.Argument(help="picture files")],
    prompt: Annotated[str, typer.Option(help="text that the caption continues")] = "",
    before: Annotated[str, typer.Option("--context", help="text before the picture")] = "",
    max_new_tokens: Tokens = 24,
    num_beams: Beams = 1,
    top_p: Mass = None,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    stream: Stream = False,
) -> None:
    """Describe pictures."""
    settings = global_options(context)
    decoding: dict[str, Any] = {"prompt": prompt, "max_new_tokens": max_new_tokens, "num_beams": num_beams}
    decoding |= {"context": before, "top_p": top_p, "temperature": temperature, "seed": seed}
    data = [read_file(image) for image in images]
    with settings.client() as client:
        if stream:
            _stream_captions(client, encoder, dict(zip(images, data, strict=True)), decoding, settings.as_json)
            return
        found = client.caption(encoder, data, **decoding)
    if settings.as_json:
        print_json([{"file": str(file), "caption": words} for file, words in zip(images, found, strict=True)])
        return
    for file, words in zip(images, found, strict=True):
        typer.echo(f"{file}\t{words}")


def continue_(
    context: typer.Context,
    encoder: Encoder,
    document: Annotated[list[str], typer.Argument(help="texts, and pictures as @FILE, in reading order")],
    max_new_tokens: Tokens = 24,
    num_beams: Beams = 1,
    top_p: Mass = None,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    stream: Stream = False,
) -> None:
    """The text that goes on from a document of texts and pictures.

    Example: lcl continue tiny "In the pond" @fish.png "there is"
    """
    settings = global_options(context)
    decoding = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "top_p": top_p}
    decoding |= {"temperature": temperature, "seed": seed}
    parts = [_document_part(word) for word in document]
    with settings.client() as client:
        if stream:
            _print_deltas(client.stream_continuation(encoder, parts, **decoding), settings.as_json, {})
            return
        text = client.continue_document(encoder, parts, **decoding)
    if settings.as_json:
        print_json({"text": text})
    else:
        typer.echo(text)


def _stream_captions(
    client: Client, encoder: str, files: dict[Path, bytes], decoding: dict[str, Any], as_json: bool
) -> None:
    """One picture after the other, since on a terminal two texts cannot grow at a time."""
    for place, (file, image) in enumerate(files.items()):
        one = {**decoding, "seed": decoding["seed"] + place}  # as in one request
        if not as_json:
            typer.echo(f"{file}\t", nl=False)
        _print_deltas(client.stream_captions(encoder, [image], **one), as_json, {"file": str(file)})


def _print_deltas(pieces: Iterator[TextDelta], as_json: bool, facts: dict[str, str]) -> None:
    """The words on one line, or each piece as a line of JSON."""
    for piece in pieces:
        if as_json:
            name = "text" if piece.whole else "piece"
            typer.echo(json.dumps({**facts, name: piece.text}, ensure_ascii=False))
        else:
            typer.echo("" if piece.whole else piece.text, nl=piece.whole)


def _document_part(word: str) -> str | bytes:
    """A text, or the bytes of the file after @."""
    if not word:
        raise CommandError("a part of the document is empty; give a text, or @FILE")
    return read_file(Path(word[1:])) if word.startswith("@") else word
