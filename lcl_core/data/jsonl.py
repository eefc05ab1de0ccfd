"""JSON-lines files as a sequence: line offsets are in memory, a line is read and parsed on access.

JSON of foreign files is bounded in depth.
Halves of surrogate pairs, which JSON can write as escapes, become U+FFFD: no file, database or response can have them.
"""

from __future__ import annotations

import io
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.paths import replace_surrogates
from lcl_core.data.corpus.file_store import PreadFile

MAX_JSON_DEPTH = 64
_SCAN_BYTES = 1 << 20
_LINE_DIGITS = 18  # of the number of a line, at most
T = TypeVar("T")


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
MAX_LINES = 50_000_000  # of all files of a corpus, 24 bytes each; shards have no such bound


class JsonLines(Generic[T]):
    """Objects of JSON-lines files, one file after another, parsed on access; blank lines are left out.

    Args:
        files: content of each by its name, in memory or read as it is needed.
        check: returns the problem of an object, or None.
        make: what an object becomes.
        lines: of each object the number of its file, its 1-based line, where that starts and its bytes; None: all.

    Raises: UserError that reading a file raises. Indexing raises UserError ``bad_document`` with file and line for a
    line that is no valid object.
    """

    def __init__(
        self,
        files: Mapping[str, bytes | PreadFile],
        check: Callable[[dict[str, Any]], str | None],
        make: Callable[[dict[str, Any]], T],
        lines: tuple[np.ndarray, ...] | None = None,
    ) -> None:
        self._files, self._check, self._make = files, check, make
        self._names = list(files)
        self._lines = _find_lines(files.values()) if lines is None else lines

    def __len__(self) -> int:
        return len(self._lines[0])

    def __getitem__(self, index: int) -> T:
        file, number, start, length = (int(column[index]) for column in self._lines)
        name = self._names[file]
        try:
            if length > MAX_LINE_BYTES:
                raise BadValue(f"longer than {MAX_LINE_BYTES:,} bytes")
            # a similarity of NaN leaves out its image alone
            value = parse_json(self._files[name][start : start + length], keep_nan=True)
            if not isinstance(value, dict):
                raise BadValue("not a JSON object")
            problem = self._check(value)
        except BadValue as error:
            problem = f"the line is {error}"
        if problem is not None:
            message = f"{problem}; mend the line or remove it"
            raise UserError(message, code="bad_document", file=name, line=number)
        return self._make(value)

    def __iter__(self) -> Iterator[T]:
        return (self[index] for index in range(len(self)))

    def describe(self, index: int) -> T:
        """As indexing: no line holds an image."""
        return self[index]

    def choose(self, indices: Sequence[int]) -> JsonLines[T]:
        """Those at ``indices``, which ascend."""
        chosen = np.asarray(indices, np.int64)
        return JsonLines(self._files, self._check, self._make, tuple(column[chosen] for column in self._lines))

    def line_number(self, index: int) -> int:
        return int(self._lines[1][index])

    def location(self, index: int) -> str:
        """``file:line`` of an item, for messages and ids."""
        return f"{self._names[int(self._lines[0][index])]}:{self.line_number(index)}"

    def find(self, location: str) -> int | None:
        """Index of the item at ``location``; None: it is not among these."""
        name, _, line = location.rpartition(":")
        if name not in self._files or not line.isdecimal() or len(line) > _LINE_DIGITS:
            return None
        first, end = np.searchsorted(self._lines[0], np.array([0, 1], np.uint32) + self._names.index(name))
        index = int(first + np.searchsorted(self._lines[1][first:end], int(line)))
        return index if index < end and self.line_number(index) == int(line) else None


def _find_lines(files: Iterable[bytes | PreadFile]) -> tuple[np.ndarray, ...]:
    """File, number, start and length without the newline (``MAX_LINE_BYTES`` + 1: longer) of all lines not blank."""
    columns = (array("I"), array("Q"), array("Q"), array("I"))
    for number, content in enumerate(files):
        file: Any = io.BytesIO(content) if isinstance(content, bytes) else io.BufferedReader(content, _SCAN_BYTES)
        line = start = 0
        while piece := file.readline(MAX_LINE_BYTES + 2):
            blank, length = piece in (b"\n", b"\r\n", b"\r"), len(piece)
            while len(piece) == MAX_LINE_BYTES + 2 and not piece.endswith(b"\n"):
                piece = file.readline(MAX_LINE_BYTES + 2)
                length += len(piece)
            line += 1
            if not blank:
                kept = min(length - piece.endswith(b"\n"), MAX_LINE_BYTES + 1)
                for column, value in zip(columns, (number, line, start, kept), strict=True):
                    column.append(value)
                if len(columns[0]) > MAX_LINES:
                    message = f"the corpus has more than {MAX_LINES:,} lines; convert it to shards in smaller parts"
                    raise UserError(message, code="corpus_unreadable")
            start += length
        if not isinstance(content, bytes):
            file.detach()
    return tuple(np.frombuffer(column, column.typecode) for column in columns)
