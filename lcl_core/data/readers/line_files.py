"""Lines of a text file, plain, gzipped or in a zip, as a stream: a line is bounded, and so is what an archive holds."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from lcl_core.data.lines import MAX_LINE_BYTES
from lcl_core.data.record import BadItem

# JSON lines shrink to a tenth or so; what grows more than this on unpacking is made to fill a disk or waste time.
MAX_EXPANSION = 200
SMALL_BYTES = 256 << 20
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, struct.error, RuntimeError, LookupError, ValueError)


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank, without its end.

    Attributes:
        number: from 1.
        data: its bytes.
        member: the file in a zip that it comes from, empty for the only one there.
    """

    number: int
    data: bytes
    member: str = ""


class _TooMuch(Exception):
    """The archive unpacks to more than is allowed."""


def read_lines(path: Path, name: str) -> Iterator[Line | BadItem]:
    """All lines; what the file is shows in its first bytes. A zip gives the lines of all its ``.jsonl`` members.

    A line above ``MAX_LINE_BYTES`` is a BadItem, and so is the place where an archive is cut short, damaged, or
    unpacks to more than ``MAX_EXPANSION`` times its size (small ones apart).
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic == b"PK\3\4":
                yield from _zip_lines(file, name, _allowance(path))
            elif magic[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield from _lines(cast(BinaryIO, unpacked), name, _allowance(path))
            else:
                yield from _lines(file, name, None)
    except _DAMAGE as error:
        yield BadItem(name, 0, "unreadable file", str(error)[:200])


def _allowance(path: Path) -> int:
    return max(SMALL_BYTES, MAX_EXPANSION * path.stat().st_size)


def _zip_lines(file: BinaryIO, name: str, allowance: int) -> Iterator[Line | BadItem]:
    with zipfile.ZipFile(file) as archive:
        found = sorted((info for info in archive.infolist() if _is_text(info)), key=lambda info: info.filename)
        if not found:
            yield BadItem(name, 0, "unreadable file", "the zip has no .jsonl file")
        for info in found:
            member = info.filename if len(found) > 1 else ""
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                yield BadItem(name, 0, "unreadable file", f"{info.filename[:120]!r} is packed in an unusual way")
                continue
            try:
                with archive.open(info) as unpacked:
                    yield from _lines(cast(BinaryIO, unpacked), name, allowance, member)
            except _DAMAGE as error:  # encrypted, or not where the directory says
                yield BadItem(name, 0, "unreadable file", f"{info.filename[:120]!r}: {error}"[:300])


def _is_text(info: zipfile.ZipInfo) -> bool:
    return info.filename.lower().endswith(".jsonl") and not info.filename.startswith("__MACOSX/")


def _lines(file: BinaryIO, name: str, allowance: int | None, member: str = "") -> Iterator[Line | BadItem]:
    number, total = 0, 0
    try:
        for number, (data, length) in enumerate(_split(file, allowance), 1):
            total += length
            if allowance is not None and total > allowance:
                raise _TooMuch
            if data is None:
                yield BadItem(name, number, "line too long", f"{length:,} bytes; {MAX_LINE_BYTES:,} are allowed")
            elif stripped := data.rstrip(b"\r\n"):
                yield Line(number, stripped, member)
    except _TooMuch:
        yield BadItem(name, number + 1, "archive expands too much", f"beyond {allowance:,} bytes; the rest is left out")
    except _DAMAGE as error:
        yield BadItem(name, number + 1, "damaged archive", f"the rest is lost: {error}"[:200])


def _split(file: BinaryIO, allowance: int | None) -> Iterator[tuple[bytes | None, int]]:
    """Each line with its length; None instead of one that is too long. Raises: _TooMuch within such a line."""
    # readline of an unpacking file would otherwise go byte by byte
    reader = io.BufferedReader(cast(io.RawIOBase, file), 1 << 20)
    while data := reader.readline(MAX_LINE_BYTES + 1):
        length = len(data)
        if length <= MAX_LINE_BYTES or data.endswith(b"\n"):
            yield data, length
            continue
        while not data.endswith(b"\n") and (data := reader.readline(1 << 20)):
            length += len(data)
            if allowance is not None and length > allowance:
                raise _TooMuch
        yield None, length
