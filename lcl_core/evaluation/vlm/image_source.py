"""Image sources of benchmarks and conversations: a folder, a zip, a table with base64 images, several of them.

Each is a corpus that holds images and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.data.corpus.base import CaptionPairs, Documents
from lcl_core.data.corpus.file_store import open_store
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES


class ImageSource(Corpus):
    """Images by name; no documents, no captions."""

    @property
    def documents(self) -> Documents:
        return _EmptySequence()

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> CaptionPairs:
        return _EmptySequence()

    def splits(self) -> dict[str, int]:
        return {}

    @abstractmethod
    def has(self, name: str) -> bool:
        """Is there an image of that name?"""

    def content_hash(self) -> str:
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        for entry in self._hashed_entries():
            digest.update(entry)
        return digest.hexdigest()

    @abstractmethod
    def _hashed_entries(self) -> list[bytes]:
        """Bytes of which the content hash is made."""


class FolderImages(ImageSource):
    """Images in a folder or a zip, by their paths in it.

    The content hash is of the files' names, sizes and times: these folders are large and not written to.

    Raises:
        UserError: there is no such folder; its field is ``field``.
    """

    def __init__(self, path: Path, *, field: str) -> None:
        self.path = path
        try:
            self._store = open_store(path)
        except UserError as error:
            error.field = field
            raise

    def has(self, name: str) -> bool:
        return self._store.has(name)

    def image_bytes(self, name: str) -> bytes:
        return self._store.read(name, MAX_IMAGE_BYTES)

    def image_location(self, name: str) -> str:
        return str(self.path / name)

    def _hashed_entries(self) -> list[bytes]:
        names = self._store.names() if self.path.is_dir() else [""]
        stats = [(name, os.stat(self.path / name)) for name in names]
        lines = [f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for name, stat in stats]
        return [line.encode("utf-8", "surrogateescape") for line in lines]


class Base64Images(ImageSource):
    """Images that a table holds in base64."""

    def __init__(self, path: Path, encoded: Mapping[str, str]) -> None:
        self.path = path
        self._encoded = dict(encoded)

    def has(self, name: str) -> bool:
        return name in self._encoded

    def image_bytes(self, name: str) -> bytes:
        try:
            return base64.b64decode(self._encoded[name], validate=True)
        except (KeyError, binascii.Error) as error:
            raise UserError(
                f"the image of row {name} is no base64 ({error})", code="image_unreadable", file=self.path
            ) from None

    def _hashed_entries(self) -> list[bytes]:
        return [f"{name}\0{self._encoded[name]}\n".encode() for name in sorted(self._encoded)]


class CombinedImages(ImageSource):
    """Several sources as one: the image ``name`` of source ``n`` is ``n/name``."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.path = Path("+".join(str(source.path) for source in sources))
        self._sources = list(sources)

    def has(self, name: str) -> bool:
        source, own = self._resolve(name)
        return source.has(own)

    def image_bytes(self, name: str) -> bytes:
        source, own = self._resolve(name)
        return source.image_bytes(own)

    def image_location(self, name: str) -> str:
        source, own = self._resolve(name)
        return source.image_location(own)

    def _hashed_entries(self) -> list[bytes]:
        return [source.content_hash().encode() for source in self._sources]

    def _resolve(self, name: str) -> tuple[ImageSource, str]:
        number, own = name.split("/", 1)
        return self._sources[int(number)], own


class _EmptySequence(Sequence[Any]):
    """Documents or pairs of an image source."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def describe(self, index: int) -> Any:
        raise IndexError(index)

    def location(self, index: int) -> str:
        raise IndexError(index)
