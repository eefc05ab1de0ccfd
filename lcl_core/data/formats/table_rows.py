"""Rows of a table, whatever its kind, as values by column.

CSV and TSV, and JSON lines (each also .gz). What cannot be read is a BadItem, and the rest is read.
"""

from __future__ import annotations

import codecs
import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lcl_core.data.formats.table_columns import TableOptions
from lcl_core.data.formats.text_files import TextLine, read_lines
from lcl_core.data.json_values import BadValue, parse_json_object
from lcl_core.data.records import BadItem

_DELIMITERS = ("\t", ",", ";", "|")
_JSON_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A row.

    Attributes:
        line: where it begins, from 1.
        cells: value by column.
    """

    line: int
    cells: dict[str, Any]


def is_table(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith((".csv", ".tsv", *_JSON_ENDINGS))


def read_table_rows(path: Path, name: str, options: TableOptions) -> Iterator[ParsedRow | BadItem]:
    """All rows of a table in their order, whatever its kind, and what is wrong with the others."""
    ending = name.lower().removesuffix(".gz")
    if ending.endswith(_JSON_ENDINGS):
        return _json_rows(path, name)
    return _CsvReader(path, name, options, tabs=ending.endswith(".tsv")).rows()


def read_first_columns(path: Path, name: str, options: TableOptions, most: int) -> Iterator[list[str]]:
    """Columns of the first ``most`` rows of JSON lines, as these differ; those of the first row of any other table."""
    rows = (row for row in read_table_rows(path, name, options) if isinstance(row, ParsedRow))
    differ = name.lower().removesuffix(".gz").endswith(_JSON_ENDINGS)
    return (list(row.cells) for row in islice(rows, most if differ else 1))


def _json_rows(path: Path, name: str) -> Iterator[ParsedRow | BadItem]:
    for line in read_lines(path, name):
        if isinstance(line, BadItem):
            yield line
            continue
        try:
            yield ParsedRow(line.number, parse_json_object(line.data))
        except BadValue as error:
            yield BadItem(name, line.number, "bad line", str(error))


class _CsvReader:
    """One walk through a CSV or TSV file."""

    def __init__(self, path: Path, name: str, options: TableOptions, *, tabs: bool) -> None:
        self._path = path
        self._name = name
        self._options = options
        self._tabs = tabs
        self._bad: deque[BadItem] = deque()
        self._line = 0  # the last that was handed to the parser
        self._begun = 0  # the first that the parser took for its row

    def rows(self) -> Iterator[ParsedRow | BadItem]:
        names: list[str] | None = None
        for fields in self._fields(self._delimiter()):
            if isinstance(fields, BadItem):
                yield fields
                if names is None and self._options.header:  # or else the next row would pass for it
                    yield BadItem(self._name, 0, "bad header", "the file is left out")
                    return
            elif names is None and self._options.header:
                names = _column_names(fields)
            else:
                # without a header the first row tells how many columns there are
                names = names or [str(number) for number in range(len(fields))]
                yield self._row(names, fields)

    def _row(self, names: list[str], fields: list[str]) -> ParsedRow | BadItem:
        if len(fields) != len(names):
            problem = f"{len(fields):,} fields where {len(names):,} are expected"
            return BadItem(self._name, self._begun, "ragged row", problem)
        return ParsedRow(self._begun, dict(zip(names, fields, strict=True)))

    def _delimiter(self) -> str:
        if self._options.delimiter or self._tabs:
            return self._options.delimiter or "\t"
        first = next((line.data for line in read_lines(self._path, self._name) if isinstance(line, TextLine)), b"")
        return max(_DELIMITERS, key=lambda mark: first.count(mark.encode()))

    def _fields(self, delimiter: str) -> Iterator[list[str] | BadItem]:
        quoted = delimiter in ",;" if self._options.quoted is None else self._options.quoted
        parser = csv.reader(
            self._text(),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
            skipinitialspace=True,
        )
        while True:
            self._begun = 0
            try:
                fields = next(parser)
            except StopIteration:
                break
            except csv.Error as error:
                fields = []
                self._bad.append(BadItem(self._name, self._begun, "bad row", f"{error}, up to line {self._line:,}"))
            yield from self._pending_errors()
            if any(map(str.strip, fields)):
                yield [field.strip() for field in fields]
        yield from self._pending_errors()

    def _pending_errors(self) -> Iterator[BadItem]:
        while self._bad:
            yield self._bad.popleft()

    def _text(self) -> Iterator[str]:
        for line in read_lines(self._path, self._name):
            if isinstance(line, BadItem):
                self._bad.append(line)
                continue
            if line.data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                self._bad.append(BadItem(self._name, line.number, "bad encoding", "UTF-16; save the table as UTF-8"))
                return
            text = self._decoded(line)
            if text is not None:
                self._line = line.number
                self._begun = self._begun or line.number
                yield f"{text}\n"

    def _decoded(self, line: TextLine) -> str | None:
        data = line.data.removeprefix(b"\xef\xbb\xbf") if line.number == 1 else line.data
        try:
            text = data.decode(self._options.encoding)
        except UnicodeDecodeError as error:
            detail = f"not {self._options.encoding} at byte {error.start:,} of the line"
            self._bad.append(BadItem(self._name, line.number, "bad encoding", detail))
            return None
        if "\0" in text:
            self._bad.append(BadItem(self._name, line.number, "bad row", "it holds a NUL character"))
            return None
        return text


def _column_names(fields: list[str]) -> list[str]:
    """Names of columns; empty and repeated ones get their number."""
    names: list[str] = []
    for number, field in enumerate(fields):
        names.append(field if field and field not in names else f"{field or 'column'} {number}")
    return names
