"""CSV, TSV, JSON, Parquet or Arrow with an image and its captions or labels in each row.

    TABLE.csv, .tsv, .jsonl (also .gz)    image,caption,label,split … ; in JSON lines captions may be a list
    TABLE.parquet, .arrow, .feather       the same; images may be in the rows, as bytes or as {bytes, path}
    TABLE.json                            the same, a list of objects
    FOLDER/*.csv …                        several tables, with images beside them, in ``images`` or as URLs

Columns are recognised by their usual names or set by options; rows of JSON may lack some. The split comes from a
column, else from the name of the table (``val.csv``) or of its folder (``val/metadata.jsonl``). Parquet files are read
where there are no tables of text, and ``.json`` where there is neither. Of img2dataset's (``key``, ``url``,
``status``) rows that failed are BadItems. Numbers of the Hub's classes become their names; -1 is no label.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator, Field

from lcl_core.common.errors import UserError
from lcl_core.data.formats import parquet as columnar
from lcl_core.data.formats.base import (
    FilesReader,
    ReaderOptions,
    check_corpus_file,
    check_image_name,
    contains_files,
    corpus_paths,
    display_name,
    distinct_names,
    split_from_name,
    to_printable,
)
from lcl_core.data.formats.image_lookup import ImageFinder, find_images, inline_image
from lcl_core.data.formats.parquet import image_source, is_arrow_file, read_schema
from lcl_core.data.formats.text_files import TextLine, read_json_file, read_json_lines, read_lines
from lcl_core.data.jsonl import BadValue, parse_json, parse_json_object, to_json_safe
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage, is_number

# compared in lower case, with spaces and dashes as underscores; earlier names win
_IMAGE_COLUMNS = (
    *("image", "image_path", "image_file", "image_name", "file_name", "filename", "filepath", "file_path", "file"),
    *("path", "img", "img_path", "image_id", "imageid", "image_url", "img_url", "url"),
    *("jpg", "jpeg", "png", "webp", "image_bytes"),  # of img2dataset, by its format of images
)
_CAPTION_COLUMNS = (
    *("captions", "caption", "text", "texts", "sentence", "sentences", "title", "description", "comment", "raw"),
    *("alt", "alt_text", "prompt", "txt"),
)
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "subclass")
_SPLIT_COLUMNS = ("split", "partition", "subset")
_DELIMITERS = ("\t", ",", ";", "|")
_URL = re.compile(r"https?://", re.I)
_SNIFFED_ROWS = 20
_COLUMN_ROWS = 1000  # of JSON, whose columns are known before the first record is read
MAX_COLUMNS = 10_000
MAX_CLASS_BYTES = 16 << 20  # metadata that names classes


# a command line makes a number of ``0``, and one value of one column
Column = Annotated[str, BeforeValidator(lambda value: str(value) if is_number(value, int) else value)]
Columns = Annotated[
    tuple[Column, ...], BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else (value,))
]


class TableOptions(ReaderOptions):
    """Columns by name, or, of a table without header, by number from 0. None: recognised by their usual names.

    Attributes:
        image: the column of file names, relative to the table or ``images``, of URLs, or of the images themselves.
        captions, labels: any number of columns each; a label's kind is the name of its column.
        split, source: columns of these; without one, the split is that of the table's name or folder.
        header: does the first line name the columns?
        delimiter: None: tab in a ``.tsv``, else the one of , ; | tab that the first line has most of.
        quoted: are fields that begin with a quotation mark quoted? None: between commas and semicolons.
        encoding: of CSV and TSV.
        images: folder or tars of the images; None: ``images`` beside the table, or where it lies.
        group: rows about one image that follow one another, equal but for captions, as one record.
    """

    image: Column | None = None
    captions: Columns | None = None
    labels: Columns | None = None
    split: Column | None = None
    source: Column | None = None
    header: bool = True
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    quoted: bool | None = None
    encoding: Literal["utf-8", "cp1252", "latin-1"] = "utf-8"
    images: Path | None = None
    group: bool = True


@dataclass(frozen=True, slots=True)
class TableRow:
    """Cells by column. ``line``: where the row begins, from 1; of Parquet, Arrow and JSON arrays the row's number."""

    line: int
    cells: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ColumnRoles:
    """Names of columns; those not listed are kept as ``extra``."""

    image: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    split: str | None
    source: str | None


