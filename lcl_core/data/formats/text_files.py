"""Bounded reading of text files: lines (plain, gzipped or in a zip), and the arrays of one large JSON object.

A line is bounded, and so is the size that an archive unpacks to. Of a JSON file only the text is held, never the
whole as objects.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lcl_core.common.archive import MAX_EXPANSION, MIN_ALLOWANCE_BYTES, open_zip
from lcl_core.data.formats.base import corpus_files, display_name
from lcl_core.data.json_values import BadValue, to_json_safe
from lcl_core.data.jsonl import MAX_LINE_BYTES
from lcl_core.data.records import BadItem

_READ_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, struct.error, RuntimeError, LookupError, ValueError)


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line that is not blank, without its end.

    Attributes:
        number: from 1.
        data: its bytes.
        member: the file in a zip that it comes from, empty for the only one there.
    """

    number: int
    data: bytes
    member: str = ""


class _DecompressionLimitExceeded(Exception):
    """The archive unpacks to more than is allowed."""


def read_lines(path: Path, name: str) -> Iterator[TextLine | BadItem]:
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
                    yield from _read_stream_lines(cast(BinaryIO, unpacked), name, _allowance(path))
            else:
                yield from _read_stream_lines(file, name, None)
    except _READ_ERRORS as error:
        yield BadItem(name, 0, "unreadable file", str(error)[:200])


def _allowance(path: Path) -> int:
    return max(MIN_ALLOWANCE_BYTES, MAX_EXPANSION * path.stat().st_size)


def _zip_lines(file: BinaryIO, name: str, allowance: int) -> Iterator[TextLine | BadItem]:
    with open_zip(file) as archive:
        found = sorted((info for info in archive.infolist() if _is_jsonl_member(info)), key=lambda info: info.filename)
        if not found:
            yield BadItem(name, 0, "unreadable file", "the zip has no .jsonl file")
        for info in found:
            member = info.filename if len(found) > 1 else ""
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                yield BadItem(name, 0, "unreadable file", f"{info.filename[:120]!r} is packed in an unusual way")
                continue
            try:
                with archive.open(info) as unpacked:
                    yield from _read_stream_lines(cast(BinaryIO, unpacked), name, allowance, member)
            except _READ_ERRORS as error:  # encrypted, or not where the directory says
                yield BadItem(name, 0, "unreadable file", f"{info.filename[:120]!r}: {error}"[:300])


def _is_jsonl_member(info: zipfile.ZipInfo) -> bool:
    return info.filename.lower().endswith(".jsonl") and not info.filename.startswith("__MACOSX/")


def _read_stream_lines(
    file: BinaryIO, name: str, allowance: int | None, member: str = ""
) -> Iterator[TextLine | BadItem]:
    number, total = 0, 0
    try:
        for number, (data, length) in enumerate(_split_lines(file, allowance), 1):
            total += length
            if allowance is not None and total > allowance:
                raise _DecompressionLimitExceeded
            if data is None:
                yield BadItem(name, number, "line too long", f"{length:,} bytes; {MAX_LINE_BYTES:,} are allowed")
            elif stripped := data.rstrip(b"\r\n"):
                yield TextLine(number, stripped, member)
    except _DecompressionLimitExceeded:
        yield BadItem(name, number + 1, "archive expands too much", f"beyond {allowance:,} bytes; the rest is left out")
    except _READ_ERRORS as error:
        yield BadItem(name, number + 1, "damaged archive", f"the rest is lost: {error}"[:200])


def _split_lines(file: BinaryIO, allowance: int | None) -> Iterator[tuple[bytes | None, int]]:
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
                raise _DecompressionLimitExceeded
        yield None, length


MAX_JSON_BYTES = 2 << 30
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class JsonElement:
    """An element of an array, or (``array`` empty) another field of the object.

    Attributes:
        array: the field that holds the array; empty, too, where the file is one array.
        key: the field's name, likewise.
        value: anything that JSON can hold.
        line: where it begins, from 1.
    """

    array: str
    key: str
    value: Any
    line: int


