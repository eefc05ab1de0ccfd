"""Write a collection: into a hidden directory beside its own, renamed when whole. Imports no torch.

An append run copies an existing collection, with its delta, before it adds: vectors to the bit, without the encoder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lcl_core.collections import file_format, hnsw_index
from lcl_core.collections.collection import Collection
from lcl_core.collections.delta import CollectionWithDelta, Delta
from lcl_core.collections.file_format import BlobWriter, CollectionManifest, Dtype, Target
from lcl_core.collections.hnsw_index import OnProgress, write_hnsw_index
from lcl_core.collections.query import LabelIndexBuilder
from lcl_core.collections.records import DeltaSnapshot
from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, sha256_file, write_json_atomically
from lcl_core.specs.corpus_jobs import IndexSpec


@dataclass(frozen=True, slots=True)
class CollectionItem:
    """A picture to add: ``image`` is its name, unique in the collection, and ``data`` the bytes to keep."""

    image: str
    data: bytes
    media_type: str
    captions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    source: str = ""


class CollectionWriter:
    """A context manager: an exception inside it leaves nothing behind, and an older collection untouched.

    Add pictures, then one vector a caption of ``texts``, in that order. Vectors are scaled to length 1.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        name: str,
        encoder_hash: str,
        dataset_hash: str,
        dim: int,
        dtype: Dtype = "f32",
    ) -> None:
        self.directory = Path(directory)
        self._facts: dict[str, Any] = {"name": name, "dim": dim, "dtype": dtype}
        self._facts |= {"encoder_hash": encoder_hash, "dataset_hash": dataset_hash}
        self._beside = self.directory.with_name(f".{self.directory.name}.building")
        self._texts: dict[str, list[int]] = {}
        self._labels = LabelIndexBuilder()

    @property
    def texts(self) -> list[str]:
        """The distinct captions so far, first seen first; a caption of nothing but spaces is left out."""
        return list(self._texts)

    def __enter__(self) -> CollectionWriter:
        shutil.rmtree(self._beside, ignore_errors=True)  # of a builder that was killed
        self._beside.mkdir(parents=True)
        self._items = BlobWriter(self._beside / file_format.ITEMS)
        self._lines = BlobWriter(self._beside / file_format.TEXTS)
        self._images = BlobWriter(self._beside / file_format.IMAGES)
        self._image_vectors = BlobWriter(self._beside / file_format.IMAGE_VECTORS)
        self._text_vectors = BlobWriter(self._beside / file_format.TEXT_VECTORS)
        self._item_keys: dict[int, str] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                _replace_directory(self._beside, self.directory)
        finally:
            for pieces in self._open_files():
                pieces.file.close()
            shutil.rmtree(self._beside, ignore_errors=True)

    def add_items(self, items: Sequence[CollectionItem], vectors: np.ndarray, *, unit: bool = False) -> None:
        """Add pictures with their vectors [len(items), E].

        Args:
            unit: they are of length 1, and kept to the bit: those of another collection stay what they are.

        Raises:
            UserError: ``bad_vector``; ``duplicate_item`` for a name that is there already.
        """
        rows = self._checked(vectors, len(items), unit)
        for item, row in zip(items, rows, strict=True):
            self._add(item)
            self._image_vectors.append(row.tobytes())

    def add_text_vectors(self, vectors: np.ndarray, *, unit: bool = False) -> None:
        """Add the vectors [m, E] of the next m captions of ``texts``; ``unit``: as of ``add_items``.

        Raises: UserError ``bad_vector``.
        """
        for row in self._checked(vectors, len(vectors), unit):
            self._text_vectors.append(row.tobytes())

    def link(self, progress: OnProgress | None = None) -> None:
        """Once all vectors are there: make the graph of each side that is too large for one pass over it.

        Args:
            progress: told how many rows more are linked; what it raises ends the making of the collection.

        Raises: UserError ``missing_extra``.
        """
        for target, pieces, name in self._large():
            pieces.file.flush()
            dtype, shape = file_format.NUMPY_DTYPES[self._facts["dtype"]], (pieces.count, self._facts["dim"])
            vectors = np.memmap(self._beside / name, dtype, mode="r", shape=shape)
            write_hnsw_index(self._beside / file_format.GRAPHS[target], vectors, progress)

    @property
    def rows_to_index(self) -> int:
        """How many ``link`` will tell of."""
        return sum(pieces.count for _, pieces, _ in self._large())

    def _large(self) -> list[tuple[Target, BlobWriter, str]]:
        sides: list[tuple[Target, BlobWriter, str]] = [
            ("images", self._image_vectors, file_format.IMAGE_VECTORS),
            ("texts", self._text_vectors, file_format.TEXT_VECTORS),
        ]
        return [side for side in sides if side[1].count > hnsw_index.EXACT_ROWS]

    def _add(self, item: CollectionItem) -> None:
        key = file_format.stable_hash64(item.image)
        if key in self._item_keys:
            message = f"picture {item.image!r} was added before (as {self._item_keys[key]!r})"
            raise UserError(message, code="duplicate_item")
        row = len(self._item_keys)
        self._item_keys[key] = item.image
        for caption in dict.fromkeys(item.captions):
            if caption.strip():
                self._texts.setdefault(caption, []).append(row)
        self._labels.add({"split": item.split, "source": item.source, **item.labels})
        self._items.append_record(
            {
                "id": f"{file_format.ITEM_PREFIX}{key:016x}",
                "image": item.image,
                "captions": list(item.captions),
                "labels": dict(item.labels),
                "split": item.split,
                "source": item.source,
                "media_type": item.media_type,
            }
        )
        self._images.append(item.data)

    def _checked(self, vectors: np.ndarray, count: int, unit: bool) -> np.ndarray:
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.shape != (count, self._facts["dim"]):
            message = f"vectors of shape {rows.shape} where ({count}, {self._facts['dim']}) was expected"
            raise UserError(message, code="bad_vector")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise UserError("a vector is all zero or not finite; the encoder is damaged", code="bad_vector")
        return (rows if unit else rows / lengths).astype(file_format.NUMPY_DTYPES[self._facts["dtype"]])

    def _finish(self) -> None:
        if self._text_vectors.count != len(self._texts):
            message = f"{self._text_vectors.count} text vectors for {len(self._texts)} captions"
            raise UserError(message, code="bad_vector")
        keys = [file_format.stable_hash64(text) for text in self._texts]
        for key, text in zip(keys, self._texts, strict=True):
            self._lines.append_record({"id": f"{file_format.TEXT_PREFIX}{key:016x}", "text": text})
        carriers = list(self._texts.values())
        starts = np.cumsum([0, *map(len, carriers)], dtype=np.int64)
        rows = np.array([row for group in carriers for row in group], dtype=np.int64)
        self._save(file_format.ITEM_OFFSETS, self._items.offsets())
        self._save(file_format.TEXT_OFFSETS, self._lines.offsets())
        self._save(file_format.IMAGE_OFFSETS, self._images.offsets())
        self._save(file_format.ITEM_KEYS, np.array(list(self._item_keys), dtype=np.uint64))
        self._save(file_format.TEXT_KEYS, np.array(keys, dtype=np.uint64))
        self._save(file_format.TEXT_ITEM_STARTS, starts)
        self._save(file_format.TEXT_ITEM_ROWS, rows)
        self._save(file_format.LABEL_CODES, self._labels.codes())
        values = json.dumps(self._labels.values(), ensure_ascii=False)
        (self._beside / file_format.LABELS).write_text(values, encoding="utf-8")
        self._write_manifest()

    def _write_manifest(self) -> None:
        for pieces in self._open_files():
            pieces.file.close()
        manifest = CollectionManifest(
            format_version=file_format.FORMAT_VERSION,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            images=len(self._item_keys),
            texts=len(self._texts),
            files={name: _file_entry(self._beside / name) for name in self._written()},
            **self._facts,
        )
        write_json_atomically(self._beside / file_format.MANIFEST, manifest.model_dump())

    def _written(self) -> list[str]:
        return [*file_format.FILES, *(name for name in file_format.GRAPHS.values() if (self._beside / name).is_file())]

    def _save(self, name: str, array: np.ndarray) -> None:
        np.save(self._beside / name, array, allow_pickle=False)

    def _open_files(self) -> tuple[BlobWriter, ...]:
        return self._items, self._lines, self._images, self._image_vectors, self._text_vectors