@dataclass(frozen=True, slots=True)
class CaptionedRow:
    """What a row says. ``image``: name, URL or, of an embedded image, its path; ``data``: of an embedded image."""

    line: int
    image: str
    data: bytes | None
    captions: tuple[str, ...]
    labels: dict[str, str]
    split: str
    source: str
    extra: dict[str, Any]


class TableReader(FilesReader[TableOptions]):
    """Pair records, ids ``FILE:LINE``; of Parquet, Arrow and JSON arrays ``FILE:ROW`` with rows from 1."""

    format = "table"
    options_type = TableOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not contains_files(path, lambda name: is_text_table(name) or is_columnar(name) or is_json_table(name)):
            return False
        for table in _table_paths(path, None):
            file = check_corpus_file(table, path)
            if isinstance(file, BadItem) or (is_json_table(file.name) and not _begins_array(file)):
                continue
            if names := first_columns(file, file.name, TableOptions(), _SNIFFED_ROWS)[1]:
                has_texts = _known(names, (*_CAPTION_COLUMNS, *_LABEL_COLUMNS)) or read_class_names(table)
                return bool(_known(names, _IMAGE_COLUMNS) and has_texts)
        return False

    def paths(self) -> list[Path]:
        return _table_paths(self.path, self.options.images)

    def problems(self) -> Iterator[BadItem]:
        return iter(self._images.problems)

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        name = display_name(file, self.path)
        rows = self._rows(file, name)
        folder = file.parent.relative_to(self._folder).as_posix()
        below = "" if folder == "." else f"{folder}/"
        try:
            for row in merge_neighbours(rows) if self.options.group else rows:
                yield row if isinstance(row, BadItem) else self._record(row, name, below)
        except UserError as error:  # in a folder there may be a table about something else
            if len(self.paths()) == 1:
                raise
            yield BadItem(name, 0, "bad header", error.message)

    @property
    def _folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def _images(self) -> ImageFinder:
        return ImageFinder(find_images(self.options.images, self.path) or self._folder)

    @cached_property
    def _images_beside(self) -> ImageFinder:
        """Tables that lie one folder down name images from there."""
        return self._images if self.options.images is not None else ImageFinder(self._folder)

    def _rows(self, file: Path, name: str) -> Iterator[CaptionedRow | BadItem]:
        parser: _RowParser | None = None
        for row in read_rows(file, name, self.options):
            if isinstance(row, BadItem):
                yield row
                continue
            parser = parser or self._parser(file, name)
            try:
                yield parser.parse(row)
            except BadValue as error:
                yield BadItem(name, row.line, "bad row", str(error))
        if parser is None:
            yield BadItem(name, 0, "no rows", "the table has no row that can be used")

    def _parser(self, file: Path, name: str) -> _RowParser:
        classes = read_class_names(file)
        embedded, names = first_columns(file, name, self.options, _COLUMN_ROWS)
        return _RowParser(choose_columns(names, self.options, name, classes, embedded), split_from_name(name), classes)

    def _record(self, row: CaptionedRow, name: str, folder: str) -> Record:
        if row.data is not None:
            image = _embedded_image(row.image, row.data, row.line)
        elif _URL.match(row.image):
            image = self._images.find_url(row.image, row.image)
        elif self._images_beside.has(f"{folder}{row.image}"):
            image = self._images_beside.find(f"{folder}{row.image}", image_name=row.image)
        else:
            image = self._images.find_first([row.image, f"{folder}{row.image}"], row.image)
        body = CaptionedImage(image.name, row.captions, row.labels)
        return Record(f"{name}:{row.line}", body, (image,), row.split, row.source, row.extra)


def merge_neighbours(rows: Iterable[CaptionedRow | BadItem]) -> Iterator[CaptionedRow | BadItem]:
    """Rows about one image that follow one another as one, with the further columns of the first."""
    for _, group in groupby(rows, _group_key):
        first, *others = group
        if isinstance(first, CaptionedRow) and others:
            captions = tuple(caption for row in (first, *others) for caption in row.captions)  # type: ignore[union-attr]
            first = replace(first, captions=captions)
        yield first


