"""``lcl search``, ``duplicates``, ``embed``, ``embed-folder``, ``zero-shot``, ``caption``, ``continue``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from api.cli.completion import complete_collection, complete_encoder
from api.cli.output import (
    CommandError,
    check_writable,
    global_options,
    parse_filters,
    parse_pairs,
    print_json,
    print_note,
    progress_bar,
    read_file,
    write_file,
)
from api.client import Client, Skipped, TextDelta, UserError
from api.client.payloads import list_images, readable_path

if TYPE_CHECKING:
    from api.client.zero_shot import LabeledAccuracy, ZeroShotResult

_LINE_START = b'{"input": "'
_VECTOR_FIELD = ', "embedding": ['  # of a line; within a text of it the quotation marks are escaped
CLASSES_SHOWN = 3  # of an image, in a table
EMPTY_REASON = (
    "the encoder's most likely next token ends the document; draw from others with --top-p 0.9, give it more text to "
    "continue, or use an encoder that was trained longer"
)
Encoder = Annotated[str, typer.Argument(help="id or name of the encoder", autocompletion=complete_encoder)]
Tokens = Annotated[int, typer.Option(min=1, max=256, help="greatest length")]
Beams = Annotated[int, typer.Option(min=1, max=16, help="more than one: beam search")]
TopP = Annotated[float | None, typer.Option(help="nucleus sampling: probability mass")]
Temperature = Annotated[float, typer.Option(help="of the sampling")]
Seed = Annotated[int, typer.Option(min=0, help="of the sampling")]
Stream = Annotated[bool, typer.Option("--stream", help="print words as they are generated")]
Collection = Annotated[str, typer.Argument(help="id or name of the collection", autocompletion=complete_collection)]
Out = Annotated[Path | None, typer.Option(help="JSON-lines file; default standard output")]


def search(
    context: typer.Context,
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
    hybrid: Annotated[bool, typer.Option("--hybrid", help="rank images by the words of their captions, too")] = False,
) -> None:
    """The nearest images or texts of a collection to a text, an image, an item, or a combination.

    Examples: lcl search sample "a red bird" -k 5;
    lcl search sample "red" --image bird.png --weight text=0.5;
    lcl search sample "a red bird" --where "year>=1990" --where "year<2000";
    lcl search sample "a red bird" --hybrid
    """
    if text is None and image is None and item is None:
        raise CommandError("give a text, --image FILE or --item ID")
    options = global_options(context)
    weights = {name: _parse_weight(name, value) for name, value in parse_pairs("--weight", weight, "text=0.5")}
    query: dict[str, Any] = {"text": text, "image": None if image is None else read_file(image), "item": item}
    query |= {"weights": weights or None, "where": parse_filters(where)}
    query |= {"target": target, "k": k, "offset": offset, "hybrid": hybrid}
    results = options.call(lambda client: client.search(collection, **query))
    rows = (
        (f"{hit['score']:.4f}", hit["id"], hit.get("text", hit.get("caption")), _labels(hit)) for hit in results["hits"]
    )
    options.print_table(results, ("score", "id", "text", "labels"), rows, "nothing fits")


def duplicates(
    context: typer.Context,
    collection: Collection,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="least cosine of near-duplicates")] = 0.95,
    limit: Annotated[int, typer.Option(min=1, max=100, help="groups")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="groups to skip")] = 0,
) -> None:
    """Groups of near-duplicate images of a collection, the largest first."""
    options = global_options(context)
    groups = options.call(lambda client: client.duplicates(collection, threshold=threshold, offset=offset, limit=limit))
    rows = (
        (offset + number, group["size"], f"{item['score']:.4f}", item["id"], item["caption"])
        for number, group in enumerate(groups["groups"], start=1)
        for item in group["items"]
    )
    options.print_table(groups, ("group", "size", "score", "id", "text"), rows, "no near-duplicates")


def embed(
    context: typer.Context,
    encoder: Encoder,
    images: Annotated[list[Path] | None, typer.Argument(help="image files")] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text to embed; repeatable")] = None,
    out: Out = None,
) -> None:
    """Vectors of images and texts, one JSON object a line: {"input", "encoder", "embedding"}.

    Unreadable files are skipped and listed with the reason; the exit status is then 1.
    """
    if not images and not text:
        raise CommandError("give image files, or texts with --text")
    if _write_vectors(context, "images", out, encoder, images or [], text or []):
        raise typer.Exit(1)


def embed_folder(
    context: typer.Context,
    encoder: Encoder,
    folder: Annotated[Path, typer.Argument(help="with images, also in subfolders")],
    out: Out = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="images in a request")] = 32,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="concurrent requests")] = 4,
) -> None:
    """Vectors of all images in a folder, one JSON object a line: {"input", "encoder", "embedding"}.

    Unreadable files are skipped and listed with the reason. After an interruption the same command continues with the
    images whose vectors are not in OUT.part.
    """
    try:
        files = list_images(folder)
    except OSError as error:
        raise CommandError(f"{error.filename or folder}: {error.strerror}") from error
    _write_vectors(context, folder.name, out, encoder, files, batch=batch, at_once=at_once)


def _write_vectors(
    context: typer.Context,
    title: str,
    out: Path | None,
    encoder: str,
    files: Sequence[Path],
    texts: Sequence[str] = (),
    *,
    batch: int = 32,
    at_once: int = 4,
) -> list[Skipped]:
    """Write each vector as it arrives, into a file that is opened before the first request. Vectors that an interrupted
    command left there are kept.

    Returns: the skipped images, which are listed. Raises: CommandError; ApiError.
    """
    options, skipped = global_options(context), list[Skipped]()
    try:
        with ExitStack() as stack:
            target = stack.enter_context(_continued(out)) if out else _VectorLines(None)
            client = stack.enter_context(options.client())
            target.encoder = client.encoder(encoder)["id"]  # of one name a newer one may come meanwhile
            missing = target.missing([*map(readable_path, files), *texts])
            on_progress = stack.enter_context(progress_bar(title, unit="images"))
            images = [files[index] for index in missing if index < len(files)]
            for path, vector in client.embed_files(
                target.encoder, images, batch=batch, at_once=at_once, on_skip=skipped.append, on_progress=on_progress
            ):
                target.write(readable_path(path), vector)
            rest = [texts[index - len(files)] for index in missing if index >= len(files)]
            for text, vector in zip(rest, client.embed_texts(target.encoder, rest), strict=True):
                target.write(text, vector)
    except OSError as error:
        raise CommandError(f"{error.filename or out}: {error.strerror}") from error
    _print_skipped(skipped)
    if out:
        shown = readable_path(out)
        answer = {"file": shown, "vectors": target.count, "skipped": _skipped_items(skipped)}
        options.print(answer, f"{target.count} vectors in {shown}")
    return skipped


@dataclass
class _VectorLines:
    """Lines of vectors in a file, or on standard output.

    Attributes:
        kept: lines that an interrupted command wrote, by (input, encoder).
        encoder: id of the encoder of the lines to come.
        count: all lines.
    """

    file: TextIO | None
    path: Path | None = None
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)
    encoder: str = ""
    count: int = 0

    def missing(self, inputs: Sequence[str]) -> list[int]:
        """Numbers of the inputs without a line. Raises: CommandError if the lines are of another command."""
        unused = Counter(self.kept)
        missing = []
        for index, name in enumerate(inputs):
            if unused[name, self.encoder]:
                unused[name, self.encoder] -= 1
            else:
                missing.append(index)
        path = readable_path(self.path or "")
        if other := next(iter(+unused), None):
            name, encoder = other
            wrong = f"encoder {encoder}" if encoder != self.encoder else f"{name!r}, which is no input of this one"
            raise CommandError(
                f"{path} has vectors of an interrupted command, of {wrong}; repeat that command, or move or remove it"
            )
        self.count = self.kept.total()
        if self.count:
            print_note(f"{self.count} vectors are in {path} already; {len(missing)} inputs are missing")
        return missing

    def write(self, name: str, vector: list[float]) -> None:
        typer.echo(_vector_line(name, self.encoder, vector), file=self.file)
        self.count += 1


@contextmanager
def _continued(path: Path) -> Iterator[_VectorLines]:
    """A file that takes the place of ``path`` at the end. Until then it is ``NAME.part`` beside it, where all lines are
    kept after an error, and begins with those that an interrupted command left there.

    Raises: CommandError if the file has other lines.
    """
    if path.exists() and not path.is_file():  # a pipe or a device, which has no content to keep; of a folder an error
        with path.open("w", encoding="utf-8") as file:
            yield _VectorLines(file)
        return
    partial = path.with_name(f"{path.name}.part")
    try:
        file = partial.open("a", encoding="utf-8", newline="\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    with file:
        kept, size = _read_kept(partial)
        lines = _VectorLines(file, partial, kept)
        try:
            file.truncate(size)
            yield lines
        except BaseException:  # also Ctrl-C
            with suppress(OSError):  # of a full disk, once more
                file.close()
            if lines.count > kept.total():
                print_note(f"the vectors until then are in {readable_path(partial)}; the same command continues there")
            elif not size:
                partial.unlink(missing_ok=True)
            raise
    partial.replace(path)


def _read_kept(path: Path) -> tuple[Counter[tuple[str, str]], int]:
    """Lines by (input, encoder), and their bytes, without a last line that was not written to its end.

    Raises: CommandError for a line that is none of a vector.
    """
    kept, size = Counter[tuple[str, str]](), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") and line.startswith(_LINE_START[: len(line)]):
                break
            try:
                head, vector, _ = line.decode().partition(_VECTOR_FIELD)
                fields = json.loads(f"{head}}}")
                kept[fields["input"], fields["encoder"]] += 1
            except (ValueError, KeyError, TypeError):
                vector = ""
            if not vector:
                raise CommandError(
                    f"line {number} of {readable_path(path)} is no vector with its input and encoder, so nothing is "
                    "added to the file; move or remove it"
                )
            size += len(line)
    return kept, size


def zero_shot(
    context: typer.Context,
    encoder: Encoder,
    images: Annotated[list[Path], typer.Argument(help="image files, and folders with images, also in subfolders")],
    classes: Annotated[Path | None, typer.Option(help="file with one class a line")] = None,
    class_: Annotated[list[str] | None, typer.Option("--class", help="name of a class; repeatable")] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="text with {} for the class; several are averaged; default: those of the evaluation"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file of all predictions")] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="texts or images in a request")] = 32,
) -> None:
    """Classify images by the names of the classes, without training.

    Where images lie in folders with the names of classes, also the accuracy. Unreadable files are skipped and listed.

    Example: lcl zero-shot drawings photos --class fox --class cat --template "a drawing of a {}"
    """
    from api.client.zero_shot import folder_labels, label_accuracy, predictions_csv  # numpy

    names = [*_read_lines(classes), *(class_ or ())]
    options, files, unreadable = global_options(context), _image_files(images), list[Skipped]()
    if out is not None:
        check_writable(out)  # before the work
    try:
        with options.client() as client, progress_bar("zero-shot", unit="images") as on_progress:
            result = client.zero_shot(
                encoder, _contents(files, unreadable), names, template or (), batch=batch,
                on_progress=lambda done, _: on_progress(done + len(unreadable), len(files)),
            )  # fmt: skip
    except UserError as error:
        option = {"classes": "--class", "templates": "--template"}.get(str(error.field), str(error.field))
        raise CommandError(f"{option}: {error.message}") from error
    result.skipped.extend(unreadable)
    labels = folder_labels(result.names)
    accuracy = label_accuracy(result, labels)
    if out is not None:
        write_file(out, predictions_csv(result).encode())
    if options.as_json:
        print_json(_zero_shot_answer(result, accuracy))
    else:
        columns = ("image", *(word for n in range(1, CLASSES_SHOWN + 1) for word in (f"{n}.", "")))
        options.print_table(None, columns, (_prediction_row(result, n) for n in range(len(labels))), "no images")
        if accuracy is not None:
            typer.echo(_accuracy_line(accuracy))
    _print_skipped(result.skipped)


def caption(
    context: typer.Context,
    encoder: Encoder,
    images: Annotated[list[Path], typer.Argument(help="image files")],
    prompt: Annotated[str, typer.Option(help="text that the caption continues")] = "",
    before: Annotated[str, typer.Option("--context", help="text before the image")] = "",
    max_new_tokens: Tokens = 24,
    num_beams: Beams = 1,
    top_p: TopP = None,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    stream: Stream = False,
) -> None:
    """Describe images."""
    options = global_options(context)
    decoding: dict[str, Any] = {"prompt": prompt, "max_new_tokens": max_new_tokens, "num_beams": num_beams}
    decoding |= {"context": before, "top_p": top_p, "temperature": temperature, "seed": seed}
    data = [read_file(image) for image in images]
    with options.client() as client:
        if stream:
            _stream_captions(client, encoder, dict(zip(images, data, strict=True)), decoding, options.as_json)
            return
        captions = list(zip(images, client.caption(encoder, data, **decoding), strict=True))
    if options.as_json:
        print_json([{"file": readable_path(file), "caption": text} for file, text in captions])
    else:
        for file, text in captions:
            typer.echo(f"{readable_path(file)}\t{text}")
    for file, text in captions:
        _explain_empty(text, f"{readable_path(file)}: ")


def continue_(
    context: typer.Context,
    encoder: Encoder,
    document: Annotated[list[str], typer.Argument(help="texts, and images as @FILE, in reading order")],
    max_new_tokens: Tokens = 24,
    num_beams: Beams = 1,
    top_p: TopP = None,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    stream: Stream = False,
) -> None:
    """The text that continues a document of texts and images.

    Example: lcl continue tiny "In the pond" @fish.png "there is"
    """
    options = global_options(context)
    decoding = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "top_p": top_p}
    decoding |= {"temperature": temperature, "seed": seed}
    parts = [_document_part(word) for word in document]
    with options.client() as client:
        if stream:
            _print_deltas(client.stream_continuation(encoder, parts, **decoding), options.as_json, {})
            return
        text = client.continue_document(encoder, parts, **decoding)
    options.print({"text": text}, text)
    _explain_empty(text)


def _read_lines(path: Path | None) -> list[str]:
    """Lines that are not empty; none without a file. Raises: CommandError."""
    if path is None:
        return []
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8 text") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _image_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and the images of the folders. Raises: CommandError."""
    files = [file for path in paths for file in (list_images(path) if path.is_dir() else [path])]
    if not files:
        raise CommandError(f"there is no image in {', '.join(map(str, paths))}")
    return files


