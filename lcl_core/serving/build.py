"""Write a collection: beside its place, piece by piece, renamed when whole. Knows no torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lcl_core.errors import UserError
from lcl_core.rundir import write_json_atomically
from lcl_core.serving import graph, layout
from lcl_core.serving.filters import LabelTable
from lcl_core.serving.graph import Progress, write_graph
from lcl_core.serving.layout import Dtype, Manifest, Target
from lcl_core.serving.pieces import PieceWriter


@dataclass(frozen=True, slots=True)
class NewItem:
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
        self._labels = LabelTable()

    @property
    def texts(self) -> list[str]:
        """The distinct captions so far, first seen first; a caption of nothing but spaces is left out."""
        return list(self._texts)

    def __enter__(self) -> CollectionWriter:
        shutil.rmtree(self._beside, ignore_errors=True)  # of a builder that was killed
        self._beside.mkdir(parents=True)
        self._items = PieceWriter(self._beside / layout.ITEMS)
        self._lines = PieceWriter(self._beside / layout.TEXTS)
        self._images = PieceWriter(self._beside / layout.IMAGES)
        self._image_vectors = PieceWriter(self._beside / layout.IMAGE_VECTORS)
        self._text_vectors = PieceWriter(self._beside / layout.TEXT_VECTORS)
        self._item_keys: dict[int, str] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                _put_in_place(self._beside, self.directory)
        finally:
            for pieces in self._open_files():
                pieces.file.close()
            shutil.rmtree(self._beside, ignore_errors=True)

    def add_items(self, items: Sequence[NewItem], vectors: np.ndarray, *, unit: bool = False) -> None:
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

    def link(self, progress: Progress | None = None) -> None:
        """Once all vectors are there: make the graph of each side that is too large for one pass over it.

        Args:
            progress: told how many rows more are linked; what it raises ends the making of the collection.

        Raises: UserError ``missing_extra``.
        """
        for target, pieces, name in self._large():
            pieces.file.flush()
            dtype, shape = layout.NUMPY_DTYPES[self._facts["dtype"]], (pieces.count, self._facts["dim"])
            vectors = np.memmap(self._beside / name, dtype, mode="r", shape=shape)
            write_graph(self._beside / layout.GRAPHS[target], vectors, progress)

    @property
    def rows_to_link(self) -> int:
        """How many ``link`` will tell of."""
        return sum(pieces.count for _, pieces, _ in self._large())

    def _large(self) -> list[tuple[Target, PieceWriter, str]]:
        sides: list[tuple[Target, PieceWriter, str]] = [
            ("images", self._image_vectors, layout.IMAGE_VECTORS),
            ("texts", self._text_vectors, layout.TEXT_VECTORS),
        ]
        return [side for side in sides if side[1].count > graph.EXACT_ROWS]

    def _add(self, item: NewItem) -> None:
        key = layout.key_of(item.image)
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
                "id": f"{layout.ITEM_PREFIX}{key:016x}",
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
        return (rows if unit else rows / lengths).astype(layout.NUMPY_DTYPES[self._facts["dtype"]])

    def _finish(self) -> None:
        if self._text_vectors.count != len(self._texts):
            message = f"{self._text_vectors.count} text vectors for {len(self._texts)} captions"
            raise UserError(message, code="bad_vector")
        keys = [layout.key_of(text) for text in self._texts]
        for key, text in zip(keys, self._texts, strict=True):
            self._lines.append_record({"id": f"{layout.TEXT_PREFIX}{key:016x}", "text": text})
        carriers = list(self._texts.values())
        starts = np.cumsum([0, *map(len, carriers)], dtype=np.int64)
        rows = np.array([row for group in carriers for row in group], dtype=np.int64)
        self._save(layout.ITEM_OFFSETS, self._items.offsets())
        self._save(layout.TEXT_OFFSETS, self._lines.offsets())
        self._save(layout.IMAGE_OFFSETS, self._images.offsets())
        self._save(layout.ITEM_KEYS, np.array(list(self._item_keys), dtype=np.uint64))
        self._save(layout.TEXT_KEYS, np.array(keys, dtype=np.uint64))
        self._save(layout.TEXT_ITEM_STARTS, starts)
        self._save(layout.TEXT_ITEM_ROWS, rows)
        self._save(layout.LABEL_CODES, self._labels.codes())
        values = json.dumps(self._labels.values(), ensure_ascii=False)
        (self._beside / layout.LABELS).write_text(values, encoding="utf-8")
        self._write_manifest()

    def _write_manifest(self) -> None:
        for pieces in self._open_files():
            pieces.file.close()
        manifest = Manifest(
            format_version=layout.FORMAT_VERSION,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            images=len(self._item_keys),
            texts=len(self._texts),
            files={name: _facts_of(self._beside / name) for name in self._written()},
            **self._facts,
        )
        write_json_atomically(self._beside / layout.MANIFEST, manifest.model_dump())

    def _written(self) -> list[str]:
        return [*layout.FILES, *(name for name in layout.GRAPHS.values() if (self._beside / name).is_file())]

    def _save(self, name: str, array: np.ndarray) -> None:
        np.save(self._beside / name, array, allow_pickle=False)

    def _open_files(self) -> tuple[PieceWriter, ...]:
        return self._items, self._lines, self._images, self._image_vectors, self._text_vectors


def build_collection(
    directory: str | Path,
    items: Sequence[NewItem],
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


def _facts_of(path: Path) -> layout.FileFacts:
    """Flush the file to disk and describe it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return layout.FileFacts(bytes=path.stat().st_size, sha256=digest)


def _put_in_place(beside: Path, directory: Path) -> None:
    """Swap in the new directory. Readers of an older one keep what they have mapped."""
    older = directory.with_name(f".{directory.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    if directory.exists():
        directory.rename(older)
    beside.rename(directory)
    shutil.rmtree(older, ignore_errors=True)
