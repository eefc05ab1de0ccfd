"""Storage of a sharded corpus: a local folder, or any fsspec URL with a cache of ranges on the local disk.

Both return a range of a file in one read. The cache has one bound that all processes share.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from lcl_core.common.disk_cache import FileCache, data_cache_bytes, data_cache_folder
from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, sha256_file
from lcl_core.common.storage import Storage
from lcl_core.data.corpus.file_store import FolderStore, too_large_error

MAX_FILE_BYTES = 64 << 20  # of a file that is read whole: the header of ``format.MAX_SHARDS`` shards


def open_shard_storage(path: str | Path) -> ShardStorage:
    """A folder, or a URL (``file://`` is a folder).

    Raises: UserError where the URL's protocol is not known, and for a bad bound of the cache.
    """
    scheme, separator, rest = str(path).partition("://")
    if not separator:
        return LocalShardStorage(Path(path))
    if scheme == "file":
        return LocalShardStorage(Path(rest))
    return RemoteShardStorage(Storage(str(path)), FileCache(data_cache_folder(), data_cache_bytes()))


def damaged_shard_error(name: str, what: str) -> UserError:
    message = f"{what}; the file is not the one that was indexed: convert the corpus again or copy it anew"
    return UserError(message, code="corpus_unreadable", file=name)


class LocalShardStorage:
    """A folder, whose links may not lead out of it.

    No descriptor is kept, so nothing is shared between threads or after a fork.
    """

    concurrent_reads = 1  # ranges that a process should read at once

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._store = FolderStore(folder)
        self._paths: dict[str, Path] = {}  # those that were checked: ranges of a shard are read many times

    def read(self, name: str) -> bytes:
        """The whole file. Raises: UserError ``file_missing``, ``file_unreadable`` or ``too_large``."""
        return self._store.read(name, MAX_FILE_BYTES)

    def read_range(self, name: str, start: int, length: int, digest: str) -> bytes:
        """Exactly these bytes. ``digest``: sha256 of the file in the index.

        Raises: UserError ``file_missing``, ``file_unreadable`` or ``corpus_unreadable``.
        """
        path = self.local_file(name, digest)
        with self._store.errors(name):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(descriptor, length, start)
            finally:
                os.close(descriptor)
        if len(data) != length:
            raise damaged_shard_error(name, "the shard ends too early")
        return data

    def local_file(self, name: str, digest: str) -> Path:
        """A local file with these contents, to be mapped; only what is fetched is compared with its sha256."""
        if name not in self._paths:
            self._paths[name] = self._store.file(name)
        return self._paths[name]


class RemoteShardStorage:
    """A folder behind a URL, and a cache of ranges on the local disk. Methods also raise StoreError."""

    concurrent_reads = 16  # at 40 ms a request, 400 documents a second

    def __init__(self, storage: Storage, cache: FileCache) -> None:
        self.name = storage.url
        self._storage, self._cache = storage, cache

    def read(self, name: str) -> bytes:
        data = self._storage.read(name, 0, MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise too_large_error(name, MAX_FILE_BYTES)
        return data

    def read_range(self, name: str, start: int, length: int, digest: str) -> bytes:
        # with the digest: other contents under the same URL are not those in the cache
        key = hashlib.sha256(f"{self.name}/{name}@{digest}:{start}+{length}".encode()).hexdigest()
        entry = f"{key[:2]}/{key}.range"
        kept = self._cache.read(entry)
        if kept is not None and len(kept) == length:
            return kept
        data = self._storage.read(name, start, start + length)
        if len(data) != length:
            raise damaged_shard_error(name, "the shard ends too early")
        self._cache.write(entry, data)
        return data

    def local_file(self, name: str, digest: str) -> Path:
        """Fetched once, beside the cache and not counted in it: it stays mapped. Raises: also ``home_unusable``."""
        target = self._cache.folder / "index" / digest
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.with_name(f"{digest}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
                if not target.exists():  # else another process has fetched it
                    partial = target.with_name(f"{digest}.partial")
                    self._storage.download(name, partial)
                    if sha256_file(partial) != digest:
                        raise damaged_shard_error(name, "its sha256 is another")
                    fsync_path(partial)
                    partial.replace(target)
        except OSError as error:
            message = f"the index cannot be kept ({error.strerror}); make room, or let LCL_DATA_CACHE name a folder"
            raise UserError(message, code="home_unusable", file=target) from error
        return target


ShardStorage = LocalShardStorage | RemoteShardStorage