def _contents(files: Sequence[Path], unreadable: list[Skipped]) -> Iterator[tuple[Path, bytes]]:
    for file in files:
        try:
            yield file, file.read_bytes()
        except OSError as error:
            unreadable.append(Skipped(file, error.strerror or str(error)))


def _prediction_row(result: ZeroShotResult, index: int) -> list[str]:
    best = result.top(index, CLASSES_SHOWN)
    cells = [cell for name, probability in best for cell in (name, f"{probability:.3f}")]
    return [readable_path(result.names[index]), *cells, *[""] * (2 * (CLASSES_SHOWN - len(best)))]


def _accuracy_line(accuracy: LabeledAccuracy) -> str:
    low, high = accuracy.interval
    return (
        f"accuracy {accuracy.value:.3f} [{low:.3f}, {high:.3f}] on {accuracy.count} images with a label, "
        f"chance {accuracy.chance:.3f}"
    )


def _zero_shot_answer(result: ZeroShotResult, accuracy: LabeledAccuracy | None) -> dict[str, Any]:
    items = [
        {
            "file": readable_path(name),
            "class": result.top(index, 1)[0][0],
            "probabilities": dict(zip(result.classes, map(float, result.probabilities[index]), strict=True)),
        }
        for index, name in enumerate(result.names)
    ]
    found = accuracy and {
        "value": accuracy.value, "interval": accuracy.interval, "chance": accuracy.chance, "count": accuracy.count,
        "left_out": accuracy.left_out, "confusion": accuracy.confusion.tolist(),
    }  # fmt: skip
    return {"classes": result.classes, "templates": result.templates, "items": items, "accuracy": found,
            "skipped": _skipped_items(result.skipped)}  # fmt: skip


