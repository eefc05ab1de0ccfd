"""Images and texts to embed, and what becomes of a part of them: tasks of ``lcl_core.parts``, and the files they leave.

    selection.sqlite            what is to be embedded: images with their captions and labels, and then texts
    PART.TOKEN/items.sqlite     images as ``CollectionItem`` with their bytes, and those that cannot be read
    PART.TOKEN/vectors.npy      f32 [rows, E], as the encoder gives them

A part of texts has vectors alone. TOKEN belongs to one attempt at the part; folders that the log of completed tasks
does not name are of no use. A part is a whole number of the encoder's batches, the same ones in every attempt, because
the last bits of a vector depend on the batch that it is computed in.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lcl_core.collections.file_format import text_key
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.device import keep_freed_memory
from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.files import fsync_path
from lcl_core.data import CaptionPair, Corpus
from lcl_core.data.image_decoding import decode_image, thumbnail
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.part_runners import Json
from lcl_core.parts import Section, SectionTasks

ITEMS, VECTORS = "items.sqlite", "vectors.npy"
_ITEM_FIELDS = ("image", "media_type", "captions", "labels", "split", "source")
# names as JSON: those of files may have bytes that are no text
_CREATE_SELECTION = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE images (row INTEGER PRIMARY KEY, image TEXT UNIQUE, captions TEXT, labels TEXT, split TEXT, source TEXT);
CREATE TABLE captions (key INTEGER PRIMARY KEY);
CREATE TABLE texts (row INTEGER PRIMARY KEY, text TEXT);
"""
_ADD_IMAGE = """
INSERT INTO images (image, captions, labels, split, source) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (image) DO UPDATE SET captions = joined_lists(captions, excluded.captions)
"""
T = TypeVar("T")


