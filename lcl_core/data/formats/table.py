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
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator

from lcl_core.common.errors import UserError
from lcl_core.data.formats import parquet as columnar
from lcl_core.data.formats.base import (
    check_corpus_file,
    check_image_name,
    contains_files,
    corpus_paths,
    display_name,
    distinct_names,
    split_from_name,
    to_printable,
)
from lcl_core.data.formats.image_lookup import ImageFinder, ImagesOptions, ImagesReader, find_images, inline_image
from lcl_core.data.formats.parquet import image_source, is_arrow_file, read_schema
from lcl_core.data.formats.text_files import TextLine, read_lines, read_numbered_objects
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


# a command line makes a number of ``0``, and one value of one column
Column = Annotated[str, BeforeValidator(lambda value: str(value) if is_number(value, int) else value)]
Columns = Annotated[
    tuple[Column, ...], BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else (value,))
]


class TableOptions(ImagesOptions):
    """Columns by name, or, of a table without header, by number from 0. None: recognised by their usual names.

    Attributes:
        image: the column of file names, relative to the table or ``images``, of URLs, or of the images themselves.
        captions, labels: any number of columns each; a label's kind is the name of its column.
        split, source: columns of these; without one, the split is that of the table's name or folder.
        header: does the first line name the columns?
        group: rows about one image that follow one another, equal but for captions, as one record.
    """

    image: Column | None = None
    captions: Columns | None = None
    labels: Columns | None = None
    split: Column | None = None
    source: Column | None = None
    header: bool = True
    group: bool = True