def _print_skipped(skipped: Sequence[Skipped]) -> None:
    for path, reason in skipped:
        print_note(f"skipped {readable_path(path)}: {reason}")


def _skipped_items(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [{"file": readable_path(path), "reason": reason} for path, reason in skipped]


def _stream_captions(
    client: Client, encoder: str, files: dict[Path, bytes], decoding: dict[str, Any], as_json: bool
) -> None:
    """One image after the other: a terminal shows one growing text."""
    for index, (file, image) in enumerate(files.items()):
        own = {**decoding, "seed": decoding["seed"] + index}  # as for images of one request
        name = readable_path(file)
        if not as_json:
            typer.echo(f"{name}\t", nl=False)
        _print_deltas(client.stream_captions(encoder, [image], **own), as_json, {"file": name})


def _print_deltas(deltas: Iterator[TextDelta], as_json: bool, fields: dict[str, str]) -> None:
    """The text on one line, or each delta as a line of JSON."""
    for delta in deltas:
        if as_json:
            name = "text" if delta.whole else "piece"
            typer.echo(json.dumps({**fields, name: delta.text}, ensure_ascii=False))
        else:
            typer.echo("" if delta.whole else delta.text, nl=delta.whole)
        if delta.whole:
            _explain_empty(delta.text, f"{fields['file']}: " if "file" in fields else "")


def _explain_empty(text: str, about: str = "") -> None:
    """On standard error, why a generated text is empty."""
    if not text.strip():
        typer.echo(f"{about}no text: {EMPTY_REASON}", err=True)


def _document_part(word: str) -> str | bytes:
    """A text, or the bytes of the file after @."""
    if not word:
        raise CommandError("a part of the document is empty; give a text, or @FILE")
    return read_file(Path(word[1:])) if word.startswith("@") else word


def _vector_line(name: str, encoder: str, vector: list[float]) -> str:
    """Its input and encoder come first: ``_read_kept`` parses no vectors."""
    return json.dumps({"input": name, "encoder": encoder, "embedding": vector}, ensure_ascii=False)


def _parse_weight(name: str, value: str) -> float:
    """Raises: CommandError."""
    try:
        return float(value)
    except ValueError:
        raise CommandError(f"--weight '{name}={value}': {value!r} is no number") from None


def _labels(hit: dict[str, object]) -> str:
    labels = hit.get("labels")
    return ", ".join(f"{name}={value}" for name, value in labels.items()) if isinstance(labels, dict) else ""