class Selection:
    """What is to be embedded, in a file: it may be more than fits into memory. A context manager: what was added to it
    inside is there for every process afterwards."""

    def __init__(self, path: Path) -> None:
        """A new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an earlier attempt
        self.path = path
        self._database = sqlite3.connect(path)
        self._database.executescript(_CREATE_SELECTION)
        self._database.create_function(
            "joined_lists", 2, lambda one, two: json.dumps(json.loads(one) + json.loads(two))
        )

    def __enter__(self) -> Selection:
        self._database.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._database.__exit__(*error)

    def add_image(self, pair: CaptionPair) -> None:
        """An image that was added before gets these captions in addition."""
        fields = (pair.image, list(pair.captions), pair.labels, pair.split, pair.source)
        self._database.execute(_ADD_IMAGE, tuple(map(json.dumps, fields)))
        keys = [(text_key(caption),) for caption in pair.captions if caption.strip()]
        self._database.executemany("INSERT OR IGNORE INTO captions VALUES (?)", keys)

    def add_texts(self, texts: Iterable[str]) -> None:
        self._database.executemany("INSERT INTO texts (text) VALUES (?)", ((text,) for text in texts))

    def count(self, table: str) -> int:
        (count,) = self._database.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        return int(count)


@dataclass(frozen=True)
class SelectedRows:
    """The ``images``, or the ``texts``, of a selection as a source of parts."""

    path: Path
    table: str

    def sections(self) -> list[Section]:
        return [Section("")]

    def read_section(self, key: str, start: int = 0) -> Iterator[Any]:
        with closing(sqlite3.connect(self.path)) as database:
            query = f"SELECT * FROM {self.table} WHERE row > ? ORDER BY row"  # noqa: S608 - rows count from 1
            for _, *fields in database.execute(query, (start,)):
                if self.table == "texts":
                    yield fields[0]
                else:
                    image, captions, labels, split, source = map(json.loads, fields)
                    yield CaptionPair(image, tuple(captions), labels, split, source)

    def count_section(self, key: str) -> int:
        with closing(sqlite3.connect(self.path)) as database:
            (count,) = database.execute(f"SELECT count(*) FROM {self.table}").fetchone()  # noqa: S608
        return int(count)


class EmbeddingTasks(SectionTasks[Any]):
    """Handler of the tasks.

    Args:
        source: what is to be embedded.
        folder: of the parts.
        batch_size: images, or texts, that are encoded at once.
        engine: opens the encoder.
        corpus: opens what the images are read from.
        readers: threads that read and decode.
        threads: of the encoder on a processor; None: as many as it has. The last bits of a vector depend on it.
    """

    def __init__(
        self,
        source: SelectedRows,
        folder: Path,
        batch_size: int,
        engine: Callable[[], EncoderEngine],
        corpus: Callable[[], Corpus],
        readers: int,
        threads: int | None = None,
    ) -> None:
        super().__init__(source)
        keep_freed_memory()
        if threads is not None:
            torch.set_num_threads(threads)
        self._engine, self._open_corpus, self._images = engine(), corpus, source.table == "images"
        self._corpus: Corpus | None = None
        self._folder, self._batch_size, self._readers = folder, batch_size, readers

    def work(self, name: str, items: Iterator[Any], report: Callable[[], None]) -> Json:
        folder = self._folder / f"{name}.{secrets.token_hex(6)}"
        folder.mkdir(parents=True)
        embed = self._embed_images if self._images else self._embed_texts
        with closing(sqlite3.connect(folder / ITEMS)) as database, database:
            database.execute("CREATE TABLE items (fields, data)")
            database.execute("CREATE TABLE rejected (error)")
            vectors = list(embed(items, database, report))
        rows = np.concatenate(vectors).astype("<f4") if vectors else np.empty((0, self._engine.dim), "<f4")
        np.save(folder / VECTORS, rows, allow_pickle=False)
        fsync_path(folder / VECTORS)
        return {"folder": folder.name}

    def _embed_texts(
        self, texts: Iterator[str], _: sqlite3.Connection, report: Callable[[], None]
    ) -> Iterator[np.ndarray]:
        while batch := list(islice(texts, self._batch_size)):
            yield self._engine.embed_texts(batch)
            report()

    def _embed_images(
        self, pairs: Iterator[CaptionPair], database: sqlite3.Connection, report: Callable[[], None]
    ) -> Iterator[np.ndarray]:
        self._corpus = self._corpus or self._open_corpus()
        for batch in _prefetch(self._corpus, pairs, self._engine, self._batch_size, self._readers):
            pixels: list[Tensor] = []
            for pair, future in batch:
                try:
                    prepared = future.result()
                except StoreError:
                    raise
                except UserError as error:
                    database.execute(
                        "INSERT INTO rejected VALUES (?)", (json.dumps({"image": pair.image, **error.to_dict()}),)
                    )
                else:
                    fields = {name: getattr(prepared.item, name) for name in _ITEM_FIELDS}
                    database.execute("INSERT INTO items VALUES (?, ?)", (json.dumps(fields), prepared.item.data))
                    pixels.append(prepared.pixels)
            if pixels:
                yield self._engine.embed_pixels(torch.stack(pixels))
            report()


def read_vectors(part: Path) -> np.ndarray:
    """f32 [n, dim]."""
    vectors: np.ndarray = np.load(part / VECTORS, allow_pickle=False)
    return vectors


def read_images(part: Path, rows: int) -> Iterator[tuple[list[CollectionItem], np.ndarray]]:
    """The images of a part and their vectors f32 [n, dim], at most ``rows`` at a time."""
    vectors, start = read_vectors(part), 0
    with closing(sqlite3.connect(part / ITEMS)) as database:
        found = database.execute("SELECT fields, data FROM items ORDER BY rowid")
        while chunk := found.fetchmany(rows):
            yield [_read_item(*each) for each in chunk], vectors[start : start + len(chunk)]
            start += len(chunk)


def read_rejected(part: Path) -> list[Json]:
    """Images that could not be read: name and error each."""
    with closing(sqlite3.connect(part / ITEMS)) as database:
        return [json.loads(error) for (error,) in database.execute("SELECT error FROM rejected ORDER BY rowid")]


def _read_item(fields: str, data: bytes) -> CollectionItem:
    item: dict[str, Any] = json.loads(fields)
    return CollectionItem(**item | {"captions": tuple(item["captions"])}, data=data)


@dataclass(frozen=True, slots=True)
class _PreparedItem:
    item: CollectionItem
    pixels: Tensor  # f32 [3, S, S]


def _prefetch(
    corpus: Corpus, pairs: Iterator[CaptionPair], engine: EncoderEngine, batch_size: int, threads: int
) -> Iterator[Sequence[tuple[CaptionPair, Future[_PreparedItem]]]]:
    """Batches of images read in threads; the next batch is read while this one is embedded."""
    readers = ThreadPoolExecutor(threads, "lcl-reader")
    try:
        ahead: deque[list[tuple[CaptionPair, Future[_PreparedItem]]]] = deque()
        while chunk := list(islice(pairs, batch_size)):
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
    captions = tuple(dict.fromkeys(pair.captions))
    item = CollectionItem(pair.image, data, media_type, captions, pair.labels, pair.split, pair.source)
    return _PreparedItem(item, pixels)
