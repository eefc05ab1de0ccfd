"""Files of a corpus, in a folder or in a zip. Reads are safe from several threads and after a fork.

A zip is read with ``pread``: no file position is shared, so a forked loader cannot disturb its siblings.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from lcl_core.common.archive import ARCHIVE_ERRORS, DIRECTORY_ERRORS, MAX_EXPANSION, MIN_ALLOWANCE_BYTES, open_zip
from lcl_core.common.errors import UserError

MAX_TEXT_BYTES = 2 << 30  # of one file of a zip, and of its JSON lines together: they are in memory while it is open


class PreadFile(io.RawIOBase):
    """A file whose position belongs to this object alone, also after a fork.

    It is not mapped: an access beyond the end of a file that was cut short meanwhile would end the process. Slices
    leave the position alone, and raise UserError ``file_unreadable``.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        self._size, self._at = os.fstat(descriptor).st_size, 0

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "before the start of the file")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)  # no more is allocated, whatever a directory says
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._at)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self[self._at : self._at + len(buffer)]  # a file that is cut short meanwhile is an error, not its end
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end = part.start, min(part.stop, self._size)
        try:
            data = os.pread(self._descriptor, end - start, start) if start < end else b""
        except OSError as error:
            message = f"the file cannot be read: {error.strerror}"
            raise UserError(message, code="file_unreadable", file=self._name) from error
        if len(data) < end - start:
            message = "the file became shorter while it was read; write a new file and rename it to the old one's name"
            raise UserError(message, code="file_unreadable", file=self._name)
        return data


def open_store(path: str | Path) -> FileStore:
    """Open a folder or a zip. Raises: UserError ``not_found`` or ``corpus_unreadable``."""
    place = Path(path)
    if os.path.isdir(place):  # not the method of Path, which raises for names that no file can have
        return FolderStore(place)
    if not os.path.isfile(place):
        raise UserError("there is no such folder or zip file", code="not_found", file=place)
    return ZipStore(place)


def has_file(store: FileStore, name: str) -> bool:
    """Whether the file exists, for a name of any content: names that no file can have are missing."""
    try:
        return store.has(name)
    except (UserError, OSError, RuntimeError, ValueError):  # also a loop of links
        return False


def safe_name(name: str) -> str:
    """Return ``name`` if it stays inside the corpus. Raises: UserError ``bad_path``."""
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise UserError(
            f"the name {name[:120]!r} does not stay inside the corpus; use a plain relative path", code="bad_path"
        )
    return name


def _missing_error(name: str, store: Path) -> UserError:
    return UserError(f"the file is not in {store.name}", code="file_missing", file=name)


def too_large_error(name: str, max_bytes: int) -> UserError:
    return UserError(f"the file is larger than {max_bytes:,} bytes", code="too_large", file=name)


def confined_file(root: Path, name: str) -> Path:
    """The real path of an ordinary file of a folder.

    Args:
        root: the folder, its own links resolved.

    Raises:
        UserError: ``bad_path`` for a name or a link that leads out of the folder.
        FileNotFoundError: also for a pipe or a device, which would block or never end.
        OSError: the file cannot be read; also RuntimeError for a loop of links, UnicodeEncodeError for a name.
    """
    path = (root / safe_name(name)).resolve()
    if not path.is_relative_to(root):
        raise UserError("the link leads out of its folder", code="bad_path", file=name)
    if not stat.S_ISREG(path.stat().st_mode):
        raise FileNotFoundError(errno.ENOENT, "it is not an ordinary file", name)
    return path


