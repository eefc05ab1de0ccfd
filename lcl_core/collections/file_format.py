"""Format of a collection directory: files, manifest, blobs and checksums. Imports no torch.

COLLECTION/
  manifest.json         encoder, sizes, and bytes and SHA-256 of every other file
  items.jsonl           one object an image: {"id", "image", "captions", "labels", "split", "source",
                        "media_type"}
  texts.jsonl           one object a distinct caption: {"id", "text"}
  *_offsets.npy         int64 [n+1]: where each line, or each image in images.blob, begins
  *_keys.npy            uint64 [n]: the number inside each id, in row order
  images.blob           the images' own bytes, concatenated
  *_vectors.bin         the L2-normalised vectors, row by row, f32 or f16; text_vectors.bin is empty where the encoder
                        reads images alone (manifest: text_vectors)
  labels.json           {label: [its values]}
  label_codes.npy       int32 [labels, images]: index into labels.json, -1 where the label is absent
  label_types.json      where a label is no text, or a type is stated: {"types": {label: type}, "stated": [labels]}
  *_graph.usearch       of a large collection: the HNSW graph of its vectors (``vector_index.py``)
  text_item_starts.npy  int64 [texts+1] into text_item_rows.npy, int64: the images that carry a caption

Opening compares the sizes of all files with the manifest. A thread of low priority then compares the checksums, one
collection at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import threading
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lcl_core.common.errors import Conflict, UserError
from lcl_core.common.files import sha256_file
from lcl_core.vector_indexes import TARGETS as TARGETS
from lcl_core.vector_indexes import Target as Target

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ITEMS, ITEM_OFFSETS, ITEM_KEYS = "items.jsonl", "item_offsets.npy", "item_keys.npy"
TEXTS, TEXT_OFFSETS, TEXT_KEYS = "texts.jsonl", "text_offsets.npy", "text_keys.npy"
IMAGES, IMAGE_OFFSETS = "images.blob", "image_offsets.npy"
IMAGE_VECTORS, TEXT_VECTORS = "image_vectors.bin", "text_vectors.bin"
LABELS, LABEL_CODES, LABEL_TYPES = "labels.json", "label_codes.npy", "label_types.json"
TEXT_ITEM_STARTS, TEXT_ITEM_ROWS = "text_item_starts.npy", "text_item_rows.npy"
FILES = (
    *(ITEMS, ITEM_OFFSETS, ITEM_KEYS, TEXTS, TEXT_OFFSETS, TEXT_KEYS, IMAGES, IMAGE_OFFSETS),
    *(IMAGE_VECTORS, TEXT_VECTORS, LABELS, LABEL_CODES, TEXT_ITEM_STARTS, TEXT_ITEM_ROWS),
)
ITEM_PREFIX, TEXT_PREFIX = "img_", "txt_"
SIDES = {
    "images": (ITEMS, ITEM_OFFSETS, ITEM_KEYS, IMAGE_VECTORS, ITEM_PREFIX),
    "texts": (TEXTS, TEXT_OFFSETS, TEXT_KEYS, TEXT_VECTORS, TEXT_PREFIX),
}

GRAPHS: dict[Target, str] = {"images": "image_graph.usearch", "texts": "text_graph.usearch"}
OPTIONAL_FILES = (LABEL_TYPES, *GRAPHS.values())
Dtype = Literal["f32", "f16"]
NUMPY_DTYPES: dict[Dtype, np.dtype] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class CollectionManifest(BaseModel):
    """Encoder, sizes and files of a collection.

    Attributes:
        dim: E, the width of every vector.
        text_vectors: whether the captions have vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    name: str
    encoder_hash: str
    dataset_hash: str
    created_at: str
    dim: int = Field(ge=1)
    dtype: Dtype
    images: int = Field(ge=0)
    texts: int = Field(ge=0)
    text_vectors: bool = True
    files: dict[str, FileEntry]


def stable_hash64(text: str) -> int:
    """A stable 64-bit number for an image's name or a caption: the first bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def item_id(image: str) -> str:
    """Id of the image of this name."""
    return f"{ITEM_PREFIX}{stable_hash64(image):016x}"


def text_id(text: str) -> str:
    """Id of a caption."""
    return f"{TEXT_PREFIX}{stable_hash64(text):016x}"


def read_manifest(directory: Path) -> CollectionManifest:
    """Read and check the manifest, and that every file has the size it names.

    Raises:
        UserError: ``collection_unreadable``, naming the file.
    """
    path = directory / MANIFEST
    try:
        manifest = CollectionManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _format_error(path, f"cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise _format_error(path, f"is not a collection's manifest: {error.errors()[0]['msg']}") from None
    if manifest.format_version != FORMAT_VERSION:
        raise _format_error(path, f"has format version {manifest.format_version}, not {FORMAT_VERSION}")
    for name in expected_files(manifest):
        _check_size(directory / name, manifest.files.get(name))
    width = manifest.dim * NUMPY_DTYPES[manifest.dtype].itemsize
    text_rows = manifest.texts if manifest.text_vectors else 0
    for name, rows in ((IMAGE_VECTORS, manifest.images), (TEXT_VECTORS, text_rows)):
        if manifest.files[name].bytes != rows * width:
            raise _format_error(directory / name, f"does not hold {rows} vectors of {manifest.dim} numbers")
    return manifest


def expected_files(manifest: CollectionManifest) -> tuple[str, ...]:
    """Every file that the collection should hold beside its manifest."""
    return (*FILES, *(name for name in OPTIONAL_FILES if name in manifest.files))


def _check_size(path: Path, facts: FileEntry | None) -> None:
    if facts is None:
        raise _format_error(path, "is missing from the manifest")
    if not path.is_file():
        raise _format_error(path, "is missing")
    if path.stat().st_size != facts.bytes:
        raise _format_error(path, f"holds {path.stat().st_size} bytes where the manifest says {facts.bytes}")


def _format_error(path: Path, what: str) -> UserError:
    message = f"{path.name} {what}; make the collection again with an index run"
    return UserError(message, code="collection_unreadable", file=path)


class BlobFile:
    """Reads any piece without the others; piece ``row`` is offsets[row] to offsets[row + 1]. Thread-safe."""

    def __init__(self, path: Path, offsets: np.ndarray) -> None:
        """``offsets``: int64 [n+1], ascending, the last one the file's size."""
        self._offsets = offsets
        self._bytes: mmap.mmap | bytes = b""
        if path.stat().st_size:  # an empty file cannot be mapped
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def piece(self, row: int) -> bytes:
        return self._bytes[int(self._offsets[row]) : int(self._offsets[row + 1])]

    def record(self, row: int) -> dict[str, Any]:
        """The piece as a JSON object."""
        return json.loads(self.piece(row))


