"""A collection: images, captions and their vectors on disk, with the changes since. Imports no torch.

Search is exact, except in a large collection with a graph and with an external index (``vector_index``), which may
miss a neighbour. Images, records, vectors and graphs are memory-mapped and nothing is written: threads and processes
share one copy. Each process reads the numbers of rows (keys, offsets, links of texts, codes of labels) into its memory.

Images, and texts, have a number: their row in the directory, or behind these the place among the added ones. What was
removed or replaced keeps its row and is hidden.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.collections import file_format, near_duplicates
from lcl_core.collections.delta import CaptionLinks, Delta, DeltaItem, Rows, not_found
from lcl_core.collections.file_format import BlobFile, CollectionManifest, Side, Target, load_array, verify_checksums
from lcl_core.collections.full_text import FullTextIndex, LazyFullTextIndex, fuse_ranks
from lcl_core.collections.labels import (
    LabelChange,
    LabelIndex,
    LabelTypes,
    Where,
    check_value,
    joined_values,
    parse_where,
    stored_value,
)
from lcl_core.collections.query import unit_vector
from lcl_core.collections.records import caption_texts
from lcl_core.collections.vector_index import (
    ExternalIndex,
    HnswIndex,
    chosen_first,
    nearest,
)
from lcl_core.common.errors import Conflict, UserError
from lcl_core.specs.corpus_jobs import LabelType
from lcl_core.vector_indexes import SearchFn

MAX_HITS = 10_000
MAX_TEXT_ITEMS = 100  # images that the record of a text lists: in crawled pages many thousands have one alt text
FUSED_HITS = 1000  # of a hybrid search: the best by vector and the best by words that are fused
FEEDBACK_IMAGES = 10  # of ``mean_of_matching_images``
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result. ``score``: cosine similarity, -1 to 1; ``metadata``: the record of the item or text."""

    id: str
    score: float
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What a search may find.

    Attributes:
        rows: of the directory, ascending; None: all.
        added: places among the added ones, ascending; None: all.
    """

    rows: np.ndarray | None
    added: np.ndarray | None = None


class Collection:
    """Open with ``Collection.open(directory)``; every method may be called from any thread.

    Attributes:
        dim: E, the width of every vector.
        has_text_vectors: whether the captions have vectors: the encoder reads texts.
        vector_targets: the targets that have vectors.
        delta: the changes since the directory was written.
    """

    def __init__(self, directory: Path, manifest: CollectionManifest, ask: SearchFn | None = None) -> None:
        self.directory, self.manifest = directory, manifest
        self.name, self.encoder_hash, self.dim = manifest.name, manifest.encoder_hash, manifest.dim
        self.has_text_vectors = manifest.text_vectors
        self.vector_targets: tuple[Target, ...] = file_format.TARGETS if manifest.text_vectors else ("images",)
        self._sides = {target: Side.open(directory, manifest, target) for target in file_format.TARGETS}
        self._graphs = {
            target: HnswIndex.open(directory / name, self._sides[target].vectors)
            for target, name in file_format.GRAPHS.items()
            if name in manifest.files
        }
        self._searched: dict[Target, HnswIndex | ExternalIndex] = {**self._graphs}
        if ask is not None:
            self._searched = {name: ExternalIndex(ask, name, self._sides[name].vectors) for name in self.vector_targets}
        self._image_blobs = BlobFile(directory / file_format.IMAGES, load_array(directory, file_format.IMAGE_OFFSETS))
        self._starts = load_array(directory, file_format.TEXT_ITEM_STARTS)
        self._carriers = load_array(directory, file_format.TEXT_ITEM_ROWS)
        names = json.loads((directory / file_format.LABELS).read_text(encoding="utf-8"))
        self._label_types = LabelTypes()
        if file_format.LABEL_TYPES in manifest.files:
            self._label_types = LabelTypes.model_validate_json((directory / file_format.LABEL_TYPES).read_bytes())
        self._labels = LabelIndex(names, load_array(directory, file_format.LABEL_CODES), self._label_types.types)
        texts = self._sides["texts"]
        self._captions = LazyFullTextIndex(
            lambda: ((int(key), texts.records.record(row)["text"]) for row, key in enumerate(texts.keys.tolist()))
        )
        self._set_delta(Delta())

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

    def with_delta(self, delta: Delta) -> Collection:
        """The collection with these changes in place of its own; what is read of the directory is shared."""
        changed = copy.copy(self)
        vars(changed).pop("_label_values", None)
        changed._set_delta(delta)
        return changed

    def _set_delta(self, delta: Delta) -> None:
        self.delta = delta
        self._added: list[DeltaItem] = list(delta.added.values())
        self._added_labels = LabelIndex.of([item.labels for item in self._added], self._labels.types)
        self._captions_added = not self._added
        images, texts = self._sides["images"], self._sides["texts"]
        gone = [item.key for item in self._added]
        gone += [key for item in delta.removed if (key := images.key(item)) is not None]
        rows = images.rows(np.array(gone, dtype=np.uint64))
        shown = np.ones(len(images), dtype=bool)
        shown[rows[rows >= 0]] = False
        vectors = b"".join(item.vector for item in self._added)
        self._links = links = CaptionLinks.of(self._added, texts)
        self._rows = {"images": Rows(images, shown, list(delta.added), vectors), "texts": Rows(texts)}
        if self._added or not shown.all():
            shown_texts = self._carried(self._rows["images"].mask)[: len(texts)]
            ids = [f"{file_format.TEXT_PREFIX}{key:016x}" for key in links.numbers]
            self._rows["texts"] = Rows(texts, shown_texts, ids, b"".join(links.vectors))

    def check_vectors(self, target: Target) -> None:
        """Raises: UserError ``unknown_target``; ``no_text_encoder`` for captions that have no vectors."""
        self._target(target)
        if target not in self.vector_targets:
            message = (
                f"collection {self.name!r} was made with an encoder of images alone, so its captions have no vectors; "
                "choose images"
            )
            raise UserError(message, code="no_text_encoder", field="target")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows["images"])

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
            return [Hit(self._rows[target].id(at), score, self._record(target, at)) for at, score in found]
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
        best = [at for at in found if at not in lacking] or [at for at in found if found[at] >= least]
        vectors = [self._rows["images"].vector(at) for at in best[:FEEDBACK_IMAGES]]
        return unit_vector(np.mean(vectors, axis=0), self.dim) if vectors else None

    def duplicates(self, threshold: float, seconds: float = float("inf")) -> list[list[str]]:
        """Ids of every group of images linked by cosines from ``threshold`` on, the largest group first.

        Compares every pair, or with a graph each image with its nearest. Raises: as ``near_duplicate_groups``.
        """
        images, graph = self._rows["images"], self._duplicates_graph()
        found = near_duplicates.near_duplicate_groups(images, threshold, graph, seconds)
        return [images.ids(images.numbers(positions)) for positions in found]

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
                f"collection {self.name!r} was made with encoder {self.encoder_hash[:12]}, and this is "
                f"{encoder_hash[:12]}; use that encoder, or index again with this one (mode replace)",
                code="encoder_mismatch",
                field="encoder",
            )

    def item(self, item_id: str) -> dict[str, Any]:
        """Record of an image: id, image, captions, labels, split, source, media_type. Raises: ``item_not_found``."""
        return self._record("images", self._rows["images"].number(item_id))

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
                error.field = f"ids.{item_ids.index(item_id)}"
                raise
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
        """The stored image, in the format ``item(id)["media_type"]``. Raises: ``item_not_found``, also for an added
        image whose bytes are in the store of the changes alone."""
        row = self._rows["images"].side.row(item_id)
        added = self.delta.added.get(item_id)
        if row < 0 or not (self._rows["images"].shows(row) or (added is not None and added.keeps_image)):
            raise not_found(item_id)
        return self._image_blobs.piece(row)

    def has_image_bytes(self, item_id: str) -> bool:
        """Whether ``image_bytes`` has them: those of an added image are in the store of the changes."""
        added = self.delta.added.get(item_id)
        return added is None or added.keeps_image

    def vector(self, item_id: str) -> np.ndarray:
        """f32 [E] of an image or a text. Raises: ``item_not_found``, ``no_text_encoder``."""
        target: Target = "texts" if item_id.startswith(file_format.TEXT_PREFIX) else "images"
        self.check_vectors(target)
        rows = self._rows[target]
        return rows.vector(rows.number(item_id))

    def vectors(self, target: Target = "images") -> tuple[list[str], np.ndarray]:
        """All ids and their vectors [n, E], row-aligned; memory-mapped where nothing has changed.

        Raises: as ``check_vectors``.
        """
        self.check_vectors(target)
        rows = self._rows[target]
        return rows.ids(rows.numbers(np.arange(len(rows)))), rows[:]

    def count(self, target: Target = "images") -> int:
        """Number of images, or of texts. Raises: ``unknown_target``."""
        return len(self._target(target))

    def at(self, target: Target, positions: Sequence[int]) -> tuple[list[str], np.ndarray]:
        """Ids and vectors [m, E] at these positions, 0 to ``count(target)`` - 1, in the order of addition.

        Raises: as ``check_vectors``.
        """
        self.check_vectors(target)
        rows, wanted = self._rows[target], np.asarray(positions, dtype=np.int64)
        return rows.ids(rows.numbers(wanted)), rows[wanted]

    def record(self, target: Target, position: int) -> dict[str, Any]:
        """The record at a position, as a hit's ``metadata``.

        That of a text: id, text, ``item_count`` and ``items``: number and ids of the images that carry it, the ids of
        ``MAX_TEXT_ITEMS`` at most.
        """
        return self._record(target, int(self._rows[target].numbers(np.array([position]))[0]))

    def holds(self, item_id: str) -> bool:
        """Whether there is an image, or a text with a vector, of this id."""
        try:
            self.vector(item_id)
        except UserError:
            return False
        return True

    def in_base(self, item_id: str) -> bool:
        """Whether the directory holds this image, also if a change removed it."""
        return self._sides["images"].row(item_id) >= 0

    def label_values(self) -> dict[str, list[str]]:
        """{label: its values, of a set its members}: valid filters of ``search``."""
        return dict(self._label_values)

    @cached_property
    def _label_values(self) -> dict[str, list[str]]:
        images = self._rows["images"]
        shown = images.mask[: len(images.side)]
        found = self._labels.values if images.visible is None else self._labels.values_of(shown)
        return joined_values(found, self._added_labels.values)

    def label_texts(self) -> dict[str, list[str]]:
        """{label: its values as they are written}."""
        images = self._rows["images"]
        return joined_values(self._labels.texts_of(images.mask[: len(images.side)]), self._added_labels.texts)

    def label_types(self) -> dict[str, LabelType]:
        return {**self._added_labels.types, **self._labels.types}

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

    def _duplicates_graph(self) -> near_duplicates.RowGraph | None:
        """The graph of the images, which finds positions; None: there is none."""
        graph, images = self._graphs.get("images"), self._rows["images"]
        if graph is None:
            return None
        if images.visible is None:
            return near_duplicates.RowGraph(graph.neighbours, images.kept)
        # of each row of the directory, the last for none: -1 where the image was removed, that of the added image
        # where it was replaced, by one with the same vector if labels alone have changed
        positions = np.full(len(images.side) + 1, -1, dtype=np.int64)
        positions[images.visible] = np.arange(images.kept)
        rows = images.side.rows(np.array([item.key for item in self._added], dtype=np.uint64))
        positions[rows[rows >= 0]] = images.kept + np.flatnonzero(rows >= 0)
        return near_duplicates.RowGraph(lambda queries, k: positions[graph.neighbours(queries, k)], images.kept)

    def _best(self, target: Target, query: np.ndarray, k: int, where: Where | None) -> list[tuple[int, float]]:
        """Number and score of each hit of a validated search; ``query`` f32 [E] of length 1."""
        rows, chosen = self._rows[target], self._chosen(target, where)
        index = self._searched.get(target)
        search = partial(nearest, rows.side.vectors) if index is None else index.nearest
        found, scores = search(query, k, chosen.rows)
        more, more_scores = nearest(rows.added_vectors, query, k, chosen.added)
        numbers = np.concatenate((found, more + len(rows.side)))
        scores = np.concatenate((scores, more_scores))
        best = np.argsort(-scores, kind="stable")[:k]
        return list(zip(numbers[best].tolist(), scores[best].tolist(), strict=True))

    def _best_fused(self, query: np.ndarray, k: int, words: str, where: Where | None) -> list[Hit]:
        """The hits of a validated hybrid search; ``score``: cosine, of every hit."""
        images = self._rows["images"]
        near = dict(self._best("images", query, FUSED_HITS, where))
        found, lacking = self._matching(words, where, np.array(list(near), dtype=np.int64))
        hits = []
        for at in fuse_ranks(near, found, lacking)[:k]:
            score = near[at] if at in near else float(images.vector(at) @ query)
            hits.append(Hit(images.id(at), score, self._record("images", at)))
        return hits

    def _matching(self, words: str, where: Where | None, near: np.ndarray) -> tuple[dict[int, float], set[int]]:
        """Numbers of the images with the best captions for these words, and the BM25 of each one's best, best first.

        ``FUSED_HITS`` at most: of more images with one caption, those of ``near`` (numbers, best first) come first.

        The second: those of them whose best caption lacks some of the words.
        """
        index = self._full_text()
        shown = self._rows["images"].mask
        allowed = self._allowed(where) & shown if where else shown
        found: dict[int, float] = {}
        text_of: dict[int, int] = {}
        pages = index.search(words)
        while len(found) < FUSED_HITS and (page := next(pages, [])):
            for (key, score), carriers in zip(page, self._carriers_of([key for key, _ in page], allowed), strict=True):
                room = FUSED_HITS - len(found)
                listed = carriers if len(carriers) <= room else chosen_first(carriers, near, FUSED_HITS)
                new = [number for number in listed.tolist() if number not in found][:room]
                found.update(dict.fromkeys(new, score))
                text_of.update(dict.fromkeys(new, key))
                if len(found) >= FUSED_HITS:
                    break
        texts = set(text_of.values())
        lacking = index.lacking_a_word(words, texts, lambda keys: any(map(len, self._carriers_of(keys, shown))))
        return found, {number for number, key in text_of.items() if key in lacking}

    def _full_text(self) -> FullTextIndex:
        """With every caption of this state: the index keeps those of all states."""
        index = self._captions.start().result()
        if not self._captions_added:
            index.add(zip(self._links.numbers, self._links.new_texts, strict=True))
            self._captions_added = True
        return index

    def _carriers_of(self, keys: Sequence[int], allowed: np.ndarray) -> Iterator[np.ndarray]:
        """Of each key of a text, the numbers of the images that carry it; ``allowed`` bool, by number."""
        for key, row in zip(keys, self._sides["texts"].rows(np.array(keys, np.uint64)).tolist(), strict=True):
            carriers = self._text_carriers(row if row >= 0 else self._links.numbers.get(key, -1))
            yield carriers[allowed[carriers]]

    def _text_carriers(self, text: int) -> np.ndarray:
        """int64 [c]: numbers of the images that carry a text, hidden ones too; none of number -1."""
        if text < 0:
            return np.empty(0, np.int64)
        added = self._links.carriers(text) + len(self._sides["images"])
        if text >= len(self._sides["texts"]):
            return added
        carriers = self._carriers[self._starts[text] : self._starts[text + 1]]
        return np.concatenate((carriers, added)) if len(added) else carriers

    def _carried(self, images: np.ndarray) -> np.ndarray:
        """bool: of each number of a text, whether one of these images carries it; ``images`` bool, by number."""
        in_directory = images[: len(self._sides["images"])]
        # every text of a directory has a carrier there, so no group is empty
        carried = np.logical_or.reduceat(in_directory[self._carriers], self._starts[:-1]) if len(self._carriers) else ()
        found = np.concatenate((np.asarray(carried, dtype=bool), np.zeros(len(self._links.numbers), dtype=bool)))
        found[self._links.texts[images[len(in_directory) :][self._links.images]]] = True
        return found

    def _allowed(self, where: Where) -> np.ndarray:
        """bool: of each number of an image, hidden ones too, whether its labels fit. Raises: as ``parse_where``."""
        filters = parse_where(where, self.label_types())
        return np.concatenate((self._labels.mask(filters), self._added_labels.mask(filters)))

    def _chosen(self, target: Target, where: Where | None) -> _Chosen:
        if not where:
            return _Chosen(self._rows[target].visible)
        fits, count = self._allowed(where), len(self._sides[target])
        shown = fits & self._rows["images"].mask
        if target == "texts":
            carried = self._carried(shown)
            return _Chosen(np.flatnonzero(carried[:count]), np.flatnonzero(carried[count:]))
        return _Chosen(np.flatnonzero(shown[:count]), np.flatnonzero(shown[count:]))

    def _record(self, target: Target, number: int) -> dict[str, Any]:
        rows = self._rows[target]
        place = number - len(rows.side)
        if target == "images":
            return rows.side.records.record(number) if place < 0 else dict(self._added[place].record)
        record = {"id": rows.id(number), "text": self._links.new_texts[place]} if place >= 0 else {}
        record = record or rows.side.records.record(number)
        images, carriers = self._rows["images"], self._text_carriers(number)
        if images.visible is not None:
            carriers = carriers[images.mask[carriers]]
        return {**record, "items": images.ids(carriers[:MAX_TEXT_ITEMS]), "item_count": len(carriers)}

    def _target(self, target: str) -> Rows:
        if target not in self._rows:
            message = f"target {target!r} is not known; choose images or texts"
            raise UserError(message, code="unknown_target", field="target")
        return self._rows[target]
