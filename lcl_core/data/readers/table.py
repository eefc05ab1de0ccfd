"""CSV, TSV or JSON lines with an image and its captions or labels in each row.

    TABLE.csv, .tsv, .jsonl (also .gz)    image,caption,label,split … ; in JSON lines captions may be a list
    FOLDER/*.csv …                        several tables, with images beside them, in ``images`` or as URLs

Columns are recognised by their usual names or told by options. Splits are told by a column, else by the name of the
table (``val.csv``) or of its folder (``val/metadata.jsonl``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lcl_core.data.readers.base import Reader
from lcl_core.data.readers.documents import image_name_problem
from lcl_core.data.readers.folders import corpus_files, has_files, shown
from lcl_core.data.readers.images import images_place
from lcl_core.data.readers.named_images import NamedImages
from lcl_core.data.readers.table_columns import Columns, TableOptions, choose_columns, has_columns
from lcl_core.data.readers.table_rows import Row, is_table, read_rows
from lcl_core.data.readers.values import BadValue, plain_json
from lcl_core.data.record import BadItem, Pair, Picture, Record
from lcl_core.errors import UserError

MAX_CAPTIONS = 1000  # of one record
_URL = re.compile(r"https?://", re.I)
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SNIFFED = 20  # rows looked at


class TableReader(Reader[TableOptions]):
    """Pair records, ids ``FILE:LINE``."""

    format = "table"
    options_type = TableOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not has_files(path, is_table):
            return False
        for file in corpus_files(path, is_table):
            if isinstance(file, Path):
                rows = read_rows(file, file.name, TableOptions())
                first = next((row for row, _ in zip(rows, range(_SNIFFED), strict=False) if isinstance(row, Row)), None)
                if first is not None:
                    return has_columns(list(first.cells))
        return False

    def records(self) -> Iterator[Record | BadItem]:
        folder = self.path if self.path.is_dir() else self.path.parent
        images = NamedImages(images_place(self.options.images, self.path) or folder)
        # tables that lie one folder down name images from there
        beside = images if self.options.images is not None else NamedImages(folder)
        yield from images.problems
        strangers: list[UserError] = []
        tables = 0
        for file in corpus_files(self.path, is_table):
            if isinstance(file, BadItem):
                yield file
                continue
            tables += 1
            try:
                yield from self._table(file, _Places(images, beside, _parent(file, folder)))
            except UserError as error:  # in a folder there may be a table about something else
                strangers.append(error)
                yield BadItem(shown(file, self.path), 0, "bad header", error.message)
        if strangers and len(strangers) == tables:
            raise strangers[0]

    def _table(self, file: Path, places: _Places) -> Iterator[Record | BadItem]:
        name = shown(file, self.path)
        table: _Table | None = None
        waiting: Record | None = None
        for row in read_rows(file, name, self.options):
            if isinstance(row, BadItem):
                yield row
                continue
            if table is None:
                columns = choose_columns(list(row.cells), self.options, name)
                table = _Table(name, columns, split_of(name), places)
            try:
                record = table.record(row)
            except BadValue as error:
                yield BadItem(name, row.line, "bad row", str(error))
                continue
            merged = _merged(waiting, record) if waiting is not None and self.options.group else None
            if merged is None and waiting is not None:
                yield waiting
            waiting = merged or record
        if waiting is not None:
            yield waiting
        if table is None:
            yield BadItem(name, 0, "no rows", "the table has no row that can be used")


class _Places:
    """Where the images of one table are."""

    def __init__(self, images: NamedImages, beside: NamedImages, folder: str) -> None:
        self._images = images
        self._beside = beside
        self._folder = folder

    def find(self, value: str) -> tuple[str, Picture]:
        """The name and the picture that a cell tells. Raises: BadValue."""
        if _URL.match(value):
            return value, self._images.find_url(value, value)
        name = value.replace("\\", "/").removeprefix("./")
        problem = image_name_problem(name)
        if problem is not None:
            raise BadValue(f"the image {problem}")
        below = f"{self._folder}{name}"
        if self._beside.has(below):
            return name, self._beside.find([below], name)
        return name, self._images.find([name, below], name)


class _Table:
    """Makes records of the rows of one table."""

    def __init__(self, name: str, columns: Columns, split: str, places: _Places) -> None:
        self._name = name
        self._columns = columns
        self._split = split
        self._places = places

    def record(self, row: Row) -> Record:
        """Raises: BadValue."""
        cells, columns = row.cells, self._columns
        image = cells.get(columns.image)
        if not isinstance(image, str) or not image.strip():
            raise BadValue(f"there is no image in {columns.image!r}")
        captions = tuple(text for name in columns.captions for text in _texts(name, cells.get(name)))
        labels = {kind: text for name in columns.labels for kind, text in _labels(name, cells.get(name))}
        if not captions and not labels:
            raise BadValue("there is neither caption nor label")
        name, picture = self._places.find(image.strip())
        return Record(
            id=f"{self._name}:{row.line}",
            body=Pair(name, captions, labels),
            pictures=(picture,),
            split=_text(cells, columns.split) or self._split,
            source=_text(cells, columns.source),
            extra={key: plain_json(value) for key, value in cells.items() if key not in columns.used},
        )


def split_of(name: str) -> str:
    """By the name of the table, then of its folders, the innermost first; else "train"."""
    for part in reversed(name.lower().split("/")):
        found = _SPLITS.get(re.split(r"[._-]", part)[0]) or _SPLITS.get(re.split(r"[._-]", part.partition(".")[0])[-1])
        if found:
            return found
    return "train"


def _parent(file: Path, folder: Path) -> str:
    inside = file.parent.relative_to(folder).as_posix()
    return "" if inside == "." else f"{inside}/"


def _merged(before: Record, record: Record) -> Record | None:
    """Both as one, with the other columns of the first, if they are of one image and agree but for captions."""
    one, other = before.body, record.body
    if not isinstance(one, Pair) or not isinstance(other, Pair) or one.image != other.image:
        return None
    captions = (*one.captions, *other.captions)
    same = (one.labels, before.split, before.source) == (other.labels, record.split, record.source)
    if not same or not other.captions or len(captions) > MAX_CAPTIONS:
        return None
    return replace(before, body=Pair(one.image, captions, one.labels))


def _text(cells: dict[str, Any], column: str | None) -> str:
    value = "" if column is None else cells.get(column, "")
    if not isinstance(value, str):
        raise BadValue(f"{column!r} must be text")
    return value.strip()


def _texts(name: str, value: Any) -> Iterator[str]:
    """Captions of a cell: a text, or a list of them. Raises: BadValue."""
    for text in value if isinstance(value, list) else [value]:
        if text is not None and not isinstance(text, str):
            raise BadValue(f"{name!r} must be text or a list of texts")
        if text is not None and text.strip():
            yield text.strip()


def _labels(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Kind and label of a cell: one value, or an object of them. Raises: BadValue."""
    for kind, label in value.items() if isinstance(value, dict) else [(name, value)]:
        if isinstance(label, (list, dict)):
            raise BadValue(f"{kind!r} must be one label")
        text = "" if label is None else str(label).strip()
        if text:
            yield kind, text

