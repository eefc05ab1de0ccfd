"""The members of a tar as byte ranges: only headers are read, nothing is unpacked.

The standard library's reader takes the sizes of long names and extended headers on trust, and swallows some kinds
of damage; this one bounds them and says where the file goes wrong. Plain, GNU and POSIX tars are understood.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES

MAX_HEADER_BYTES = 1 << 20
MAX_PADDING_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAME = tarfile.GNUTYPE_LONGNAME
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_SKIPPED = (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)
_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True, slots=True)
class TarMember:
    """An ordinary file in a tar.

    Attributes:
        name: as written in the tar, not checked.
        offset, size: where its bytes lie, in bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class IrregularMember:
    """No ordinary file (a link, a device …): ``broken`` False; or where the tar breaks off: ``broken`` True."""

    name: str
    problem: str
    broken: bool = False


class _BrokenTar(Exception):
    """The rest of the tar cannot be found."""


def walk_tar(path: Path) -> Iterator[TarMember | IrregularMember]:
    """Members in their order, folders left out; nothing follows an Odd that is ``broken``.

    Raises: OSError when the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            yield from _TarWalk(file, path.stat().st_size).entries()
        except _BrokenTar as error:
            yield IrregularMember("", str(error), broken=True)


class _TarWalk:
    """The state of one walk: file position, and extended headers of the next member."""

    def __init__(self, file: BinaryIO, total: int) -> None:
        self._file = file
        self._total = total
        self._next = 0
        self._long_name = ""
        self._pax: dict[str, str] = {}

    def entries(self) -> Iterator[TarMember | IrregularMember]:
        while (header := self._header()) is not None:
            start = self._next + _BLOCK
            size = 0 if header.type in _WITHOUT_DATA else self._size(header)
            name = self._pax.get("path") or self._long_name or header.name
            if size < 0 or start + size > self._total:
                raise _BrokenTar(f"{name[:120]!r} should have {size:,} bytes, but the tar ends before")
            self._next = start + -(-size // _BLOCK) * _BLOCK
            if header.type == _LONG_NAME:
                self._long_name = self._read(start, size).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif header.type in _PAX:
                self._pax = _pax_fields(self._read(start, size))
            elif header.type not in _SKIPPED:
                yield from self._entry(header, name, start, size)
                self._long_name, self._pax = "", {}

    def _header(self) -> tarfile.TarInfo | None:
        self._file.seek(self._next)
        block = self._file.read(_BLOCK)
        if block == bytes(_BLOCK):
            self._expect_padding()
            return None
        if not block:
            raise _BrokenTar("the tar has no end mark; it may be cut short" if self._next else "the file is empty")
        if self._next == 0 and block.startswith(_PACKED):
            raise _BrokenTar("the tar is compressed, so that members cannot be found in it; unpack it to a plain .tar")
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise _BrokenTar(f"there is no tar header at byte {self._next:,} ({error})") from error

    def _expect_padding(self) -> None:
        """Past the end mark there is padding; anything else is a second tar, which must not be lost unseen."""
        if self._file.read(MAX_PADDING_BYTES).strip(b"\0"):
            raise _BrokenTar("more follows the end mark (two tars in one file?); make one tar of it")

    def _size(self, header: tarfile.TarInfo) -> int:
        stated = self._pax.get("size", "")
        return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 else header.size

    def _read(self, start: int, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise _BrokenTar(f"a header of {size:,} bytes at byte {start:,}")
        self._file.seek(start)
        return self._file.read(size)

    def _entry(
        self, header: tarfile.TarInfo, name: str, start: int, size: int
    ) -> Iterator[TarMember | IrregularMember]:
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise _BrokenTar(f"{name[:120]!r} is stored sparse; make the tar again without that")
        if any(key.startswith("GNU.sparse") for key in self._pax):
            yield IrregularMember(name, "a sparse file")
        elif header.type in _FILES:
            yield TarMember(name, start, size)
        elif header.type != tarfile.DIRTYPE:
            yield IrregularMember(name, _KINDS.get(header.type, f"an entry of unknown type {header.type!r}"))


def _pax_fields(data: bytes) -> dict[str, str]:
    """The ``LENGTH KEY=VALUE\\n`` records of an extended header; what follows a damaged one is left out."""
    fields: dict[str, str] = {}
    while data:
        digits, _, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : max(length - 1, 0)].partition(b"=")
        if not equals or length > len(data):
            break
        data = data[length:]
        fields[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
    return fields


def split_member_name(name: str) -> tuple[str, str]:
    """Key and extension of a member of a WebDataset tar: cut at the first dot of the last part.

    ``a/b.seg.png`` → (``a/b``, ``seg.png``); extensions in lower case, a leading ``./`` dropped.
    """
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def read_range(path: Path, offset: int, size: int, name: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """A member of a tar. Raises: UserError ``file_too_large`` or ``file_unreadable``, naming ``name``."""
    if size > max_bytes:
        raise UserError(f"the file is larger than {max_bytes:,} bytes", code="file_too_large", file=name)
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise UserError(f"{path.name}: {error.strerror}", code="file_unreadable", file=name) from error
    if len(data) != size:
        raise UserError(f"{path.name} has become shorter", code="file_unreadable", file=name)
    return data