def _group_key(row: CaptionedRow | BadItem) -> Any:
    """Rows without captions stay apart: they would be lost."""
    if isinstance(row, BadItem) or not row.captions:
        return id(row)
    return row.image, row.data, row.labels, row.split, row.source


def _embedded_image(where: str, data: bytes, line: int) -> RecordImage:
    """An image in a row, by its path if that can be its name."""
    name = where.replace("\\", "/").rpartition("/")[2]
    try:
        check_image_name(name)
    except ValueError:
        name = str(line)
    return RecordImage(name, partial(inline_image, data, name))


class _RowParser:
    """Reads the cells of one table's rows. ``classes``: names of the classes of columns that have numbers of them."""

    def __init__(self, columns: ColumnRoles, split: str, classes: Mapping[str, Sequence[str]]) -> None:
        self._columns, self._split, self._classes = columns, split, classes
        self._used = {columns.image, *columns.captions, *columns.labels, columns.split, columns.source}

    def parse(self, row: TableRow) -> CaptionedRow:
        """Raises: BadValue."""
        cells, columns = row.cells, self._columns
        image, data = image_source(cells.get(columns.image))
        image = image.strip()
        if not image and data is None:
            raise BadValue(f"there is no image in {columns.image!r}")
        if data is None and not _URL.match(image):
            image = image.replace("\\", "/").removeprefix("./")
            try:
                check_image_name(image)
            except ValueError as error:
                raise BadValue(str(error)) from error
        captions = tuple(dict.fromkeys(text for name in columns.captions for text in _texts(name, cells.get(name))))
        labels = {kind: text for name in columns.labels for kind, text in self._labels(name, cells.get(name))}
        if not captions and not labels:
            raise BadValue("there is neither caption nor label")
        others = {key: cells[key] for key in cells if key not in self._used and not isinstance(cells[key], bytes)}
        split, source = _text(cells, columns.split) or self._split, _text(cells, columns.source)
        return CaptionedRow(row.line, image, data, captions, labels, split, source, to_json_safe(others))

    def _labels(self, name: str, value: Any) -> Iterator[tuple[str, str]]:
        """Kind and label of a cell: one value, or an object of them. Raises: BadValue."""
        for kind, label in value.items() if isinstance(value, dict) else [(name, value)]:
            if isinstance(label, (list, dict)):
                raise BadValue(f"{kind!r} must be one label")
            if name in self._classes and is_number(label, int):
                text = class_name(self._classes[name], label, kind)
            else:
                text = "" if to_json_safe(label) is None else str(label).strip()
            if text:
                yield kind, text


def _text(cells: dict[str, Any], column: str | None) -> str:
    value = "" if column is None or cells.get(column) is None else cells[column]
    if not isinstance(value, str):
        raise BadValue(f"{column!r} must be text")
    return value.strip()


def _texts(name: str, value: Any) -> Iterator[str]:
    """Captions of a cell: a text, or a list of them, also as JSON (Flickr30k's CSV). Raises: BadValue."""
    if isinstance(value, str) and value.startswith("["):
        try:
            listed = parse_json(value)
        except BadValue:  # a text that begins so
            listed = None
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            value = listed
    for text in value if isinstance(value, list) else [value]:
        if text is not None and not isinstance(text, str):
            raise BadValue(f"{name!r} must be text or a list of texts")
        if text is not None and text.strip():
            yield text.strip()


