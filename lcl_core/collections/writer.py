"""Write a collection: into a hidden directory beside its own, renamed when whole. Imports no torch.

Memory does not grow with the images, but for four bytes of each label and the labels' distinct values.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lcl_core.collections import file_format, full_text, vector_index
from lcl_core.collections.changes import caption_texts
from lcl_core.collections.file_format import CollectionManifest, Dtype, FileEntry, Target
from lcl_core.collections.labels import LabelIndexBuilder, choose_types
from lcl_core.collections.projection import project_neighbours, spread_rows
from lcl_core.collections.vector_index import write_hnsw_index
from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, sha256_file, write_json_atomically
from lcl_core.common.paths import storable_text
from lcl_core.specs.corpus_jobs import LabelType


@dataclass(frozen=True, slots=True)
class CollectionItem:
    """An image to add: ``image``: its name, unique in the collection; ``data``: the bytes to store."""

    image: str
    data: bytes
    media_type: str
    captions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    source: str = ""

    def storable(self) -> CollectionItem:
        """The image with texts that every file, database and response can have (``storable_text``)."""
        return replace(
            self,
            image=storable_text(self.image),
            captions=tuple(map(storable_text, self.captions)),
            labels={storable_text(label): storable_text(value) for label, value in self.labels.items()},
            split=storable_text(self.split),
            source=storable_text(self.source),
        )


class CollectionWriter:
    """A context manager; an exception inside it leaves an older collection untouched and nothing new.

    Add images, then one vector a caption of ``texts``, in that order. Vectors are scaled to length 1.

    Args:
        text_vectors: False: captions get no vectors, because the encoder reads images alone.
        label_types: stated types of labels; others are inferred (``labels``). A value that does not fit is a UserError
            ``invalid_value`` at the end.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        name: str,
        encoder_hash: str,
        dataset_hash: str,
        dim: int,
        dtype: Dtype = "f32",
        label_types: Mapping[str, LabelType] | None = None,
        text_vectors: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self._header: dict[str, Any] = {"name": name, "dim": dim, "dtype": dtype, "text_vectors": text_vectors}
        self._header |= {"encoder_hash": encoder_hash, "dataset_hash": dataset_hash}
        self._building = self.directory.with_name(f".{self.directory.name}.building")
        self._labels = LabelIndexBuilder()
        self._stated_types = dict(label_types or {})
        self.image_count = self.text_count = 0  # of texts: distinct captions that are not blank
        self._vector_counts: dict[Target, int] = {"images": 0, "texts": 0}

    def texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The distinct, non-blank captions so far, in the order of addition."""
        query = "SELECT text FROM texts WHERE row >= ? AND row < ? ORDER BY row"
        return [text for (text,) in self._database.execute(query, (start, self.text_count if stop is None else stop))]

    def __enter__(self) -> CollectionWriter:
        shutil.rmtree(self._building, ignore_errors=True)  # of a killed writer
        self._building.mkdir(parents=True)
        self._database = sqlite3.connect(self._building / file_format.ITEMS, isolation_level=None)
        self._database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;{file_format.SCHEMA}BEGIN;")
        self._vectors = {target: (self._building / name).open("wb") for target, name in file_format.VECTORS.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                _replace_directory(self._building, self.directory)
        finally:
            self._close()
            shutil.rmtree(self._building, ignore_errors=True)

    def add_items(self, items: Sequence[CollectionItem], vectors: np.ndarray, *, unit: bool = False) -> None:
        """Add images with their vectors [len(items), E].

        Args:
            unit: the vectors have length 1 and are stored to the bit, as those copied from another collection.

        Raises:
            UserError: ``invalid_value``; ``conflict`` for a name that was added before.
        """
        rows = self._checked(vectors, len(items), unit)
        for item in items:
            self._add(item.storable())
        self._append_vectors("images", rows)

    def add_text_vectors(self, vectors: np.ndarray, *, unit: bool = False) -> None:
        """Add the vectors [m, E] of the next m captions of ``texts``; ``unit``: as of ``add_items``.

        Raises: UserError ``invalid_value``.
        """
        self._append_vectors("texts", self._checked(vectors, len(vectors), unit))

    def link(self, progress: Callable[[int, int], None] = lambda rows, total: None) -> None:
        """Write an HNSW graph of images, and of texts, where they are too many for exact search; after all are added.

        Args:
            progress: receives the number of rows linked so far, and of all; its exceptions end the build.

        Raises: UserError ``missing_extra``.
        """
        large = {target: count for target, count in self._vector_counts.items() if count > vector_index.EXACT_ROWS}
        linked, total = 0, sum(large.values())

        def report(before: int, rows: int) -> None:
            progress(before + rows, total)

        for target, count in large.items():
            path = self._building / file_format.GRAPHS[target]
            write_hnsw_index(path, self._written_vectors(target), partial(report, linked))
            linked += count

    def arrange(self, progress: Callable[[int, int], None] = lambda steps, total: None) -> None:
        """Write the places of the images on a map by their neighbours, as ``link`` the graphs."""
        if self.image_count:
            vectors = self._written_vectors("images")
            points = project_neighbours(vectors[spread_rows(len(vectors), file_format.MAX_PLACES)], progress)
            (self._building / file_format.PLACES).write_bytes(points.astype("<f4").tobytes())

    def _written_vectors(self, target: Target) -> np.ndarray:
        self._vectors[target].flush()
        dtype, shape = (
            file_format.NUMPY_DTYPES[self._header["dtype"]],
            (self._vector_counts[target], self._header["dim"]),
        )
        return np.memmap(self._building / file_format.VECTORS[target], dtype, mode="r", shape=shape)

    def _add(self, item: CollectionItem) -> None:
        item_id = file_format.item_id(item.image)
        record = {
            "id": item_id,
            "image": item.image,
            "captions": list(item.captions),
            "labels": dict(item.labels),
            "split": item.split,
            "source": item.source,
            "media_type": item.media_type,
        }
        row, execute = self.image_count, self._database.execute
        values = (row, file_format.key_of(item_id), json.dumps(record, ensure_ascii=False))
        try:
            execute("INSERT INTO images VALUES (?, ?, ?)", values)
        except sqlite3.IntegrityError:
            raise UserError(f"image {item.image!r} was added before", code="conflict") from None
        execute("INSERT INTO files VALUES (?, ?)", (row, item.data))
        for caption in caption_texts(record):
            key = file_format.text_key(caption)
            new = execute("INSERT OR IGNORE INTO texts VALUES (?, ?, ?)", (self.text_count, key, caption))
            self.text_count += new.rowcount
            execute("INSERT OR IGNORE INTO carriers SELECT row, ? FROM texts WHERE key = ?", (row, key))
        self._labels.add({"split": item.split, "source": item.source, **item.labels})
        self.image_count += 1

    def _checked(self, vectors: np.ndarray, count: int, unit: bool) -> np.ndarray:
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.shape != (count, self._header["dim"]):
            message = f"vectors of shape {rows.shape} where ({count}, {self._header['dim']}) was expected"
            raise UserError(message)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise UserError("a vector is all zero or not finite; the encoder is damaged")
        return (rows if unit else rows / lengths).astype(file_format.NUMPY_DTYPES[self._header["dtype"]])

    def _append_vectors(self, target: Target, rows: np.ndarray) -> None:
        self._vectors[target].write(rows.tobytes())
        self._vector_counts[target] += len(rows)

    def _finish(self) -> None:
        expected = self.text_count if self._header["text_vectors"] else 0
        if self._vector_counts["texts"] != expected:
            found = f"{self._vector_counts['texts']} text vectors for {self.text_count} captions"
            raise UserError(f"{found}, not {expected}")
        self._write_labels()
        texts = self._database.execute("SELECT key, text FROM texts ORDER BY key")
        full_text.write_index(self._building / file_format.CAPTIONS, texts)
        self._database.execute("COMMIT")
        self._close()
        manifest = CollectionManifest(
            format_version=file_format.FORMAT_VERSION,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            images=self.image_count,
            texts=self.text_count,
            files={path.name: _file_entry(path) for path in sorted(self._building.iterdir())},
            **self._header,
        )
        write_json_atomically(self._building / file_format.MANIFEST, manifest.model_dump(exclude_defaults=True))

    def _write_labels(self) -> None:
        """Raises: UserError ``invalid_value``."""
        columns = self._labels.columns()
        types = choose_types({label: column.texts for label, column in columns.items()}, self._stated_types)
        for label, column in columns.items():
            values = (types.get(label, "text"), label in self._stated_types, json.dumps(column.texts))
            codes = column.codes.astype("<i4").tobytes()
            self._database.execute("INSERT INTO labels VALUES (?, ?, ?, ?, ?)", (label, *values, codes))

    def _close(self) -> None:
        self._database.close()
        for file in self._vectors.values():
            file.close()


def _file_entry(path: Path) -> FileEntry:
    """Flush the file to disk and describe it."""
    fsync_path(path)
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_file(path))


def _replace_directory(beside: Path, directory: Path) -> None:
    """Replace the directory by the new one. Readers of the older one keep their mapped files."""
    older = directory.with_name(f".{directory.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    if directory.exists():
        directory.rename(older)
    beside.rename(directory)
    shutil.rmtree(older, ignore_errors=True)
