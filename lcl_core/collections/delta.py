"""A collection with a delta: the rows of its directory, minus removed items, plus added ones. Imports no torch.

A delta and a collection with it are immutable: each state of the changes makes new ones, so that a search, or an export
that takes minutes, reads one state. Data of the directory is shared with the collection that was opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lcl_core.collections import file_format
from lcl_core.collections.collection import Collection, Hit, not_found
from lcl_core.collections.file_format import Target
from lcl_core.collections.flat_index import nearest
from lcl_core.collections.query import LabelIndex, Where, check_labels
from lcl_core.collections.records import ChangeRecord, caption_texts


@dataclass(frozen=True, slots=True)
class DeltaItem:
    """A picture of the overlay, and what can be worked out of it once for all states that have it.

    Vectors stay bytes: to join ten thousand of them takes a few milliseconds, to stack as many arrays a hundred.
    """

    record: dict[str, Any]
    key: int  # the number inside its id
    labels: dict[str, str]  # what a filter can ask for
    texts: tuple[str, ...]
    text_keys: tuple[int, ...]
    vector: bytes  # f32 [E]
    text_vectors: tuple[bytes, ...]  # one for each of texts

    @classmethod
    def of(cls, change: ChangeRecord, record: dict[str, Any]) -> DeltaItem:
        texts, width = caption_texts(record), len(change.vector)
        return cls(
            record=record,
            key=int(change.item.removeprefix(file_format.ITEM_PREFIX), 16),
            labels={"split": record["split"], "source": record["source"], **record["labels"]},
            texts=texts,
            text_keys=tuple(map(file_format.stable_hash64, texts)),
            vector=change.vector,
            text_vectors=tuple(change.text_vectors[at * width : (at + 1) * width] for at in range(len(texts))),
        )


@dataclass(frozen=True)
class Delta:
    """``number``: of the last change in it; ``added``: by id, in the order they came; ``removed``: ids."""

    number: int = 0
    added: Mapping[str, DeltaItem] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()

    def with_changes(self, changes: Iterable[ChangeRecord]) -> Delta:
        """The overlay with further changes, in the order of their numbers."""
        number, added, removed = self.number, dict(self.added), set(self.removed)
        for change in changes:
            number = change.number
            added.pop(change.item, None)  # a picture that was replaced is the newest
            removed.discard(change.item)
            if change.record is None:
                removed.add(change.item)
            else:
                added[change.item] = DeltaItem.of(change, change.record)
        return Delta(number, added, frozenset(removed))


@dataclass(frozen=True, slots=True)
class _Segment:
    """The images, or the texts, as they are now: some rows of the directory, and behind them what was added."""

    shown: np.ndarray  # bool [n]: the directory's rows that are there still
    rows: np.ndarray | None  # the same as ascending row numbers; None: all of them
    ids: list[str]  # of what was added
    vectors: np.ndarray  # f32 [m, E], row-aligned with ids
    places: dict[str, int]  # by id: place in ids

    @classmethod
    def of(cls, shown: np.ndarray, ids: list[str], vectors: Sequence[bytes], dim: int) -> _Segment:
        rows = None if shown.all() else np.flatnonzero(shown)
        stacked = np.frombuffer(b"".join(vectors), "<f4").reshape(len(ids), dim)
        return cls(shown, rows, ids, stacked, {identity: place for place, identity in enumerate(ids)})

    @property
    def kept(self) -> int:
        """How many of the directory's rows are there still."""
        return len(self.shown) if self.rows is None else len(self.rows)


