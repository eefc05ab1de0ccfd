"""A JSON-lines file as a sequence: line offsets are in memory, a line is read and parsed on access.

JSON of foreign files is bounded in depth.
A file is not mapped: an access beyond the end of one that was cut short meanwhile would end the process.
Halves of surrogate pairs, which JSON can write as escapes, become U+FFFD: no file, database or response can have them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.paths import replace_surrogates

MAX_JSON_DEPTH = 64


class BadValue(Exception):
    """A line or member is malformed; the text names the problem."""


def decode_utf8(data: bytes) -> str:
    """UTF-8, with or without a byte order mark. Raises: BadValue."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadValue(f"not UTF-8 at byte {error.start}") from error


def parse_json(data: bytes | str, keep_nan: bool = False) -> Any:
    """A JSON value. Half surrogates become U+FFFD.

    Args:
        keep_nan: whether NaN and infinities, which JSON lacks, stay; else they become null.

    Raises: BadValue.
    """
    text = decode_utf8(data) if isinstance(data, bytes) else data
    try:
        value = json.loads(text, parse_constant=None if keep_nan else lambda _: None)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"not JSON ({error})") from error
    # only such escapes make strings that cannot be written as UTF-8
    return to_json_safe(value) if "\\ud" in text or "\\uD" in text else value


