"""CSV, TSV or JSON lines with an image and its captions or labels in each row.

    TABLE.csv, .tsv, .jsonl (also .gz)    image,caption,label,split … ; in JSON lines captions may be a list
    FOLDER/*.csv …                        several tables, with images beside them, in ``images`` or as URLs

Columns are recognised by their usual names or set by options; rows of JSON lines may lack some. The split comes from a
column, else from the name of the table (``val.csv``) or of its folder (``val/metadata.jsonl``).
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lcl_core.common.errors import UserError
from lcl_core.data.formats.base import (
    FilesReader,
    ReaderOptions,
    check_corpus_file,
    contains_files,
    corpus_files,
    corpus_paths,
    display_name,
    split_from_name,
)
from lcl_core.data.formats.image_lookup import NamedImages, find_images
from lcl_core.data.formats.mmc4 import check_image_name
from lcl_core.data.formats.text_files import TextLine, read_lines
from lcl_core.data.json_values import BadValue, parse_json, parse_json_object, to_json_safe
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage

# compared in lower case, with spaces and dashes as underscores; earlier names win
_IMAGE_COLUMNS = (
    *("image", "image_path", "image_file", "image_name", "file_name", "filename", "filepath", "file_path", "file"),
    *("path", "img", "img_path", "image_id", "imageid", "image_url", "img_url", "url"),
)
_CAPTION_COLUMNS = (
    *("captions", "caption", "text", "texts", "sentence", "sentences", "title", "description", "comment", "raw"),
    *("alt", "alt_text", "prompt"),
)
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "subclass")
_SPLIT_COLUMNS = ("split", "partition", "subset")
_MAX_COLUMNS = 10_000


class TableOptions(ReaderOptions):
    """Columns by name, or, of a table without header, by number from 0. None: recognised by their usual names.

    Attributes:
        image: the column of file names, relative to the table or ``images``, or of URLs.
        captions, labels: any number of columns each; a label's kind is the name of its column.
        split, source: columns of these; without one, the split is that of the table's name or folder.
        header: does the first line name the columns?
        delimiter: None: tab in a ``.tsv``, else the one of , ; | tab that the first line has most of.
        quoted: are fields that begin with a quotation mark quoted? None: between commas and semicolons.
        encoding: of CSV and TSV.
        images: folder or tars of the images; None: ``images`` beside the table, or where it lies.
        group: rows in a row about one image, equal but for captions, as one record.
    """

    image: str | None = None
    captions: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    split: str | None = None
    source: str | None = None
    header: bool = True
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    quoted: bool | None = None
    encoding: Literal["utf-8", "cp1252", "latin-1"] = "utf-8"
    images: Path | None = None
    group: bool = True


@dataclass(frozen=True, slots=True)
class ColumnRoles:
    """Names of columns; those not listed are kept as ``extra``. ``image`` is empty until it is recognised."""

    image: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    split: str | None
    source: str | None

    @property
    def used(self) -> frozenset[str]:
        return frozenset((self.image, *self.captions, *self.labels, self.split or "", self.source or ""))

    def extend(self, names: Iterable[str], options: TableOptions) -> ColumnRoles:
        """With the columns among further ``names`` that are recognised. Image and split stay where they are found."""
        rest = [name for name in names if name not in self.used]
        captions = [] if options.captions is not None else _all_known(rest, _CAPTION_COLUMNS)
        labels = [] if options.labels is not None else _all_known(rest, _LABEL_COLUMNS)
        return replace(
            self,
            image=self.image or _first_known(rest, _IMAGE_COLUMNS) or "",
            captions=(*self.captions, *captions),
            labels=(*self.labels, *labels),
            split=self.split or _first_known(rest, _SPLIT_COLUMNS),
        )


def choose_columns(rows: Iterable[Iterable[str]], options: TableOptions, file: str) -> ColumnRoles:
    """Take what the options name, and recognise the rest among the columns of the first rows.

    Raises: UserError ``bad_option`` naming the option whose column is not there or is not recognised.
    """
    roles = ColumnRoles(
        options.image or "", options.captions or (), options.labels or (), options.split, options.source
    )
    known: dict[str, None] = {}
    for row in rows:
        names = [name for name in row if name not in known]
        roles = roles.extend(names, options)
        known |= dict.fromkeys(names)
        if len(known) > _MAX_COLUMNS:
            message = f"it has more than {_MAX_COLUMNS:,} columns"
            raise UserError(message, code="bad_option", field="delimiter", file=file)
    names = list(known)
    for option in ("image", "captions", "labels", "split", "source"):
        _check_columns(option, getattr(options, option), names, file)
    if not roles.image:
        raise _unknown_column_error("image", names, file)
    if not roles.captions and not roles.labels:
        raise _unknown_column_error("captions", names, file)
    return roles


def has_columns(names: Collection[str]) -> bool:
    """Would a table with these columns be recognised?"""
    return _first_known(names, _IMAGE_COLUMNS) is not None and any(
        _all_known(names, (*_CAPTION_COLUMNS, *_LABEL_COLUMNS))
    )


def _normalize_name(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _first_known(names: Iterable[str], known: tuple[str, ...]) -> str | None:
    found = {_normalize_name(name): name for name in names}
    return next((found[word] for word in known if word in found), None)


def _all_known(names: Iterable[str], known: tuple[str, ...]) -> list[str]:
    return [name for name in names if _normalize_name(name) in known]


def _check_columns(option: str, chosen: str | tuple[str, ...] | None, names: Sequence[str], file: str) -> None:
    for name in (chosen,) if isinstance(chosen, str) else chosen or ():
        if name not in names:
            message = f"option {option!r}: there is no column {name[:100]!r}; there are {_list_names(names)}"
            raise UserError(message, code="bad_option", field=option, file=file)


def _unknown_column_error(option: str, names: Sequence[str], file: str) -> UserError:
    message = f"which column is the {option}? Name it as option {option!r}; there are {_list_names(names)}"
    return UserError(message, code="bad_option", field=option, file=file)


def _list_names(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:20])
    return f"{shown} …" if len(names) > 20 else shown or "none"


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


MAX_CAPTIONS = 1000  # of one record
_URL = re.compile(r"https?://", re.I)
_SNIFFED = 20  # rows examined
_COLUMN_ROWS = 1000  # whose columns are known before the first record is read


class TableReader(FilesReader[TableOptions]):
    """Pair records, ids ``FILE:LINE``."""

    format = "table"
    options_type = TableOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not contains_files(path, is_table):
            return False
        for file in corpus_files(path, is_table):
            if isinstance(file, Path):
                rows = islice(read_table_rows(file, file.name, TableOptions()), _SNIFFED)
                names = dict.fromkeys(name for row in rows if isinstance(row, ParsedRow) for name in row.cells)
                if names:
                    return has_columns(names)
        return False

    def paths(self) -> list[Path]:
        return corpus_paths(self.path, is_table)

    def problems(self) -> Iterator[BadItem]:
        return iter(self._images.problems)

    def records(self) -> Iterator[Record | BadItem]:
        """Raises: UserError also where no table of several is recognised, after all of them."""
        tables: list[UserError | None] = []
        yield from self.problems()
        for path in self.paths():
            file = check_corpus_file(path, self.path)
            if isinstance(file, BadItem):
                yield file
                continue
            tables.append(None)
            try:
                yield from self._table(file)
            except UserError as error:  # in a folder there may be a table about something else
                tables[-1] = error
                yield BadItem(display_name(file, self.path), 0, "bad header", error.message)
        if tables and tables[0] is not None and None not in tables:
            raise tables[0]

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        try:
            yield from self._table(file)
        except UserError as error:
            yield BadItem(display_name(file, self.path), 0, "bad header", error.message)
            if len(self.names) == 1:
                raise

    @property
    def _folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def _images(self) -> NamedImages:
        return NamedImages(find_images(self.options.images, self.path) or self._folder)

    @cached_property
    def _folder_images(self) -> NamedImages:
        """Tables that lie one folder down name images from there."""
        return self._images if self.options.images is not None else NamedImages(self._folder)

    def _table(self, file: Path) -> Iterator[Record | BadItem]:
        places = _TableImages(self._images, self._folder_images, _parent(file, self._folder))
        name = display_name(file, self.path)
        table: _TableParser | None = None
        pending: Record | None = None
        for row in read_table_rows(file, name, self.options):
            if isinstance(row, BadItem):
                yield row
                continue
            if table is None:
                columns = choose_columns(read_first_columns(file, name, self.options, _COLUMN_ROWS), self.options, name)
                table = _TableParser(name, columns, self.options, places)
            try:
                record = table.record(row)
            except BadValue as error:
                yield BadItem(name, row.line, "bad row", str(error))
                continue
            merged = _merge_captions(pending, record) if pending is not None and self.options.group else None
            if merged is None and pending is not None:
                yield pending
            pending = merged or record
        if pending is not None:
            yield pending
        if table is None:
            yield BadItem(name, 0, "no rows", "the table has no row that can be used")


class _TableImages:
    """Where the images of one table are."""

    def __init__(self, images: NamedImages, folder_images: NamedImages, folder: str) -> None:
        self._images = images
        self._beside = folder_images
        self._folder = folder

    def find(self, value: str) -> tuple[str, RecordImage]:
        """The image that a cell names. Raises: BadValue."""
        if _URL.match(value):
            return value, self._images.find_url(value, value)
        name = value.replace("\\", "/").removeprefix("./")
        problem = check_image_name(name)
        if problem is not None:
            raise BadValue(f"the image {problem}")
        below = f"{self._folder}{name}"
        if self._beside.has(below):
            return name, self._beside.find([below], name)
        return name, self._images.find([name, below], name)


class _TableParser:
    """Makes records of the rows of one table."""

    def __init__(self, name: str, columns: ColumnRoles, options: TableOptions, places: _TableImages) -> None:
        self._name = name
        self._columns = columns
        self._options = options
        self._split = split_from_name(name)
        self._places = places
        self._known: set[str] = set()

    def record(self, row: ParsedRow) -> Record:
        """Raises: BadValue."""
        cells, columns = row.cells, self._columns_of(row)
        image = cells.get(columns.image)
        if not isinstance(image, str) or not image.strip():
            raise BadValue(f"there is no image in {columns.image!r}")
        captions = tuple(text for name in columns.captions for text in _texts(name, cells.get(name)))
        labels = {kind: text for name in columns.labels for kind, text in _labels(name, cells.get(name))}
        if not captions and not labels:
            raise BadValue("there is neither caption nor label")
        name, located = self._places.find(image.strip())
        return Record(
            id=f"{self._name}:{row.line}",
            body=CaptionedImage(name, captions, labels),
            images=(located,),
            split=_text(cells, columns.split) or self._split,
            source=_text(cells, columns.source),
            extra={key: to_json_safe(value) for key, value in cells.items() if key not in columns.used},
        )

    def _columns_of(self, row: ParsedRow) -> ColumnRoles:
        """Those of the table, to which a row of JSON lines may add some."""
        if not row.cells.keys() <= self._known:
            self._columns = self._columns.extend(row.cells, self._options)
            if len(self._known) < _MAX_COLUMNS:  # of names that are made up anew in each row, few are remembered
                self._known |= row.cells.keys()
        return self._columns


def _parent(file: Path, folder: Path) -> str:
    inside = file.parent.relative_to(folder).as_posix()
    return "" if inside == "." else f"{inside}/"


def _merge_captions(before: Record, record: Record) -> Record | None:
    """Both as one, with the other columns of the first, if they are of one image and agree but for captions."""
    one, other = before.body, record.body
    if not isinstance(one, CaptionedImage) or not isinstance(other, CaptionedImage) or one.image != other.image:
        return None
    captions = (*one.captions, *other.captions)
    same = (one.labels, before.split, before.source) == (other.labels, record.split, record.source)
    if not same or not other.captions or len(captions) > MAX_CAPTIONS:
        return None
    return replace(before, body=CaptionedImage(one.image, captions, one.labels))


def _text(cells: dict[str, Any], column: str | None) -> str:
    value = "" if column is None else cells.get(column, "")
    if not isinstance(value, str):
        raise BadValue(f"{column!r} must be text")
    return value.strip()


def _texts(name: str, value: Any) -> Iterator[str]:
    """Captions of a cell: a text, or a list of them, also as JSON (Flickr30k's CSV). Raises: BadValue."""
    for text in value if isinstance(value, list) else _listed_texts(value):
        if text is not None and not isinstance(text, str):
            raise BadValue(f"{name!r} must be text or a list of texts")
        if text is not None and text.strip():
            yield text.strip()


def _listed_texts(value: Any) -> list[Any]:
    """The strings of a JSON list of strings; else the value."""
    if isinstance(value, str) and value.startswith("["):
        try:
            listed = parse_json(value)
        except BadValue:  # a text that begins so
            return [value]
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            return listed
    return [value]


def _labels(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Kind and label of a cell: one value, or an object of them. Raises: BadValue."""
    for kind, label in value.items() if isinstance(value, dict) else [(name, value)]:
        if isinstance(label, (list, dict)):
            raise BadValue(f"{kind!r} must be one label")
        text = "" if label is None else str(label).strip()
        if text:
            yield kind, text
