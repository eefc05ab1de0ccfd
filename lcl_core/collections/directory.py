"""The open files of a collection, and the rows of one state of it. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from lcl_core.collections import file_format
from lcl_core.collections.file_format import CollectionManifest, ReadOnlyDatabase, Target
from lcl_core.collections.full_text import FullTextIndex
from lcl_core.collections.labels import LabelColumn, LabelIndex
from lcl_core.collections.vector_index import BLOCK_ROWS, ExternalIndex, HnswIndex
from lcl_core.specs.corpus_jobs import LabelType
from lcl_core.vector_indexes import SearchFn


class Directory:
    """The open files of a collection, which all its states share.

    Attributes:
        vectors: of images and of texts, [n, E].
        indexes: what is searched in place of all vectors.
        places: f32 [p, 2] of the rows ``spread_rows(images, p)``; None: the index run could not compute them.
    """

    def __init__(self, path: Path, manifest: CollectionManifest, ask: SearchFn | None) -> None:
        self.path, self.manifest = path, manifest
        self.items = ReadOnlyDatabase(path / file_format.ITEMS)
        self.captions = FullTextIndex(path / file_format.CAPTIONS, manifest.texts)
        self.counts: dict[Target, int] = {"images": manifest.images, "texts": manifest.texts}
        self.vectors = {target: file_format.map_vectors(path, manifest, target) for target in file_format.TARGETS}
        self.graphs = {
            target: HnswIndex.open(path / name, self.vectors[target])
            for target, name in file_format.GRAPHS.items()
            if name in manifest.files
        }
        self.indexes: dict[Target, HnswIndex | ExternalIndex] = {**self.graphs}
        if ask is not None:
            self.indexes = {target: ExternalIndex(ask, target, self.vectors[target]) for target in self.vectors}
        for target, vectors in self.vectors.items():
            if target not in self.indexes and len(vectors) <= BLOCK_ROWS:  # every query reads them all: widened once
                self.vectors[target] = vectors.astype(np.float32)
        place_file = path / file_format.PLACES
        self.places = np.fromfile(place_file, "<f4").reshape(-1, 2) if place_file.name in manifest.files else None
        stored = self.items.rows("SELECT label, kind, stated, texts, codes FROM labels ORDER BY rowid")
        columns = {
            label: LabelColumn(json.loads(texts), np.frombuffer(codes, "<i4"), kind)
            for label, kind, _, texts, codes in stored
        }
        self.labels = LabelIndex(columns, manifest.images)
        self.stated_types: dict[str, LabelType] = {label: kind for label, kind, stated, *_ in stored if stated}

    @cached_property
    def carriers(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [a] each: rows of texts, ascending, and of the images that carry them. Read by the first who asks."""
        texts, images = self.items.numbers("SELECT text, image FROM carriers", 2)
        return texts, images

    def rows_of(self, target: Target, keys: Sequence[int | None]) -> np.ndarray:
        """int64: the row of each key, -1 where there is none."""
        query = f"SELECT key, row FROM {target} WHERE key IN (SELECT value FROM json_each(?))"  # noqa: S608
        rows = dict(self.items.rows(query, json.dumps(keys)))
        return np.array([rows.get(key, -1) for key in keys], dtype=np.int64)

    def row(self, target: Target, item: str) -> int:
        """The row of an id; -1: there is none."""
        if not item.startswith(file_format.PREFIXES[target]):
            return -1
        found = self.items.rows(f"SELECT row FROM {target} WHERE key = ?", file_format.key_of(item))  # noqa: S608
        return found[0][0] if found else -1

    def ids(self, target: Target, rows: np.ndarray) -> list[str]:
        query = f"SELECT {target}.key FROM json_each(?) JOIN {target} ON row = value"  # noqa: S608
        keys = self.items.rows(f"{query} ORDER BY json_each.key", json.dumps(rows.tolist()))
        return [file_format.id_of(target, key) for (key,) in keys]


class Rows:
    """The images, or the texts, of one state: those of the directory that are not hidden, then the added ones.

    Attributes:
        count: rows of the directory.
        hidden: those that are hidden, ascending.
        added: ids of the added ones.
        added_vectors: f32 [m, E], row-aligned with them; [0, E] where captions have none.
    """

    def __init__(
        self, vectors: np.ndarray, count: int, hidden: np.ndarray, added: Sequence[str], added_vectors: bytes
    ) -> None:
        self.vectors, self.count, self.hidden, self.added = vectors, count, hidden, added
        self.added_vectors = np.frombuffer(added_vectors, "<f4").reshape(-1, vectors.shape[1])
        self.places = {item: place for place, item in enumerate(added)}

    def __len__(self) -> int:
        return self.kept + len(self.added)

    @property
    def kept(self) -> int:
        """Rows of the directory that are not hidden."""
        return self.count - len(self.hidden)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.vectors.shape[1]

    def __getitem__(self, positions: slice | np.ndarray, /) -> np.ndarray:
        """Vectors [m, E] at positions, 0 to ``len`` - 1, read where they are: a copy of all may take gigabytes."""
        if not len(self.hidden) and not self.added:
            return self.vectors[positions]
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(len(self)))
        numbers = self.numbers(positions)
        is_added = numbers >= self.count
        vectors = np.empty((len(numbers), self.shape[1]), self.vectors.dtype)
        vectors[~is_added] = self.vectors[numbers[~is_added]]
        vectors[is_added] = self.added_vectors[numbers[is_added] - self.count]
        return vectors

    def numbers(self, positions: np.ndarray) -> np.ndarray:
        """Of what is at these positions."""
        before = self.hidden - np.arange(len(self.hidden))  # of each hidden row, the rows before it that are not
        return positions + np.searchsorted(before, positions, side="right")

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Of rows of the directory that are not hidden."""
        return rows - np.searchsorted(self.hidden, rows)

    def shows(self, row: int) -> bool:
        """Whether there is such a row of the directory, and it is not hidden."""
        at = int(np.searchsorted(self.hidden, row))
        return 0 <= row < self.count and (at == len(self.hidden) or int(self.hidden[at]) != row)

    def vector(self, number: int) -> np.ndarray:
        """f32 [E]."""
        found = self.vectors[number] if number < self.count else self.added_vectors[number - self.count]
        return np.asarray(found, dtype=np.float32)

    @cached_property
    def visible(self) -> np.ndarray | None:
        """Ascending rows of the directory that are not hidden; None: all."""
        return np.delete(np.arange(self.count), self.hidden) if len(self.hidden) else None

    @cached_property
    def mask(self) -> np.ndarray:
        """bool: of each number, whether it is not hidden."""
        mask = np.ones(self.count + len(self.added), dtype=bool)
        mask[self.hidden] = False
        return mask
