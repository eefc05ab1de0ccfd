"""What an index run that adds to a collection begins with: all that it holds, taken over without the encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.errors import UserError
from lcl_core.serving import layout
from lcl_core.serving.build import CollectionWriter, NewItem
from lcl_core.serving.changed import ChangedCollection
from lcl_core.serving.changes import HandedChanges
from lcl_core.serving.collection import Collection
from lcl_core.serving.overlay import Overlay
from lcl_core.specs import IndexSpec

_ROWS_AT_ONCE = 256  # with their pictures, up to a megabyte each


class Existing:
    """Nothing, as long as a collection is made anew.

    Attributes:
        facts: what the run's result says of it, by which it is known where the new directory belongs.
        index: what searches it, ``files`` or ``pgvector``.
    """

    name = ""
    dataset_hash = ""
    texts = 0
    facts: Mapping[str, Any] = {}
    index = "files"

    def __len__(self) -> int:
        return 0

    def __contains__(self, image: str) -> bool:
        """Whether it holds a picture of that name."""
        return False

    def check_encoder(self, encoder_hash: str) -> None:
        """Raises: UserError ``encoder_mismatch``."""

    def copy_into(self, writer: CollectionWriter, progress: Callable[[int], None]) -> int:
        """Add all pictures, their vectors to the bit; how many. Raises: whatever ``progress`` raises."""
        return 0

    def text_vectors(self, texts: Sequence[str], dim: int) -> tuple[np.ndarray, list[int]]:
        """f32 [len(texts), dim], and the places of those that it does not hold, whose rows are to be filled."""
        return np.zeros((len(texts), dim), np.float32), list(range(len(texts)))


class ExistingCollection(Existing):
    """A collection with the changes that were handed over to the run."""

    def __init__(
        self, collection: ChangedCollection, handed: HandedChanges, facts: Mapping[str, Any], index: str
    ) -> None:
        self._collection = collection
        self._handed = handed
        self.name, self.dataset_hash = collection.name, collection.manifest.dataset_hash
        self.texts = collection.count("texts")
        self.facts, self.index = facts, index

    def __len__(self) -> int:
        return len(self._collection)

    def __contains__(self, image: str) -> bool:
        try:
            self._collection.item(_id(layout.ITEM_PREFIX, image))
        except UserError:
            return False
        return True

    def check_encoder(self, encoder_hash: str) -> None:
        if encoder_hash != self._collection.encoder_hash:
            message = (
                f"collection {self.name!r} was made with encoder {self._collection.encoder_hash[:12]}, this is "
                f"{encoder_hash[:12]}; name that one, or make the collection anew with mode replace"
            )
            raise UserError(message, code="encoder_mismatch", field="encoder")

    def copy_into(self, writer: CollectionWriter, progress: Callable[[int], None]) -> int:
        total = len(self)
        for start in range(0, total, _ROWS_AT_ONCE):
            places = range(start, min(start + _ROWS_AT_ONCE, total))
            ids, vectors = self._collection.at("images", places)
            records = [self._collection.record("images", place) for place in places]
            items = [_item(record, data) for record, data in zip(records, self._pictures(ids), strict=True)]
            writer.add_items(items, vectors, unit=True)
            progress(len(places))
        return total

    def text_vectors(self, texts: Sequence[str], dim: int) -> tuple[np.ndarray, list[int]]:
        vectors, new = super().text_vectors(texts, dim)
        missing = []
        for at in new:
            try:
                vectors[at] = self._collection.vector(_id(layout.TEXT_PREFIX, texts[at]))
            except UserError:
                missing.append(at)
        return vectors, missing

    def _pictures(self, ids: Sequence[str]) -> list[bytes]:
        added = [item for item in ids if self._collection.is_added(item)]
        handed = dict(zip(added, self._handed.pictures(added), strict=True))
        return [handed[item] if item in handed else self._collection.image_bytes(item) for item in ids]


NOTHING = Existing()


def open_existing(run: Mapping[str, Any], spec: IndexSpec) -> Existing:
    """What ``run.json`` hands over. Every byte is compared first: what is damaged is not copied on.

    Raises: UserError ``unknown_collection``, ``collection_unreadable``, ``collection_changed``.
    """
    if spec.mode == "replace":
        return NOTHING
    given = run.get("collections", {}).get(spec.collection)
    if given is None:
        message = f"collection {spec.collection!r} does not exist; make it first, with mode replace"
        raise UserError(message, code="unknown_collection", field="collection")
    handed = HandedChanges(Path(given["changes"]))
    collection = ChangedCollection(Collection.open(given["path"], verify=True), Overlay().after(handed.changes))
    facts = {"id": given["id"], "base": given["stored"], "through": given["through"]}
    return ExistingCollection(collection, handed, facts, given["index"])


def _item(record: Mapping[str, Any], data: bytes) -> NewItem:
    return NewItem(
        image=record["image"],
        data=data,
        media_type=record["media_type"],
        captions=tuple(record["captions"]),
        labels=record["labels"],
        split=record["split"],
        source=record["source"],
    )


def _id(prefix: str, text: str) -> str:
    return f"{prefix}{layout.key_of(text):016x}"