def build_collection(
    directory: str | Path,
    items: Sequence[CollectionItem],
    image_vectors: np.ndarray,
    text_vectors: Mapping[str, np.ndarray],
    *,
    name: str,
    encoder_hash: str,
    dataset_hash: str = "",
    dtype: Dtype = "f32",
) -> None:
    """Write a collection that fits in memory.

    Args:
        image_vectors: [len(items), E].
        text_vectors: {caption: [E]}, for every caption of the items.

    Raises:
        UserError: ``bad_vector``, ``duplicate_item``.
    """
    dim = int(np.shape(image_vectors)[-1])
    with CollectionWriter(
        directory, name=name, encoder_hash=encoder_hash, dataset_hash=dataset_hash, dim=dim, dtype=dtype
    ) as writer:
        writer.add_items(items, image_vectors)
        missing = [text for text in writer.texts if text not in text_vectors]
        if missing:
            raise UserError(f"caption {missing[0]!r} has no vector", code="bad_vector")
        if writer.texts:
            writer.add_text_vectors(np.stack([text_vectors[text] for text in writer.texts]))
        writer.link()


def _file_entry(path: Path) -> file_format.FileEntry:
    """Flush the file to disk and describe it."""
    fsync_path(path)
    return file_format.FileEntry(bytes=path.stat().st_size, sha256=sha256_file(path))


