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

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.data.formats.base import (
    FilesReader,
    check_corpus_file,
    contains_files,
    corpus_paths,
    display_name,
    split_from_name,
)
from lcl_core.data.formats.image_lookup import NamedImages, find_images, inline_image
from lcl_core.data.formats.image_rows import KEY_BYTES, ImageRow, Rows, join_rows, merge_neighbours
from lcl_core.data.formats.mmc4 import check_image_name
from lcl_core.data.formats.parquet import image_source
from lcl_core.data.formats.table_columns import (
    MAX_COLUMNS,
    ColumnRoles,
    TableOptions,
    choose_columns,
    class_name,
    has_columns,
    read_class_names,
)
from lcl_core.data.formats.table_rows import (
    ParsedRow,
    is_columnar,
    is_json_table,
    is_text_table,
    read_first_columns,
    read_table_rows,
    sniff_columns,
)
from lcl_core.data.json_values import BadValue, parse_json, to_json_safe
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage, is_number

_URL = re.compile(r"https?://", re.I)
_SNIFFED = 20  # rows examined
_COLUMN_ROWS = 1000  # whose columns are known before the first record is read


class TableReader(FilesReader[TableOptions]):
    """Pair records, ids ``FILE:LINE``; of Parquet, Arrow and JSON arrays ``FILE:ROW`` with rows from 1."""

    format = "table"
    options_type = TableOptions
    revision = " images joined"

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not contains_files(path, _is_table):
            return False
        for table in _table_paths(path, None):
            file = check_corpus_file(table, path)
            names = sniff_columns(file, _SNIFFED) if isinstance(file, Path) else []
            if names:
                return has_columns(names, read_class_names(table))
        return False

    def paths(self) -> list[Path]:
        return _table_paths(self.path, self.options.images)

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
        rows = join_rows(lambda: merge_neighbours(self._rows(file)), name) if self.options.group else self._rows(file)
        for row in rows:
            yield row if isinstance(row, BadItem) else _record(row, name, places)

    def _rows(self, file: Path) -> Rows:
        name = display_name(file, self.path)
        table: _TableParser | None = None
        for row in read_table_rows(file, name, self.options):
            if isinstance(row, BadItem):
                yield row
                continue
            if table is None:
                table = self._parser(file, name)
            try:
                yield table.row(row)
            except BadValue as error:
                yield BadItem(name, row.line, "bad row", str(error))
        if table is None:
            yield BadItem(name, 0, "no rows", "the table has no row that can be used")

    def _parser(self, file: Path, name: str) -> _TableParser:
        classes = read_class_names(file)
        first = read_first_columns(file, name, self.options, _COLUMN_ROWS)
        return _TableParser(name, choose_columns(first, self.options, name, classes), self.options, classes)


class _TableImages:
    """Where the images of one table are."""

    def __init__(self, images: NamedImages, folder_images: NamedImages, folder: str) -> None:
        self._images = images
        self._beside = folder_images
        self._folder = folder

    def find(self, name: str) -> RecordImage:
        """The image of a URL, or of a name that is checked."""
        if _URL.match(name):
            return self._images.find_url(name, name)
        below = f"{self._folder}{name}"
        if self._beside.has(below):
            return self._beside.find([below], name)
        return self._images.find([name, below], name)


def _image_name(value: str) -> str:
    """The image that a cell names: a URL, or a checked name. Raises: BadValue."""
    if _URL.match(value):
        return value
    name = value.replace("\\", "/").removeprefix("./")
    problem = check_image_name(name)
    if problem is not None:
        raise BadValue(f"the image {problem}")
    return name


def _record(row: ImageRow, name: str, places: _TableImages) -> Record:
    image = places.find(row.image) if row.data is None else _embedded_image(row.path, row.data, str(row.line))
    return Record(
        id=f"{name}:{row.line}",
        body=CaptionedImage(image.name, row.captions, row.labels),
        images=(image,),
        split=row.split,
        source=row.source,
        extra=row.extra,
    )


class _TableParser:
    """Reads the cells of one table's rows.

    Args:
        classes: names of the classes of columns that have numbers of them.
    """

    def __init__(
        self, name: str, columns: ColumnRoles, options: TableOptions, classes: Mapping[str, Sequence[str]]
    ) -> None:
        self._columns = columns
        self._options = options
        self._split = split_from_name(name)
        self._classes = classes
        self._known: set[str] = set()

    def row(self, row: ParsedRow) -> ImageRow:
        """Raises: BadValue."""
        cells, columns = row.cells, self._columns_of(row)
        where, data = image_source(cells.get(columns.image))
        if not where.strip() and data is None:
            raise BadValue(f"there is no image in {columns.image!r}")
        captions = tuple(dict.fromkeys(text for name in columns.captions for text in _texts(name, cells.get(name))))
        labels = {kind: text for name in columns.labels for kind, text in self._labels(name, cells.get(name))}
        if not captions and not labels:
            raise BadValue("there is neither caption nor label")
        image = "" if data is not None else _image_name(where.strip())
        split, source = _text(cells, columns.split) or self._split, _text(cells, columns.source)
        content = None if data is None else hashlib.blake2b(data, digest_size=KEY_BYTES).hexdigest()
        identity = repr((image, content, sorted(labels.items()), split, source))
        return ImageRow(
            line=row.line,
            key=hashlib.blake2b(identity.encode(), digest_size=KEY_BYTES).digest(),
            image=image,
            captions=captions,
            labels=labels,
            split=split,
            source=source,
            extra={
                key: to_json_safe(value)
                for key, value in cells.items()
                if key not in columns.used and not isinstance(value, bytes)
            },
            path=where,
            data=data,
        )

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

    def _columns_of(self, row: ParsedRow) -> ColumnRoles:
        """Those of the table, to which a row of JSON lines may add some."""
        if not row.cells.keys() <= self._known:
            self._columns = self._columns.extend(row.cells, self._options)
            if len(self._known) < MAX_COLUMNS:  # of names that are made up anew in each row, few are remembered
                self._known |= row.cells.keys()
        return self._columns


def _embedded_image(where: str, data: bytes, row: str) -> RecordImage:
    """An image in a row, by its path if that can be its name."""
    candidates = (where.replace("\\", "/").rpartition("/")[2], row)
    name = next(candidate for candidate in candidates if check_image_name(candidate) is None)
    return RecordImage(name, partial(inline_image, data, name))


def _is_table(name: str) -> bool:
    return is_text_table(name) or is_columnar(name) or is_json_table(name)


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


def _parent(file: Path, folder: Path) -> str:
    inside = file.parent.relative_to(folder).as_posix()
    return "" if inside == "." else f"{inside}/"


def _text(cells: dict[str, Any], column: str | None) -> str:
    value = "" if column is None or cells.get(column) is None else cells[column]
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
