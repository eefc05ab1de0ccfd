"""Files of a corpus, in a folder or in a zip. Reads are safe from several threads and after a fork.

A zip is read with ``pread`` at the offsets of its directory: no file position and no lock is shared, so a
forked loader cannot disturb its siblings.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from lcl_core.common.archive import DIRECTORY_ERRORS, MAX_EXPANSION, MIN_ALLOWANCE_BYTES, open_zip
from lcl_core.common.errors import UserError
from lcl_core.data.jsonl import FileBytes

MAX_TEXT_BYTES = 2 << 30  # of one file of a zip, and of its JSON lines together: they are in memory while it is open
_LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, then the lengths of the name and of the extra field


class FileStore(Protocol):
    """Files of a corpus: a folder or a zip."""

    path: Path

    def names(self) -> Iterator[str]:
        """Every file, as a relative path with forward slashes, sorted."""

    def has(self, name: str) -> bool: ...

    def read(self, name: str, max_bytes: int) -> bytes:
        """The whole file. Raises: UserError when it is missing, unsafe, damaged or larger than ``max_bytes``."""

    def buffer(self, name: str) -> bytes | FileBytes:
        """The whole file, of a folder read as it is needed. Raises: as :meth:`read`; ``corpus_unreadable``."""


def open_store(path: str | Path) -> FileStore:
    """Open a folder or a zip. Raises: UserError ``corpus_missing`` or ``corpus_unreadable``."""
    place = Path(path)
    if os.path.isdir(place):  # not the method of Path, which raises for names that no file can have
        return FolderStore(place)
    if not os.path.isfile(place):
        raise UserError("there is no such folder or zip file", code="corpus_missing", file=place)
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


def _too_large_error(name: str, max_bytes: int) -> UserError:
    return UserError(f"the file is larger than {max_bytes:,} bytes", code="file_too_large", file=name)


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
        names = []
        for folder, folders, files in os.walk(self._root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names += [os.path.relpath(os.path.join(folder, name), self._root) for name in files]
        return iter(sorted(name.replace(os.sep, "/") for name in names))

    def has(self, name: str) -> bool:
        return os.path.isfile(self._root / safe_name(name))

    def read(self, name: str, max_bytes: int) -> bytes:
        with self._open(name) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise _too_large_error(name, max_bytes)
        return data

    def buffer(self, name: str) -> bytes | FileBytes:
        with self._open(name) as file:
            return FileBytes(os.dup(file.fileno()), name)

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        """Raises: UserError, also for what fails while the file is open."""
        try:
            with confined_file(self._root, name).open("rb") as file:
                yield file
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
            with open_zip(path) as archive:
                entries = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except (*DIRECTORY_ERRORS, OSError) as error:
            raise UserError(f"the zip cannot be read ({error})", code="corpus_unreadable", file=path) from error
        self._size = os.fstat(self._descriptor).st_size
        wrapper = _wrapping_folder(entries)
        self._entries = {name.removeprefix(wrapper): info for name, info in entries.items()}

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

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
            raise _too_large_error(name, max_bytes)
        if info.file_size > max(MIN_ALLOWANCE_BYTES, MAX_EXPANSION * info.compress_size):
            message = f"the file unpacks to more than {MAX_EXPANSION} times its size; unpack the zip into a folder"
            raise UserError(message, code="corpus_unreadable", file=name)
        data = self._content(info)
        if data is None or len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise UserError(
                f"the file is damaged, encrypted or packed in an unknown way in {self.path.name}; "
                "make the zip again, stored or deflated",
                code="file_unreadable",
                file=name,
            )
        return data

    def buffer(self, name: str) -> bytes:
        lines = sum(info.file_size for each, info in self._entries.items() if each.endswith(".jsonl"))
        if name.endswith(".jsonl") and lines > MAX_TEXT_BYTES:
            message = f"the JSON lines of the zip unpack to {lines:,} bytes, of {MAX_TEXT_BYTES:,} that they may"
            raise UserError(f"{message}; unpack the zip into a folder", code="corpus_unreadable", file=self.path)
        return self.read(name, MAX_TEXT_BYTES)

    def _content(self, info: zipfile.ZipInfo) -> bytes | None:
        """The unpacked bytes, or None where the entry is not what the directory says."""
        room = self._size - _LOCAL_HEADER.size - info.compress_size
        if not 0 <= info.header_offset <= room or info.flag_bits & 1:
            return None
        header = os.pread(self._descriptor, _LOCAL_HEADER.size, info.header_offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\3\4":
            return None
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        packed = self._read_at(start, info.compress_size)
        if info.compress_type == zipfile.ZIP_STORED:
            return packed
        if info.compress_type != zipfile.ZIP_DEFLATED:
            return None
        try:
            # bounded by the declared size, so that a crafted entry cannot fill the memory
            return zlib.decompressobj(-15).decompress(packed, info.file_size + 1)
        except zlib.error:
            return None

    def _read_at(self, start: int, size: int) -> bytes:
        """One ``pread`` gives at most 2 GiB."""
        parts = []
        while size > 0 and (part := os.pread(self._descriptor, min(size, 1 << 30), start)):
            parts.append(part)
            start += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _wrapping_folder(names: dict[str, zipfile.ZipInfo]) -> str:
    """``"name/"`` if every entry lies in one folder (and it is not ``images/`` itself), else nothing."""
    tops = {name.partition("/")[0] for name in names if not name.startswith("__MACOSX/")}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    return top if any(name.startswith(top) and name.count("/") == 1 for name in names) and top != "images/" else ""