@dataclass(frozen=True, slots=True)
class Side:
    """The images, or the texts, of a directory: records, ids and vectors, row-aligned."""

    records: BlobFile
    keys: np.ndarray  # uint64 [n]
    by_key: np.ndarray  # int64 [n]: rows in ascending order of their keys
    vectors: np.ndarray  # f32 or f16 [n, E], memory-mapped; [0, E] where captions have none
    prefix: str

    @classmethod
    def open(cls, directory: Path, manifest: CollectionManifest, target: Target) -> Side:
        lines, offsets, keys, vectors, prefix = SIDES[target]
        numbers = load_array(directory, keys)
        dtype = NUMPY_DTYPES[manifest.dtype]
        rows = len(numbers) if target == "images" or manifest.text_vectors else 0
        mapped = np.empty((0, manifest.dim), dtype)
        if rows:  # an empty file cannot be mapped
            mapped = np.memmap(directory / vectors, dtype, mode="r", shape=(rows, manifest.dim))
        records = BlobFile(directory / lines, load_array(directory, offsets))
        return cls(records, numbers, np.argsort(numbers, kind="stable"), mapped, prefix)

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, item_id: str) -> int | None:
        """The number inside an id, if it is of this side's form."""
        digits = item_id.removeprefix(self.prefix)
        valid = item_id.startswith(self.prefix) and len(digits) == 16 and set(digits) <= set("0123456789abcdef")
        return int(digits, 16) if valid else None

    def row(self, item_id: str) -> int:
        """The row of an id; -1: there is none."""
        key = self.key(item_id)
        return -1 if key is None else int(self.rows(np.array([key], dtype=np.uint64))[0])

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """int64 [m]: the row of each of ``keys`` uint64 [m], -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.searchsorted(self.keys, keys, sorter=self.by_key)
        rows = self.by_key[np.minimum(at, len(self.keys) - 1)]
        return np.where(self.keys[rows] == keys, rows, -1)


def load_array(directory: Path, name: str) -> np.ndarray:
    return np.load(directory / name, allow_pickle=False)


class BlobWriter:
    """Writes the pieces and remembers where each begins."""

    def __init__(self, path: Path) -> None:
        self.file: IO[bytes] = path.open("wb")
        self._ends = array("q", [0])  # 8 bytes a piece

    @property
    def count(self) -> int:
        return len(self._ends) - 1

    def append(self, data: bytes) -> None:
        self.file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def append_record(self, record: dict[str, Any]) -> None:
        """One JSON line."""
        self.append(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    def offsets(self) -> np.ndarray:
        """int64 [count+1]."""
        return np.array(self._ends, dtype=np.int64)


NICENESS = 10
_one_at_a_time = threading.Lock()
log = logging.getLogger(__name__)


class BackgroundVerification:
    """Compares the checksums of an opened directory in a thread of its own."""

    def __init__(self, directory: Path, manifest: CollectionManifest) -> None:
        self._directory, self._manifest = directory, manifest
        self._error: UserError | None = None
        threading.Thread(target=self._verify, name="lcl-checksums", daemon=True).start()

    def check(self) -> None:
        """Raises: UserError ``collection_changed``, naming the file, once it was found."""
        if self._error is not None:
            raise self._error.with_traceback(None)  # each request would add its frames

    def _verify(self) -> None:
        with _one_at_a_time:
            with suppress(OSError, AttributeError):  # on Linux a thread has a priority of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            try:
                verify_checksums(self._directory, self._manifest)
            except UserError as error:
                log.error("collection_changed: %s", error.file)
                self._error = error
            except OSError:  # compacted or deleted meanwhile: who has it open reads what was mapped
                pass


def verify_checksums(directory: Path, manifest: CollectionManifest) -> None:
    """Compare every file now. Raises: UserError ``collection_changed``, naming the file; OSError."""
    # images last, because the other files decide what is found and may be a hundredth as large
    for name in sorted(expected_files(manifest), key=lambda name: (name == IMAGES, manifest.files[name].bytes)):
        if sha256_file(directory / name) != manifest.files[name].sha256:
            message = f"{name} is damaged: its checksum is not the manifest's; make the collection again"
            raise Conflict(f"{message} with an index run", code="collection_changed", file=directory / name)