def choose_columns(
    names: Sequence[str],
    options: TableOptions,
    file: str,
    classes: Collection[str] = (),
    embedded: Sequence[str] = (),
) -> ColumnRoles:
    """Take what the options name, and recognise the rest.

    Args:
        classes: columns that have numbers of classes, whatever their names.
        embedded: columns that may have the images themselves.

    Raises: UserError ``bad_option`` naming the option whose column is not there or is not recognised.
    """
    shown = ", ".join(repr(name[:40]) for name in names[:20]) or "none"
    if len(names) > MAX_COLUMNS:
        message = f"it has more than {MAX_COLUMNS:,} columns"
        raise UserError(message, code="bad_option", field="delimiter", file=file)
    named: set[str] = set()
    for option in ("image", "captions", "labels", "split", "source"):
        chosen = getattr(options, option)
        for name in (chosen,) if isinstance(chosen, str) else chosen or ():
            named.add(name)
            if name not in names:
                message = f"option {option!r}: there is no column {name[:100]!r}; there are {shown}"
                raise UserError(message, code="bad_option", field=option, file=file)
    rest = [name for name in names if name not in named]
    found = _known([name for name in embedded if name not in named], _IMAGE_COLUMNS) or _known(rest, _IMAGE_COLUMNS)
    image = options.image or next(iter(found), "")
    captions, labels = _known(rest, _CAPTION_COLUMNS), _known(rest, _LABEL_COLUMNS)
    roles = ColumnRoles(
        image,
        options.captions if options.captions is not None else tuple(name for name in rest if name in captions),
        options.labels
        if options.labels is not None
        else tuple(name for name in rest if name in labels or name in classes),
        options.split or next(iter(_known(rest, _SPLIT_COLUMNS)), None),
        options.source,
    )
    missing = "image" if not image else "captions" if not (roles.captions or roles.labels) else ""
    if missing:
        message = f"which column is the {missing}? Name it as option {missing!r}; there are {shown}"
        raise UserError(message, code="bad_option", field=missing, file=file)
    return roles


def _known(names: Iterable[str], known: tuple[str, ...]) -> list[str]:
    """Those of the known names, in the order of ``known``."""
    found = [(re.sub("[ -]", "_", name.strip().lower()), name) for name in names]
    return [name for word in known for normal, name in found if normal == word]


