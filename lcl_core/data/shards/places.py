"""Where a sharded corpus lies: a local folder, or any fsspec URL. Both give a range of a file in one read."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lcl_core.data.extras import optional
from lcl_core.data.shards.cache import RangeCache
from lcl_core.errors import UserError

DEFAULT_CACHE_BYTES = 10 << 30
_ATTEMPTS = 5
_FIRST_WAIT_SECONDS = 0.1
T = TypeVar("T")


class Place(Protocol):
    """What a sharded corpus needs of where it lies."""

    name: str

    def read(self, name: str) -> bytes:
        """The whole file. Raises: UserError ``file_missing`` or ``file_unreadable``."""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Exactly these bytes. Raises: UserError ``file_missing``, ``file_unreadable`` or ``shard_damaged``."""

    def local_file(self, name: str, digest: str) -> Path:
        """A local file with these contents, to be mapped. ``digest``: its sha256."""


def open_place(path: str | Path, cache_folder: Path | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES) -> Place:
    """A folder, or a URL (``file://`` is a folder). Raises: UserError where the URL's protocol is not known."""
    scheme, separator, rest = str(path).partition("://")
    if not separator:
        return LocalPlace(Path(path))
    if scheme == "file":
        return LocalPlace(Path(rest))
    return RemotePlace(str(path), RangeCache(cache_folder or _default_cache_folder(), cache_bytes))


def _default_cache_folder() -> Path:
    chosen = os.environ.get("LCL_DATA_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "lcl" / "ranges"


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

    def read_range(self, name: str, start: int, length: int) -> bytes:
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
    """A folder behind a URL, with retries, and a cache of ranges on the local disk.

    Credentials and endpoints come from where the protocol's own library looks for them, such as ``AWS_*`` variables.

    Args:
        first_wait: seconds before the second attempt; each further wait is twice as long.
    """

    def __init__(
        self, url: str, cache: RangeCache, attempts: int = _ATTEMPTS, first_wait: float = _FIRST_WAIT_SECONDS
    ) -> None:
        self.name = url.rstrip("/")
        self._cache, self._attempts, self._first_wait = cache, attempts, first_wait
        self._opened: tuple[int, Any, str] | None = None
        self._files()

    def read(self, name: str) -> bytes:
        return self._fetch(name, None, None)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        key = f"{self.name}/{name}:{start}+{length}"
        kept = self._cache.get(key)
        if kept is not None and len(kept) == length:
            return kept
        data = self._fetch(name, start, start + length)
        if len(data) != length:
            raise damaged(name, "the shard ends too early")
        self._cache.put(key, data)
        return data

    def local_file(self, name: str, digest: str) -> Path:
        """Fetched once, beside the cache and not counted in it: it stays mapped."""
        target = self._cache.folder / "index" / digest
        if not target.exists():
            data = self.read(name)
            if hashlib.sha256(data).hexdigest() != digest:
                raise damaged(name, "its sha256 is another")
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f"{digest}.{os.getpid()}")
            beside.write_bytes(data)
            beside.replace(target)
        return target

    def _files(self) -> tuple[Any, str]:
        """The file system and the path in it: opened anew in a forked process, whose event loop died with the fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            core = optional("fsspec.core", f"reading {self.name}")
            try:
                files, path = core.url_to_fs(self.name, skip_instance_cache=self._opened is not None)
            except (ImportError, ValueError) as error:
                message = f"the URL cannot be opened ({error})"
                raise UserError(message, code="corpus_unreadable", file=self.name) from error
            self._opened = (os.getpid(), files, path)
        return self._opened[1], self._opened[2]

    def _fetch(self, name: str, start: int | None, end: int | None) -> bytes:
        files, path = self._files()
        wait = self._first_wait
        for attempt in range(1, self._attempts + 1):
            try:
                return bytes(files.cat_file(f"{path}/{name}", start=start, end=end))
            except FileNotFoundError as error:
                raise UserError(f"the file is not in {self.name}", code="file_missing", file=name) from error
            except Exception as error:  # each protocol has exceptions of its own
                if attempt == self._attempts or isinstance(error, PermissionError):
                    message = f"the file cannot be read after {attempt} attempts ({type(error).__name__}: {error})"
                    raise UserError(message, code="file_unreadable", file=name) from error
                time.sleep(wait)
                wait *= 2
        raise AssertionError("the last attempt returns or raises")