def parse_json_object(data: bytes | str) -> dict[str, Any]:
    """A JSON object, likewise."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise BadValue("not a JSON object")
    return value


def to_json_safe(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can hold it: NaN and infinities become null, other types their text, bytes are left out.

    Raises: BadValue for what is nested deeper than ``MAX_JSON_DEPTH``.
    """
    if depth > MAX_JSON_DEPTH:
        raise BadValue(f"nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, dict):
        kept = {replace_surrogates(str(key)): item for key, item in value.items() if not isinstance(item, bytes)}
        return {key: to_json_safe(item, depth + 1) for key, item in kept.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_safe(item, depth + 1) for item in value if not isinstance(item, bytes)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else str(value)


MAX_LINE_BYTES = 16 << 20
MAX_LINES = 50_000_000  # of all files of a corpus, 20 bytes each; shards have no such bound
_SCAN_BYTES = 4 << 20
_CALL_BYTES = 1 << 30  # of one call, which reads at most 2 GiB
_NEWLINE, _RETURN = b"\n\r"


class FileBytes:
    """A file's bytes, read as slices of them are taken. Safe from several threads and after a fork.

    Args:
        descriptor: of the open file, which is closed with this object.
        name: of the file, for messages.

    Slicing (not from the end) raises UserError ``file_unreadable``, also where the file is shorter than it was when it
    was opened.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        self._size = os.fstat(descriptor).st_size

    def __del__(self) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end = part.start or 0, self._size if part.stop is None else min(part.stop, self._size)
        parts = list[bytes]()
        try:
            while start < end and (data := os.pread(self._descriptor, min(end - start, _CALL_BYTES), start)):
                parts.append(data)
                start += len(data)
        except OSError as error:
            message = f"the file cannot be read: {error.strerror}"
            raise UserError(message, code="file_unreadable", file=self._name) from error
        if start < end:
            message = "the file became shorter while it was read; write a new file and rename it to the old one's name"
            raise UserError(message, code="file_unreadable", file=self._name)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __bytes__(self) -> bytes:
        return self[:]


class JsonLines(Sequence[dict[str, Any]]):
    """Objects of a JSON-lines file, blank lines left out.

    Args:
        buffer: the file, in memory or read as it is needed.
        name: its name, for messages.
        check: returns the problem of an object, or None.
        max_lines: that are not blank.

    Raises: UserError ``corpus_unreadable`` for more lines; those of ``buffer``.

    Indexing raises UserError ``bad_document`` with file and line for a line that is no valid object.
    """

    def __init__(
        self,
        buffer: bytes | FileBytes,
        name: str,
        check: Callable[[dict[str, Any]], str | None],
        max_lines: int = MAX_LINES,
    ) -> None:
        self.name = name
        self._buffer = buffer
        self._check = check
        self._starts, self._lengths, self._numbers = _find_lines(buffer, name, max_lines)

    def __len__(self) -> int:
        return len(self._starts)

    def line_number(self, index: int) -> int:
        """1-based line of the object at ``index``."""
        return int(self._numbers[index])

    def find_line(self, number: int) -> int | None:
        """Index of the object in a 1-based line; None: the line is blank, or the file has fewer."""
        if not len(self) or number > self.line_number(-1):
            return None
        index = int(np.searchsorted(self._numbers, number))
        return index if self.line_number(index) == number else None

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, length = int(self._starts[index]), int(self._lengths[index])
        if length > MAX_LINE_BYTES:
            raise self._bad(index, f"the line is longer than {MAX_LINE_BYTES:,} bytes")
        try:
            value = parse_json(
                self._buffer[start : start + length], keep_nan=True
            )  # a similarity of NaN leaves out its image alone
        except BadValue as error:
            raise self._bad(index, f"the line is {error}") from error
        problem = self._check(value) if isinstance(value, dict) else "the line is not a JSON object"
        if problem is not None:
            raise self._bad(index, problem)
        return value

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def _bad(self, index: int, problem: str) -> UserError:
        message = f"{problem}; mend the line or remove it"
        return UserError(message, code="bad_document", file=self.name, line=self.line_number(index))


class ConcatenatedLines(Sequence[dict[str, Any]]):
    """Several JSON-lines files as one sequence."""

    def __init__(self, parts: Sequence[JsonLines]) -> None:
        self._parts = parts
        self._length = sum(len(part) for part in parts)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, offset = self._find(index)
        return part[offset]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (value for part in self._parts for value in part)

    def describe(self, index: int) -> dict[str, Any]:
        """As indexing: no line holds an image."""
        return self[index]

    def location(self, index: int) -> str:
        """``file:line`` of an item, for messages and ids."""
        part, offset = self._find(index)
        return f"{part.name}:{part.line_number(offset)}"

    def find(self, location: str) -> int | None:
        """Index of the item at ``location``; None: there is no such item."""
        name, _, line = location.rpartition(":")
        before = 0
        for part in self._parts:
            if part.name == name and line.isdecimal() and (offset := part.find_line(int(line))) is not None:
                return before + offset
            before += len(part)
        return None

    def _find(self, index: int) -> tuple[JsonLines, int]:
        offset = index + self._length if index < 0 else index
        if not 0 <= offset < self._length:
            raise IndexError(index)
        for part in self._parts:
            if offset < len(part):
                return part, offset
            offset -= len(part)
        raise IndexError(index)


def _find_lines(buffer: bytes | FileBytes, name: str, max_lines: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all lines that are not blank: starts, lengths without the newline (``MAX_LINE_BYTES`` + 1: longer), numbers.

    Blank lines take memory only while their part of the file is scanned. Raises: UserError ``corpus_unreadable``.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    begin, first, lines, kept_lines = 0, _NEWLINE, 0, 0  # of the line that the scan is in: its start and first byte
    for offset in range(0, len(buffer), _SCAN_BYTES):
        data = np.frombuffer(buffer[offset : offset + _SCAN_BYTES], np.uint8)
        if begin == offset:
            first = int(data[0])
        ends = np.flatnonzero(data == _NEWLINE) + offset
        if offset + len(data) == len(buffer):
            ends = np.append(ends, len(buffer))
        if not len(ends):
            continue
        starts = np.concatenate(([begin], ends[:-1] + 1))
        firsts = data[np.clip(starts - offset, 0, len(data) - 1)]
        firsts[0] = first
        lengths = ends - starts
        kept = (lengths > 1) | ((lengths == 1) & (firsts != _RETURN))
        clipped = np.minimum(lengths[kept], MAX_LINE_BYTES + 1).astype(np.uint32)
        found.append((starts[kept], clipped, np.flatnonzero(kept) + lines + 1))
        lines, kept_lines = lines + len(ends), kept_lines + len(clipped)
        if kept_lines > max_lines:
            message = f"the corpus has more than {MAX_LINES:,} lines; convert it to shards in smaller parts"
            raise UserError(message, code="corpus_unreadable", file=name)
        begin = int(ends[-1]) + 1
        if begin - offset < len(data):
            first = int(data[begin - offset])
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0, np.int64)
    starts, lengths, numbers = (np.concatenate(column) for column in zip(*found, strict=True))
    return starts, lengths, numbers
