"""A collection on disk: images, captions and their vectors. Imports no torch.

Search is exact, except in a large collection with a graph and with an external index (``vector_index``), which may
miss a neighbour. Images, records, vectors and graphs are memory-mapped and nothing is written: threads and processes
share one copy. Each process reads the numbers of rows (keys, offsets, links of texts, codes of labels) into its memory.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.collections import file_format, near_duplicates
from lcl_core.collections.file_format import BlobFile, CollectionManifest, Target, verify_checksums
from lcl_core.collections.full_text import FullTextIndex, LazyFullTextIndex, fuse_ranks
from lcl_core.collections.labels import (
    LabelChange,
    LabelIndex,
    LabelTypes,
    Where,
    check_value,
    parse_where,
    stored_value,
)
from lcl_core.collections.query import unit_vector
from lcl_core.collections.records import caption_texts
from lcl_core.collections.vector_index import (
    ExternalIndex,
    HnswIndex,
    LabelSelection,
    chosen_first,
    map_single_rows,
    nearest,
    row_mask,
)
from lcl_core.common.errors import Conflict, NotFound, UserError
from lcl_core.specs.corpus_jobs import LabelType
from lcl_core.vector_indexes import SearchFn

MAX_HITS = 10_000
MAX_TEXT_ITEMS = 100  # images that the record of a text lists: in crawled pages many thousands have one alt text
FUSED_HITS = 1000  # of a hybrid search: the best by vector and the best by words that are fused
FEEDBACK_IMAGES = 10  # of ``mean_of_matching_images``
CarriersOf = Callable[[Sequence[int]], Iterator[np.ndarray]]  # keys of texts → numbers of images that carry each
log = logging.getLogger(__name__)


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
    return NotFound(f"the collection holds no item {item_id!r}", code="item_not_found", field="id")


class Collection:
    """Open with ``Collection.open(directory)``; every method may be called from any thread."""

    def __init__(self, directory: Path, manifest: CollectionManifest, ask: SearchFn | None = None) -> None:
        self.directory = directory
        self.manifest = manifest
        self._sides = {target: self._side(target) for target in file_format.TARGETS}
        self.damaged_graphs: dict[Target, str] = {}  # why each is not used; those of a delta's collection are the same
        self._graphs: dict[Target, HnswIndex] = {}
        self._searched: dict[Target, HnswIndex | ExternalIndex] = {}
        self._open_graphs()
        if ask is not None:
            self._searched = {name: self._external_index(ask, name) for name in self.vector_targets}
        self._image_blobs = BlobFile(directory / file_format.IMAGES, self._array(file_format.IMAGE_OFFSETS))
        self._starts = self._array(file_format.TEXT_ITEM_STARTS)
        self._carriers = self._array(file_format.TEXT_ITEM_ROWS)
        names = json.loads((directory / file_format.LABELS).read_text(encoding="utf-8"))
        self._captions = LazyFullTextIndex(self._text_items)
        self._label_types = LabelTypes()
        if file_format.LABEL_TYPES in manifest.files:
            self._label_types = LabelTypes.model_validate_json((directory / file_format.LABEL_TYPES).read_bytes())
        self._labels = LabelIndex(names, self._array(file_format.LABEL_CODES), self._label_types.types)

    @classmethod
    def open(cls, directory: str | Path, *, verify: bool = False, ask: SearchFn | None = None) -> Collection:
        """Open for reading; sizes are checked always, every byte's checksum only with ``verify``.

        A damaged graph is not used: ``damaged_graphs``.

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
            opened = cls(path, manifest, ask)
        except (ValueError, LookupError) as error:  # damaged JSON, or a damaged array
            verify_checksums(path, manifest)  # names the file
            message = f"the collection cannot be read ({error}); make it again with an index run"
            raise UserError(message, code="collection_unreadable", file=path) from error
        if verify:
            for target, name in file_format.graphs_of(manifest).items():
                if why := file_format.graph_damage(path, manifest, name):
                    opened.drop_graph(target, why)
        return opened

    def drop_graph(self, target: Target, why: str) -> None:
        """Compare all vectors from now on, because the graph's file is damaged. Warns once."""
        if target in self.damaged_graphs:
            return
        self.damaged_graphs[target] = why
        graph = self._graphs.pop(target, None)
        if graph is not None and self._searched.get(target) is graph:
            del self._searched[target]
        log.warning("graph of %s in %s cannot be used, all vectors are compared: %s", target, self.directory, why)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def encoder_hash(self) -> str:
        return self.manifest.encoder_hash

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def has_text_vectors(self) -> bool:
        """Whether the captions have vectors: the encoder reads texts."""
        return self.manifest.text_vectors

    @property
    def vector_targets(self) -> tuple[Target, ...]:
        """The targets that have vectors."""
        return file_format.TARGETS if self.has_text_vectors else ("images",)

    def check_vectors(self, target: Target) -> None:
        """Raises: UserError ``unknown_target``; ``no_text_encoder`` for captions that have no vectors."""
        self._target(target)
        if target not in self.vector_targets:
            message = (
                f"collection {self.name!r} was made with an encoder of images alone, so its captions have no vectors; "
                "choose images"
            )
            raise UserError(message, code="no_text_encoder", field="target")

    @property
    def label_index(self) -> LabelIndex:
        """Of the images of the directory, by row."""
        return self._labels

    def __len__(self) -> int:
        """Number of images."""
        return self.manifest.images

    def search(
        self,
        vector: Sequence[float] | np.ndarray | None,
        k: int = 20,
        target: Target = "images",
        where: Where | None = None,
        *,
        encoder_hash: str | None = None,
        words: str = "",
    ) -> list[Hit]:
        """The ``k`` items nearest to ``vector`` by cosine, best first, among those that ``where`` allows.

        With ``words`` a hybrid search of images: the ``FUSED_HITS`` nearest and as many with the best captions for
        these words (BM25), in the order of the sums of their reciprocal ranks (``full_text.fuse_ranks``).

        Args:
            vector: [E], of any length; None: nothing is similar to the query, so that nothing is found.
            where: {label: value or values}, or a range or members, as ``labels.LabelFilter``; ``split`` and
                ``source`` count as labels. Applied before the top-k. Of the texts, those that a matching image carries.
            encoder_hash: of the encoder that made ``vector``; another than the collection's is refused.

        Raises:
            UserError: ``encoder_mismatch``, ``bad_vector``, ``bad_k``, ``unknown_target``, ``no_text_encoder``,
                ``unknown_label``, ``bad_filter``; of a hybrid search also ``bad_target``, ``full_text_unavailable``.
        """
        self.check_vectors(target)
        most = FUSED_HITS if words else MAX_HITS
        if not 1 <= k <= most:
            what = f"k must be 1 to {most}" + (" in a hybrid search, with offset" if words else "")
            raise UserError(f"{what} (got {k})", code="bad_k", field="k")
        if vector is None:
            parse_where(where or {}, self.label_types())
            return []
        if encoder_hash is not None:
            self.check_encoder(encoder_hash)
        query = unit_vector(vector, self.dim)
        if not words:
            found = self._best(target, query, k, where)
            return [Hit(item, score, self._record(target, at)) for item, score, at in found]
        if target != "images":
            message = "a hybrid search is one of images; captions themselves are searched without hybrid"
            raise UserError(message, code="bad_target", field="target")
        return self._best_fused(query, k, words, where)

    def mean_of_matching_images(self, words: str) -> np.ndarray | None:
        """f32 [E] of length 1 for a text that the encoder cannot embed: the mean of the ``FEEDBACK_IMAGES`` images with
        the best captions for these words. None: no caption has any of them.

        Pseudo-relevance feedback (Rocchio, in: Salton, The SMART Retrieval System, 1971), with images as the relevant
        documents. Images whose caption lacks some of the words are used only where none has all; then those whose BM25
        is at least half of the best.

        Raises: UserError ``full_text_unavailable``.
        """
        found, lacking = self._matching(words, None, np.empty(0, dtype=np.int64))
        least = max(found.values(), default=0.0) / 2
        best = [item for item in found if item not in lacking] or [item for item in found if found[item] >= least]
        vectors = [self.vector(item) for item in best[:FEEDBACK_IMAGES]]
        return unit_vector(np.mean(vectors, axis=0), self.dim) if vectors else None

    def duplicates(self, threshold: float, seconds: float = float("inf")) -> list[list[str]]:
        """Ids of every group of images linked by cosines from ``threshold`` on, the largest group first.

        Compares every pair, or with a graph each image with its nearest. Raises: as ``near_duplicate_groups``.
        """
        found = near_duplicates.near_duplicate_groups(
            self._rows_of("images"), threshold, self._duplicates_graph(), seconds
        )
        return [self._ids("images", rows) for rows in found]

    def group(self, ids: Sequence[str]) -> list[Hit]:
        """These images; ``score``: cosine to the first of them. Raises: ``item_not_found``."""
        vectors = [unit_vector(self.vector(each), self.dim) for each in ids]
        return [
            Hit(each, float(vector @ vectors[0]), self.item(each)) for each, vector in zip(ids, vectors, strict=True)
        ]

    def check_encoder(self, encoder_hash: str) -> None:
        """Raises: UserError ``encoder_mismatch`` if vectors of this encoder do not belong here."""
        if encoder_hash != self.encoder_hash:
            raise Conflict(
                f"collection {self.name!r} was made with encoder {self.encoder_hash[:12]}, the query is of encoder "
                f"{encoder_hash[:12]}; use that encoder, or index again with this one",
                code="encoder_mismatch",
                field="encoder",
            )

    def item(self, item_id: str) -> dict[str, Any]:
        """Record of an image: id, image, captions, labels, split, source, media_type. Raises: ``item_not_found``."""
        return self._record("images", self._row("images", item_id))

    def change_labels(
        self,
        item_ids: Sequence[str],
        values: Mapping[str, str | Sequence[str] | None],
        add: Mapping[str, Sequence[str]],
        remove: Mapping[str, Sequence[str]],
    ) -> list[dict[str, Any]]:
        """Records of the images whose labels differ after a change (``labels.LabelChange``). Nothing is written.

        Raises: UserError ``bad_label``, naming the label; ``item_not_found``, naming ``ids.INDEX``.
        """
        change, types, changed = LabelChange(values, add, remove), self.label_types(), []
        change.check(types)
        for item_id in dict.fromkeys(item_ids):
            try:
                record = self.item(item_id)
            except UserError as error:
                raise UserError(error.message, code=error.code, field=f"ids.{item_ids.index(item_id)}") from error
            labels = change.apply(record["labels"], types)
            if labels != record["labels"]:
                changed.append({**record, "labels": labels})
        return changed

    def caption_vectors(self, record: Mapping[str, Any]) -> list[np.ndarray]:
        """f32 [E] of each of the captions that are texts of the collection (``records.caption_texts``); none where
        captions have no vectors."""
        texts = caption_texts(record) if self.has_text_vectors else ()
        return [self.vector(file_format.text_id(text)) for text in texts]

    def items(self, offset: int = 0, limit: int = 50) -> list[dict[str, Any]]:
        """The records of one page, in the order they were added."""
        return [self.record("images", position) for position in range(len(self))[offset : offset + limit]]

    def image_bytes(self, item_id: str) -> bytes:
        """The stored image, in the format ``item(id)["media_type"]``. Raises: ``item_not_found``."""
        return self._image_blobs.piece(self._row("images", item_id))

    @property
    def last_change(self) -> int:
        """Number of the last change that it has; 0: none since the directory was written."""
        return 0

    def is_added(self, item_id: str) -> bool:
        """Whether the image is of a delta (``delta.py``)."""
        return False

    def has_image_bytes(self, item_id: str) -> bool:
        """Whether ``image_bytes`` has them: those of an added image are in the store of the changes."""
        return True

    def vector(self, item_id: str) -> np.ndarray:
        """f32 [E] of an image or a text. Raises: ``item_not_found``, ``no_text_encoder``."""
        target: Target = "texts" if item_id.startswith(file_format.TEXT_PREFIX) else "images"
        self.check_vectors(target)
        return np.asarray(self._sides[target].vectors[self._row(target, item_id)], dtype=np.float32)

    def vectors(self, target: Target = "images") -> tuple[list[str], np.ndarray]:
        """All ids and their memory-mapped vectors [n, E], row-aligned. Raises: as ``check_vectors``."""
        self.check_vectors(target)
        side = self._sides[target]
        return [side.id(row) for row in range(len(side.keys))], side.vectors

    def count(self, target: Target = "images") -> int:
        """Number of images, or of texts. Raises: ``unknown_target``."""
        return len(self._target(target).keys)

    def at(self, target: Target, positions: Sequence[int]) -> tuple[list[str], np.ndarray]:
        """Ids and vectors [m, E] at these positions, 0 to ``count(target)`` - 1, in the order of addition.

        Raises: as ``check_vectors``.
        """
        self.check_vectors(target)
        wanted = np.asarray(positions, dtype=np.int64)
        return self._ids(target, wanted), self._rows_of(target)[wanted]

    def record(self, target: Target, position: int) -> dict[str, Any]:
        """The record at a position, as a hit's ``metadata``.

        That of a text: id, text, ``item_count`` and ``items``: number and ids of the images that carry it, the ids of
        ``MAX_TEXT_ITEMS`` at most.
        """
        return self._record(target, position)

    def in_base(self, item_id: str) -> bool:
        """Whether the directory holds this image, also if a delta removed it."""
        side = self._sides["images"]
        key = side.key(item_id)
        return key is not None and int(side.rows(np.array([key], dtype=np.uint64))[0]) >= 0

    def label_values(self) -> dict[str, list[str]]:
        """{label: its values, of a set its members}: valid filters of ``search``."""
        return self._labels.values

    def label_texts(self) -> dict[str, list[str]]:
        """{label: its values as they are written}."""
        return dict(self._labels.texts)

    def label_types(self) -> dict[str, LabelType]:
        return dict(self._labels.types)

    def stated_types(self) -> dict[str, LabelType]:
        """Of the labels whose type is not inferred."""
        return self._label_types.stated_types()

    def stored_labels(self, labels: Mapping[str, str | Sequence[str]], field: str) -> dict[str, str]:
        """The labels of an image to add, as its record has them.

        A label that the directory lacks may have any value, and a list of texts unless images with the label were
        added before and it is no set.

        Raises: UserError ``bad_label``, naming ``FIELD.labels.LABEL``, for a value of another type than its label's.
        """
        types = self.label_types()
        for label, value in labels.items():
            if label in self._labels.types or (label in types and not isinstance(value, str)):
                check_value(label, value, types[label], f"{field}.labels.{label}")
        return {label: stored_value(value, types.get(label)) for label, value in labels.items()}

    def _ids(self, target: Target, positions: np.ndarray) -> list[str]:
        side = self._sides[target]
        return [side.id(position) for position in positions.tolist()]

    def _rows_of(self, target: Target) -> near_duplicates.RowVectors:
        """Vectors by position."""
        return self._sides[target].vectors

    def _duplicates_graph(self) -> near_duplicates.RowGraph | None:
        """The graph of the images, which finds positions; None: there is none."""
        graph = self._graphs.get("images")
        return None if graph is None else near_duplicates.RowGraph(graph.neighbours, len(self))

    def _best(self, target: Target, query: np.ndarray, k: int, where: Where | None) -> list[tuple[str, float, int]]:
        """Id, score and number for ``_record`` of each hit of a validated search; ``query`` f32 [E] of length 1."""
        side = self._sides[target]
        rows, labels = self._rows(target, where)
        found, scores = self._nearest(target, query, k, rows, labels)
        return [(side.id(row), float(score), row) for row, score in zip(found.tolist(), scores, strict=True)]

    def _best_fused(self, query: np.ndarray, k: int, words: str, where: Where | None) -> list[Hit]:
        """The hits of a validated hybrid search; ``score``: cosine, of every hit."""
        nearest_images = self._best("images", query, FUSED_HITS, where)
        near = {item: score for item, score, _ in nearest_images}
        numbers = np.array([number for _, _, number in nearest_images], dtype=np.int64)
        best = fuse_ranks(near, *self._matching(words, where, numbers))[:k]
        scores = {item: near[item] if item in near else float(self.vector(item) @ query) for item in best}
        return [Hit(item, score, self.item(item)) for item, score in scores.items()]

    def _matching(self, words: str, where: Where | None, near: np.ndarray) -> tuple[dict[str, float], set[str]]:
        """Ids of the images with the best captions for these words, and the BM25 of each one's best, best first.

        ``FUSED_HITS`` at most: of more images with one caption, those of ``near`` (numbers, best first) come first.

        The second: those of them whose best caption lacks some of the words.
        """
        index, carriers_of = self._full_text(), self._carriers_of(where)
        every_carrier = self._carriers_of(None) if where else carriers_of
        found: dict[int, float] = {}
        text_of: dict[int, int] = {}
        pages = index.search(words)
        while len(found) < FUSED_HITS and (page := next(pages, [])):
            for (key, score), carriers in zip(page, carriers_of([key for key, _ in page]), strict=True):
                room = FUSED_HITS - len(found)
                listed = carriers if len(carriers) <= room else chosen_first(carriers, near, FUSED_HITS)
                new = [number for number in listed.tolist() if number not in found][:room]
                found.update(dict.fromkeys(new, score))
                text_of.update(dict.fromkeys(new, key))
                if len(found) >= FUSED_HITS:
                    break
        lacking = index.lacking_a_word(words, set(text_of.values()), lambda keys: any(map(len, every_carrier(keys))))
        ids = {number: self._number_id(number) for number in found}
        scores = {ids[number]: score for number, score in found.items()}
        return scores, {ids[number] for number, key in text_of.items() if key in lacking}

    def index_captions(self) -> None:
        """Make the index that hybrid searches need, unless it is there: otherwise the first one makes it.

        Raises: UserError ``full_text_unavailable``.
        """
        self._full_text()

    def start_indexing_captions(self) -> Future[FullTextIndex]:
        """As ``index_captions``, without waiting: the future of an index that is there is done."""
        return self._captions.start()

    def _full_text(self) -> FullTextIndex:
        """With every caption of the collection."""
        return self._captions.get()

    def _text_items(self) -> Iterator[tuple[int, str]]:
        """Key and text of every caption of the directory."""
        side = self._sides["texts"]
        return ((int(key), side.records.record(row)["text"]) for row, key in enumerate(side.keys.tolist()))

    def _carriers_of(self, where: Where | None) -> CarriersOf:
        """Function to the numbers, as ``_best`` has them, of the images that carry a text and that ``where`` allows."""
        images = self._sides["images"]
        rows, _ = self._rows("images", where)
        allowed = row_mask(rows, len(images.keys))

        def carriers_of(keys: Sequence[int]) -> Iterator[np.ndarray]:
            for row in self._sides["texts"].rows(np.array(keys, np.uint64)).tolist():
                carriers = self._row_carriers(row)
                yield carriers[allowed[carriers]]

        return carriers_of

    def _number_id(self, number: int) -> str:
        """Id of the image of a number, as ``_best`` has them."""
        return self._sides["images"].id(number)

    def _nearest(
        self, target: Target, query: np.ndarray, k: int, rows: np.ndarray | None, labels: LabelSelection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the directory and their scores, best first.

        Args:
            rows: those to choose from, ascending; none: all.
            labels: of images, the filters that leave these rows.
        """
        searched = self._searched.get(target)
        if isinstance(searched, ExternalIndex) and target == "images":
            return searched.nearest(query, k, rows, labels)
        return searched.nearest(query, k, rows) if searched else nearest(self._sides[target].vectors, query, k, rows)

    def _open_graphs(self) -> None:
        """Raises: UserError ``missing_extra``."""
        for target, name in file_format.graphs_of(self.manifest).items():
            path = self.directory / name
            try:
                file_format.check_size(path, self.manifest.files[name])
                self._graphs[target] = HnswIndex.open(path, self._sides[target].vectors)
            except UserError as error:
                if error.code != "collection_unreadable":
                    raise
                self.drop_graph(target, error.message)
            else:
                self._searched[target] = self._graphs[target]

    def _row(self, target: Target, item_id: str) -> int:
        """Raises: ``item_not_found``."""
        return self._sides[target].row(item_id)

    def _rows(self, target: Target, where: Where | None) -> tuple[np.ndarray | None, LabelSelection | None]:
        if not where:
            return None, None
        filters = parse_where(where, self._labels.types)
        fits = self._labels.mask(filters)
        if target == "texts":
            return np.flatnonzero(self._carried(fits)), None
        return np.flatnonzero(fits), LabelSelection(filters, np.empty(0, np.int64))

    def _carried(self, images: np.ndarray) -> np.ndarray:
        """bool [texts]: those that one of these images carries; ``images`` bool [n]."""
        # every text has a carrier, so no group is empty
        return np.logical_or.reduceat(images[self._carriers], self._starts[:-1])

    def _row_carriers(self, row: int) -> np.ndarray:
        """int64 [c]: images of the directory that carry the text of a row; none of row -1."""
        return self._carriers[self._starts[row] : self._starts[row + 1]] if row >= 0 else self._carriers[:0]

    def _record(self, target: Target, row: int) -> dict[str, Any]:
        side = self._sides[target]
        record = side.records.record(row)
        if target == "texts":
            carriers = self._row_carriers(row)
            record["items"] = self._ids_of_rows(carriers[:MAX_TEXT_ITEMS])
            record["item_count"] = len(carriers)
        return record

    def _ids_of_rows(self, rows: np.ndarray) -> list[str]:
        """Of images of the directory."""
        return [self._sides["images"].id(row) for row in rows.tolist()]

    def _target(self, target: str) -> _Side:
        if target not in self._sides:
            message = f"target {target!r} is not known; choose images or texts"
            raise UserError(message, code="unknown_target", field="target")
        return self._sides[target]

    def _side(self, target: Target) -> _Side:
        lines, offsets, keys, vectors, prefix = file_format.SIDES[target]
        numbers = self._array(keys)
        return _Side(
            records=BlobFile(self.directory / lines, self._array(offsets)),
            keys=numbers,
            by_key=np.argsort(numbers, kind="stable"),
            vectors=self._vectors(vectors, len(numbers) if target in self.vector_targets else 0),
            prefix=prefix,
        )

    def _vectors(self, name: str, rows: int) -> np.ndarray:
        dtype = file_format.NUMPY_DTYPES[self.manifest.dtype]
        if rows == 0:  # an empty file cannot be mapped
            return np.empty((0, self.dim), dtype)
        return np.memmap(self.directory / name, dtype, mode="r", shape=(rows, self.dim))

    def _external_index(self, ask: SearchFn, target: Target) -> ExternalIndex:
        vectors = self._sides[target].vectors
        path = self.directory / file_format.SIDES[target][3]
        return ExternalIndex(ask, target, vectors, map_single_rows(path, vectors))

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.directory / name, allow_pickle=False)