# where a row begins, from 1 (of Parquet, Arrow and JSON arrays the row's number), and its cells by column
TableRow = tuple[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ColumnRoles:
    """Names of columns; those not listed are kept as ``extra``."""

    image: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    split: str | None
    source: str | None


@dataclass(frozen=True, slots=True)
class _Table:
    """What a row's meaning depends on.

    Attributes:
        name: for messages and ids.
        folder: where it lies below the corpus, with a slash at its end, or empty.
        split: that of its name.
        classes: names of the classes of columns that have numbers of them.
    """

    name: str
    folder: str
    split: str
    columns: ColumnRoles
    classes: dict[str, tuple[str, ...]]


class TableReader(ImagesReader[TableOptions]):
    """Pair records, ids ``FILE:LINE``; of Parquet, Arrow and JSON arrays ``FILE:ROW`` with rows from 1."""

    format = "table"
    options_type = TableOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not contains_files(path, lambda name: _kind(name) is not None):
            return False
        for table in _table_paths(path, None):
            file = check_corpus_file(table, path)
            if isinstance(file, BadItem) or (_kind(file.name) == "json" and not _begins_array(file)):
                continue
            if names := first_columns(file, file.name, TableOptions(), _SNIFFED_ROWS)[1]:
                has_texts = _known(names, (*_CAPTION_COLUMNS, *_LABEL_COLUMNS)) or read_class_names(table)
                return bool(_known(names, _IMAGE_COLUMNS) and has_texts)
        return False

    def paths(self) -> list[Path]:
        return _table_paths(self.path, self.options.images)

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        name = display_name(file, self.path)
        try:
            for _, group in groupby(self._items(file, name), key=itemgetter(0)):
                items: list[Any] = [item for _, item in group]
                yield items[0] if len(items) == 1 else _merge_captions(items)
        except UserError as error:  # in a folder there may be a table about something else
            if len(self.paths()) == 1 and not self.is_partial:
                raise
            yield BadItem(name, 0, "bad header", error.message)

    @property
    def images_folder(self) -> Path:
        return super().images_folder or self.folder

    @cached_property
    def _images_beside(self) -> ImageFinder:
        """Tables that lie one folder down name images from there."""
        return self.images if self.options.images is not None else ImageFinder(self.folder)

    def _items(self, file: Path, name: str) -> Iterator[tuple[Any, Record | BadItem]]:
        """Each with a key: equal for rows about one image that follow one another and differ in captions alone."""
        table: _Table | None = None
        for row in read_rows(file, name, self.options):
            if isinstance(row, BadItem):
                yield object(), row
                continue
            table = table or self._table(file, name)
            try:
                yield self._record(*row, table)
            except BadValue as error:
                yield object(), BadItem(name, row[0], "bad row", str(error))
        if table is None:
            yield object(), BadItem(name, 0, "no rows", "the table has no row that can be used")

    def _table(self, file: Path, name: str) -> _Table:
        folder = file.parent.relative_to(self.folder).as_posix()
        classes = read_class_names(file)
        embedded, names = first_columns(file, name, self.options, _COLUMN_ROWS)
        columns = choose_columns(names, self.options, name, classes, embedded)
        return _Table(name, "" if folder == "." else f"{folder}/", split_from_name(name), columns, classes)

    def _record(self, line: int, cells: dict[str, Any], table: _Table) -> tuple[Any, Record]:
        """Raises: BadValue."""
        columns = table.columns
        where, data = image_source(cells.get(columns.image))
        if not where.strip() and data is None:
            raise BadValue(f"there is no image in {columns.image!r}")
        image = self._image(where.strip(), data, line, table.folder)
        captions = tuple(dict.fromkeys(text for name in columns.captions for text in _texts(name, cells.get(name))))
        labels = {
            kind: text
            for name in columns.labels
            for kind, text in _labels(name, cells.get(name), table.classes.get(name, ()))
        }
        if not captions and not labels:
            raise BadValue("there is neither caption nor label")
        used = {columns.image, *columns.captions, *columns.labels, columns.split, columns.source}
        extra = to_json_safe({key: value for key, value in cells.items() if key not in used})
        split, source = _text(cells, columns.split) or table.split, _text(cells, columns.source)
        body = CaptionedImage(image.name, captions, labels)
        key = object()  # rows without captions stay apart: they would be lost
        if captions and self.options.group:
            key = (image.name if data is None else data, where, labels, split, source)
        return key, Record(f"{table.name}:{line}", body, (image,), split, source, extra)

    def _image(self, where: str, data: bytes | None, line: int, folder: str) -> RecordImage:
        """Raises: BadValue for a name that leads out of the corpus."""
        if data is not None:  # its path may be its name
            name = where.replace("\\", "/").rpartition("/")[2]
            try:
                check_image_name(name)
            except ValueError:
                name = str(line)
            return RecordImage(name, partial(inline_image, data, name))
        if _URL.match(where):
            return self.images.find_url(where, where)
        name = where.replace("\\", "/").removeprefix("./")
        try:
            check_image_name(name)
        except ValueError as error:
            raise BadValue(str(error)) from error
        if self._images_beside.has(f"{folder}{name}"):
            return self._images_beside.find(f"{folder}{name}", image_name=name)
        return self.images.find_first([name, f"{folder}{name}"], name)


def _merge_captions(records: Sequence[Any]) -> Record:
    """Records of one image as one, with the further columns of the first."""
    captions = tuple(caption for record in records for caption in record.body.captions)
    merged: Record = replace(records[0], body=replace(records[0].body, captions=captions))
    return merged


def _labels(name: str, value: Any, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Kind and label of a cell: one value, or an object of them; a number of a class becomes its name, -1 none.

    Raises: BadValue.
    """
    for kind, label in value.items() if isinstance(value, dict) else [(name, value)]:
        if isinstance(label, (list, dict)):
            raise BadValue(f"{kind!r} must be one label")
        text = "" if to_json_safe(label) is None else str(label).strip()
        if classes and is_number(label, int):
            if not -1 <= label < len(classes):
                raise BadValue(f"{kind!r} has {label}, which is none of its {len(classes):,} classes")
            text = "" if label == -1 else classes[label] or text
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
    chosen = {
        option: (value,) if isinstance(value, str) else value
        for option in ("image", "captions", "labels", "split", "source")
        if (value := getattr(options, option)) is not None
    }
    for option, columns in chosen.items():
        for name in columns:
            if name not in names:
                message = f"option {option!r}: there is no column {name[:100]!r}; there are {shown}"
                raise UserError(message, code="bad_option", field=option, file=file)
    named = set(chain.from_iterable(chosen.values()))
    rest = [name for name in names if name not in named]
    captions, labels = _known(rest, _CAPTION_COLUMNS), {*_known(rest, _LABEL_COLUMNS), *classes}
    images = _known([name for name in embedded if name not in named], _IMAGE_COLUMNS) or _known(rest, _IMAGE_COLUMNS)
    image = next(iter(chosen.get("image", images)), "")
    roles = ColumnRoles(
        image,
        chosen.get("captions", tuple(name for name in rest if name in captions)),
        chosen.get("labels", tuple(name for name in rest if name in labels)),
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

    A Parquet or Arrow file has them as JSON in its metadata. What is malformed counts as absent.
    """
    schema = read_schema(path) if is_arrow_file(path) else None
    data = ((None if schema is None else schema.metadata) or {}).get(b"huggingface", b"")
    try:
        features = parse_json_object(data or b"{}")["info"]["features"]
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


def _kind(name: str) -> Literal["text", "columnar", "json"] | None:
    """Of a table by its name. A JSON file is one if it is an array of objects."""
    lowered = name.lower()
    if lowered.removesuffix(".gz").endswith((".csv", ".tsv", ".jsonl", ".ndjson")):
        return "text"
    if is_arrow_file(Path(name)):
        return "columnar"
    return "json" if lowered.endswith(".json") else None


def _begins_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _table_paths(corpus: Path, images: Path | None) -> list[Path]:
    """Tables of text, or else Parquet and Arrow files, or else JSON.

    Beside one kind another has the same rows in another form, or is about something else.
    """
    if contains_files(corpus, lambda name: _kind(name) == "text"):
        return corpus_paths(corpus, lambda name: _kind(name) == "text")
    folder = find_images(images, corpus)
    # a Parquet file beside images in tars is a table of these
    outside = folder if folder != corpus else None
    found = corpus_paths(corpus, lambda name: _kind(name) == "columnar", outside=outside)
    return found or corpus_paths(corpus, lambda name: _kind(name) == "json")


def first_columns(path: Path, name: str, options: TableOptions, most: int) -> tuple[list[str], list[str]]:
    """Columns that may have the images themselves, and all of the first ``most`` rows."""
    if _kind(name) == "columnar":
        schema = read_schema(path)
        names = [] if schema is None else columnar.unique_names(schema.names)
        return [name for name, field in zip(names, schema or (), strict=True) if _may_hold_images(field.type)], names
    rows = (row for row in read_rows(path, name, options) if not isinstance(row, BadItem))
    return [], list(dict.fromkeys(column for _, cells in islice(rows, most) for column in cells))


def _may_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_rows(path: Path, name: str, options: TableOptions) -> Iterator[TableRow | BadItem]:
    """All rows of a table in their order, whatever its kind, and what is wrong with the others."""
    if _kind(name) == "columnar":
        return _columnar_rows(path, name)
    ending = name.lower().removesuffix(".gz")
    if ending.endswith((".json", ".jsonl", ".ndjson")):
        return read_numbered_objects(path, name)
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
            yield row


def _csv_rows(path: Path, name: str, options: TableOptions, tabs: bool) -> Iterator[TableRow | BadItem]:
    """Rows between tabs in a ``.tsv``, else between the one of , ; | tab that the first line has most of.

    Between commas and semicolons fields may be quoted.
    """
    bad: list[BadItem] = []
    begun = 0  # the first line that the parser took for its row

    def texts() -> Iterator[str]:
        nonlocal begun
        for line in read_lines(path, name):
            if isinstance(line, BadItem):
                bad.append(line)
                continue
            try:
                text = line.data.removeprefix(codecs.BOM_UTF8 if line.number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                detail = f"not UTF-8 at byte {error.start:,} of the line; convert the table to UTF-8"
                bad.append(BadItem(name, line.number, "bad encoding", detail))
                continue
            if "\0" in text:
                bad.append(BadItem(name, line.number, "bad row", "it holds a NUL character"))
                continue
            begun = begun or line.number
            yield f"{text}\n"

    delimiter = "\t" if tabs else _most_frequent_delimiter(path, name)
    quoting: Any = csv.QUOTE_MINIMAL if delimiter in ",;" else csv.QUOTE_NONE
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
            yield begun, dict(zip(names, fields, strict=True))
        else:
            yield BadItem(name, begun, "ragged row", f"{len(fields):,} fields where {len(names):,} are expected")


def _most_frequent_delimiter(path: Path, name: str) -> str:
    first = next((line.data for line in read_lines(path, name) if isinstance(line, TextLine)), b"")
    return max(_DELIMITERS, key=lambda mark: first.count(mark.encode()))
