"""The arrays of one large JSON object, element by element: only the file's text is held, never the whole as objects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcl_core.data.readers.folders import corpus_files, shown
from lcl_core.data.readers.values import BadValue, plain_json
from lcl_core.data.record import BadItem

MAX_FILE_BYTES = 2 << 30
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Element:
    """An element of an array, or (``array`` empty) another field of the object.

    Attributes:
        array: the field that holds the array.
        key: the field's name.
        value: anything that JSON can hold.
        line: where it begins, from 1.
    """

    array: str
    key: str
    value: Any
    line: int


def json_files(root: Path, wanted: Callable[[str], bool]) -> Iterator[JsonArrays | BadItem]:
    """The corpus's files of this kind, each read; one that cannot be used is a BadItem."""
    for file in corpus_files(root, wanted):
        if isinstance(file, BadItem):
            yield file
            continue
        arrays = JsonArrays(file, shown(file, root))
        yield arrays if arrays.problem is None else arrays.problem


class JsonArrays:
    """A JSON file that holds one object.

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

    def elements(self) -> Iterator[Element | BadItem]:
        """Every element and field in their order. Where the file is broken, the last item is a BadItem.

        A byte that is no UTF-8 becomes U+FFFD, with one BadItem for the file.
        """
        if self._encoding_problem is not None:
            yield self._encoding_problem
        walk = _Walk(self._text)
        try:
            yield from walk.object()
        except _Broken as error:
            yield BadItem(self.name, walk.line, "bad json", f"{error}; the rest of the file is left out")

    def _read(self, path: Path) -> BadItem | None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            return BadItem(self.name, 0, "unreadable file", str(error.strerror))
        if len(data) > MAX_FILE_BYTES:
            return BadItem(self.name, 0, "unreadable file", f"larger than {MAX_FILE_BYTES:,} bytes")
        data = data.removeprefix(b"\xef\xbb\xbf")
        try:
            self._text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self._encoding_problem = BadItem(self.name, line, "bad encoding", f"not UTF-8 at byte {error.start:,}")
            self._text = data.decode("utf-8", "replace")
        return None


class _Broken(Exception):
    """The rest cannot be read."""


class _Walk:
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

    def object(self) -> Iterator[Element]:
        self._expect("{", "a JSON object is expected")
        if self._next("}"):
            return
        while True:
            key = self._value()
            if not isinstance(key, str):
                raise _Broken("a field's name is expected")
            self._expect(":", "':' is expected")
            if self._next("["):
                yield from self._array(key)
            else:
                line = self.line
                yield Element("", key, self._value(), line)
            if self._next("}"):
                return
            self._expect(",", "',' or '}' is expected")

    def _array(self, key: str) -> Iterator[Element]:
        if self._next("]"):
            return
        while True:
            self._skip_space()
            line = self.line
            yield Element(key, key, self._value(), line)
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
            raise _Broken(problem)

    def _value(self) -> Any:
        self._skip_space()
        start = self._at
        try:
            value, self._at = self._decoder.raw_decode(self._text, start)
        except json.JSONDecodeError as error:
            raise _Broken(error.msg) from error
        except ValueError as error:  # a number of thousands of digits
            raise _Broken(str(error)) from error
        except RecursionError as error:
            raise _Broken("nested too deeply") from error
        try:
            return plain_json(value)
        except BadValue as error:
            raise _Broken(str(error)) from error
