"""OBELICS: Parquet or Arrow files whose rows hold ``images`` and ``texts``, lists of one length with exactly one of
the two at each place, ``metadata`` (about each image) and ``general_metadata`` (about the page), both JSON. Images are
URLs, looked up in local images by ImageFinder, or bytes in the rows themselves.
Source: https://huggingface.co/datasets/HuggingFaceM4/OBELICS
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from lcl_core.data.readers.arrow_files import is_arrow_file, read_rows, read_schema
from lcl_core.data.readers.base import Reader
from lcl_core.data.readers.folders import corpus_files, has_files, shown
from lcl_core.data.readers.images import ImageFinder, images_place
from lcl_core.data.readers.obelics_rows import Place, read_row
from lcl_core.data.readers.options import ReaderOptions
from lcl_core.data.readers.values import BadValue
from lcl_core.data.record import BadItem, Record

# A row of nothing but empty places costs next to nothing in a file, and much in memory.
MAX_PLACES = 100_000
_SPLITS = {"validation": "val", "valid": "val", "val": "val", "test": "test"}
_LISTS = ("images", "texts")


class ObelicsOptions(ReaderOptions):
    """Attributes:
    images: folder or tar of the images; None: ``images`` beside the files, if there.
    bytes_column: a further column, a list as long as ``images``, of bytes or of {bytes, path}.
    """

    images: Path | None = None
    bytes_column: str | None = Field(None, min_length=1)


class ObelicsReader(Reader[ObelicsOptions]):
    """Sequence records, ids ``FILE:ROW`` with rows from 1.

    A picture is named by the place where it first stands in its row; ``extra["images"]`` has by that name what is
    known of it: ``url`` and the entry of ``metadata``. A place with neither or both of text and image is a BadItem,
    and the document goes on without it. The split is that in the name of the file (``validation-00000-of-…``) or of
    its folder, or else train.
    """

    format = "obelics"
    options_type = ObelicsOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not has_files(path, _is_table):
            return False
        files = corpus_files(path, _is_table, outside=path / "images")
        first = next((file for file in files if isinstance(file, Path)), None)
        schema = read_schema(first) if first is not None else None
        return schema is not None and not _unfit(schema, _LISTS)

    def records(self) -> Iterator[Record | BadItem]:
        place = images_place(self.options.images, self.path)
        finder = ImageFinder(place)
        yield from finder.problems
        for file in corpus_files(self.path, _is_table, outside=place):  # not the side files of the images
            if isinstance(file, BadItem):
                yield file
                continue
            yield from self._file(file, finder)

    def _file(self, file: Path, finder: ImageFinder) -> Iterator[Record | BadItem]:
        name = shown(file, self.path)
        missing = self._missing_columns(file)
        if missing:
            yield BadItem(name, 0, "not in this format", missing)
            return
        for rows in read_rows(file, name):
            if isinstance(rows, BadItem):
                yield rows
                continue
            for index in range(rows.batch.num_rows):
                place = Place(name, rows.start + index + 1, _split_of(name))
                try:
                    yield from read_row(_row(rows.batch, index), place, finder, self.options.bytes_column)
                except (BadValue, ValueError, pa.ArrowException) as error:
                    yield BadItem(name, place.line, "bad row", str(error)[:200])

    def _missing_columns(self, file: Path) -> str:
        """What keeps the file from being read at all; empty for nothing, and where its damage will show anyway."""
        schema = read_schema(file)
        if schema is None:
            return ""
        wrong = _unfit(schema, (*_LISTS, self.options.bytes_column) if self.options.bytes_column else _LISTS)
        return f"there must be one column of lists called {', '.join(wrong)}" if wrong else ""


def _split_of(name: str) -> str:
    """By the first word of the file's name, or else of its folder's."""
    words = [found[0] for part in reversed(name.split("/")) if (found := re.match(r"[a-z]+", part))]
    return next((_SPLITS[word] for word in words if word in _SPLITS), "train")


def _row(batch: pa.RecordBatch, index: int) -> dict[str, Any]:
    """The fields of one row as Python values. Raises: BadValue, ValueError or ArrowException."""
    fields = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        value = column[index]
        if _is_list(batch.schema.field(name)) and value.is_valid and len(value) > MAX_PLACES:
            raise BadValue(f"{name} has {len(value):,} places; {MAX_PLACES:,} are allowed")
        fields[name] = value.as_py()
    return fields


def _unfit(schema: pa.Schema, wanted: tuple[str, ...]) -> list[str]:
    """Columns that are not there, are there twice, or are no lists."""
    return [name for name in wanted if schema.names.count(name) != 1 or not _is_list(schema.field(name))]


def _is_list(field: pa.Field) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(kind(field.type) for kind in kinds)


def _is_table(name: str) -> bool:
    return is_arrow_file(Path(name))
