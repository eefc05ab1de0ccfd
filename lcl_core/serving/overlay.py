"""The changes of a collection as they stand after the last one of each picture. Never changes itself. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lcl_core.serving import layout
from lcl_core.serving.changes import Change, texts_of


@dataclass(frozen=True, slots=True)
class Added:
    """A picture of the overlay, its captions' numbers worked out once."""

    record: dict[str, Any]
    key: int  # the number inside its id
    texts: tuple[str, ...]
    text_keys: tuple[int, ...]
    vector: np.ndarray  # f32 [E]
    text_vectors: np.ndarray  # f32 [len(texts), E]

    @classmethod
    def of(cls, change: Change, record: dict[str, Any]) -> Added:
        vector, texts = np.frombuffer(change.vector, "<f4"), texts_of(record)
        return cls(
            record=record,
            key=int(change.item.removeprefix(layout.ITEM_PREFIX), 16),
            texts=texts,
            text_keys=tuple(map(layout.key_of, texts)),
            vector=vector,
            text_vectors=np.frombuffer(change.text_vectors, "<f4").reshape(len(texts), len(vector)),
        )


@dataclass(frozen=True)
class Overlay:
    """``number``: of the last change in it; ``added``: by id, in the order they came; ``removed``: ids."""

    number: int = 0
    added: Mapping[str, Added] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()

    def after(self, changes: Iterable[Change]) -> Overlay:
        """The overlay with further changes, in the order of their numbers."""
        number, added, removed = self.number, dict(self.added), set(self.removed)
        for change in changes:
            number = change.number
            added.pop(change.item, None)  # a picture that was replaced is the newest
            removed.discard(change.item)
            if change.record is None:
                removed.add(change.item)
            else:
                added[change.item] = Added.of(change, change.record)
        return Overlay(number, added, frozenset(removed))
