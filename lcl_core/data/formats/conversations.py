"""Conversations about images: LLaVA's JSON, JSON lines, or Parquet of its form.

    ROOT/llava.json     [{"id", "image": "coco/1.jpg" or a list, "conversations": [{"from", "value"}], …}]
    ROOT/images/…       or where the option ``images`` says

A row is a document: its turns in order, without the names of the speakers. An image stands where a turn has
``<image>``; images without a mark stand at the beginning. Source: https://github.com/haotian-liu/LLaVA
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcl_core.data.formats.base import (
    contains_files,
    corpus_files,
    corpus_paths,
    display_name,
    split_from_name,
)
from lcl_core.data.formats.image_lookup import ImagesOptions, ImagesReader
from lcl_core.data.formats.parquet import image_source, is_arrow_file, is_list_column, read_rows, read_schema
from lcl_core.data.formats.text_files import read_numbered_objects
from lcl_core.data.jsonl import BadValue, to_json_safe
from lcl_core.data.records import BadItem, ImageSegment, Record, Segment, SequenceDocument, TextSegment

_SNIFFED_BYTES = 1 << 16
_TURNS = re.compile(rb'"conversations"\s*:\s*\[')
_MARK = "<image>"


class ConversationsReader(ImagesReader[ImagesOptions]):
    """Sequence records, ids ``FILE:ROW`` with rows from 1. Other fields of a row go to ``extra``."""

    format = "conversations"
    options_type = ImagesOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not contains_files(path, _is_rows_file):
            return False
        files = [file for file in corpus_files(path, _is_rows_file) if isinstance(file, Path)]
        return any(_has_turns(file) for file in files[:3])

    def paths(self) -> list[Path]:
        return [path for path in corpus_paths(self.path, _is_rows_file) if path == self.path or _has_turns(path)]

    @property
    def images_folder(self) -> Path:
        return super().images_folder or self.folder

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        name = display_name(file, self.path)
        for row in read_rows(file, name) if is_arrow_file(file) else read_numbered_objects(file, name):
            if isinstance(row, BadItem):
                yield row
                continue
            number, fields = row
            try:
                yield self._record(fields, f"{name}:{number}", split_from_name(name))
            except BadValue as error:
                yield BadItem(name, number, "bad row", str(error)[:200])

    def _record(self, fields: dict[str, Any], id: str, split: str) -> Record:
        """Raises: BadValue."""
        images = _listed(fields.pop("image", None)) + _listed(fields.pop("images", None))
        turns = fields.pop("conversations", None)
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise BadValue("conversations must be a list of objects with from and value")
        texts = [turn.get("value") for turn in turns]
        if not all(isinstance(text, str) for text in texts):
            raise BadValue("each of conversations needs a string value")
        marks = sum(text.count(_MARK) for text in texts)
        if marks > len(images):
            raise BadValue(f"the turns have {marks} marks {_MARK}, and there are {len(images)} images")
        named = {
            str(number): self.images.find_source(*image_source(image), str(number))
            for number, image in enumerate(images)
        }
        names = iter(named)
        segments: list[Segment] = [ImageSegment(next(names)) for _ in range(len(images) - marks)]
        for text in texts:
            for place, part in enumerate(text.split(_MARK)):
                segments += [ImageSegment(next(names))] if place else []
                segments += [TextSegment(part.strip())] if part.strip() else []
        extra = to_json_safe(fields)
        return Record(id, SequenceDocument(tuple(segments)), tuple(named.values()), split, extra=extra)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _is_rows_file(name: str) -> bool:
    return is_arrow_file(Path(name)) or name.endswith((".json", ".jsonl"))


def _has_turns(file: Path) -> bool:
    """Whether its rows hold conversations, by its columns or its beginning."""
    if not is_arrow_file(file):
        with file.open("rb") as stream:
            return _TURNS.search(stream.read(_SNIFFED_BYTES)) is not None
    schema = read_schema(file)
    return schema is not None and "conversations" in schema.names and is_list_column(schema.field("conversations"))
