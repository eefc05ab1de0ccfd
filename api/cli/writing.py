"""``lcl caption``, ``lcl continue``: texts by an encoder, whole or as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.common import Refused, read_file, settings_of, show_json
from api.client import Client, Piece

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
    settings = settings_of(context)
    decoding: dict[str, Any] = {"prompt": prompt, "max_new_tokens": max_new_tokens, "num_beams": num_beams}
    decoding |= {"context": before, "top_p": top_p, "temperature": temperature, "seed": seed}
    data = [read_file(image) for image in images]
    with settings.client() as client:
        if stream:
            _caption_as_written(client, encoder, dict(zip(images, data, strict=True)), decoding, settings.as_json)
            return
        found = client.caption(encoder, data, **decoding)
    if settings.as_json:
        show_json([{"file": str(file), "caption": words} for file, words in zip(images, found, strict=True)])
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
    settings = settings_of(context)
    decoding = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "top_p": top_p}
    decoding |= {"temperature": temperature, "seed": seed}
    parts = [_part(word) for word in document]
    with settings.client() as client:
        if stream:
            _print_pieces(client.stream_continuation(encoder, parts, **decoding), settings.as_json, {})
            return
        text = client.continue_document(encoder, parts, **decoding)
    if settings.as_json:
        show_json({"text": text})
    else:
        typer.echo(text)


def _caption_as_written(
    client: Client, encoder: str, files: dict[Path, bytes], decoding: dict[str, Any], as_json: bool
) -> None:
    """One picture after the other, since on a terminal two texts cannot grow at a time."""
    for place, (file, image) in enumerate(files.items()):
        one = {**decoding, "seed": decoding["seed"] + place}  # as in one request
        if not as_json:
            typer.echo(f"{file}\t", nl=False)
        _print_pieces(client.stream_captions(encoder, [image], **one), as_json, {"file": str(file)})


def _print_pieces(pieces: Iterator[Piece], as_json: bool, facts: dict[str, str]) -> None:
    """The words on one line, or each piece as a line of JSON."""
    for piece in pieces:
        if as_json:
            name = "text" if piece.whole else "piece"
            typer.echo(json.dumps({**facts, name: piece.text}, ensure_ascii=False))
        else:
            typer.echo("" if piece.whole else piece.text, nl=piece.whole)


def _part(word: str) -> str | bytes:
    """A text, or the bytes of the file after @."""
    if not word:
        raise Refused("a part of the document is empty; give a text, or @FILE")
    return read_file(Path(word[1:])) if word.startswith("@") else word
