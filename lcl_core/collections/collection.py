"""A collection: images, captions and their vectors on disk, with the changes since. Imports no torch.

Search is exact, except in a large collection with a graph and with an external index (``vector_index``), which may
miss a neighbour. Vectors and graphs are memory-mapped and nothing is written: threads and processes share one copy.

Images, and texts, have a number: their row in the directory, or behind these the place among the added ones. What was
removed or replaced keeps its row and is hidden.
"""

from __future__ import annotations

import copy
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.collections import file_format, near_duplicates
from lcl_core.collections.changes import ChangeRecord, Delta, caption_texts
from lcl_core.collections.directory import Directory, Rows
from lcl_core.collections.file_format import Target, verify_checksums
from lcl_core.collections.full_text import fuse_ranks, ranks
from lcl_core.collections.labels import (
    LabelChange,
    LabelIndex,
    Where,
    check_value,
    parse_where,
    stored_value,
)
from lcl_core.collections.projection import spread_rows
from lcl_core.collections.vector_index import chosen_first, nearest, unit_vector
from lcl_core.common.errors import Conflict, NotFound, UserError
from lcl_core.specs.corpus_jobs import LabelType
from lcl_core.vector_indexes import SearchFn

MAX_HITS = 10_000
MAX_TEXT_ITEMS = 100  # images that the record of a text lists: in crawled pages many thousands have one alt text
FUSED_HITS = 1000  # the best by vector and the best by words that are fused
FEEDBACK_IMAGES = 10  # of ``mean_of_matching_images``
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result.

    Attributes:
        score: cosine similarity, -1 to 1.
        metadata: the record of the item or text.
        rank_looks, rank_captions: from 1, by vector and by words; None: not among the best by them.
        found: the query's words that its best caption has.
    """

    id: str
    score: float
    metadata: dict[str, Any]
    rank_looks: int | None = None
    rank_captions: int | None = None
    found: Sequence[str] = ()


class Collection:
    """Open with ``Collection.open(directory)``; every method may be called from any thread.

    Attributes:
        dim: E, the width of every vector.
        has_text_vectors: whether the captions have vectors: the encoder reads texts.
        vector_targets: the targets that have vectors.
        delta: the changes since the directory was written.
    """

    def __init__(self, files: Directory) -> None:
        self._files = files
        self.directory, self.manifest = files.path, files.manifest
        self.name, self.encoder_hash, self.dim = self.manifest.name, self.manifest.encoder_hash, self.manifest.dim
        self.has_text_vectors = self.manifest.text_vectors
        self.vector_targets: tuple[Target, ...] = file_format.TARGETS if self.has_text_vectors else ("images",)
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
            return cls(Directory(path, manifest, ask))
        except (ValueError, LookupError, sqlite3.Error) as error:
            verify_checksums(path, manifest)  # names the file
            raise file_format.unreadable(path / file_format.ITEMS, f"cannot be read ({error})") from error

    def with_delta(self, delta: Delta) -> Collection:
        """The collection with these changes in place of its own; what is read of the directory is shared."""
        changed = copy.copy(self)
        vars(changed).pop("label_counts", None)
        changed._set_delta(delta)
        return changed

    def _set_delta(self, delta: Delta) -> None:
        self.delta, files = delta, self._files
        added = [change for change in delta.changes.values() if change.record is not None]
        self._added = {change.item: change for change in added}
        self._records: list[dict[str, Any]] = [change.record for change in added if change.record is not None]
        labels = [{"split": each["split"], "source": each["source"], **each["labels"]} for each in self._records]
        self._added_labels = LabelIndex.of(labels, files.labels.types)
        rows = files.rows_of("images", [file_format.key_of(item) for item in delta.changes])
        hidden, vectors = np.sort(rows[rows >= 0]), b"".join(change.vector for change in added)
        images = Rows(files.vectors["images"], files.counts["images"], hidden, list(self._added), vectors)
        self._rows: dict[Target, Rows] = {"images": images}
        self._rows["texts"] = self._text_rows(added)

    def _text_rows(self, added: Sequence[ChangeRecord]) -> Rows:
        """Of a state with these images: their captions that the directory lacks are added."""
        files, count = self._files, self._files.counts["texts"]
        texts = {text: file_format.text_key(text) for record in self._records for text in caption_texts(record)}
        rows = dict(zip(texts, files.rows_of("texts", [*texts.values()]).tolist(), strict=True))
        self._new_texts = [text for text, row in rows.items() if row < 0]
        self._new_keys = {texts[text]: count + place for place, text in enumerate(self._new_texts)}
        rows |= {text: self._new_keys[texts[text]] for text in self._new_texts}
        self._added_carriers: dict[int, list[int]] = {}  # of a number of a text, those of the added images
        vectors: dict[str, bytes] = {}
        for place, (change, record) in enumerate(zip(added, self._records, strict=True)):
            width = len(change.vector)
            for at, text in enumerate(caption_texts(record)):
                self._added_carriers.setdefault(rows[text], []).append(files.counts["images"] + place)
                vectors.setdefault(text, change.text_vectors[at * width : (at + 1) * width])
        hidden = np.empty(0, dtype=np.int64)
        if len(self._rows["images"].hidden):
            hidden = np.flatnonzero(~self._carried(self._rows["images"].mask)[:count])
        new = [file_format.id_of("texts", key) for key in self._new_keys]
        return Rows(files.vectors["texts"], count, hidden, new, b"".join(vectors[text] for text in self._new_texts))

    def check_vectors(self, target: Target) -> None:
        """Raises: UserError ``invalid_value``; ``no_text_encoder`` for captions that have no vectors."""
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
        looks: bool = True,
    ) -> list[Hit]:
        """The ``k`` items nearest to ``vector`` by cosine, best first, among those that ``where`` allows.

        With ``words`` images alone: the ``FUSED_HITS`` nearest and as many with the best captions for these words
        (BM25), in the order of the sums of their reciprocal ranks (``full_text.fuse_ranks``).

        Args:
            looks: with ``words``: the nearest count, too; else captions alone.
            vector: [E], of any length; None: nothing is similar to the query, so that nothing is found.
            where: {label: value or values}, or a range or members, as ``labels.LabelFilter``; ``split`` and
                ``source`` count as labels. Applied before the top-k. Of the texts, those that a matching image carries.
            encoder_hash: of the encoder that made ``vector``; another than the collection's is refused.

        Raises:
            UserError: ``encoder_mismatch``, ``invalid_value``, ``no_text_encoder``.
        """
        self.check_vectors(target)
        most = FUSED_HITS if words else MAX_HITS
        if not 1 <= k <= most:
            what = ", with offset, where captions count; match: looks gives more" if words else ""
            raise UserError(f"k must be 1 to {most}{what} (got {k})", field="k")
        if vector is None:
            parse_where(where or {}, self.label_types())
            return []
        if encoder_hash is not None:
            self.check_encoder(encoder_hash)
        query = unit_vector(vector, self.dim)
        if not words:
            found = self._best(target, query, k, where)
            return [self._hit(target, at, score, rank_looks=place) for place, (at, score) in enumerate(found, start=1)]
        if target != "images":
            raise UserError("captions are compared with words where images are searched", field="target")
        return self._best_fused(query, k, words, where, looks)

    def mean_of_matching_images(self, words: str) -> np.ndarray | None:
        """f32 [E] of length 1 for a text that the encoder cannot embed: the mean of the ``FEEDBACK_IMAGES`` images with
        the best captions for these words. None: no caption has any of them.

        Pseudo-relevance feedback (Rocchio, in: Salton, The SMART Retrieval System, 1971), with images as the relevant
        documents. Images whose caption lacks some of the words are used only where none has all; then those whose BM25
        is at least half of the best.
        """
        found, lacking, _ = self._matching(words, None, np.empty(0, dtype=np.int64))
        least = max(found.values(), default=0.0) / 2
        best = [at for at in found if at not in lacking] or [at for at in found if found[at] >= least]
        vectors = [self._rows["images"].vector(at) for at in best[:FEEDBACK_IMAGES]]
        return unit_vector(np.mean(vectors, axis=0), self.dim) if vectors else None

    def duplicates(self, threshold: float, seconds: float = float("inf")) -> list[list[str]]:
        """Ids of every group of images with cosines to its centre, the first, from ``threshold`` on; the largest first.

        Compares every pair, or with a graph each image with its nearest. Raises: as ``near_duplicate_groups``.
        """
        images, graph = self._rows["images"], self._duplicates_graph()
        found = near_duplicates.near_duplicate_groups(images, threshold, graph, seconds)
        return [self._ids("images", images.numbers(positions)) for positions in found]

    def group(self, ids: Sequence[str]) -> list[Hit]:
        """These images; ``score``: cosine to the first of them. Raises: ``not_found``."""
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
        """Record of an image: id, image, captions, labels, split, source, media_type. Raises: ``not_found``."""
        return self._record("images", self._number("images", item_id))

    def change_labels(
        self,
        item_ids: Sequence[str],
        values: Mapping[str, str | Sequence[str] | None],
        add: Mapping[str, Sequence[str]],
        remove: Mapping[str, Sequence[str]],
    ) -> list[dict[str, Any]]:
        """Records of the images whose labels differ after a change (``labels.LabelChange``). Nothing is written.

        Raises: UserError ``invalid_value``, naming the label; ``not_found``, naming ``ids.INDEX``.
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
        """f32 [E] of each of the captions that are texts of the collection (``changes.caption_texts``); none where
        captions have no vectors."""
        texts = caption_texts(record) if self.has_text_vectors else ()
        return [self.vector(file_format.text_id(text)) for text in texts]

    def items(self, offset: int = 0, limit: int = 50) -> list[dict[str, Any]]:
        """The records of one page, in the order they were added."""
        return [self.record("images", position) for position in range(len(self))[offset : offset + limit]]

    def image_bytes(self, item_id: str) -> bytes:
        """The stored image, in the format ``item(id)["media_type"]``. Raises: ``not_found``, also for an added
        image whose bytes are in the store of the changes alone."""
        row, added = self._files.row("images", item_id), self._added.get(item_id)
        if row < 0 or not (self._rows["images"].shows(row) or (added is not None and added.keeps_image)):
            raise not_found(item_id)
        ((data,),) = self._files.items.rows("SELECT data FROM files WHERE row = ?", row)
        return bytes(data)

    def has_image_bytes(self, item_id: str) -> bool:
        """Whether ``image_bytes`` has them: those of an added image are in the store of the changes."""
        added = self._added.get(item_id)
        return added is None or added.keeps_image

    def vector(self, item_id: str) -> np.ndarray:
        """f32 [E] of an image or a text. Raises: ``not_found``, ``no_text_encoder``."""
        target: Target = "texts" if item_id.startswith(file_format.PREFIXES["texts"]) else "images"
        self.check_vectors(target)
        return self._rows[target].vector(self._number(target, item_id))

    def vectors(self, target: Target = "images") -> tuple[list[str], np.ndarray]:
        """All ids and their vectors [n, E], row-aligned; memory-mapped where nothing has changed.

        Raises: as ``check_vectors``.
        """
        self.check_vectors(target)
        rows = self._rows[target]
        return self._ids(target, rows.numbers(np.arange(len(rows)))), rows[:]

    def count(self, target: Target = "images") -> int:
        """Number of images, or of texts. Raises: ``invalid_value``."""
        return len(self._target(target))

    def at(self, target: Target, positions: Sequence[int]) -> tuple[list[str], np.ndarray]:
        """Ids and vectors [m, E] at these positions, 0 to ``count(target)`` - 1, in the order of addition.

        Raises: as ``check_vectors``.
        """
        self.check_vectors(target)
        rows, wanted = self._rows[target], np.asarray(positions, dtype=np.int64)
        return self._ids(target, rows.numbers(wanted)), rows[wanted]

    def neighbour_places(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Positions of images, int64 [n], and their places on a map by neighbours, f32 [n, 2] within [-1, 1].

        An image that was added or changed since the index run has the place of the most similar one. None: the index
        run left no places.
        """
        images, places = self._rows["images"], self._files.places
        if places is None:
            return None
        rows = spread_rows(images.count, len(places))
        shown, blocks = images.mask[rows], np.array_split(images.added_vectors, 1 + len(images.added) // 1024)
        placed = np.asarray(images.vectors[rows], dtype=np.float32).T
        nearest_rows = np.concatenate([(block @ placed).argmax(axis=1) for block in blocks])
        positions = np.concatenate([images.positions(rows[shown]), images.kept + np.arange(len(images.added))])
        return positions, np.concatenate([places[shown], places[nearest_rows]])

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
        return self._files.row("images", item_id) >= 0

    def label_values(self) -> dict[str, list[str]]:
        """{label: its values, of a set its members}: valid filters of ``search``."""
        return {label: list(counts) for label, counts in self.label_counts.items()}

    @cached_property
    def label_counts(self) -> dict[str, dict[str, int]]:
        """{label: {value, of a set its member: number of images that have it}}."""
        images = self._rows["images"]
        found = self._files.labels.counts(images.mask[: images.count] if len(images.hidden) else None)
        for label, added in self._added_labels.counts().items():
            known = found.setdefault(label, {})
            for value, count in added.items():
                known[value] = known.get(value, 0) + count
        return found

    def label_types(self) -> dict[str, LabelType]:
        return {**self._added_labels.types, **self._files.labels.types}

    def stated_types(self) -> dict[str, LabelType]:
        """Of the labels whose type is not inferred."""
        return self._files.stated_types

    def stored_labels(self, labels: Mapping[str, str | Sequence[str]], field: str) -> dict[str, str]:
        """The labels of an image to add, as its record has them.

        A label that the directory lacks may have any value, and a list of texts unless images with the label were
        added before and it is no set.

        Raises: UserError ``invalid_value``, naming ``FIELD.labels.LABEL``, for a value of another type.
        """
        types = self.label_types()
        for label, value in labels.items():
            if label in self._files.labels.types or (label in types and not isinstance(value, str)):
                check_value(label, value, types[label], f"{field}.labels.{label}")
        return {label: stored_value(value, types.get(label)) for label, value in labels.items()}

    def _duplicates_graph(self) -> near_duplicates.RowGraph | None:
        """The graph of the images, which finds positions; None: there is none."""
        graph, images = self._files.graphs.get("images"), self._rows["images"]
        if graph is None:
            return None
        if images.visible is None:
            return near_duplicates.RowGraph(graph.neighbours, images.kept)
        # of each row of the directory, the last for none: -1 where the image was removed, that of the added image
        # where it was replaced, by one with the same vector if labels alone have changed
        positions = np.full(images.count + 1, -1, dtype=np.int64)
        positions[images.visible] = np.arange(images.kept)
        rows = self._files.rows_of("images", [file_format.key_of(item) for item in self._added])
        positions[rows[rows >= 0]] = images.kept + np.flatnonzero(rows >= 0)
        return near_duplicates.RowGraph(lambda queries, k: positions[graph.neighbours(queries, k)], images.kept)

    def _best(self, target: Target, query: np.ndarray, k: int, where: Where | None) -> list[tuple[int, float]]:
        """Number and score of each hit of a validated search; ``query`` f32 [E] of length 1."""
        rows, index = self._rows[target], self._files.indexes.get(target)
        chosen, chosen_added = self._chosen(target, where)
        search = partial(nearest, rows.vectors) if index is None else index.nearest
        found, scores = search(query, k, chosen)
        more, more_scores = nearest(rows.added_vectors, query, k, chosen_added)
        numbers = np.concatenate((found, more + rows.count))
        scores = np.concatenate((scores, more_scores))
        best = np.argsort(-scores, kind="stable")[:k]
        return list(zip(numbers[best].tolist(), scores[best].tolist(), strict=True))

    def _best_fused(self, query: np.ndarray, k: int, words: str, where: Where | None, looks: bool) -> list[Hit]:
        """The hits of a validated search with words; ``score``: cosine, of every hit."""
        near = dict(self._best("images", query, FUSED_HITS, where)) if looks else {}
        found, lacking, text_of = self._matching(words, where, np.array(list(near), dtype=np.int64))
        best = fuse_ranks(near, found, lacking)[:k]
        by_looks, by_captions = ranks(near), ranks(found)
        has = self._files.captions.select_words(words, {text_of[at] for at in best if at in text_of})
        hits = []
        for at in best:
            score = near[at] if at in near else float(self._rows["images"].vector(at) @ query)
            why = {"rank_looks": by_looks.get(at), "rank_captions": by_captions.get(at)}
            hits.append(self._hit("images", at, score, **why, found=has.get(text_of.get(at, -1), ())))
        return hits

    def _matching(
        self, words: str, where: Where | None, near: np.ndarray
    ) -> tuple[dict[int, float], set[int], dict[int, int]]:
        """Numbers of the images with the best captions for these words, and the BM25 of each one's best, best first.

        ``FUSED_HITS`` at most: of more images with one caption, those of ``near`` (numbers, best first) come first.

        The second: those of them whose best caption lacks some of the words. The third: the keys of these captions.
        """
        index = self._files.captions
        index.add(dict(zip(self._new_keys, self._new_texts, strict=True)))
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
        lacking = index.lacking_a_word(words, set(text_of.values()))
        return found, {number for number, key in text_of.items() if key in lacking}, text_of

    def _carriers_of(self, keys: Sequence[int], allowed: np.ndarray) -> Iterator[np.ndarray]:
        """Of each key of a text, the numbers of the images that carry it; ``allowed`` bool, by number."""
        for key, row in zip(keys, self._files.rows_of("texts", keys).tolist(), strict=True):
            carriers = self._text_carriers(row if row >= 0 else self._new_keys.get(key, -1))
            yield carriers[allowed[carriers]]

    def _text_carriers(self, text: int) -> np.ndarray:
        """int64 [c]: numbers of the images that carry a text, hidden ones too; none of number -1."""
        texts, images = self._files.carriers
        start, stop = np.searchsorted(texts, (text, text + 1))
        added = np.array(self._added_carriers.get(text, ()), dtype=np.int64)
        return np.concatenate((images[start:stop], added))

    def _carried(self, images: np.ndarray) -> np.ndarray:
        """bool: of each number of a text, whether one of these images carries it; ``images`` bool, by number."""
        texts, carriers = self._files.carriers
        found = np.zeros(self._files.counts["texts"] + len(self._new_texts), dtype=bool)
        found[texts[images[carriers]]] = True
        for text, added in self._added_carriers.items():
            found[text] |= images[added].any()
        return found

    def _allowed(self, where: Where) -> np.ndarray:
        """bool: of each number of an image, hidden ones too, whether its labels fit. Raises: as ``parse_where``."""
        conditions = parse_where(where, self.label_types())
        return np.concatenate((self._files.labels.mask(conditions), self._added_labels.mask(conditions)))

    def _chosen(self, target: Target, where: Where | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What a search may find: rows of the directory, and places among the added ones, ascending; None: all."""
        if not where:
            return self._rows[target].visible, None
        chosen, count = self._allowed(where) & self._rows["images"].mask, self._rows[target].count
        if target == "texts":
            chosen = self._carried(chosen)
        return np.flatnonzero(chosen[:count]), np.flatnonzero(chosen[count:])

    def _hit(self, target: Target, number: int, score: float, **why: Any) -> Hit:
        record = self._record(target, number)
        return Hit(record["id"], score, record, **why)

    def _record(self, target: Target, number: int) -> dict[str, Any]:
        place = number - self._rows[target].count
        if target == "images":
            if place >= 0:
                return dict(self._records[place])
            ((record,),) = self._files.items.rows("SELECT record FROM images WHERE row = ?", number)
            found: dict[str, Any] = json.loads(record)
            return found
        if place >= 0:
            text = self._new_texts[place]
        else:
            ((text,),) = self._files.items.rows("SELECT text FROM texts WHERE row = ?", number)
        images, carriers = self._rows["images"], self._text_carriers(number)
        carriers = carriers[images.mask[carriers]]
        listed = self._ids("images", carriers[:MAX_TEXT_ITEMS])
        return {"id": file_format.text_id(text), "text": text, "items": listed, "item_count": len(carriers)}

    def _number(self, target: Target, item: str) -> int:
        """Raises: UserError ``not_found``."""
        rows = self._rows[target]
        if item in rows.places:
            return rows.count + rows.places[item]
        row = self._files.row(target, item)
        if not rows.shows(row):
            raise not_found(item)
        return row

    def _ids(self, target: Target, numbers: np.ndarray) -> list[str]:
        rows = self._rows[target]
        known = iter(self._files.ids(target, numbers[numbers < rows.count]))
        return [next(known) if number < rows.count else rows.added[number - rows.count] for number in numbers.tolist()]

    def _target(self, target: str) -> Rows:
        if target not in self._rows:
            message = f"target {target!r} is not known; choose images or texts"
            raise UserError(message, field="target")
        return self._rows[target]


def not_found(item_id: str) -> NotFound:
    return NotFound(f"the collection holds no item {item_id!r}", field="id")
