"""A collection with a delta: the rows of its directory, minus removed items, plus added ones. Imports no torch.

A delta and a collection with it are immutable: each state of the changes makes new ones, so that a search, or an export
that takes minutes, reads one state. Data of the directory is shared with the collection that was opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lcl_core.collections import file_format, near_duplicates
from lcl_core.collections.collection import MAX_TEXT_ITEMS, CarriersOf, Collection, not_found
from lcl_core.collections.file_format import Target
from lcl_core.collections.full_text import FullTextIndex
from lcl_core.collections.labels import LabelIndex, Where, parse_where
from lcl_core.collections.records import ChangeRecord, caption_texts
from lcl_core.collections.vector_index import LabelSelection, nearest, row_mask
from lcl_core.common.names import storable_text
from lcl_core.specs.corpus_jobs import LabelType
from lcl_core.vector_indexes import Filter


@dataclass(frozen=True, slots=True)
class DeltaItem:
    """An added image, with values that are computed once for all states of the delta.

    Vectors stay bytes: joining ten thousand takes a few milliseconds, stacking as many arrays a hundred.
    """

    record: dict[str, Any]
    key: int  # the number inside its id
    labels: dict[str, str]  # valid filters
    texts: tuple[str, ...]
    text_keys: tuple[int, ...]
    vector: bytes  # f32 [E]
    text_vectors: tuple[bytes, ...]  # one for each of texts, f32 [E]; empty where captions have no vectors
    keeps_image: bool  # as ChangeRecord's

    @classmethod
    def of(cls, change: ChangeRecord, record: dict[str, Any]) -> DeltaItem:
        texts, width = caption_texts(record), len(change.vector)
        # a set that was changed by an older version may have what the escapes of its members stood for
        labels = {storable_text(label): storable_text(value) for label, value in record["labels"].items()}
        return cls(
            record={**record, "labels": labels},
            key=int(change.item.removeprefix(file_format.ITEM_PREFIX), 16),
            labels={"split": record["split"], "source": record["source"], **labels},
            texts=texts,
            text_keys=tuple(map(file_format.stable_hash64, texts)),
            vector=change.vector,
            text_vectors=tuple(change.text_vectors[at * width : (at + 1) * width] for at in range(len(texts))),
            keeps_image=change.keeps_image,
        )


@dataclass(frozen=True)
class Delta:
    """``number``: of its last change; ``added``: by id, in the order of the changes; ``removed``: ids."""

    number: int = 0
    added: Mapping[str, DeltaItem] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()

    def with_changes(self, changes: Iterable[ChangeRecord]) -> Delta:
        """The delta with further changes, in the order of their numbers."""
        number, added, removed = self.number, dict(self.added), set(self.removed)
        for change in changes:
            number = change.number
            added.pop(change.item, None)  # a replaced image is the newest
            removed.discard(change.item)
            if change.record is None:
                removed.add(change.item)
            else:
                added[change.item] = DeltaItem.of(change, change.record)
        return Delta(number, added, frozenset(removed))


@dataclass(frozen=True, slots=True)
class _Segment:
    """The images, or the texts: the visible rows of the directory, followed by the added ones."""

    visible: np.ndarray  # bool [n]: rows of the directory that are not removed
    rows: np.ndarray | None  # the same as ascending row numbers; None: all
    ids: list[str]  # of the added ones
    vectors: np.ndarray  # f32 [m, E], row-aligned with ids; [0, E] where the target has no vectors
    positions: dict[str, int]  # by id: index into ids

    @classmethod
    def of(cls, visible: np.ndarray, ids: list[str], vectors: Sequence[bytes], dim: int) -> _Segment:
        rows = None if visible.all() else np.flatnonzero(visible)
        count = len(ids) if any(vectors) else 0  # captions may have no vectors
        stacked = np.frombuffer(b"".join(vectors), "<f4").reshape(count, dim)
        return cls(visible, rows, ids, stacked, {item: at for at, item in enumerate(ids)})

    @property
    def kept(self) -> int:
        """Number of visible rows of the directory."""
        return len(self.visible) if self.rows is None else len(self.rows)

    def split(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the whole as rows of the directory, and positions among the added ones."""
        rows, more = positions[positions < self.kept], positions[positions >= self.kept] - self.kept
        return (rows if self.rows is None else self.rows[rows]), more