def read_json_files(root: Path, matches: Callable[[str], bool]) -> Iterator[JsonArrays | BadItem]:
    """The corpus's files of this kind, each read; one that cannot be used is a BadItem."""
    for file in corpus_files(root, matches):
        if isinstance(file, BadItem):
            yield file
            continue
        arrays = JsonArrays(file, display_name(file, root))
        yield arrays if arrays.problem is None else arrays.problem


class JsonArrays:
    """A JSON file that holds one object, or one array.

    Args:
        path: the file.
        name: its name, for messages.

    Attributes:
        problem: why the file cannot be used at all; None: it can.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._text = ""
        self._encoding_problem: BadItem | None = None
        self.problem = self._read(path)

    def elements(self) -> Iterator[JsonElement | BadItem]:
        """Every element and field of the object in their order. Where the file is broken, the last item is a BadItem.

        A byte that is no UTF-8 becomes U+FFFD, with one BadItem for the file.
        """
        walk = _JsonParser(self._text)
        return self._checked(walk, walk.object())

    def items(self) -> Iterator[JsonElement | BadItem]:
        """Every element of the file's one array, likewise."""
        walk = _JsonParser(self._text)
        return self._checked(walk, walk.array())

    def _checked(self, walk: _JsonParser, elements: Iterator[JsonElement]) -> Iterator[JsonElement | BadItem]:
        if self._encoding_problem is not None:
            yield self._encoding_problem
        try:
            yield from elements
        except _JsonSyntaxError as error:
            yield BadItem(self.name, walk.line, "bad json", f"{error}; the rest of the file is left out")

    def _read(self, path: Path) -> BadItem | None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_JSON_BYTES + 1)
        except OSError as error:
            return BadItem(self.name, 0, "unreadable file", str(error.strerror))
        if len(data) > MAX_JSON_BYTES:
            return BadItem(self.name, 0, "unreadable file", f"larger than {MAX_JSON_BYTES:,} bytes")
        data = data.removeprefix(b"\xef\xbb\xbf")
        try:
            self._text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self._encoding_problem = BadItem(self.name, line, "bad encoding", f"not UTF-8 at byte {error.start:,}")
            self._text = data.decode("utf-8", "replace")
        return None


class _JsonSyntaxError(Exception):
    """The rest cannot be read."""


class _JsonParser:
    """One walk through the text, and the line where it is."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = 0
        self._line = 1
        self._decoder = json.JSONDecoder(parse_constant=lambda _: None)

    @property
    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def object(self) -> Iterator[JsonElement]:
        self._expect("{", "a JSON object is expected")
        if self._next("}"):
            return
        while True:
            key = self._value()
            if not isinstance(key, str):
                raise _JsonSyntaxError("a field's name is expected")
            self._expect(":", "':' is expected")
            if self._next("["):
                yield from self._array(key)
            else:
                line = self.line
                yield JsonElement("", key, self._value(), line)
            if self._next("}"):
                return
            self._expect(",", "',' or '}' is expected")

    def array(self) -> Iterator[JsonElement]:
        self._expect("[", "a JSON array is expected")
        yield from self._array("")

    def _array(self, key: str) -> Iterator[JsonElement]:
        if self._next("]"):
            return
        while True:
            self._skip_space()
            line = self.line
            yield JsonElement(key, key, self._value(), line)
            if self._next("]"):
                return
            self._expect(",", "',' or ']' is expected")

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _next(self, mark: str) -> bool:
        self._skip_space()
        found = self._text.startswith(mark, self._at)
        self._at += found
        return found

    def _expect(self, mark: str, problem: str) -> None:
        if not self._next(mark):
            raise _JsonSyntaxError(problem)

    def _value(self) -> Any:
        self._skip_space()
        start = self._at
        try:
            value, self._at = self._decoder.raw_decode(self._text, start)
        except json.JSONDecodeError as error:
            raise _JsonSyntaxError(error.msg) from error
        except ValueError as error:  # a number of thousands of digits
            raise _JsonSyntaxError(str(error)) from error
        except RecursionError as error:
            raise _JsonSyntaxError("nested too deeply") from error
        try:
            return to_json_safe(value)
        except BadValue as error:
            raise _JsonSyntaxError(str(error)) from error