def _replace_directory(beside: Path, directory: Path) -> None:
    """Swap in the new directory. Readers of an older one keep what they have mapped."""
    older = directory.with_name(f".{directory.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    if directory.exists():
        directory.rename(older)
    beside.rename(directory)
    shutil.rmtree(older, ignore_errors=True)


_COPY_ROWS = 256  # with their pictures, up to a megabyte each


class AppendSource:
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


class CollectionAppendSource(AppendSource):
    """A collection with the changes that were handed over to the run."""

    def __init__(
        self, collection: CollectionWithDelta, handed: DeltaSnapshot, facts: Mapping[str, Any], index: str
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
            self._collection.item(_item_id(file_format.ITEM_PREFIX, image))
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
        for start in range(0, total, _COPY_ROWS):
            places = range(start, min(start + _COPY_ROWS, total))
            ids, vectors = self._collection.at("images", places)
            records = [self._collection.record("images", place) for place in places]
            items = [_collection_item(record, data) for record, data in zip(records, self._pictures(ids), strict=True)]
            writer.add_items(items, vectors, unit=True)
            progress(len(places))
        return total

    def text_vectors(self, texts: Sequence[str], dim: int) -> tuple[np.ndarray, list[int]]:
        vectors, new = super().text_vectors(texts, dim)
        missing = []
        for at in new:
            try:
                vectors[at] = self._collection.vector(_item_id(file_format.TEXT_PREFIX, texts[at]))
            except UserError:
                missing.append(at)
        return vectors, missing

    def _pictures(self, ids: Sequence[str]) -> list[bytes]:
        added = [item for item in ids if self._collection.is_added(item)]
        handed = dict(zip(added, self._handed.pictures(added), strict=True))
        return [handed[item] if item in handed else self._collection.image_bytes(item) for item in ids]


EMPTY_SOURCE = AppendSource()


def open_append_source(run: Mapping[str, Any], spec: IndexSpec) -> AppendSource:
    """What ``run.json`` hands over. Every byte is compared first: what is damaged is not copied on.

    Raises: UserError ``unknown_collection``, ``collection_unreadable``, ``collection_changed``.
    """
    if spec.mode == "replace":
        return EMPTY_SOURCE
    given = run.get("collections", {}).get(spec.collection)
    if given is None:
        message = f"collection {spec.collection!r} does not exist; make it first, with mode replace"
        raise UserError(message, code="unknown_collection", field="collection")
    handed = DeltaSnapshot(Path(given["changes"]))
    collection = CollectionWithDelta(Collection.open(given["path"], verify=True), Delta().with_changes(handed.changes))
    facts = {"id": given["id"], "base": given["stored"], "through": given["through"]}
    return CollectionAppendSource(collection, handed, facts, given["index"])


def _collection_item(record: Mapping[str, Any], data: bytes) -> CollectionItem:
    return CollectionItem(
        image=record["image"],
        data=data,
        media_type=record["media_type"],
        captions=tuple(record["captions"]),
        labels=record["labels"],
        split=record["split"],
        source=record["source"],
    )


def _item_id(prefix: str, text: str) -> str:
    return f"{prefix}{file_format.stable_hash64(text):016x}"
