"""Rows of a table, whatever its kind, as values by column.

CSV and TSV, JSON lines (each also .gz), Parquet and Arrow, and JSON files that are one array of objects. What cannot
be read is a BadItem, and the rest is read.
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

import pyarrow as pa

from lcl_core.data.formats.parquet import is_arrow_file, read_batches, read_schema, row_values
from lcl_core.data.formats.table_columns import TableOptions
from lcl_core.data.formats.text_files import JsonArrays, TextLine, read_lines
from lcl_core.data.json_values import BadValue, parse_json_object
from lcl_core.data.records import BadItem

_DELIMITERS = ("\t", ",", ";", "|")
_JSON_ENDINGS = (".jsonl", ".ndjson")
_TEXT_ENDINGS = (".csv", ".tsv", *_JSON_ENDINGS)
MAX_ENTRIES = 100_000  # of a list in a cell


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A row.

    Attributes:
        line: where it begins, from 1; of Parquet, Arrow and JSON arrays the number of the row, from 1.
        cells: value by column.
    """

    line: int
    cells: dict[str, Any]


def is_text_table(name: str) -> bool:
    """By its name: CSV, TSV or JSON lines, packed or not."""
    return name.lower().removesuffix(".gz").endswith(_TEXT_ENDINGS)


def is_columnar(name: str) -> bool:
    """By its name: a Parquet or Arrow file."""
    return is_arrow_file(Path(name))


def is_json_table(name: str) -> bool:
    """By its name: a JSON file, which is a table if it is an array of objects."""
    return name.lower().endswith(".json")


def read_table_rows(path: Path, name: str, options: TableOptions) -> Iterator[ParsedRow | BadItem]:
    """All rows of a table in their order, whatever its kind, and what is wrong with the others."""
    if is_columnar(name):
        return _columnar_rows(path, name)
    if is_json_table(name):
        return _json_array_rows(path, name)
    ending = name.lower().removesuffix(".gz")
    if ending.endswith(_JSON_ENDINGS):
        return _json_rows(path, name)
    return _CsvReader(path, name, options, tabs=ending.endswith(".tsv")).rows()


def read_first_columns(path: Path, name: str, options: TableOptions, most: int) -> Iterator[list[str]]:
    """Columns of the first ``most`` rows of JSON, as these differ; those of the first row of any other table.

    Of Parquet and Arrow those that may have the images themselves come first, in a list of their own.
    """
    if is_columnar(name):
        return iter(_schema_columns(path))
    rows = (row for row in read_table_rows(path, name, options) if isinstance(row, ParsedRow))
    differ = is_json_table(name) or name.lower().removesuffix(".gz").endswith(_JSON_ENDINGS)
    return (list(row.cells) for row in islice(rows, most if differ else 1))


def sniff_columns(path: Path, most: int) -> list[str]:
    """Columns of the first ``most`` rows, each once."""
    if is_columnar(path.name):
        return list(dict.fromkeys(name for names in _schema_columns(path) for name in names))
    if is_json_table(path.name) and not _begins_array(path):
        return []
    rows = islice(read_table_rows(path, path.name, TableOptions()), most)
    return list(dict.fromkeys(name for row in rows if isinstance(row, ParsedRow) for name in row.cells))


def _schema_columns(path: Path) -> list[list[str]]:
    """Columns that may have images, then all; none where the file is damaged."""
    schema = read_schema(path)
    if schema is None:
        return []
    names = _column_names(schema.names)
    return [[name for name, field in zip(names, schema, strict=True) if _may_hold_images(field.type)], names]


def _may_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _columnar_rows(path: Path, name: str) -> Iterator[ParsedRow | BadItem]:
    for rows in read_batches(path, name):
        if isinstance(rows, BadItem):
            yield rows
            continue
        batch = rows.batch.rename_columns(_column_names(rows.batch.schema.names))
        for index in range(batch.num_rows):
            line = rows.start + index + 1
            try:
                cells = row_values(batch, index, MAX_ENTRIES)
            except (BadValue, ValueError, pa.ArrowException) as error:
                yield BadItem(name, line, "bad row", str(error)[:200])
                continue
            problem = _download_problem(cells)
            yield ParsedRow(line, cells) if problem is None else BadItem(name, line, "not downloaded", problem)


def _download_problem(cells: dict[str, Any]) -> str | None:
    """Why img2dataset has no image for its row; None: it has one, or the table is not its own."""
    if not cells.keys() >= {"key", "url", "status"} or cells["status"] in (None, "success"):
        return None
    parts = (cells["key"], cells["url"], cells.get("error_message") or cells["status"])
    return " ".join(str(part) for part in parts if part)[:300]


def _begins_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _json_array_rows(path: Path, name: str) -> Iterator[ParsedRow | BadItem]:
    array = JsonArrays(path, name)
    if array.problem is not None:
        yield array.problem
        return
    number = 0
    for element in array.items():
        if isinstance(element, BadItem):
            yield element
            continue
        number += 1
        if isinstance(element.value, dict):
            yield ParsedRow(number, element.value)
        else:
            yield BadItem(name, number, "bad row", "not a JSON object")


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
