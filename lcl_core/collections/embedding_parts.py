"""Images and texts embedded in parts: what a task does, the files that it leaves, and how they are read again.

    parts/PART.TOKEN/items.jsonl        an object an image: ``CollectionItem``, and in place of its bytes their number
    parts/PART.TOKEN/images.blob        the bytes of the images, one after the other
    parts/PART.TOKEN/vectors.bin        f32 [rows, E], as the encoder gives them
    parts/PART.TOKEN/quarantine.jsonl   an object an image that cannot be read: its name and the error

A part of texts has vectors alone. TOKEN belongs to one attempt at the part; folders that the log of completed tasks
does not name are of no use. A part is a whole number of the encoder's batches, the same ones in every attempt, because
the last bits of a vector depend on the batch that it is computed in.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lcl_core.collections.thumbnail import thumbnail
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.device import keep_freed_memory
from lcl_core.common.errors import StoreError, UserError
from lcl_core.data import CaptionPair, Corpus
from lcl_core.data.image_decoding import decode_image
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.part_runners import Json, PartTask, Report
from lcl_core.parts import PART_ITEMS

ITEMS, BLOB, VECTORS, REJECTED = "items.jsonl", "images.blob", "vectors.bin", "quarantine.jsonl"
_NUMBER = np.dtype("<f4")


def part_ranges(count: int, batch_size: int, part_items: int = PART_ITEMS) -> list[range]:
    """The items of each part: as many whole batches as ``part_items`` holds, one at least."""
    step = max(1, part_items // batch_size) * batch_size
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


def image_task(number: int, pairs: Sequence[CaptionPair], start: int) -> PartTask:
    """Embed these images, the first of which is number ``start`` of all."""
    fields = [[pair.image, list(pair.captions), pair.labels, pair.split, pair.source] for pair in pairs]
    label = f"images {start + 1:,} to {start + len(pairs):,}"
    return PartTask({"kind": "images", "number": number, "pairs": fields}, label)


def text_task(number: int, batches: Sequence[Sequence[str]], digest: str) -> PartTask:
    """Embed these texts, batch by batch. ``digest``: of them; the result has it too."""
    arguments = {"kind": "texts", "number": number, "batches": batches, "digest": digest}
    return PartTask(arguments, f"part {number + 1:,} of the texts")


class EmbeddingTasks:
    """Handler of the tasks.

    Args:
        engine: opens the encoder.
        corpus: opens what the images are read from.
        parts: folder of the parts.
        batch_size: images that are encoded at once.
        readers: threads that read and decode.
        threads: of the encoder on a processor; None: as many as it has. The last bits of a vector depend on it.
    """

    def __init__(
        self,
        engine: Callable[[], EncoderEngine],
        corpus: Callable[[], Corpus],
        parts: Path,
        batch_size: int,
        readers: int,
        threads: int | None = None,
    ) -> None:
        keep_freed_memory()
        if threads is not None:
            torch.set_num_threads(threads)
        self._engine, self._open_corpus = engine(), corpus
        self._corpus: Corpus | None = None
        self._parts, self._batch_size, self._readers = parts, batch_size, readers

    def __call__(self, arguments: Json, report: Report) -> Json:
        folder = self._parts / f"{arguments['kind']}-{arguments['number']:07d}.{secrets.token_hex(6)}"
        folder.mkdir(parents=True)
        try:
            with _PartWriter(folder) as writer:
                if arguments["kind"] == "texts":
                    self._embed_texts(arguments["batches"], writer, report)
                else:
                    pairs = [_caption_pair(fields) for fields in arguments["pairs"]]
                    self._embed_images(pairs, writer, report)
            return {"folder": folder.name, "bytes": writer.sizes, "digest": arguments.get("digest")}
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _embed_texts(self, batches: Sequence[Sequence[str]], writer: _PartWriter, report: Report) -> None:
        done = 0
        for batch in batches:
            writer.add_vectors(self._engine.embed_texts(batch))
            done += len(batch)
            report(done)

    def _embed_images(self, pairs: Sequence[CaptionPair], writer: _PartWriter, report: Report) -> None:
        self._corpus = self._corpus or self._open_corpus()
        done = 0
        for batch in _prefetch(self._corpus, pairs, self._engine, self._batch_size, self._readers):
            images = []
            for pair, future in batch:
                try:
                    images.append(future.result())
                except StoreError:
                    raise
                except UserError as error:
                    writer.reject(pair.image, error)
            if images:
                for image in images:
                    writer.add_item(image.item)
                writer.add_vectors(self._engine.embed_pixels(torch.stack([image.pixels for image in images])))
            done += len(batch)
            report(done)


class _PartWriter:
    """Writes the files of a part; they are on the disk when it is left.

    Attributes:
        sizes: bytes of each file, when it has been left.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sizes: dict[str, int] = {}

    def add_item(self, item: CollectionItem) -> None:
        fields = {name: getattr(item, name) for name in _ITEM_FIELDS}
        self._write_line(ITEMS, fields | {"data": len(item.data)})
        self._files[BLOB].write(item.data)

    def add_vectors(self, vectors: np.ndarray) -> None:
        self._files[VECTORS].write(np.ascontiguousarray(vectors, _NUMBER).tobytes())

    def reject(self, image: str, error: UserError) -> None:
        self._write_line(REJECTED, {"image": image, **error.to_dict()})

    def __enter__(self) -> _PartWriter:
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {
            name: self._stack.enter_context((self._folder / name).open("wb"))
            for name in (ITEMS, BLOB, VECTORS, REJECTED)
        }
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                for name, file in self._files.items():
                    file.flush()
                    os.fsync(file.fileno())
                    self.sizes[name] = file.tell()

    def _write_line(self, name: str, value: Json) -> None:
        self._files[name].write(json.dumps(value).encode() + b"\n")


