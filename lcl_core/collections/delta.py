"""The changes of a collection since its directory was written, in memory and immutable. Imports no torch.

Each state of the changes makes a new delta, so that a search, or an export that takes minutes, reads one state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lcl_core.collections import file_format
from lcl_core.collections.file_format import Side
from lcl_core.collections.records import ChangeRecord, caption_texts
from lcl_core.common.errors import NotFound


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
        return cls(
            record=record,
            key=int(change.item.removeprefix(file_format.ITEM_PREFIX), 16),
            labels={"split": record["split"], "source": record["source"], **record["labels"]},
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
class CaptionLinks:
    """Which added image carries which text: link i is from image ``images[i]`` to text ``texts[i]``.

    Attributes:
        texts: int64 [a], ascending: a row of the directory, or behind these the place of a new text.
        images: int64 [a]: the place among the added images.
        numbers: {key of a new text: its number}.
        new_texts, vectors: of the new texts.
    """

    texts: np.ndarray
    images: np.ndarray
    numbers: dict[int, int]
    new_texts: list[str]
    vectors: list[bytes]

    @classmethod
    def of(cls, added: Sequence[DeltaItem], directory: Side) -> CaptionLinks:
        """``directory``: the texts of the collection's directory."""
        images = np.array([at for at, item in enumerate(added) for _ in item.texts], dtype=np.int64)
        keys = np.array([key for item in added for key in item.text_keys], dtype=np.uint64)
        texts = directory.rows(keys)
        given = [(item, place) for item in added for place in range(len(item.texts))]
        new: dict[int, tuple[DeltaItem, int]] = {}
        numbers: dict[int, int] = {}
        for link in np.flatnonzero(texts < 0).tolist():
            key = int(keys[link])
            new.setdefault(key, given[link])
            texts[link] = numbers.setdefault(key, len(directory) + len(numbers))
        order = np.argsort(texts, kind="stable")
        return cls(
            texts=texts[order],
            images=images[order],
            numbers=numbers,
            new_texts=[item.texts[place] for item, place in new.values()],
            vectors=[item.text_vectors[place] for item, place in new.values()],
        )

    def carriers(self, text: int) -> np.ndarray:
        """int64 [c]: places of the added images that carry a text."""
        start, stop = np.searchsorted(self.texts, (text, text + 1))
        return self.images[start:stop]


class Rows:
    """The images, or the texts, of one state: those of the directory that are not hidden, then the added ones.

    Attributes:
        visible: ascending rows of the directory that are not hidden; None: all.
        added: ids of the added ones.
        added_vectors: f32 [m, E], row-aligned with them; [0, E] where captions have none.
    """

    def __init__(
        self, side: Side, shown: np.ndarray | None = None, added: Sequence[str] = (), vectors: bytes = b""
    ) -> None:
        """``shown``: bool [n], of the directory's rows; None: all. ``vectors``: f32 of the added ones."""
        self.side = side
        self.visible = None if shown is None or shown.all() else np.flatnonzero(shown)
        self.added = added
        dim = side.vectors.shape[1]
        self.added_vectors = np.frombuffer(vectors, "<f4").reshape(-1, dim)
        self._places = {item: place for place, item in enumerate(added)}

    @property
    def kept(self) -> int:
        """Rows of the directory that are not hidden."""
        return len(self.side) if self.visible is None else len(self.visible)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.side.vectors.shape[1]

    def __len__(self) -> int:
        return self.kept + len(self.added)

    def __getitem__(self, positions: slice | np.ndarray, /) -> np.ndarray:
        """Vectors [m, E] at positions, 0 to ``len`` - 1, read where they are: a copy of all may take gigabytes."""
        if self.visible is None and not self.added:
            return self.side.vectors[positions]
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(len(self)))
        numbers = self.numbers(positions)
        is_added = numbers >= len(self.side)
        vectors = np.empty((len(numbers), self.shape[1]), self.side.vectors.dtype)
        vectors[~is_added] = self.side.vectors[numbers[~is_added]]
        vectors[is_added] = self.added_vectors[numbers[is_added] - len(self.side)]
        return vectors

    def numbers(self, positions: np.ndarray) -> np.ndarray:
        """Of what is at these positions."""
        if self.visible is None:
            return positions
        numbers = positions + (len(self.side) - len(self.visible))
        in_directory = positions < len(self.visible)
        numbers[in_directory] = self.visible[positions[in_directory]]
        return numbers

    def number(self, item_id: str) -> int:
        """Raises: UserError ``item_not_found``."""
        if item_id in self._places:
            return len(self.side) + self._places[item_id]
        row = self.side.row(item_id)
        if row < 0 or not self.shows(row):
            raise not_found(item_id)
        return row

    def shows(self, row: int) -> bool:
        """Whether a row of the directory is not hidden."""
        if self.visible is None:
            return True
        at = int(np.searchsorted(self.visible, row))
        return at < len(self.visible) and int(self.visible[at]) == row

    def id(self, number: int) -> str:
        if number >= len(self.side):
            return self.added[number - len(self.side)]
        return f"{self.side.prefix}{int(self.side.keys[number]):016x}"

    def ids(self, numbers: np.ndarray) -> list[str]:
        return [self.id(number) for number in numbers.tolist()]

    def vector(self, number: int) -> np.ndarray:
        """f32 [E]."""
        if number >= len(self.side):
            return self.added_vectors[number - len(self.side)]
        return np.asarray(self.side.vectors[number], dtype=np.float32)

    @cached_property
    def mask(self) -> np.ndarray:
        """bool: of each number, whether it is not hidden."""
        mask = np.ones(len(self.side) + len(self.added), dtype=bool)
        if self.visible is not None:
            mask[: len(self.side)] = False
            mask[self.visible] = True
        return mask


def not_found(item_id: str) -> NotFound:
    return NotFound(f"the collection holds no item {item_id!r}", code="item_not_found", field="id")