@dataclass(frozen=True, slots=True)
class _JoinedVectors:
    """Vectors of visible rows and added items by position, read where they are: a copy of all may take gigabytes."""

    directory: np.ndarray  # [n, E], memory-mapped
    segment: _Segment

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.directory.shape[1]

    def __len__(self) -> int:
        return self.segment.kept + len(self.segment.ids)

    def __getitem__(self, chosen: slice | np.ndarray, /) -> np.ndarray:
        positions = np.arange(*chosen.indices(len(self))) if isinstance(chosen, slice) else chosen
        is_added = positions >= self.segment.kept
        rows, more = self.segment.split(positions)
        vectors = np.empty((len(positions), self.directory.shape[1]), self.directory.dtype)
        vectors[~is_added], vectors[is_added] = self.directory[rows], self.segment.vectors[more]
        return vectors


class CollectionWithDelta(Collection):
    """``Collection`` with a delta. The store of the changes has the bytes of added images that do not keep theirs."""

    def __init__(self, base: Collection, overlay: Delta) -> None:
        vars(self).update(vars(base))
        self.overlay = overlay
        self._added: list[DeltaItem] = list(overlay.added.values())
        self._added_labels = LabelIndex.of([added.labels for added in self._added], base.label_types())
        images = self._images()
        self._links = _CaptionLinks.of(self._added, self._sides["texts"].rows)
        self._segments: dict[str, _Segment] = {"images": images, "texts": self._texts(images)}
        self._captions_added = False
        self._label_values: dict[str, list[str]] | None = None

    def __len__(self) -> int:
        return self.count("images")

    @property
    def last_change(self) -> int:
        return self.overlay.number

    def is_added(self, item_id: str) -> bool:
        return item_id in self.overlay.added

    def has_image_bytes(self, item_id: str) -> bool:
        added = self.overlay.added.get(item_id)
        return added is None or added.keeps_image

    def image_bytes(self, item_id: str) -> bytes:
        added = self.overlay.added.get(item_id)
        if added is not None and added.keeps_image:
            return self._image_blobs.piece(self._sides["images"].row(item_id))
        return super().image_bytes(item_id)

    def item(self, item_id: str) -> dict[str, Any]:
        added = self.overlay.added.get(item_id)
        return super().item(item_id) if added is None else dict(added.record)

    def vector(self, item_id: str) -> np.ndarray:
        target: Target = "texts" if item_id.startswith(file_format.TEXT_PREFIX) else "images"
        self.check_vectors(target)
        segment = self._segments[target]
        at = segment.positions.get(item_id)
        return super().vector(item_id) if at is None else segment.vectors[at]

    def vectors(self, target: Target = "images") -> tuple[list[str], np.ndarray]:
        return self.at(target, range(self.count(target)))

    def count(self, target: Target = "images") -> int:
        self._target(target)
        segment = self._segments[target]
        return segment.kept + len(segment.ids)

    def record(self, target: Target, position: int) -> dict[str, Any]:
        rows, more = self._segments[target].split(np.array([position]))
        return self._record(target, int(rows[0])) if len(rows) else self._added_record(target, int(more[0]))

    def label_values(self) -> dict[str, list[str]]:
        if self._label_values is None:  # two threads may both find them, once
            segment = self._segments["images"]
            found = self._labels.values if segment.rows is None else self._labels.values_of(segment.visible)
            self._label_values = _joined(found, self._added_labels.values)
        return dict(self._label_values)

    def label_texts(self) -> dict[str, list[str]]:
        return _joined(self._labels.texts_of(self._segments["images"].visible), self._added_labels.texts)

    def label_types(self) -> dict[str, LabelType]:
        return {**self._added_labels.types, **self._labels.types}

    def _best(self, target: Target, query: np.ndarray, k: int, where: Where | None) -> list[tuple[str, float, int]]:
        """The best ``k`` of the ``k`` nearest of each part. Added items have numbers below 0."""
        side, segment = self._sides[target], self._segments[target]
        rows, chosen, labels = self._chosen(target, where)
        found, scores = self._nearest(target, query, k, rows, labels)
        more, more_scores = nearest(segment.vectors, query, k, chosen)
        every = np.concatenate((scores, more_scores))
        hits = []
        for at in np.argsort(-every, kind="stable")[:k].tolist():
            if at < len(found):
                row = int(found[at])
                hits.append((side.id(row), float(every[at]), row))
            else:
                position = int(more[at - len(found)])
                hits.append((segment.ids[position], float(every[at]), -1 - position))
        return hits

    def _full_text(self) -> FullTextIndex:
        """Once for each state with the added texts: the index keeps them for all states."""
        index = super()._full_text()
        if not self._captions_added:
            index.add(zip(self._links.keys, self._links.texts, strict=True))
            self._captions_added = True
        return index

    def _carriers_of(self, where: Where | None) -> CarriersOf:
        images, (rows, chosen, _) = self._sides["images"], self._chosen("images", where)
        allowed, added = row_mask(rows, len(images.keys)), row_mask(chosen, len(self._added))
        more = self._links.carriers_by_key(self._sides["texts"].keys)

        def carriers_of(keys: Sequence[int]) -> Iterator[np.ndarray]:
            for key, row in zip(keys, self._sides["texts"].rows(np.array(keys, np.uint64)).tolist(), strict=True):
                carriers = self._row_carriers(row)
                new = [-1 - at for at in more.get(key, ()) if added[at]]
                yield np.concatenate((carriers[allowed[carriers]], np.array(new, dtype=np.int64)))

        return carriers_of

    def _number_id(self, number: int) -> str:
        return super()._number_id(number) if number >= 0 else self._segments["images"].ids[-1 - number]

    def _chosen(
        self, target: Target, where: Where | None
    ) -> tuple[np.ndarray | None, np.ndarray | None, LabelSelection | None]:
        """Rows of the directory, and positions among the added ones, that a search may return (None: all); the filters
        that leave these rows."""
        segment, visible = self._segments[target], self._segments["images"].visible
        if not where:
            return segment.rows, None, None
        filters = parse_where(where, self.label_types())
        fits, added_mask = self._labels.mask(filters), self._added_labels.mask(filters)
        labels = LabelSelection(filters, np.flatnonzero(fits & ~visible))
        fits &= visible
        if target == "texts":
            fits, added_mask = self._carried(fits), self._links.carried(added_mask)
            fits[self._links.rows[self._added_link_mask(filters)]] = True
        return np.flatnonzero(fits), np.flatnonzero(added_mask), labels

    def _added_link_mask(self, filters: Filter) -> np.ndarray:
        """bool, one for each link to a text of the directory: whether the filter matches the added image."""
        return self._added_labels.mask(filters)[self._links.row_carriers]

    def _row(self, target: Target, item_id: str) -> int:
        row = super()._row(target, item_id)
        if not self._segments[target].visible[row]:
            raise not_found(item_id)
        return row

    def _record(self, target: Target, row: int) -> dict[str, Any]:
        if row < 0:
            return self._added_record(target, -1 - row)
        record = super()._record(target, row)
        if target == "texts":
            carriers = self._row_carriers(row)
            kept = carriers[self._segments["images"].visible[carriers]]
            record |= self._carrier_fields(kept, self._links.row_carriers[self._links.rows == row])
        return record

    def _carrier_fields(self, rows: np.ndarray, added: np.ndarray) -> dict[str, Any]:
        """Of the record of a text that these rows of the directory and added images carry."""
        more = added[: max(0, MAX_TEXT_ITEMS - len(rows))].tolist()
        items = self._ids_of_rows(rows[:MAX_TEXT_ITEMS]) + [self._added[at].record["id"] for at in more]
        return {"items": items, "item_count": len(rows) + len(added)}

    def _added_record(self, target: str, position: int) -> dict[str, Any]:
        if target == "images":
            return dict(self._added[position].record)
        record = {"id": self._segments["texts"].ids[position], "text": self._links.texts[position]}
        added = self._links.new_carriers[self._links.new == position]
        return record | self._carrier_fields(np.empty(0, np.int64), added)

    def _ids(self, target: Target, positions: np.ndarray) -> list[str]:
        side, segment = self._sides[target], self._segments[target]
        return [
            segment.ids[position - segment.kept]
            if position >= segment.kept
            else side.id(position if segment.rows is None else int(segment.rows[position]))
            for position in positions.tolist()
        ]

    def _rows_of(self, target: Target) -> _JoinedVectors:
        return _JoinedVectors(self._sides[target].vectors, self._segments[target])

    def _duplicates_graph(self) -> near_duplicates.RowGraph | None:
        graph, segment = self._graphs.get("images"), self._segments["images"]
        if graph is None:
            return None
        # of each row of the directory, the last for none: -1 where the image was removed, that of the added image
        # where it was replaced, by one with the same vector if labels alone have changed
        positions = np.full(len(segment.visible) + 1, -1, dtype=np.int64)
        positions[:-1][segment.visible] = np.arange(segment.kept)
        rows = self._sides["images"].rows(np.array([added.key for added in self._added], dtype=np.uint64))
        positions[rows[rows >= 0]] = segment.kept + np.flatnonzero(rows >= 0)
        return near_duplicates.RowGraph(lambda queries, k: positions[graph.neighbours(queries, k)], segment.kept)

    def _images(self) -> _Segment:
        side = self._sides["images"]
        visible = np.ones(len(side.keys), dtype=bool)
        gone = [added.key for added in self._added]
        gone += [key for item in self.overlay.removed if (key := side.key(item)) is not None]
        rows = side.rows(np.array(gone, dtype=np.uint64))
        visible[rows[rows >= 0]] = False
        return _Segment.of(visible, list(self.overlay.added), [added.vector for added in self._added], self.dim)

    def _texts(self, images: _Segment) -> _Segment:
        visible = np.ones(self.manifest.texts, dtype=bool)
        if images.rows is not None:
            visible = self._carried(images.visible)
            visible[self._links.rows] = True
        ids = [f"{file_format.TEXT_PREFIX}{key:016x}" for key in self._links.keys]
        return _Segment.of(visible, ids, self._links.vectors, self.dim)