class FolderStore:
    """Files below a folder; links that lead out of it are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = path.resolve()

    def names(self) -> Iterator[str]:
        """Every file, as a relative path with forward slashes, sorted."""
        names = []
        for folder, folders, files in os.walk(self._root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names += [os.path.relpath(os.path.join(folder, name), self._root) for name in files]
        return iter(sorted(name.replace(os.sep, "/") for name in names))

    def has(self, name: str) -> bool:
        return os.path.isfile(self._root / safe_name(name))

    def read(self, name: str, max_bytes: int) -> bytes:
        """The whole file. Raises: UserError when it is missing, unsafe, damaged or larger than ``max_bytes``."""
        with self.errors(name), confined_file(self._root, name).open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise too_large_error(name, max_bytes)
        return data

    def buffer(self, name: str) -> PreadFile:
        """A file that is read as it is needed. Raises: as :meth:`read`; of a zip also ``corpus_unreadable``."""
        with self.errors(name):
            return PreadFile(os.open(confined_file(self._root, name), os.O_RDONLY | os.O_CLOEXEC), name)

    def file(self, name: str) -> Path:
        """The real path of a file. Raises: UserError."""
        with self.errors(name):
            return confined_file(self._root, name)

    @contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """Let what fails for a file be a UserError that names it."""
        try:
            yield
        except FileNotFoundError as error:
            raise _missing_error(name, self.path) from error
        except (OSError, RuntimeError, UnicodeEncodeError) as error:  # also a loop of links, half a surrogate pair
            detail = getattr(error, "strerror", None) or "a loop of links, or a name that no file can have"
            raise UserError(f"the file cannot be read: {detail}", code="file_unreadable", file=name) from error


class ZipStore:
    """Files in a zip, stored or deflated. A single folder that wraps everything in the zip is seen through."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file = PreadFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path.name)
            self._archive = open_zip(cast(BinaryIO, file))
            entries = {info.filename: info for info in self._archive.infolist() if not info.is_dir()}
        except (*DIRECTORY_ERRORS, OSError) as error:
            raise UserError(f"the zip cannot be read ({error})", code="corpus_unreadable", file=path) from error
        wrapper = _wrapping_folder(entries)
        self._entries = {name.removeprefix(wrapper): info for name, info in entries.items()}

    def __reduce__(self) -> tuple[type[ZipStore], tuple[Path]]:
        return ZipStore, (self.path,)

    def names(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def has(self, name: str) -> bool:
        return safe_name(name) in self._entries

    def read(self, name: str, max_bytes: int) -> bytes:
        info = self._entries.get(safe_name(name))
        if info is None:
            raise _missing_error(name, self.path)
        if info.file_size > max_bytes:
            raise too_large_error(name, max_bytes)
        if info.file_size > max(MIN_ALLOWANCE_BYTES, MAX_EXPANSION * info.compress_size):
            message = f"the file unpacks to more than {MAX_EXPANSION} times its size; unpack the zip into a folder"
            raise UserError(message, code="corpus_unreadable", file=name)
        try:
            # others unpack whatever they are given, however much that is
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError("another method of packing")
            with self._archive.open(info) as file:
                data = file.read(info.file_size + 1)
            if len(data) != info.file_size:
                raise EOFError("it ends too early")
            return data
        except (*ARCHIVE_ERRORS, OSError, OverflowError) as error:
            message = (
                f"the file is damaged, encrypted or packed in an unknown way in {self.path.name}; "
                "make the zip again, stored or deflated"
            )
            raise UserError(message, code="file_unreadable", file=name) from error

    def buffer(self, name: str) -> bytes:
        lines = sum(info.file_size for each, info in self._entries.items() if each.endswith(".jsonl"))
        if name.endswith(".jsonl") and lines > MAX_TEXT_BYTES:
            message = f"the JSON lines of the zip unpack to {lines:,} bytes, of {MAX_TEXT_BYTES:,} that they may"
            raise UserError(f"{message}; unpack the zip into a folder", code="corpus_unreadable", file=self.path)
        return self.read(name, MAX_TEXT_BYTES)


FileStore = FolderStore | ZipStore


def _wrapping_folder(names: dict[str, zipfile.ZipInfo]) -> str:
    """``"name/"`` if every entry lies in one folder (and it is not ``images/`` itself), else nothing."""
    tops = {name.partition("/")[0] for name in names if not name.startswith("__MACOSX/")}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    return top if any(name.startswith(top) and name.count("/") == 1 for name in names) and top != "images/" else ""
