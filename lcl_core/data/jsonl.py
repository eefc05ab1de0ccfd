"""A JSON-lines file as a sequence: line offsets are in memory, a line is parsed on access.

Halves of surrogate pairs, which JSON can write as escapes, become U+FFFD: no file, database or response can have them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data.json_values import BadValue, parse_json

MAX_LINE_BYTES = 16 << 20
_SCAN_BYTES = 64 << 20


class JsonLines(Sequence[dict[str, Any]]):
    """Objects of a JSON-lines file, blank lines left out.

    Args:
        buffer: the file, in memory or mapped.
        name: its name, for messages.
        check: returns the problem of an object, or None.

    Indexing raises UserError ``bad_line`` with file and line for a line that is no valid object.
    """

    def __init__(self, buffer: bytes | mmap.mmap, name: str, check: Callable[[dict[str, Any]], str | None]) -> None:
        self.name = name
        self._buffer = buffer
        self._check = check
        starts, ends = _line_bounds(buffer)
        first = np.frombuffer(buffer, np.uint8)[np.minimum(starts, max(len(buffer) - 1, 0))] if buffer else starts
        kept = (ends > starts + 1) | ((ends == starts + 1) & (first != ord("\r")))
        self._starts, self._ends = starts[kept], ends[kept]
        self._numbers = np.flatnonzero(kept) + 1

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
        start, end = int(self._starts[index]), int(self._ends[index])
        if end - start > MAX_LINE_BYTES:
            raise self._bad(index, f"the line is longer than {MAX_LINE_BYTES:,} bytes")
        try:
            value = parse_json(self._buffer[start:end], keep_nan=True)  # a similarity of NaN leaves out its image alone
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
        return UserError(message, code="bad_line", file=self.name, line=self.line_number(index))


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


def _line_bounds(buffer: bytes | mmap.mmap) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (newline excluded) of all lines, int64."""
    parts = []
    for start in range(0, len(buffer), _SCAN_BYTES):
        chunk = np.frombuffer(buffer, np.uint8, count=min(_SCAN_BYTES, len(buffer) - start), offset=start)
        parts.append(np.flatnonzero(chunk == ord("\n")) + start)
    newlines = np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
    starts = np.concatenate(([0], newlines + 1)).astype(np.int64)
    ends = np.append(newlines, len(buffer))
    return starts, ends
