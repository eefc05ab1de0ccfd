"""Pictures that lie beside a benchmark or a set of conversations, as a corpus that holds nothing else."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lcl_core.data import Corpus
from lcl_core.data.corpus import Documents
from lcl_core.data.images import MAX_IMAGE_BYTES
from lcl_core.data.pairs import Pairs
from lcl_core.data.store import open_store
from lcl_core.errors import UserError


class Album(Corpus):
    """Pictures by name; no documents, no captions."""

    @property
    def documents(self) -> Documents:
        return _Nothing()

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> Pairs:
        return _Nothing()

    def splits(self) -> dict[str, int]:
        return {}

    def has(self, name: str) -> bool:
        """Is there a picture of that name?"""
        raise NotImplementedError


class FolderAlbum(Album):
    """Pictures in a folder or a zip, by their paths in it.

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

    def image_place(self, name: str) -> str:
        return str(self.path / name)

    def content_hash(self) -> str:
        """Of the files' names, sizes and times: these folders are large, and are not written to."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        for name in self._store.names() if self.path.is_dir() else [""]:
            facts = os.stat(self.path / name)
            digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class TextAlbum(Album):
    """Pictures that a table holds as text, in base64."""

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
                f"the picture of row {name} is no base64 ({error})", code="image_unreadable", file=self.path
            ) from None

    def content_hash(self) -> str:
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self._encoded):
            digest.update(f"{name}\0{self._encoded[name]}\n".encode())
        return digest.hexdigest()


class JointAlbum(Album):
    """Several albums as one: the picture ``name`` of the album with number ``n`` is ``n/name``."""

    def __init__(self, albums: Sequence[Album]) -> None:
        self.path = Path("+".join(str(album.path) for album in albums))
        self._albums = list(albums)

    def has(self, name: str) -> bool:
        album, own = self._find(name)
        return album.has(own)

    def image_bytes(self, name: str) -> bytes:
        album, own = self._find(name)
        return album.image_bytes(own)

    def image_place(self, name: str) -> str:
        album, own = self._find(name)
        return album.image_place(own)

    def content_hash(self) -> str:
        return hashlib.sha256("".join(album.content_hash() for album in self._albums).encode()).hexdigest()

    def _find(self, name: str) -> tuple[Album, str]:
        number, own = name.split("/", 1)
        return self._albums[int(number)], own


class _Nothing(Sequence[Any]):
    """Documents or pairs of an album."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def describe(self, index: int) -> dict[str, Any]:
        raise IndexError(index)

    def place_of(self, index: int) -> str:
        raise IndexError(index)
