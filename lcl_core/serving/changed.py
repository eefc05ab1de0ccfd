"""A collection as it is after changes: what its directory holds, less what was removed, and what was added.

Made anew for every state of the changes and never changed, so that a search, or an export that takes minutes, sees
one state to its end. What lies in the directory is shared with the collection that was opened. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcl_core.serving import layout
from lcl_core.serving.collection import Collection, Hit, not_found
from lcl_core.serving.filters import Labels, Where, check_labels
from lcl_core.serving.layout import Target
from lcl_core.serving.nearest import nearest
from lcl_core.serving.overlay import Added, Overlay


@dataclass(frozen=True, slots=True)
class _Half:
    """The images, or the texts, as they are now: some rows of the directory, and behind them what was added."""

    shown: np.ndarray  # bool [n]: the directory's rows that are there still
    rows: np.ndarray | None  # the same as ascending row numbers; None: all of them
    ids: list[str]  # of what was added
    vectors: np.ndarray  # f32 [m, E], row-aligned with ids
    places: dict[str, int]  # by id: place in ids

    @classmethod
    def of(cls, shown: np.ndarray, ids: list[str], vectors: Sequence[bytes], dim: int) -> _Half:
        rows = None if shown.all() else np.flatnonzero(shown)
        stacked = np.frombuffer(b"".join(vectors), "<f4").reshape(len(ids), dim)
        return cls(shown, rows, ids, stacked, {identity: place for place, identity in enumerate(ids)})

    @property
    def kept(self) -> int:
        """How many of the directory's rows are there still."""
        return len(self.shown) if self.rows is None else len(self.rows)


class ChangedCollection(Collection):
    """``Collection`` with an overlay. An added picture's bytes are with whoever keeps the changes."""

    def __init__(self, base: Collection, overlay: Overlay) -> None:
        vars(self).update(vars(base))
        self.overlay = overlay
        self._added: list[Added] = list(overlay.added.values())
        self._added_labels = Labels.of([added.labels for added in self._added])
        images = self._images()
        self._links = _Links.of(self._added, self._sides["texts"].rows)
        self._halves: dict[str, _Half] = {"images": images, "texts": self._texts(images)}

    def __len__(self) -> int:
        return self.count("images")

    def is_added(self, item_id: str) -> bool:
        """Whether this picture's bytes are not in the directory."""
        return item_id in self.overlay.added

    def item(self, item_id: str) -> dict[str, Any]:
        added = self.overlay.added.get(item_id)
        return super().item(item_id) if added is None else dict(added.record)

    def vector(self, item_id: str) -> np.ndarray:
        half = self._halves["texts" if item_id.startswith(layout.TEXT_PREFIX) else "images"]
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
        fits = self._labels.fits(where) & self._halves["images"].shown
        fits_added = self._added_labels.fits(where)
        if target == "texts":
            fits, fits_added = self._carried(fits), self._links.carried(fits_added)
            fits[self._links.rows[self._added_fits(where)]] = True
        return np.flatnonzero(fits), np.flatnonzero(fits_added)

    def _added_fits(self, where: Where) -> np.ndarray:
        """bool, one for each link to a text of the directory: whether the added picture fits."""
        return self._added_labels.fits(where)[self._links.row_carriers]

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

    def _images(self) -> _Half:
        side = self._sides["images"]
        shown = np.ones(len(side.keys), dtype=bool)
        gone = [added.key for added in self._added]
        gone += [key for item in self.overlay.removed if (key := side.key(item)) is not None]
        rows = side.rows(np.array(gone, dtype=np.uint64))
        shown[rows[rows >= 0]] = False
        return _Half.of(shown, list(self.overlay.added), [added.vector for added in self._added], self.dim)

    def _texts(self, images: _Half) -> _Half:
        shown = np.ones(self.manifest.texts, dtype=bool)
        if images.rows is not None:
            shown = self._carried(images.shown)
            shown[self._links.rows] = True
        ids = [f"{layout.TEXT_PREFIX}{key:016x}" for key in self._links.keys]
        return _Half.of(shown, ids, self._links.vectors, self.dim)


@dataclass(frozen=True, slots=True)
class _Links:
    """Which added picture carries which text: one that the directory holds, or a new one."""

    rows: np.ndarray  # int64 [a]: rows of the directory's texts
    row_carriers: np.ndarray  # int64 [a]: the added picture that carries each
    new: np.ndarray  # int64 [b]: places among the new texts
    new_carriers: np.ndarray  # int64 [b]
    keys: list[int]  # of the new texts
    texts: list[str]
    vectors: list[bytes]

    @classmethod
    def of(cls, added: Sequence[Added], rows_of: Any) -> _Links:
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
