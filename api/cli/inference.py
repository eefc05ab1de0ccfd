"""``lcl search``, ``duplicates``, ``embed``, ``zero-shot``, ``caption``, ``continue``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.output import (
    options,
    parse_pairs,
    print_json,
    print_table,
    progress_bar,
    read_lines,
)
from api.client import Skipped, UserError
from api.client.payloads import list_images, parse_where, readable_path

if TYPE_CHECKING:
    from api.client.zero_shot import LabeledAccuracy, ZeroShotResult

CLASSES_SHOWN = 3  # of an image, in a table
Encoder = Annotated[str, typer.Argument(help="id or name of the encoder")]
Tokens = Annotated[int, typer.Option(min=1, max=256, help="greatest length")]
Beams = Annotated[int, typer.Option(min=1, max=16, help="more than one: beam search")]
TopP = Annotated[float | None, typer.Option(help="nucleus sampling: probability mass")]
Temperature = Annotated[float, typer.Option(help="of the sampling")]
Seed = Annotated[int, typer.Option(min=0, help="of the sampling")]
Collection = Annotated[str, typer.Argument(help="id or name of the collection")]


def search(
    collection: Collection,
    text: Annotated[str | None, typer.Argument(help="what to look for")] = None,
    image: Annotated[Path | None, typer.Option(help="an image to look for")] = None,
    item: Annotated[str | None, typer.Option(help="id of an item to find the neighbours of")] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="text=, image= or item=NUMBER: how much it counts; repeatable")
    ] = None,
    target: Annotated[str, typer.Option(help="images or texts")] = "images",
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="hits")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="label=value, label!=value (without it), of a number or date label>=bound (or > <= <), of a set "
            "label+=value (it has every such value); repeatable"
        ),
    ] = None,
    offset: Annotated[int, typer.Option(min=0, max=9000, help="hits to skip")] = 0,
    match: Annotated[str, typer.Option(help="what a text is compared with: looks, captions or both")] = "both",
) -> None:
    """The nearest images or texts of a collection to a text, an image, an item, or a combination.

    Examples: lcl search sample "a red bird" -k 5;
    lcl search sample "red" --image bird.png --weight text=0.5;
    lcl search sample "a red bird" --where "year>=1990" --where "year<2000";
    lcl search sample "a red bird" --match looks
    """
    if text is None and image is None and item is None:
        raise UserError("give a text, --image FILE or --item ID")
    given = parse_pairs("--weight", weight, "text=0.5")
    weights = {name: _parse_weight(name, numbers[-1]) for name, numbers in given.items()}
    query: dict[str, Any] = {"text": text, "image": None if image is None else image.read_bytes(), "item": item}
    query |= {"weights": weights or None, "where": parse_where(where or ())}
    query |= {"target": target, "k": k, "offset": offset, "match": match}
    results = options.call(lambda client: client.search(collection, **query))
    rows = (
        (f"{hit['score']:.4f}", hit["id"], hit.get("text", hit.get("caption")), _labels(hit)) for hit in results["hits"]
    )
    options.print_table(results, ("score", "id", "text", "labels"), rows, "nothing fits")
    for word in results["not_understood"]:
        typer.echo(f"“{word}” is not understood; leave images out with --where 'label!=value'", err=True)


def duplicates(
    collection: Collection,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="least cosine of near-duplicates")] = 0.95,
    limit: Annotated[int, typer.Option(min=1, max=100, help="groups")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="groups to skip")] = 0,
) -> None:
    """Groups of near-duplicate images of a collection, the largest first."""
    groups = options.call(lambda client: client.duplicates(collection, threshold=threshold, offset=offset, limit=limit))
    rows = (
        (offset + number, group["size"], f"{item['score']:.4f}", item["id"], item["caption"])
        for number, group in enumerate(groups["groups"], start=1)
        for item in group["items"]
    )
    options.print_table(groups, ("group", "size", "score", "id", "text"), rows, "no near-duplicates")


def embed(
    encoder: Encoder,
    images: Annotated[
        list[Path] | None, typer.Argument(help="image files, and folders with images, also in subfolders")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text to embed; repeatable")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON-lines file; default standard output")] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="images in a request")] = 32,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="concurrent requests")] = 4,
) -> None:
    """Vectors of images and texts, one JSON object a line: {"input", "encoder", "embedding"}.

    Unreadable images are skipped and listed with the reason; the exit status is then 1.
    """
    if not images and not text:
        raise UserError("give image files or folders, or texts with --text")
    skipped, texts, count = list[Skipped](), text or [], 0
    files = _image_files(images or [])
    with (
        options.client() as client,
        out.open("w", encoding="utf-8", newline="\n") if out else nullcontext() as lines,
        progress_bar("embed", unit="images") as on_progress,
    ):
        encoder_id = client.encoder(encoder)["id"]  # of one name a newer one may come meanwhile
        of_images = client.embed_files(
            encoder_id, files, batch=batch, at_once=at_once, on_skip=skipped.append, on_progress=on_progress
        )
        named = ((readable_path(path), vector) for path, vector in of_images)
        for name, vector in chain(named, zip(texts, client.embed_texts(encoder_id, texts), strict=True)):
            line = {"input": name, "encoder": encoder_id, "embedding": vector}
            typer.echo(json.dumps(line, ensure_ascii=False), file=lines)
            count += 1
    _print_skipped(skipped)
    if out:
        shown = readable_path(out)
        answer = {"file": shown, "vectors": count, "skipped": _skipped_items(skipped)}
        options.print(answer, f"{count} vectors in {shown}")
    if skipped:
        raise typer.Exit(1)


def zero_shot(
    encoder: Encoder,
    images: Annotated[list[Path], typer.Argument(help="image files, and folders with images, also in subfolders")],
    classes: Annotated[Path | None, typer.Option(help="file with one class a line")] = None,
    class_: Annotated[list[str] | None, typer.Option("--class", help="name of a class; repeatable")] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="text with {} for the class; several are averaged; default: those of the evaluation"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file of all predictions")] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="images in a request")] = 32,
) -> None:
    """Classify images by the names of the classes, without training.

    Where images lie in folders with the names of classes, also the accuracy. Unreadable files are skipped and listed.

    Example: lcl zero-shot drawings photos --class fox --class cat --template "a drawing of a {}"
    """
    from api.client import zero_shot as classifier  # imports numpy

    names = [*(read_lines(classes) if classes else ()), *(class_ or ())]
    files = [(file, file) for file in _image_files(images)]
    with options.client() as client, progress_bar("zero-shot", unit="images") as on_progress:
        result = client.zero_shot(encoder, files, names, template or (), batch=batch, on_progress=on_progress)
    labels = classifier.folder_labels(result.names)
    accuracy = classifier.label_accuracy(result, labels)
    if out is not None:
        out.write_text(classifier.predictions_csv(result), "utf-8")
    if options.as_json:
        print_json(_zero_shot_answer(result, accuracy))
    else:
        rows = [
            (readable_path(name), ", ".join(f"{each} {share:.3f}" for each, share in result.top(index, CLASSES_SHOWN)))
            for index, name in enumerate(result.names)
        ]
        print_table(("image", "likeliest classes"), rows, "no images")
        if accuracy is not None:
            low, high = accuracy.interval
            shown = f"accuracy {accuracy.value:.3f} [{low:.3f}, {high:.3f}]"
            typer.echo(f"{shown} on {accuracy.count} images with a label, chance {accuracy.chance:.3f}")
    _print_skipped(result.skipped)


def caption(
    encoder: Encoder,
    images: Annotated[list[Path], typer.Argument(help="image files")],
    prompt: Annotated[str, typer.Option(help="text that the caption continues")] = "",
    before: Annotated[str, typer.Option("--context", help="text before the image")] = "",
    max_new_tokens: Tokens = 24,
    num_beams: Beams = 1,
    top_p: TopP = None,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
) -> None:
    """Describe images."""
    decoding: dict[str, Any] = {"prompt": prompt, "max_new_tokens": max_new_tokens, "num_beams": num_beams}
    decoding |= {"context": before, "top_p": top_p, "temperature": temperature, "seed": seed}
    data = [image.read_bytes() for image in images]
    texts = options.call(lambda client: client.caption(encoder, data, **decoding))
    captions = [{"file": readable_path(file), "caption": text} for file, text in zip(images, texts, strict=True)]
    options.print(captions, "\n".join(f"{found['file']}\t{found['caption']}" for found in captions))


def continue_(
    encoder: Encoder,
    document: Annotated[list[str], typer.Argument(help="texts, and images as @FILE, in reading order")],
    max_new_tokens: Tokens = 24,
    num_beams: Beams = 1,
    top_p: TopP = None,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
) -> None:
    """The text that continues a document of texts and images.

    Example: lcl continue tiny "In the pond" @fish.png "there is"
    """
    decoding = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "top_p": top_p}
    decoding |= {"temperature": temperature, "seed": seed}
    parts = [_document_part(word) for word in document]
    text = options.call(lambda client: client.continue_document(encoder, parts, **decoding))
    options.print({"text": text}, text)


def _image_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and the images of the folders. Raises: UserError."""
    files = [file for path in paths for file in (list_images(path) if path.is_dir() else [path])]
    if paths and not files:
        raise UserError(f"there is no image in {', '.join(map(str, paths))}")
    return files