def _joined(values: Mapping[str, list[str]], more: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """{label: values} of both, each value once."""
    found = dict(values)
    for label, texts in more.items():
        found[label] = list(dict.fromkeys([*found.get(label, []), *texts]))
    return found


@dataclass(frozen=True, slots=True)
class _CaptionLinks:
    """Links of added images to their captions: texts of the directory, or new ones."""

    rows: np.ndarray  # int64 [a]: rows of the directory's texts
    row_carriers: np.ndarray  # int64 [a]: the added image that carries each
    new: np.ndarray  # int64 [b]: positions among the new texts
    new_carriers: np.ndarray  # int64 [b]
    keys: list[int]  # of the new texts
    texts: list[str]
    vectors: list[bytes]

    @classmethod
    def of(cls, added: Sequence[DeltaItem], rows_of: Any) -> _CaptionLinks:
        """``rows_of``: from keys uint64 [m] to rows of the directory, -1 where there is none."""
        carriers = np.array([at for at, item in enumerate(added) for _ in item.texts], dtype=np.int64)
        keys = np.array([key for item in added for key in item.text_keys], dtype=np.uint64)
        rows = rows_of(keys)
        known, positions = rows >= 0, dict[int, int]()
        flat = [(at, number) for at, item in enumerate(added) for number in range(len(item.texts))]
        new, firsts = [], []
        for link in np.flatnonzero(~known).tolist():
            key = int(keys[link])
            if key not in positions:
                positions[key] = len(positions)
                firsts.append(flat[link])
            new.append(positions[key])
        return cls(
            rows=rows[known],
            row_carriers=carriers[known],
            new=np.array(new, dtype=np.int64),
            new_carriers=carriers[~known],
            keys=list(positions),
            texts=[added[at].texts[number] for at, number in firsts],
            vectors=[added[at].text_vectors[number] for at, number in firsts],
        )

    def carriers_by_key(self, row_keys: np.ndarray) -> dict[int, list[int]]:
        """{key of a text: the added images that carry it}; ``row_keys`` uint64 [n]: of the directory's texts."""
        found: dict[int, list[int]] = {}
        for key, at in zip(row_keys[self.rows].tolist(), self.row_carriers.tolist(), strict=True):
            found.setdefault(key, []).append(at)
        for position, at in zip(self.new.tolist(), self.new_carriers.tolist(), strict=True):
            found.setdefault(self.keys[position], []).append(at)
        return found

    def carried(self, images: np.ndarray) -> np.ndarray:
        """bool [new texts]: those that one of these added images carries; ``images`` bool [m]."""
        found = np.zeros(len(self.keys), dtype=bool)
        found[self.new[images[self.new_carriers]]] = True
        return found
