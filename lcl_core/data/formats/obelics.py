"""OBELICS: Parquet or Arrow files of web documents; also rows of The Cauldron, and JSON lines (OmniCorpus).

A row holds ``images`` and ``texts``, lists of one length with exactly one of the two at each index, ``metadata`` (of
each image) and ``general_metadata`` (of the page), both JSON. Images are URLs, looked up in local images by
``ImageFinder``, or bytes in the rows. A text may contain ``END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED``: there another
article of the page begins. Source: https://huggingface.co/datasets/HuggingFaceM4/OBELICS

The Cauldron's ``texts`` are turns, objects with ``user`` and ``assistant``: its images stand before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from lcl_core.data.formats.base import (
    check_corpus_file,
    corpus_paths,
    display_name,
    split_from_name,
)
from lcl_core.data.formats.image_lookup import ImageFinder, ImagesOptions, ImagesReader
from lcl_core.data.formats.parquet import (
    image_source,
    is_arrow_file,
    is_list_column,
    read_rows,
    read_schema,
)
from lcl_core.data.formats.text_files import read_json_lines, read_numbered_objects
from lcl_core.data.jsonl import BadValue, parse_json, to_json_safe
from lcl_core.data.records import BadItem, ImageSegment, Record, RecordImage, Segment, SequenceDocument, TextSegment

_END_OF_DOCUMENT = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"


@dataclass(slots=True)
class _RowImages:
    """The images of a row; an image that occurs several times is one image, named by its first index.

    Images of one URL or path whose bytes differ are several.
    """

    finder: ImageFinder
    metadata: Any
    images: dict[str, RecordImage] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    _names: dict[tuple[str, bytes | None], str] = field(default_factory=dict)

    def add(self, number: int, image: Any, embedded: Any) -> str:
        """The name of the image at index ``number``."""
        (where, data), (_, more) = image_source(image), image_source(embedded)
        data = data if data is not None else more
        if where and (where, data) in self._names:
            return self._names[where, data]
        name = str(number)
        self._names[where, data] = name
        self.images[name] = self.finder.find_source(where, data, name)
        known = self.metadata[number] if isinstance(self.metadata, list) and number < len(self.metadata) else None
        if details := {**({"url": where} if where else {}), **(known if isinstance(known, dict) else {})}:
            self.about[name] = details
        return name


def read_row(
    fields: dict[str, Any], file: str, line: int, split: str, finder: ImageFinder, bytes_column: str | None
) -> Iterator[Record | BadItem]:
    """The records of a row, after a BadItem for each place that had to be left out.

    A row is one record, or one for each part between its marks of a document's end. Empty parts are left out.

    Args:
        fields: the row as Python values; emptied on the way.

    Raises: BadValue when the row cannot be a document.
    """
    images, texts = fields.pop("images"), fields.pop("texts")
    embedded = fields.pop(bytes_column) if bytes_column else None
    if isinstance(images, list) and texts and isinstance(texts, list) and isinstance(texts[0], dict):
        turns = [turn.get(role) for turn in texts for role in ("user", "assistant")]
        images, texts = images + [None] * len(turns), [None] * len(images) + turns
    if (
        not isinstance(images, list)
        or not isinstance(texts, list)
        or len({len(images), len(texts), len(images if embedded is None else embedded)}) > 1
    ):
        raise BadValue("images, texts and the column of bytes must be lists of one length")
    metadata: dict[str, Any] = {}
    for column in ("metadata", "general_metadata"):
        value = fields.pop(column, None)
        try:
            metadata[column] = to_json_safe(parse_json(value) if isinstance(value, str) and value else value)
        except BadValue as error:
            yield BadItem(file, line, "bad metadata", f"{column}: {error}")
    row_images = _RowImages(finder, metadata.get("metadata"))
    documents: list[list[Segment]] = [[]]
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        problem = None
        if (image is None) == (text is None):
            problem = "neither text nor image" if image is None else "both text and image"
        elif text is not None and not isinstance(text, str):
            problem = "a text that is no string"
        elif text is None and image_source(image) == ("", None):
            problem = "an image that is neither URL nor bytes"
        if problem is not None:
            yield BadItem(file, line, "bad place", f"{problem} at place {number}")
        elif text is None:
            name = row_images.add(number, image, embedded[number] if embedded else None)
            documents[-1].append(ImageSegment(name))
        elif _END_OF_DOCUMENT not in text:
            documents[-1].append(TextSegment(text))
        else:
            first, *others = (part.strip() for part in text.split(_END_OF_DOCUMENT))
            documents[-1] += [TextSegment(first)] if first else []
            documents += ([TextSegment(part)] if part else [] for part in others)
    extra = to_json_safe(fields)
    if metadata.get("general_metadata") is not None:
        extra["general_metadata"] = metadata["general_metadata"]
    for number, segments in enumerate([each for each in documents if each] or [[]]):
        names = dict.fromkeys(segment.name for segment in segments if isinstance(segment, ImageSegment))
        about = {name: row_images.about[name] for name in names if name in row_images.about}
        yield Record(
            f"{file}:{line}" + (f"#{number}" if number else ""),
            SequenceDocument(tuple(segments)),
            tuple(row_images.images[name] for name in names),
            split,
            extra={**extra, **({"images": about} if about else {})},
        )


_LISTS = ("images", "texts")


class ObelicsOptions(ImagesOptions):
    """Attributes:
    bytes_column: a further column, a list as long as ``images``, of bytes or of {bytes, path}.
    """

    bytes_column: str | None = Field(None, min_length=1)


class ObelicsReader(ImagesReader[ObelicsOptions]):
    """Sequence records, ids ``FILE:ROW`` with rows from 1; further documents of a row are ``FILE:ROW#1`` and so on.

    An image is named by the place where it first stands in its row; ``extra["images"]`` has by that name what is
    known of it: ``url`` and the entry of ``metadata``. A place with neither or both of text and image is a BadItem,
    and the document goes on without it. The split is that in the name of the file (``validation-00000-of-…``) or of
    its folder, or else train.
    """

    format = "obelics"
    options_type = ObelicsOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        files = [file for file in _files(path, path / "images") if _is_table(file.name) or _is_lines(file.name)]
        first = check_corpus_file(files[0], path) if files else None
        if not isinstance(first, Path):
            return False
        if _is_table(first.name):
            schema = read_schema(first)
            return schema is not None and not _unusable_columns(schema, _LISTS)
        line = next(iter(read_json_lines(first, first.name)), None)
        return isinstance(line, tuple) and all(isinstance(line[1].get(name), list) for name in _LISTS)

    def paths(self) -> list[Path]:
        return _files(self.path, self.images_folder)

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        name = display_name(file, self.path)
        schema = read_schema(file) if _is_table(file.name) else None  # None: its damage will show as it is read
        columns = (*_LISTS, self.options.bytes_column) if self.options.bytes_column else _LISTS
        wrong = [] if schema is None else _unusable_columns(schema, columns)
        if wrong:
            missing = f"there must be one column of lists called {', '.join(wrong)}"
            yield BadItem(name, 0, "not in this format", missing)
            return
        for row in read_rows(file, name) if _is_table(file.name) else read_numbered_objects(file, name):
            if isinstance(row, BadItem):
                yield row
                continue
            line, fields = row
            try:
                yield from read_row(fields, name, line, split_from_name(name), self.images, self.options.bytes_column)
            except BadValue as error:
                yield BadItem(name, line, "bad row", str(error)[:200])


def _unusable_columns(schema: pa.Schema, columns: tuple[str, ...]) -> list[str]:
    """Columns that are not there, are there twice, or are no lists."""
    return [name for name in columns if schema.names.count(name) != 1 or not is_list_column(schema.field(name))]


def _files(path: Path, images: Path | None) -> list[Path]:
    """Tables, or else JSON lines, without the side files of the images."""
    return corpus_paths(path, _is_table, outside=images) or corpus_paths(path, _is_lines, outside=images)


def _is_table(name: str) -> bool:
    return is_arrow_file(Path(name))


def _is_lines(name: str) -> bool:
    return name.endswith((".jsonl", ".jsonl.gz"))
