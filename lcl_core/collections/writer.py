"""Write a collection: into a hidden directory beside its own, renamed when whole. Imports no torch.

An append run copies an existing collection, with its delta, before it adds: vectors to the bit, without the encoder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lcl_core.collections import file_format, vector_index
from lcl_core.collections.collection import Collection
from lcl_core.collections.delta import Delta
from lcl_core.collections.file_format import BlobWriter, CollectionManifest, Dtype, Target
from lcl_core.collections.labels import LabelIndexBuilder, choose_types
from lcl_core.collections.records import DeltaSnapshot
from lcl_core.collections.vector_index import OnProgress, write_hnsw_index
from lcl_core.common.errors import NotFound, UserError
from lcl_core.common.files import fsync_path, sha256_file, write_json_atomically
from lcl_core.common.names import storable_text
from lcl_core.specs.corpus_jobs import IndexSpec, LabelType
from lcl_core.vector_indexes import FILES


@dataclass(frozen=True, slots=True)
class CollectionItem:
    """An image to add: ``image``: its name, unique in the collection; ``data``: the bytes to store."""

    image: str
    data: bytes
    media_type: str
    captions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    source: str = ""

    def storable(self) -> CollectionItem:
        """The image with texts that every file, database and response can have (``storable_text``)."""
        return replace(
            self,
            image=storable_text(self.image),
            captions=tuple(map(storable_text, self.captions)),
            labels={storable_text(label): storable_text(value) for label, value in self.labels.items()},
            split=storable_text(self.split),
            source=storable_text(self.source),
        )


class CollectionWriter:
    """A context manager; an exception inside it leaves an older collection untouched and nothing new.

    Add images, then one vector a caption of ``texts``, in that order. Vectors are scaled to length 1.

    Args:
        text_vectors: False: captions get no vectors, because the encoder reads images alone.
        label_types: stated types of labels; others are inferred (``labels``). A value that does not fit is a UserError
            ``bad_label`` at the end.
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
        label_types: Mapping[str, LabelType] | None = None,
        text_vectors: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self._header: dict[str, Any] = {"name": name, "dim": dim, "dtype": dtype, "text_vectors": text_vectors}
        self._header |= {"encoder_hash": encoder_hash, "dataset_hash": dataset_hash}
        self._building = self.directory.with_name(f".{self.directory.name}.building")
        self._texts: dict[str, list[int]] = {}
        self._labels = LabelIndexBuilder()
        self._stated_types = dict(label_types or {})

    @property
    def texts(self) -> list[str]:
        """The distinct, non-blank captions so far, in the order of addition."""
        return list(self._texts)

    def __enter__(self) -> CollectionWriter:
        shutil.rmtree(self._building, ignore_errors=True)  # of a killed writer
        self._building.mkdir(parents=True)
        self._items = BlobWriter(self._building / file_format.ITEMS)
        self._lines = BlobWriter(self._building / file_format.TEXTS)
        self._images = BlobWriter(self._building / file_format.IMAGES)
        self._image_vectors = BlobWriter(self._building / file_format.IMAGE_VECTORS)
        self._text_vectors = BlobWriter(self._building / file_format.TEXT_VECTORS)
        self._item_keys: dict[int, str] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                _replace_directory(self._building, self.directory)
        finally:
            for pieces in self._open_files():
                pieces.file.close()
            shutil.rmtree(self._building, ignore_errors=True)

    def add_items(self, items: Sequence[CollectionItem], vectors: np.ndarray, *, unit: bool = False) -> None:
        """Add images with their vectors [len(items), E].

        Args:
            unit: the vectors have length 1 and are stored to the bit, as those copied from another collection.

        Raises:
            UserError: ``bad_vector``; ``duplicate_item`` for a name that was added before.
        """
        rows = self._checked(vectors, len(items), unit)
        for item, row in zip(items, rows, strict=True):
            self._add(item.storable())
            self._image_vectors.append(row.tobytes())

    def add_text_vectors(self, vectors: np.ndarray, *, unit: bool = False) -> None:
        """Add the vectors [m, E] of the next m captions of ``texts``; ``unit``: as of ``add_items``.

        Raises: UserError ``bad_vector``.
        """
        for row in self._checked(vectors, len(vectors), unit):
            self._text_vectors.append(row.tobytes())

    def link(self, progress: OnProgress | None = None) -> None:
        """Write an HNSW graph of images, and of texts, where they are too many for exact search; call it last.

        Args:
            progress: receives the number of rows linked since its last call; its exceptions end the build.

        Raises: UserError ``missing_extra``.
        """
        for target, pieces in self._linked_sides():
            vectors = self._written_vectors(target, pieces)
            write_hnsw_index(self._building / file_format.GRAPHS[target], vectors, progress)

    def rows_to_index(self) -> int:
        """Number of rows that ``link`` will report."""
        return sum(pieces.count for _, pieces in self._linked_sides())

    def _linked_sides(self) -> list[tuple[Target, BlobWriter]]:
        sides: list[tuple[Target, BlobWriter]] = [("images", self._image_vectors), ("texts", self._text_vectors)]
        return [side for side in sides if side[1].count > vector_index.EXACT_ROWS]

    def _written_vectors(self, target: Target, pieces: BlobWriter) -> np.ndarray:
        """[n, E], memory-mapped."""
        pieces.file.flush()
        dtype, shape = file_format.NUMPY_DTYPES[self._header["dtype"]], (pieces.count, self._header["dim"])
        return np.memmap(self._building / file_format.SIDES[target][3], dtype, mode="r", shape=shape)

    def _add(self, item: CollectionItem) -> None:
        key = file_format.stable_hash64(item.image)
        if key in self._item_keys:
            message = f"image {item.image!r} was added before (as {self._item_keys[key]!r})"
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
        if rows.shape != (count, self._header["dim"]):
            message = f"vectors of shape {rows.shape} where ({count}, {self._header['dim']}) was expected"
            raise UserError(message, code="bad_vector")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise UserError("a vector is all zero or not finite; the encoder is damaged", code="bad_vector")
        return (rows if unit else rows / lengths).astype(file_format.NUMPY_DTYPES[self._header["dtype"]])

    def _finish(self) -> None:
        expected = len(self._texts) if self._header["text_vectors"] else 0
        if self._text_vectors.count != expected:
            message = f"{self._text_vectors.count} text vectors for {len(self._texts)} captions, not {expected}"
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
        self._save_labels()
        self._write_manifest()

    def _save_labels(self) -> None:
        """Raises: UserError ``bad_label``."""
        values = self._labels.values()
        types = choose_types(values, self._stated_types)
        self._save(file_format.LABEL_CODES, self._labels.codes())
        text = json.dumps(values, ensure_ascii=False)
        (self._building / file_format.LABELS).write_text(text, encoding="utf-8")
        if types.types:
            text = json.dumps(types.model_dump(), ensure_ascii=False)
            (self._building / file_format.LABEL_TYPES).write_text(text, encoding="utf-8")

    def _write_manifest(self) -> None:
        for pieces in self._open_files():
            pieces.file.close()
        manifest = CollectionManifest(
            format_version=file_format.FORMAT_VERSION,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            images=len(self._item_keys),
            texts=len(self._texts),
            files={name: _file_entry(self._building / name) for name in self._written()},
            **self._header,
        )
        write_json_atomically(self._building / file_format.MANIFEST, manifest.model_dump(exclude_defaults=True))

    def _written(self) -> list[str]:
        return [
            *file_format.FILES,
            *(name for name in file_format.OPTIONAL_FILES if (self._building / name).is_file()),
        ]

    def _save(self, name: str, array: np.ndarray) -> None:
        np.save(self._building / name, array, allow_pickle=False)

    def _open_files(self) -> tuple[BlobWriter, ...]:
        return self._items, self._lines, self._images, self._image_vectors, self._text_vectors


