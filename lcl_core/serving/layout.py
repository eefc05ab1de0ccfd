"""What a collection directory holds, and the manifest that vouches for it. Knows no torch.

COLLECTION/
  manifest.json         what the rest is: encoder, sizes, and bytes and SHA-256 of every other file
  items.jsonl           one object a picture: {"id", "image", "captions", "labels", "split", "source",
                        "media_type"}
  texts.jsonl           one object a distinct caption: {"id", "text"}
  *_offsets.npy         int64 [n+1]: where each line, or each picture in images.blob, begins
  *_keys.npy            uint64 [n]: the number inside each id, in row order
  images.blob           the pictures' own bytes, one behind the other
  *_vectors.bin         the L2-normalised vectors, row by row, f32 or f16
  labels.json           {label: [its values]}
  label_codes.npy       int32 [labels, images]: index into labels.json, -1 where the label is absent
  *_graph.usearch       of a large collection: what its vectors' neighbours are looked up in (``graph.py``)
  text_item_starts.npy  int64 [texts+1] into text_item_rows.npy, int64: the pictures that carry a caption
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lcl_core.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ITEMS, ITEM_OFFSETS, ITEM_KEYS = "items.jsonl", "item_offsets.npy", "item_keys.npy"
TEXTS, TEXT_OFFSETS, TEXT_KEYS = "texts.jsonl", "text_offsets.npy", "text_keys.npy"
IMAGES, IMAGE_OFFSETS = "images.blob", "image_offsets.npy"
IMAGE_VECTORS, TEXT_VECTORS = "image_vectors.bin", "text_vectors.bin"
LABELS, LABEL_CODES = "labels.json", "label_codes.npy"
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

Target = Literal["images", "texts"]
TARGETS: tuple[Target, ...] = ("images", "texts")
GRAPHS: dict[Target, str] = {"images": "image_graph.usearch", "texts": "text_graph.usearch"}
Dtype = Literal["f32", "f16"]
NUMPY_DTYPES: dict[Dtype, np.dtype] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}


class FileFacts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """The facts of a collection. ``dim`` is E, the width of every vector."""

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
    files: dict[str, FileFacts]


def key_of(text: str) -> int:
    """A stable 64-bit number for a picture's name or a caption: the first bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest, and that every file has the size it names.

    Raises:
        UserError: ``collection_unreadable``, naming the file.
    """
    path = directory / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _broken(path, f"cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise _broken(path, f"is not a collection's manifest: {error.errors()[0]['msg']}") from None
    if manifest.format_version != FORMAT_VERSION:
        raise _broken(path, f"has format version {manifest.format_version}, not {FORMAT_VERSION}")
    for name in present(manifest):
        _check_size(directory / name, manifest.files.get(name))
    width = manifest.dim * NUMPY_DTYPES[manifest.dtype].itemsize
    for name, rows in ((IMAGE_VECTORS, manifest.images), (TEXT_VECTORS, manifest.texts)):
        if manifest.files[name].bytes != rows * width:
            raise _broken(directory / name, f"does not hold {rows} vectors of {manifest.dim} numbers")
    return manifest


def present(manifest: Manifest) -> tuple[str, ...]:
    """Every file that the collection should hold beside its manifest."""
    return (*FILES, *(name for name in GRAPHS.values() if name in manifest.files))


def _check_size(path: Path, facts: FileFacts | None) -> None:
    if facts is None:
        raise _broken(path, "is missing from the manifest")
    if not path.is_file():
        raise _broken(path, "is missing")
    if path.stat().st_size != facts.bytes:
        raise _broken(path, f"holds {path.stat().st_size} bytes where the manifest says {facts.bytes}")


def changed_file(path: Path) -> UserError:
    """What is said of a file with the size that the manifest names and another content."""
    message = f"{path.name} is damaged: its checksum is not the manifest's; make the collection again with an index run"
    return UserError(message, code="collection_changed", file=path)


def _broken(path: Path, what: str) -> UserError:
    message = f"{path.name} {what}; make the collection again with an index run"
    return UserError(message, code="collection_unreadable", file=path)
