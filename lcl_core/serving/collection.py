"""A collection on disk: pictures, captions and their vectors. Knows no torch.

Searched exactly; where it is so large that it was given a graph, a neighbour may be missed (``graph.py``).

Everything large is memory-mapped and nothing is written, so that threads and processes share one copy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.errors import UserError
from lcl_core.serving import duplicates, layout
from lcl_core.serving.filters import Labels, Where
from lcl_core.serving.graph import Graph
from lcl_core.serving.layout import Manifest, Target
from lcl_core.serving.mixture import unit
from lcl_core.serving.nearest import nearest
from lcl_core.serving.pieces import Pieces

MAX_HITS = 10_000


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer. ``score`` is the cosine similarity, -1 to 1; ``metadata`` the item's or text's record."""

    id: str
    score: float
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Side:
    """The images, or the texts: records, ids and vectors, row-aligned."""

    records: Pieces
    keys: np.ndarray  # uint64 [n]
    by_key: np.ndarray  # int64 [n]: rows in ascending order of their keys
    vectors: np.ndarray  # f32 or f16 [n, E]
    prefix: str

    def id(self, row: int) -> str:
        return f"{self.prefix}{int(self.keys[row]):016x}"

    def row(self, given: str) -> int:
        """The row of an id. Raises: UserError ``item_not_found``."""
        digits = given.removeprefix(self.prefix)
        if given.startswith(self.prefix) and len(digits) == 16 and set(digits) <= set("0123456789abcdef"):
            key = np.uint64(int(digits, 16))
            at = int(np.searchsorted(self.keys, key, sorter=self.by_key))
            if at < len(self.keys) and self.keys[self.by_key[at]] == key:
                return int(self.by_key[at])
        raise UserError(f"the collection holds no item {given!r}", code="item_not_found", field="id")


