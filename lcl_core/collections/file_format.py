"""Format of a collection directory: files, schema and manifest. Imports no torch.

COLLECTION/
  manifest.json       encoder, sizes, and bytes and SHA-256 of every other file
  items.sqlite        the images with their records and bytes, the captions, which image carries which, and the labels
  captions.sqlite     full text of the captions (``full_text``)
  *_vectors.bin       the L2-normalised vectors, row by row, f32 or f16; text_vectors.bin is empty where the encoder
                      reads images alone (manifest: text_vectors)
  *_graph.usearch     of a large collection: the HNSW graph of its vectors (``vector_index``)
  image_places.bin    the images by their neighbours on a plane, f32 [n, 2], of at most MAX_PLACES rows, evenly chosen

Rows of images, and of captions, count from 0 in the order of addition, and number their vectors. Nothing is changed
once it is written. Opening compares the sizes of all files with the manifest, a run that adds the checksums too.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lcl_core.common.errors import Conflict, UserError
from lcl_core.common.files import sha256_file
from lcl_core.vector_indexes import TARGETS as TARGETS
from lcl_core.vector_indexes import Target as Target

FORMAT_VERSION = 1
MANIFEST, ITEMS, CAPTIONS = "manifest.json", "items.sqlite", "captions.sqlite"
VECTORS: dict[Target, str] = {"images": "image_vectors.bin", "texts": "text_vectors.bin"}
GRAPHS: dict[Target, str] = {"images": "image_graph.usearch", "texts": "text_graph.usearch"}
PLACES, MAX_PLACES = "image_places.bin", 10_000
FILES = (ITEMS, CAPTIONS, *VECTORS.values())
PREFIXES: dict[Target, str] = {"images": "img_", "texts": "txt_"}
SCHEMA = """
CREATE TABLE images (row INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE, record TEXT NOT NULL);
CREATE TABLE files (row INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE texts (row INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE, text TEXT NOT NULL);
CREATE TABLE carriers (text INTEGER, image INTEGER, PRIMARY KEY (text, image)) WITHOUT ROWID;
-- of each label its distinct values (JSON), and of each image the index of its value, int32, -1 where it has none
CREATE TABLE labels (label TEXT PRIMARY KEY, kind TEXT, stated INTEGER, texts TEXT, codes BLOB);
"""
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

    def vector_rows(self, target: Target) -> int:
        return self.images if target == "images" else self.texts * self.text_vectors


def stable_hash64(text: str) -> int:
    """A stable 64-bit number for an image's name or a caption: the first bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def text_key(text: str) -> int:
    """The number in a caption's id, as SQLite has it: with a sign."""
    return int.from_bytes(stable_hash64(text).to_bytes(8, "big"), "big", signed=True)


def item_id(image: str) -> str:
    """Id of the image of this name."""
    return f"img_{stable_hash64(image):016x}"


def text_id(text: str) -> str:
    """Id of a caption."""
    return f"txt_{stable_hash64(text):016x}"


def key_of(item: str) -> int | None:
    """The number in an id, with a sign as SQLite's have one; None: it is no id."""
    prefix, digits = item[:4], item[4:]
    if prefix not in PREFIXES.values() or len(digits) != 16 or not set(digits) <= set("0123456789abcdef"):
        return None
    return int.from_bytes(bytes.fromhex(digits), "big", signed=True)


def id_of(target: Target, key: int) -> str:
    return f"{PREFIXES[target]}{key % 2**64:016x}"


def read_manifest(directory: Path) -> CollectionManifest:
    """Read and check the manifest, and that every file has the size it names.

    Raises: UserError ``collection_unreadable``, naming the file.
    """
    path = directory / MANIFEST
    try:
        manifest = CollectionManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise unreadable(path, f"cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise unreadable(path, f"is not a collection's manifest: {error.errors()[0]['msg']}") from None
    if manifest.format_version != FORMAT_VERSION:
        raise unreadable(path, f"has format version {manifest.format_version}, not {FORMAT_VERSION}")
    for name in {*FILES, *manifest.files}:
        _check_size(directory / name, manifest.files.get(name))
    width = manifest.dim * NUMPY_DTYPES[manifest.dtype].itemsize
    for target, name in VECTORS.items():
        if manifest.files[name].bytes != manifest.vector_rows(target) * width:
            raise unreadable(directory / name, f"does not hold vectors of {manifest.dim} numbers")
    return manifest


def _check_size(path: Path, entry: FileEntry | None) -> None:
    if entry is None:
        raise unreadable(path, "is missing from the manifest")
    if not path.is_file():
        raise unreadable(path, "is missing")
    if path.stat().st_size != entry.bytes:
        raise unreadable(path, f"holds {path.stat().st_size} bytes where the manifest says {entry.bytes}")


def unreadable(path: Path, what: str) -> UserError:
    message = f"{path.name} {what}; make the collection again with an index run"
    return UserError(message, code="collection_unreadable", file=path)


def verify_checksums(directory: Path, manifest: CollectionManifest) -> None:
    """Compare every file. Raises: UserError ``collection_changed``, naming the file; OSError."""
    for name, entry in manifest.files.items():
        if sha256_file(directory / name) != entry.sha256:
            message = f"{name} is damaged: its checksum is not the manifest's; make the collection again"
            raise Conflict(f"{message} with an index run", code="collection_changed", file=directory / name)


def map_vectors(directory: Path, manifest: CollectionManifest, target: Target) -> np.ndarray:
    """[n, E], memory-mapped; [0, E] where captions have none."""
    shape, dtype = (manifest.vector_rows(target), manifest.dim), NUMPY_DTYPES[manifest.dtype]
    if not shape[0]:  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(directory / VECTORS[target], dtype, mode="r", shape=shape)


class ReadOnlyDatabase:
    """An SQLite file that never changes. Thread-safe."""

    def __init__(self, path: Path) -> None:
        address = f"{path.resolve().as_uri()}?immutable=1"
        self.connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        self._lock = threading.Lock()

    def rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self.connection.execute(query, values).fetchall()

    def numbers(self, query: str, columns: int = 1) -> np.ndarray:
        """int64 [columns, n]."""
        with self._lock:
            rows = np.fromiter(self.connection.execute(query), np.dtype((np.int64, columns)))
        return np.ascontiguousarray(rows.reshape(-1, columns).T)