def read_class_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each column whose feature is a ClassLabel of the Hub's ``datasets``, by number.

    A Parquet or Arrow file has them as JSON in its metadata, as a list or by number. What is malformed counts as
    absent.
    """
    schema = read_schema(path) if is_arrow_file(path) else None
    data = ((None if schema is None else schema.metadata) or {}).get(b"huggingface", b"")
    if not data or len(data) > MAX_CLASS_BYTES:
        return {}
    try:
        features = parse_json_object(data)["info"]["features"]
        found = {}
        for column, feature in features.items():
            names = feature.get("names")
            if isinstance(names, dict):
                names = [names.get(str(number)) for number in range(len(names))]
            if names and feature.get("_type", "ClassLabel") == "ClassLabel":
                found[column] = distinct_names([to_printable(name.strip()) for name in names])
    except (BadValue, KeyError, TypeError, AttributeError):
        return {}
    return found


def class_name(names: Sequence[str], number: int, column: str) -> str:
    """The class of a number; empty for -1, which is no label. One without a name is its number. Raises: BadValue."""
    if number == -1:
        return ""
    if not 0 <= number < len(names):
        raise BadValue(f"{column!r} has {number}, which is none of its {len(names):,} classes")
    return names[number] or str(number)


def is_text_table(name: str) -> bool:
    """By its name: CSV, TSV or JSON lines, packed or not."""
    return name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".jsonl", ".ndjson"))


def is_columnar(name: str) -> bool:
    """By its name: a Parquet or Arrow file."""
    return is_arrow_file(Path(name))


def is_json_table(name: str) -> bool:
    """By its name: a JSON file, which is a table if it is an array of objects."""
    return name.lower().endswith(".json")


def _begins_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _table_paths(corpus: Path, images: Path | None) -> list[Path]:
    """Tables of text, or else Parquet and Arrow files, or else JSON.

    Beside one kind another has the same rows in another form, or is about something else.
    """
    if contains_files(corpus, is_text_table):
        return corpus_paths(corpus, is_text_table)
    folder = find_images(images, corpus)
    # a Parquet file beside images in tars is a table of these
    columnar = corpus_paths(corpus, is_columnar, outside=folder if folder != corpus else None)
    return columnar or corpus_paths(corpus, is_json_table)


def first_columns(path: Path, name: str, options: TableOptions, most: int) -> tuple[list[str], list[str]]:
    """Columns that may have the images themselves, and all of the first ``most`` rows."""
    if is_columnar(name):
        schema = read_schema(path)
        names = [] if schema is None else columnar.unique_names(schema.names)
        return [name for name, field in zip(names, schema or (), strict=True) if _may_hold_images(field.type)], names
    rows = (row for row in read_rows(path, name, options) if isinstance(row, TableRow))
    return [], list(dict.fromkeys(column for row in islice(rows, most) for column in row.cells))


def _may_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_rows(path: Path, name: str, options: TableOptions) -> Iterator[TableRow | BadItem]:
    """All rows of a table in their order, whatever its kind, and what is wrong with the others."""
    if is_columnar(name):
        return _columnar_rows(path, name)
    if is_json_table(name):
        return _json_array_rows(path, name)
    ending = name.lower().removesuffix(".gz")
    if ending.endswith((".jsonl", ".ndjson")):
        items = read_json_lines(path, name)
        return (item if isinstance(item, BadItem) else TableRow(item[0].number, item[1]) for item in items)
    return _csv_rows(path, name, options, tabs=ending.endswith(".tsv"))


def _columnar_rows(path: Path, name: str) -> Iterator[TableRow | BadItem]:
    for row in columnar.read_rows(path, name):
        if isinstance(row, BadItem):
            yield row
            continue
        line, cells = row
        if cells.keys() >= {"key", "url", "status"} and cells["status"] not in (None, "success"):
            parts = (cells["key"], cells["url"], cells.get("error_message") or cells["status"])
            yield BadItem(name, line, "not downloaded", " ".join(str(part) for part in parts if part)[:300])
        else:
            yield TableRow(line, cells)


def _json_array_rows(path: Path, name: str) -> Iterator[TableRow | BadItem]:
    value = read_json_file(path, name)
    if isinstance(value, BadItem):
        yield value
    elif not isinstance(value, list):
        yield BadItem(name, 0, "bad json", "a JSON array is expected")
    else:
        for number, row in enumerate(value, start=1):
            yield TableRow(number, row) if isinstance(row, dict) else BadItem(name, number, "bad row", "no JSON object")


def _csv_rows(path: Path, name: str, options: TableOptions, tabs: bool) -> Iterator[TableRow | BadItem]:
    bad: list[BadItem] = []
    begun = 0  # the first line that the parser took for its row

    def texts() -> Iterator[str]:
        nonlocal begun
        for line in read_lines(path, name):
            text = _decode_line(line, name, options.encoding)
            if isinstance(text, BadItem):
                bad.append(text)
            elif isinstance(line, TextLine):
                begun = begun or line.number
                yield f"{text}\n"

    delimiter = options.delimiter or ("\t" if tabs else _most_frequent_delimiter(path, name))
    quoted = delimiter in ",;" if options.quoted is None else options.quoted
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    parser = csv.reader(texts(), delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=True)
    names: list[str] = []
    ended = False
    while not ended:
        begun, fields = 0, list[str]()
        try:
            fields = [field.strip() for field in next(parser)]
        except StopIteration:
            ended = True
        except csv.Error as error:
            bad.append(BadItem(name, begun, "bad row", str(error)))
        problems, bad[:] = list(bad), []
        yield from problems
        if not names and options.header and problems:  # or else the next row would pass for it
            yield BadItem(name, 0, "bad header", "the file is left out")
            return
        if not any(fields):
            continue
        if not names:
            names = columnar.unique_names(fields) if options.header else [str(number) for number in range(len(fields))]
            if options.header:
                continue
        if len(fields) == len(names):
            yield TableRow(begun, dict(zip(names, fields, strict=True)))
        else:
            yield BadItem(name, begun, "ragged row", f"{len(fields):,} fields where {len(names):,} are expected")


def _decode_line(line: TextLine | BadItem, name: str, encoding: str) -> str | BadItem:
    if isinstance(line, BadItem):
        return line
    try:
        text = line.data.removeprefix(codecs.BOM_UTF8 if line.number == 1 else b"").decode(encoding)
    except UnicodeDecodeError as error:
        return BadItem(name, line.number, "bad encoding", f"not {encoding} at byte {error.start:,} of the line")
    return BadItem(name, line.number, "bad row", "it holds a NUL character") if "\0" in text else text


def _most_frequent_delimiter(path: Path, name: str) -> str:
    first = next((line.data for line in read_lines(path, name) if isinstance(line, TextLine)), b"")
    return max(_DELIMITERS, key=lambda mark: first.count(mark.encode()))