class CollectionWithDelta(Collection):
    """``Collection`` with an overlay. An added picture's bytes are with whoever keeps the changes."""

    def __init__(self, base: Collection, overlay: Delta) -> None:
        vars(self).update(vars(base))
        self.overlay = overlay
        self._added: list[DeltaItem] = list(overlay.added.values())
        self._added_labels = LabelIndex.of([added.labels for added in self._added])
        images = self._images()
        self._links = _CaptionLinks.of(self._added, self._sides["texts"].rows)
        self._halves: dict[str, _Segment] = {"images": images, "texts": self._texts(images)}

    def __len__(self) -> int:
        return self.count("images")

    def is_added(self, item_id: str) -> bool:
        """Whether this picture's bytes are not in the directory."""
        return item_id in self.overlay.added

    def item(self, item_id: str) -> dict[str, Any]:
        added = self.overlay.added.get(item_id)
        return super().item(item_id) if added is None else dict(added.record)

    def vector(self, item_id: str) -> np.ndarray:
        half = self._halves["texts" if item_id.startswith(file_format.TEXT_PREFIX) else "images"]
        place = half.places.get(item_id)
        return super().vector(item_id) if place is None else half.vectors[place]

    def vectors(self, target: Target = "images") -> tuple[list[str], np.ndarray]:
        return self.at(target, range(self.count(target)))

    def count(self, target: Target = "images") -> int:
        self._target(target)
        half = self._halves[target]
        return half.kept + len(half.ids)

    def at(self, target: Target, places: Sequence[int]) -> tuple[list[str], np.ndarray]:
        side, half = self._target(target), self._halves[target]
        rows, more = self._parted(target, places)
        ids = [side.id(row) for row in rows.tolist()] + [half.ids[place] for place in more.tolist()]
        vectors = np.concatenate((side.vectors[rows], half.vectors[more].astype(side.vectors.dtype)))
        order = np.argsort(np.asarray(places) >= half.kept, kind="stable")  # where each came to lie
        back = np.argsort(order, kind="stable")
        return [ids[place] for place in back.tolist()], vectors[back]

    def record(self, target: Target, place: int) -> dict[str, Any]:
        rows, more = self._parted(target, [place])
        return self._record(target, int(rows[0])) if len(rows) else self._added_record(target, int(more[0]))

    def label_values(self) -> dict[str, list[str]]:
        half = self._halves["images"]
        found = dict(self._labels.values if half.rows is None else self._labels.values_of(half.shown))
        for label, values in self._added_labels.values.items():
            found[label] = list(dict.fromkeys([*found.get(label, []), *values]))
        return found

    def _best(self, target: Target, query: np.ndarray, k: int, where: Where | None) -> list[Hit]:
        """Both parts are asked for ``k``, so that the best ``k`` are among what they give."""
        side, half = self._sides[target], self._halves[target]
        rows, chosen = self._chosen(target, where)
        found, scores = self._nearest(target, query, k, rows)
        more, more_scores = nearest(half.vectors, query, k, chosen)
        every = np.concatenate((scores, more_scores))
        hits = []
        for at in np.argsort(-every, kind="stable")[:k].tolist():
            if at < len(found):
                row = int(found[at])
                hits.append(Hit(side.id(row), float(every[at]), self._record(target, row)))
            else:
                place = int(more[at - len(found)])
                hits.append(Hit(half.ids[place], float(every[at]), self._added_record(target, place)))
        return hits

    def _chosen(self, target: Target, where: Where | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Rows of the directory, and places among what was added, that a search may choose from; None: all."""
        half = self._halves[target]
        if not where:
            return half.rows, None
        check_labels(where, self._labels.values.keys() | self._added_labels.values.keys())
        fits = self._labels.mask(where) & self._halves["images"].shown
        fits_added = self._added_labels.mask(where)
        if target == "texts":
            fits, fits_added = self._carried(fits), self._links.carried(fits_added)
            fits[self._links.rows[self._added_fits(where)]] = True
        return np.flatnonzero(fits), np.flatnonzero(fits_added)

    def _added_fits(self, where: Where) -> np.ndarray:
        """bool, one for each link to a text of the directory: whether the added picture fits."""
        return self._added_labels.mask(where)[self._links.row_carriers]

    def _row(self, target: Target, item_id: str) -> int:
        row = super()._row(target, item_id)
        if not self._halves[target].shown[row]:
            raise not_found(item_id)
        return row

    def _record(self, target: str, row: int) -> dict[str, Any]:
        record = super()._record(target, row)
        if target == "texts":
            images = self._sides["images"]
            carriers = self._carriers[self._starts[row] : self._starts[row + 1]]
            kept = carriers[self._halves["images"].shown[carriers]].tolist()
            more = self._links.row_carriers[self._links.rows == row].tolist()
            record["items"] = [images.id(carrier) for carrier in kept] + [self._added[at].record["id"] for at in more]
        return record

    def _added_record(self, target: str, place: int) -> dict[str, Any]:
        if target == "images":
            return dict(self._added[place].record)
        carriers = self._links.new_carriers[self._links.new == place].tolist()
        items = [self._added[at].record["id"] for at in carriers]
        return {"id": self._halves["texts"].ids[place], "text": self._links.texts[place], "items": items}

    def _parted(self, target: str, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of places in the whole: rows of the directory, and places among what was added."""
        half, asked = self._halves[target], np.asarray(places, dtype=np.int64)
        rows, more = asked[asked < half.kept], asked[asked >= half.kept] - half.kept
        return (rows if half.rows is None else half.rows[rows]), more

    def _images(self) -> _Segment:
        side = self._sides["images"]
        shown = np.ones(len(side.keys), dtype=bool)
        gone = [added.key for added in self._added]
        gone += [key for item in self.overlay.removed if (key := side.key(item)) is not None]
        rows = side.rows(np.array(gone, dtype=np.uint64))
        shown[rows[rows >= 0]] = False
        return _Segment.of(shown, list(self.overlay.added), [added.vector for added in self._added], self.dim)

    def _texts(self, images: _Segment) -> _Segment:
        shown = np.ones(self.manifest.texts, dtype=bool)
        if images.rows is not None:
            shown = self._carried(images.shown)
            shown[self._links.rows] = True
        ids = [f"{file_format.TEXT_PREFIX}{key:016x}" for key in self._links.keys]
        return _Segment.of(shown, ids, self._links.vectors, self.dim)


@dataclass(frozen=True, slots=True)
class _CaptionLinks:
    """Which added picture carries which text: one that the directory holds, or a new one."""

    rows: np.ndarray  # int64 [a]: rows of the directory's texts
    row_carriers: np.ndarray  # int64 [a]: the added picture that carries each
    new: np.ndarray  # int64 [b]: places among the new texts
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
        known, places = rows >= 0, dict[int, int]()
        flat = [(at, number) for at, item in enumerate(added) for number in range(len(item.texts))]
        new, firsts = [], []
        for link in np.flatnonzero(~known).tolist():
            key = int(keys[link])
            if key not in places:
                places[key] = len(places)
                firsts.append(flat[link])
            new.append(places[key])
        return cls(
            rows=rows[known],
            row_carriers=carriers[known],
            new=np.array(new, dtype=np.int64),
            new_carriers=carriers[~known],
            keys=list(places),
            texts=[added[at].texts[number] for at, number in firsts],
            vectors=[added[at].text_vectors[number] for at, number in firsts],
        )

    def carried(self, pictures: np.ndarray) -> np.ndarray:
        """bool [new texts]: those that one of these added pictures carries; ``pictures`` bool [m]."""
        found = np.zeros(len(self.keys), dtype=bool)
        found[self.new[pictures[self.new_carriers]]] = True
        return found
