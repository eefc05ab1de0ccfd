"""A collection on disk: images, captions and their vectors. Imports no torch.

Search is exact, except in a large collection with a graph and with an external index (``vector_index``), which may
miss a neighbour. Everything large is memory-mapped and nothing is written: threads and processes share one copy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.collections import file_format, near_duplicates
from lcl_core.collections.file_format import BlobFile, CollectionManifest, Target, verify_checksums
from lcl_core.collections.query import LabelIndex, Where, check_labels, unit_vector
from lcl_core.collections.vector_index import ExternalIndex, HnswIndex, nearest
from lcl_core.common.errors import UserError
from lcl_core.vector_indexes import SearchFn

MAX_HITS = 10_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result. ``score``: cosine similarity, -1 to 1; ``metadata``: the record of the item or text."""

    id: str
    score: float
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Side:
    """The images, or the texts: records, ids and vectors, row-aligned."""

    records: BlobFile
    keys: np.ndarray  # uint64 [n]
    by_key: np.ndarray  # int64 [n]: rows in ascending order of their keys
    vectors: np.ndarray  # f32 or f16 [n, E]
    prefix: str

    def id(self, row: int) -> str:
        return f"{self.prefix}{int(self.keys[row]):016x}"

    def row(self, item_id: str) -> int:
        """The row of an id. Raises: UserError ``item_not_found``."""
        key = self.key(item_id)
        row = -1 if key is None else int(self.rows(np.array([key], dtype=np.uint64))[0])
        if row < 0:
            raise not_found(item_id)
        return row

    def key(self, item_id: str) -> int | None:
        """The number inside an id, if it is of this side's form."""
        digits = item_id.removeprefix(self.prefix)
        valid = item_id.startswith(self.prefix) and len(digits) == 16 and set(digits) <= set("0123456789abcdef")
        return int(digits, 16) if valid else None

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """int64 [m]: the row of each of ``keys`` uint64 [m], -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.searchsorted(self.keys, keys, sorter=self.by_key)
        rows = self.by_key[np.minimum(at, len(self.keys) - 1)]
        return np.where(self.keys[rows] == keys, rows, -1)


def not_found(item_id: str) -> UserError:
    return UserError(f"the collection holds no item {item_id!r}", code="item_not_found", field="id")


class Collection:
    """Open with ``Collection.open(directory)``; every method may be called from any thread."""

    def __init__(self, directory: Path, manifest: CollectionManifest, ask: SearchFn | None = None) -> None:
        self.directory = directory
        self.manifest = manifest
        self._sides = {target: self._side(*names) for target, names in file_format.SIDES.items()}
        self._graphs = {
            target: HnswIndex.open(directory / name, self._sides[target].vectors)
            for target, name in file_format.GRAPHS.items()
            if name in manifest.files
        }
        self._searched: dict[Target, HnswIndex | ExternalIndex] = {**self._graphs}
        if ask is not None:
            self._searched = {name: ExternalIndex(ask, name, self._sides[name].vectors) for name in file_format.TARGETS}
        self._image_blobs = BlobFile(directory / file_format.IMAGES, self._array(file_format.IMAGE_OFFSETS))
        self._starts = self._array(file_format.TEXT_ITEM_STARTS)
        self._carriers = self._array(file_format.TEXT_ITEM_ROWS)
        names = json.loads((directory / file_format.LABELS).read_text(encoding="utf-8"))
        self._labels = LabelIndex(names, self._array(file_format.LABEL_CODES))

    @classmethod
    def open(cls, directory: str | Path, *, verify: bool = False, ask: SearchFn | None = None) -> Collection:
        """Open for reading; sizes are checked always, every byte's checksum only with ``verify``.

        Args:
            ask: searches an external index; none: the files are searched.

        Raises:
            UserError: ``collection_unreadable`` or ``collection_changed``, naming the file.
        """
        path = Path(directory)
        manifest = file_format.read_manifest(path)
        if verify:
            verify_checksums(path, manifest)
        try:
            return cls(path, manifest, ask)
        except (ValueError, LookupError) as error:  # damaged JSON, or a damaged array
            verify_checksums(path, manifest)  # names the file
            message = f"the collection cannot be read ({error}); make it again with an index run"
            raise UserError(message, code="collection_unreadable", file=path) from error

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def encoder_hash(self) -> str:
        return self.manifest.encoder_hash

    @property
    def dim(self) -> int:
        return self.manifest.dim

    def __len__(self) -> int:
        """Number of images."""
        return self.manifest.images

    def search(
        self,
        vector: Sequence[float] | np.ndarray,
        k: int = 20,
        target: Target = "images",
        where: Where | None = None,
        *,
        encoder_hash: str | None = None,
    ) -> list[Hit]:
        """The ``k`` items nearest to ``vector`` by cosine, best first, among those that ``where`` allows.

        Args:
            vector: [E], of any length.
            where: {label: value or values}; ``split`` and ``source`` count as labels. Applied before the
                top-k. Of the texts, those that a matching image carries.
            encoder_hash: of the encoder that made ``vector``; another than the collection's is refused.

        Raises:
            UserError: ``encoder_mismatch``, ``bad_vector``, ``bad_k``, ``unknown_target``, ``unknown_label``.
        """
        self._target(target)
        if not 1 <= k <= MAX_HITS:
            raise UserError(f"k must be 1 to {MAX_HITS} (got {k})", code="bad_k", field="k")
        return self._best(target, self._query(vector, encoder_hash), k, where)

    def duplicates(self, threshold: float, seconds: float = float("inf")) -> list[list[str]]:
        """Ids of every group of images linked by cosines from ``threshold`` on, the largest group first.

        Compares every pair, or with a graph each image with its nearest. Raises: as ``near_duplicate_groups``.
        """
        ids, vectors = self.vectors("images")
        graph = self._graphs.get("images")
        linked = graph is not None and vectors is self._sides["images"].vectors  # the rows that the graph links
        found = near_duplicates.near_duplicate_groups(
            vectors, threshold, graph.neighbours if graph and linked else None, seconds
        )
        return [[ids[row] for row in group.tolist()] for group in found]

    def group(self, ids: Sequence[str]) -> list[Hit]:
        """These images; ``score``: cosine to the first of them. Raises: ``item_not_found``."""
        vectors = [unit_vector(self.vector(each), self.dim) for each in ids]
        return [
            Hit(each, float(vector @ vectors[0]), self.item(each)) for each, vector in zip(ids, vectors, strict=True)
        ]

    def check_encoder(self, encoder_hash: str) -> None:
        """Raises: UserError ``encoder_mismatch`` if vectors of this encoder do not belong here."""
        if encoder_hash != self.encoder_hash:
            raise UserError(
                f"collection {self.name!r} was made with encoder {self.encoder_hash[:12]}, the query is of encoder "
                f"{encoder_hash[:12]}; use that encoder, or index again with this one",
                code="encoder_mismatch",
                field="encoder",
            )

    def item(self, item_id: str) -> dict[str, Any]:
        """Record of an image: id, image, captions, labels, split, source, media_type. Raises: ``item_not_found``."""
        return self._record("images", self._row("images", item_id))

    def items(self, offset: int = 0, limit: int = 50) -> list[dict[str, Any]]:
        """The records of one page, in the order they were added."""
        return [self.record("images", position) for position in range(len(self))[offset : offset + limit]]

    def image_bytes(self, item_id: str) -> bytes:
        """The stored image, in the format ``item(id)["media_type"]``. Raises: ``item_not_found``."""
        return self._image_blobs.piece(self._row("images", item_id))

    def is_added(self, item_id: str) -> bool:
        """Whether the image is of a delta (``delta.py``): its bytes are not in the directory."""
        return False

    def vector(self, item_id: str) -> np.ndarray:
        """f32 [E] of an image or a text. Raises: ``item_not_found``."""
        target: Target = "texts" if item_id.startswith(file_format.TEXT_PREFIX) else "images"
        return np.asarray(self._sides[target].vectors[self._row(target, item_id)], dtype=np.float32)

    def vectors(self, target: Target = "images") -> tuple[list[str], np.ndarray]:
        """All ids and their memory-mapped vectors [n, E], row-aligned. Raises: ``unknown_target``."""
        side = self._target(target)
        return [side.id(row) for row in range(len(side.keys))], side.vectors

    def count(self, target: Target = "images") -> int:
        """Number of images, or of texts. Raises: ``unknown_target``."""
        return len(self._target(target).keys)

    def at(self, target: Target, positions: Sequence[int]) -> tuple[list[str], np.ndarray]:
        """Ids and vectors [m, E] at these positions, 0 to ``count(target)`` - 1, in the order of addition."""
        side = self._target(target)
        return [side.id(position) for position in positions], side.vectors[np.asarray(positions, dtype=np.int64)]

    def record(self, target: Target, position: int) -> dict[str, Any]:
        """The record at a position, as a hit's ``metadata``."""
        return self._record(target, position)

    def in_base(self, item_id: str) -> bool:
        """Whether the directory holds this image, also if a delta removed it."""
        side = self._sides["images"]
        key = side.key(item_id)
        return key is not None and int(side.rows(np.array([key], dtype=np.uint64))[0]) >= 0

    def label_values(self) -> dict[str, list[str]]:
        """{label: its values}: valid filters of ``search``."""
        return self._labels.values

    def _best(self, target: Target, query: np.ndarray, k: int, where: Where | None) -> list[Hit]:
        """The hits of a validated search; ``query`` f32 [E] of length 1."""
        side = self._sides[target]
        found, scores = self._nearest(target, query, k, self._rows(target, where))
        return [
            Hit(side.id(row), float(score), self._record(target, row))
            for row, score in zip(found.tolist(), scores, strict=True)
        ]

    def _nearest(
        self, target: Target, query: np.ndarray, k: int, rows: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the directory and their scores, best first. ``rows``: those to choose from, ascending; none: all."""
        searched = self._searched.get(target)
        return searched.nearest(query, k, rows) if searched else nearest(self._sides[target].vectors, query, k, rows)

    def _row(self, target: Target, item_id: str) -> int:
        """Raises: ``item_not_found``."""
        return self._sides[target].row(item_id)

    def _rows(self, target: Target, where: Where | None) -> np.ndarray | None:
        if not where:
            return None
        check_labels(where, self._labels.values)
        fits = self._labels.mask(where)
        return np.flatnonzero(self._carried(fits) if target == "texts" else fits)

    def _carried(self, images: np.ndarray) -> np.ndarray:
        """bool [texts]: those that one of these images carries; ``images`` bool [n]."""
        # every text has a carrier, so no group is empty
        return np.logical_or.reduceat(images[self._carriers], self._starts[:-1])

    def _query(self, vector: Sequence[float] | np.ndarray, encoder_hash: str | None) -> np.ndarray:
        if encoder_hash is not None:
            self.check_encoder(encoder_hash)
        return unit_vector(vector, self.dim)

    def _record(self, target: str, row: int) -> dict[str, Any]:
        side = self._sides[target]
        record = side.records.record(row)
        if target == "texts":
            images = self._sides["images"]
            carriers = self._carriers[self._starts[row] : self._starts[row + 1]].tolist()
            record["items"] = [images.id(carrier) for carrier in carriers]
        return record

    def _target(self, target: str) -> _Side:
        if target not in self._sides:
            message = f"target {target!r} is not known; choose images or texts"
            raise UserError(message, code="unknown_target", field="target")
        return self._sides[target]

    def _side(self, lines: str, offsets: str, keys: str, vectors: str, prefix: str) -> _Side:
        numbers = self._array(keys)
        return _Side(
            records=BlobFile(self.directory / lines, self._array(offsets)),
            keys=numbers,
            by_key=np.argsort(numbers, kind="stable"),
            vectors=self._vectors(vectors, len(numbers)),
            prefix=prefix,
        )

    def _vectors(self, name: str, rows: int) -> np.ndarray:
        dtype = file_format.NUMPY_DTYPES[self.manifest.dtype]
        if rows == 0:  # an empty file cannot be mapped
            return np.empty((0, self.dim), dtype)
        return np.memmap(self.directory / name, dtype, mode="r", shape=(rows, self.dim))

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.directory / name, allow_pickle=False)