def _file_entry(path: Path) -> file_format.FileEntry:
    """Flush the file to disk and describe it."""
    fsync_path(path)
    return file_format.FileEntry(bytes=path.stat().st_size, sha256=sha256_file(path))


def _replace_directory(beside: Path, directory: Path) -> None:
    """Replace the directory by the new one. Readers of the older one keep their mapped files."""
    older = directory.with_name(f".{directory.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    if directory.exists():
        directory.rename(older)
    beside.rename(directory)
    shutil.rmtree(older, ignore_errors=True)


_COPY_ROWS = 256  # with their images, up to a megabyte each


class AppendSource:
    """What an index run adds to: an existing collection with its delta, or nothing.

    Attributes:
        metadata: for the run's result: the collection that the new directory belongs to.
        index: as in a spec.
    """

    def __init__(
        self,
        collection: Collection | None = None,
        snapshot: DeltaSnapshot | None = None,
        metadata: Mapping[str, Any] | None = None,
        index: str = FILES,
    ) -> None:
        self.collection, self._snapshot = collection, snapshot
        self.metadata, self.index = metadata or {}, index
        self.name, self.dataset_hash, self.images, self.texts = "", "", 0, 0
        self.label_texts: Mapping[str, Sequence[str]] = {}
        self.stated_types: Mapping[str, LabelType] = {}
        if collection is not None:
            self.name, self.dataset_hash = collection.name, collection.manifest.dataset_hash
            self.images, self.texts = collection.count("images"), collection.count("texts")
            self.label_texts, self.stated_types = collection.label_texts(), collection.stated_types()

    def __contains__(self, image: str) -> bool:
        return self.collection is not None and self.collection.holds(file_format.item_id(image))

    def copy_into(self, writer: CollectionWriter, progress: Callable[[int], None]) -> int:
        """Copy all images, with their vectors to the bit; their number. Raises: what ``progress`` raises."""
        if self.collection is None:
            return 0
        for start in range(0, self.images, _COPY_ROWS):
            places = range(start, min(start + _COPY_ROWS, self.images))
            ids, vectors = self.collection.at("images", places)
            records = (self.collection.record("images", place) for place in places)
            items = [_collection_item(*each) for each in zip(records, self._image_bytes(ids), strict=True)]
            writer.add_items(items, vectors, unit=True)
            progress(len(places))
        return self.images

    def text_vectors(self, texts: Sequence[str], dim: int) -> tuple[np.ndarray, list[int]]:
        """f32 [len(texts), dim], and the indices of texts without a vector, whose rows the caller fills."""
        vectors, missing = np.zeros((len(texts), dim), np.float32), []
        for at, text in enumerate(texts):
            if self.collection is not None and self.collection.holds(item := file_format.text_id(text)):
                vectors[at] = self.collection.vector(item)
            else:
                missing.append(at)
        return vectors, missing

    def _image_bytes(self, ids: Sequence[str]) -> list[bytes]:
        assert self.collection is not None
        assert self._snapshot is not None
        added = [item for item in ids if not self.collection.has_image_bytes(item)]
        new = dict(zip(added, self._snapshot.images(added), strict=True))
        return [new[item] if item in new else self.collection.image_bytes(item) for item in ids]


def open_append_source(run: Mapping[str, Any], spec: IndexSpec) -> AppendSource:
    """The collection that ``run.json`` names, its checksums verified, with its delta; an empty source to replace it.

    Raises: UserError ``unknown_collection``, ``collection_unreadable``, ``collection_changed``.
    """
    if spec.mode == "replace":
        return AppendSource()
    entry = run.get("collections", {}).get(spec.collection)
    if entry is None:
        message = f"collection {spec.collection!r} does not exist; make it first, with mode replace"
        raise NotFound(message, code="unknown_collection", field="collection")
    snapshot = DeltaSnapshot(Path(entry["changes"]))
    collection = Collection.open(entry["path"], verify=True).with_delta(Delta().with_changes(snapshot.changes))
    metadata = {"id": entry["id"], "base": entry["stored"], "through": entry["through"]}
    return AppendSource(collection, snapshot, metadata, entry["index"])


def _collection_item(record: Mapping[str, Any], data: bytes) -> CollectionItem:
    fields = {name: record[name] for name in ("image", "media_type", "labels", "split", "source")}
    return CollectionItem(data=data, captions=tuple(record["captions"]), **fields)
