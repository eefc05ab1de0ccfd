"""Where a sharded corpus lies: a local folder, or any fsspec URL. Both give a range of a file in one read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from lcl_core.data.shards.cache import RangeCache
from lcl_core.errors import UserError
from lcl_core.storage import Storage

DEFAULT_CACHE_BYTES = 10 << 30
T = TypeVar("T")


class Place(Protocol):
    """What a sharded corpus needs of where it lies."""

    name: str

    def read(self, name: str) -> bytes:
        """The whole file. Raises: UserError ``file_missing`` or ``file_unreadable``."""

    def read_range(self, name: str, start: int, length: int, digest: str) -> bytes:
        """Exactly these bytes. ``digest``: sha256 of the file that they are wanted of, as the index has it.

        Raises: UserError ``file_missing``, ``file_unreadable`` or ``shard_damaged``.
        """

    def local_file(self, name: str, digest: str) -> Path:
        """A local file with these contents, to be mapped. ``digest``: its sha256."""


def open_place(path: str | Path) -> Place:
    """A folder, or a URL (``file://`` is a folder).

    Raises: UserError where the URL's protocol is not known, and for a bad bound of the cache.
    """
    scheme, separator, rest = str(path).partition("://")
    if not separator:
        return LocalPlace(Path(path))
    if scheme == "file":
        return LocalPlace(Path(rest))
    return RemotePlace(Storage(str(path)), RangeCache(_cache_folder(), _cache_bytes()))


def _cache_folder() -> Path:
    """``LCL_DATA_CACHE``, or else below the service's home, or else below the user's."""
    chosen, home = os.environ.get("LCL_DATA_CACHE"), os.environ.get("LCL_HOME")
    if chosen:
        return Path(chosen)
    return Path(home) / "cache" / "ranges" if home else Path.home() / ".cache" / "lcl" / "ranges"


def _cache_bytes() -> int:
    given = os.environ.get("LCL_DATA_CACHE_BYTES") or str(DEFAULT_CACHE_BYTES)
    if not given.isdecimal():
        message = f"LCL_DATA_CACHE_BYTES is {given!r}; give a number of bytes, 0 for no cache"
        raise UserError(message, code="bad_setting")
    return int(given)


def damaged(name: str, what: str) -> UserError:
    message = f"{what}; the file is not the one that was indexed: convert the corpus again or copy it anew"
    return UserError(message, code="shard_damaged", file=name)


class LocalPlace:
    """A folder. No descriptor is kept, so nothing is shared between threads or after a fork."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)

    def read(self, name: str) -> bytes:
        return self._tried(name, (self.folder / name).read_bytes)

    def read_range(self, name: str, start: int, length: int, digest: str) -> bytes:
        def read() -> bytes:
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(descriptor, length, start)
            finally:
                os.close(descriptor)

        data = self._tried(name, read)
        if len(data) != length:
            raise damaged(name, "the shard ends too early")
        return data

    def local_file(self, name: str, digest: str) -> Path:
        return self.folder / name

    def _tried(self, name: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except FileNotFoundError as error:
            raise UserError(f"the file is not in {self.name}", code="file_missing", file=name) from error
        except OSError as error:
            raise UserError(f"the file cannot be read: {error.strerror}", code="file_unreadable", file=name) from error


class RemotePlace:
    """A folder behind a URL, and a cache of ranges on the local disk."""

    def __init__(self, storage: Storage, cache: RangeCache) -> None:
        self.name = storage.url
        self._storage, self._cache = storage, cache

    def read(self, name: str) -> bytes:
        return self._storage.read(name)

    def read_range(self, name: str, start: int, length: int, digest: str) -> bytes:
        # with the digest: other contents under the same URL are not those that were kept
        key = f"{self.name}/{name}@{digest}:{start}+{length}"
        kept = self._cache.get(key)
        if kept is not None and len(kept) == length:
            return kept
        data = self._storage.read(name, start, start + length)
        if len(data) != length:
            raise damaged(name, "the shard ends too early")
        self._cache.put(key, data)
        return data

    def local_file(self, name: str, digest: str) -> Path:
        """Fetched once, beside the cache and not counted in it: it stays mapped. Raises: also ``cache_unwritable``."""
        target = self._cache.folder / "index" / digest
        if not target.exists():
            data = self.read(name)
            if hashlib.sha256(data).hexdigest() != digest:
                raise damaged(name, "its sha256 is another")
            try:
                _keep(target, data)
            except OSError as error:
                message = f"the index cannot be kept ({error.strerror}); make room, or let LCL_DATA_CACHE name a folder"
                raise UserError(message, code="cache_unwritable", file=target) from error
        return target


def _keep(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(target)