def _zero_shot_answer(result: ZeroShotResult, accuracy: LabeledAccuracy | None) -> dict[str, Any]:
    items = [
        {
            "file": readable_path(name),
            "class": result.top(index, 1)[0][0],
            "probabilities": dict(zip(result.classes, map(float, result.probabilities[index]), strict=True)),
        }
        for index, name in enumerate(result.names)
    ]
    return {
        "classes": result.classes,
        "templates": result.templates,
        "items": items,
        "accuracy": accuracy and {**vars(accuracy), "confusion": accuracy.confusion.tolist()},
        "skipped": _skipped_items(result.skipped),
    }


def _print_skipped(skipped: Sequence[Skipped]) -> None:
    for path, reason in skipped:
        typer.echo(f"skipped {readable_path(path)}: {reason}", err=True)


def _skipped_items(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [{"file": readable_path(path), "reason": reason} for path, reason in skipped]


def _document_part(word: str) -> str | bytes:
    """A text, or the bytes of the file after @."""
    if not word:
        raise UserError("a part of the document is empty; give a text, or @FILE")
    return Path(word[1:]).read_bytes() if word.startswith("@") else word


def _parse_weight(name: str, value: str) -> float:
    """Raises: UserError."""
    try:
        return float(value)
    except ValueError:
        raise UserError(f"--weight '{name}={value}': {value!r} is no number") from None


def _labels(hit: dict[str, object]) -> str:
    labels = hit.get("labels")
    return ", ".join(f"{name}={value}" for name, value in labels.items()) if isinstance(labels, dict) else ""
