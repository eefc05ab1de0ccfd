"""The changes of a collection as they stand after the last one of each picture. Never changes itself. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lcl_core.serving import layout
from lcl_core.serving.changes import Change, texts_of


@dataclass(frozen=True, slots=True)
class Added:
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
    def of(cls, change: Change, record: dict[str, Any]) -> Added:
        texts, width = texts_of(record), len(change.vector)
        return cls(
            record=record,
            key=int(change.item.removeprefix(layout.ITEM_PREFIX), 16),
            labels={"split": record["split"], "source": record["source"], **record["labels"]},
            texts=texts,
            text_keys=tuple(map(layout.key_of, texts)),
            vector=change.vector,
            text_vectors=tuple(change.text_vectors[at * width : (at + 1) * width] for at in range(len(texts))),
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