class Collection:
    """Open with ``Collection.open(directory)``; every method may be called from any thread."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._sides = {target: self._side(*names) for target, names in layout.SIDES.items()}
        self._graphs = {
            target: Graph.open(directory / name, self._sides[target].vectors)
            for target, name in layout.GRAPHS.items()
            if name in manifest.files
        }
        self._pictures = Pieces(directory / layout.IMAGES, self._array(layout.IMAGE_OFFSETS))
        self._starts = self._array(layout.TEXT_ITEM_STARTS)
        self._carriers = self._array(layout.TEXT_ITEM_ROWS)
        names = json.loads((directory / layout.LABELS).read_text(encoding="utf-8"))
        self._labels = Labels(names, self._array(layout.LABEL_CODES))

    @classmethod
    def open(cls, directory: str | Path, *, verify: bool = False) -> Collection:
        """Open for reading; sizes are checked always, every byte's checksum only with ``verify``.

        Raises:
            UserError: ``collection_unreadable``, naming the file.
        """
        path = Path(directory)
        manifest = layout.read_manifest(path)
        if verify:
            layout.verify_checksums(path, manifest)
        return cls(path, manifest)

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
        """How many pictures it holds."""
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
            vector: [E]; its length does not matter, its direction does.
            where: {label: value or values}; ``split`` and ``source`` count as labels. Applied before the
                top-k. Of the texts, those that a fitting picture carries.
            encoder_hash: the encoder that made ``vector``; another than the collection's is refused.

        Raises:
            UserError: ``encoder_mismatch``, ``bad_vector``, ``bad_k``, ``unknown_target``, ``unknown_label``.
        """
        side = self._target(target)
        if not 1 <= k <= MAX_HITS:
            raise UserError(f"k must be 1 to {MAX_HITS} (got {k})", code="bad_k", field="k")
        query = self._query(vector, encoder_hash)
        rows = self._rows(target, where)
        graph = self._graphs.get(target)
        found, scores = graph.nearest(query, k, rows) if graph else nearest(side.vectors, query, k, rows)
        return [
            Hit(side.id(row), float(score), self._record(target, row))
            for row, score in zip(found.tolist(), scores, strict=True)
        ]

    def duplicates(self, threshold: float, seconds: float = float("inf")) -> list[list[str]]:
        """Ids of every group of pictures that cosines from ``threshold`` on link, the largest group first.

        Every pair is looked at, or where there is a graph each picture's nearest. Raises: as ``duplicates.groups``.
        """
        ids, vectors = self.vectors("images")
        graph = self._graphs.get("images")
        linked = graph is not None and vectors is self._sides["images"].vectors  # the very rows that it links
        found = duplicates.groups(vectors, threshold, graph.neighbours if graph and linked else None, seconds)
        return [[ids[place] for place in group.tolist()] for group in found]

    def group(self, ids: Sequence[str]) -> list[Hit]:
        """These pictures; ``score`` is the cosine to the first of them. Raises: ``item_not_found``."""
        vectors = [unit(self.vector(each), self.dim) for each in ids]
        return [
            Hit(each, float(vector @ vectors[0]), self.item(each)) for each, vector in zip(ids, vectors, strict=True)
        ]

    def check_encoder(self, encoder_hash: str) -> None:
        """Raises: UserError ``encoder_mismatch`` if vectors of this encoder do not belong here."""
        if encoder_hash != self.encoder_hash:
            raise UserError(
                f"collection {self.name!r} was made with encoder {self.encoder_hash[:12]}, the vector with "
                f"{encoder_hash[:12]}; embed with that encoder, or index again with this one",
                code="encoder_mismatch",
                field="encoder",
            )

    def item(self, item_id: str) -> dict[str, Any]:
        """A picture: id, image, captions, labels, split, source, media_type. Raises: ``item_not_found``."""
        return self._record("images", self._sides["images"].row(item_id))

    def items(self, offset: int = 0, limit: int = 50) -> list[dict[str, Any]]:
        """The records of one page, in the order they were added."""
        return [self._record("images", row) for row in range(len(self))[offset : offset + limit]]

    def image_bytes(self, item_id: str) -> bytes:
        """The picture as kept, in the format ``item(id)["media_type"]``. Raises: ``item_not_found``."""
        return self._pictures.piece(self._sides["images"].row(item_id))

    def vector(self, item_id: str) -> np.ndarray:
        """f32 [E] of a picture or a text, to search for its neighbours. Raises: ``item_not_found``."""
        side = self._sides["texts" if item_id.startswith(layout.TEXT_PREFIX) else "images"]
        return np.asarray(side.vectors[side.row(item_id)], dtype=np.float32)

    def vectors(self, target: Target = "images") -> tuple[list[str], np.ndarray]:
        """All ids and their memory-mapped vectors [n, E], row-aligned. Raises: ``unknown_target``."""
        side = self._target(target)
        return [side.id(row) for row in range(len(side.keys))], side.vectors

    def label_values(self) -> dict[str, list[str]]:
        """{label: its values}: what ``where`` can ask for."""
        return self._labels.values

    def _rows(self, target: Target, where: Where | None) -> np.ndarray | None:
        if not where:
            return None
        fits = self._labels.fits(where)
        if target == "texts":  # every text has a carrier, so no group is empty
            fits = np.logical_or.reduceat(fits[self._carriers], self._starts[:-1])
        return np.flatnonzero(fits)

    def _query(self, vector: Sequence[float] | np.ndarray, encoder_hash: str | None) -> np.ndarray:
        if encoder_hash is not None:
            self.check_encoder(encoder_hash)
        return unit(vector, self.dim)

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
            records=Pieces(self.directory / lines, self._array(offsets)),
            keys=numbers,
            by_key=np.argsort(numbers, kind="stable"),
            vectors=self._vectors(vectors, len(numbers)),
            prefix=prefix,
        )

    def _vectors(self, name: str, rows: int) -> np.ndarray:
        dtype = layout.NUMPY_DTYPES[self.manifest.dtype]
        if rows == 0:  # an empty file cannot be mapped
            return np.empty((0, self.dim), dtype)
        return np.memmap(self.directory / name, dtype, mode="r", shape=(rows, self.dim))

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.directory / name, allow_pickle=False)