_ITEM_FIELDS = ("image", "media_type", "captions", "labels", "split", "source")


def is_whole(part: Path, sizes: dict[str, int]) -> bool:
    """Whether the files of a part are there."""
    try:
        return all((part / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def read_images(part: Path, dim: int, rows: int) -> Iterator[tuple[list[CollectionItem], np.ndarray]]:
    """The images of a part and their vectors f32 [n, dim], at most ``rows`` at a time."""
    vectors = read_vectors(part, dim)
    with (part / ITEMS).open("rb") as lines, (part / BLOB).open("rb") as blob:
        for start in range(0, len(vectors), rows):
            chunk = vectors[start : start + rows]
            yield [_read_item(next(lines), blob) for _ in chunk], chunk


def read_vectors(part: Path, dim: int) -> np.ndarray:
    """f32 [n, dim]."""
    return np.fromfile(part / VECTORS, _NUMBER).reshape(-1, dim)


def read_rejected(part: Path) -> Iterator[Json]:
    """Images that could not be read: name and error each."""
    with (part / REJECTED).open("rb") as lines:
        yield from map(json.loads, lines)


def _read_item(line: bytes, blob: IO[bytes]) -> CollectionItem:
    fields: dict[str, Any] = json.loads(line)
    fields["data"] = blob.read(fields["data"])
    fields["captions"] = tuple(fields["captions"])
    return CollectionItem(**fields)


def _caption_pair(fields: Sequence[Any]) -> CaptionPair:
    image, captions, labels, split, source = fields
    return CaptionPair(image, tuple(captions), labels, split, source)


@dataclass(frozen=True, slots=True)
class _PreparedItem:
    item: CollectionItem
    pixels: Tensor  # f32 [3, S, S]


def _prefetch(
    corpus: Corpus, pairs: Sequence[CaptionPair], engine: EncoderEngine, batch_size: int, threads: int
) -> Iterator[list[tuple[CaptionPair, Future[_PreparedItem]]]]:
    """Batches of images read in threads; the next batch is read while this one is embedded."""
    readers = ThreadPoolExecutor(threads, "lcl-reader")
    try:
        ahead: deque[list[tuple[CaptionPair, Future[_PreparedItem]]]] = deque()
        for start in range(0, len(pairs), batch_size):
            chunk = pairs[start : start + batch_size]
            ahead.append([(pair, readers.submit(_prepare_item, corpus, pair, engine)) for pair in chunk])
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead
    finally:
        readers.shutdown(cancel_futures=True)


def _prepare_item(corpus: Corpus, pair: CaptionPair, engine: EncoderEngine) -> _PreparedItem:
    """Raises: UserError for an unreadable image."""
    raw = corpus.image_bytes(pair.image)
    decoded = decode_image(raw, f"images/{pair.image}")
    pixels = engine.preprocess([decoded])[0]
    data, media_type = thumbnail(raw, decoded)
    item = CollectionItem(
        image=pair.image,
        data=data,
        media_type=media_type,
        captions=tuple(dict.fromkeys(pair.captions)),
        labels=pair.labels,
        split=pair.split,
        source=pair.source,
    )
    return _PreparedItem(item, pixels)
