"""The project's own folder or zip of JSON lines: its documents, then its captioned images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_corpus import FileCorpus, jsonl_files
from lcl_core.data.corpus.file_store import FileStore, open_store
from lcl_core.data.formats.base import FormatReader, ReaderOptions, file_stamp
from lcl_core.data.formats.image_lookup import read_stored_image
from lcl_core.data.formats.mmc4 import LineLocation, check_image_name, read_mmc4_document
from lcl_core.data.json_values import BadValue, to_json_safe
from lcl_core.data.jsonl import JsonLines
from lcl_core.data.records import (
    DEFAULT_SPLIT,
    PAIR_FIELDS,
    BadItem,
    CaptionedImage,
    ImageSegment,
    Record,
    RecordImage,
    Segment,
    SequenceDocument,
    check_pair,
    document_split,
    parse_segments,
)
from lcl_core.parts.plan import Section

_DROPPED_FIELDS = frozenset(("segments", "text_list", "image_info", "source"))
_STEMS = ("interleaved", "pairs")


class NativeReader(FormatReader[ReaderOptions]):
    """Matched records of ``interleaved.jsonl``, sequences of its lines with ``segments``, captioned images of
    ``pairs.jsonl``; ids ``FILE:LINE``.

    Images of matched records that are captioned images too have their ``subject`` in ``extra["image_info"]``.

    The split of a document is that of its file (``records.document_split``).
    """

    format = "native"

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if path.is_dir():
            return any((path / f"{stem}.jsonl").is_file() or any((path / stem).glob("*.jsonl")) for stem in _STEMS)
        with path.open("rb") as file:
            if file.read(4) != b"PK\3\4":
                return False
        store = open_store(path)
        return any(jsonl_files(store, stem) for stem in _STEMS)

    def records(self) -> Iterator[Record | BadItem]:
        for name in self._files():
            yield from self._section(name)

    def sections(self) -> list[Section]:
        """One a file. The subjects of images come from other files, so that the stamps of all are those of each."""
        zipped, files = not self.path.is_dir(), self._files()
        stamps = [file_stamp(self.path if zipped else self.path / name) for name in files]
        return [Section(name, " ".join(stamps)) for name in files]

    def _section(self, key: str) -> Iterator[Record | BadItem]:
        for item in _json_objects(self._store, key):
            if isinstance(item, BadItem):
                yield item
            elif key.startswith("interleaved"):
                number, line = item
                yield from _read_document(self._store, key, number, self._corpus.with_subjects(line))
            else:
                yield from _read_pair(self._store, key, *item)

    def _files(self) -> list[str]:
        files = [name for stem in _STEMS for name in jsonl_files(self._store, stem)]
        if not files:
            raise UserError(
                "there is neither interleaved.jsonl nor pairs.jsonl", code="corpus_unreadable", file=self.path
            )
        return files

    @cached_property
    def _store(self) -> FileStore:
        return open_store(self.path)

    @cached_property
    def _corpus(self) -> FileCorpus:
        return FileCorpus(self._store)


def _read_document(store: FileStore, name: str, number: int, line: dict[str, Any]) -> Iterator[Record | BadItem]:
    def find(image: dict[str, Any]) -> RecordImage:
        return _image(store, image["image_name"])

    location = LineLocation(name, number, f"{name}:{number}", document_split(name))
    yield from (read_sequence if "segments" in line else read_mmc4_document)(line, location, find)


def read_sequence(
    line: dict[str, Any], location: LineLocation, find: Callable[[dict[str, Any]], RecordImage]
) -> Iterator[Record | BadItem]:
    """The sequence record, after a BadItem for each image that was left out; the other fields go to ``extra``.

    Args:
        find: returns the image of an object with ``image_name``.
    """
    try:
        segments = parse_segments(line)
    except UserError as error:
        yield BadItem(location.file, location.line, "bad document", error.message)
        return
    kept: list[Segment] = []
    for number, segment in enumerate(segments):
        problem = check_image_name(segment.name) if isinstance(segment, ImageSegment) else None
        if problem is None:
            kept.append(segment)
        else:
            detail = f"segments[{number}].image {problem}"
            yield BadItem(location.file, location.line, "bad image reference", detail)
    names = dict.fromkeys(segment.name for segment in kept if isinstance(segment, ImageSegment))
    images = tuple(find({"image_name": name}) for name in names)
    source = line["source"] if isinstance(line.get("source"), str) else ""
    extra = {key: value for key, value in line.items() if key not in _DROPPED_FIELDS}
    yield Record(location.id, SequenceDocument(tuple(kept)), images, location.split, source, extra)


def _read_pair(store: FileStore, name: str, number: int, line: dict[str, Any]) -> Iterator[Record | BadItem]:
    problem = check_pair(line)
    if problem is None and (reason := check_image_name(line["image"])) is not None:
        problem = f"image {reason}"
    if problem is not None:
        yield BadItem(name, number, "bad pair", problem)
        return
    yield Record(
        id=f"{name}:{number}",
        body=CaptionedImage(line["image"], tuple(line["captions"]), line.get("labels", {})),
        images=(_image(store, line["image"]),),
        split=line.get("split", DEFAULT_SPLIT),
        source=line.get("source", ""),
        extra={key: value for key, value in line.items() if key not in PAIR_FIELDS},
    )


def _image(store: FileStore, name: str) -> RecordImage:
    return RecordImage(name, partial(read_stored_image, store, f"images/{name}"))


def _json_objects(store: FileStore, name: str) -> Iterator[tuple[int, dict[str, Any]] | BadItem]:
    """Every object of a file of JSON lines with its line number."""
    try:
        lines = JsonLines(store.buffer(name), name, lambda value: None)
    except UserError as error:
        yield BadItem(name, 0, "unreadable file", error.message)
        return
    for index in range(len(lines)):
        number = lines.line_number(index)
        try:
            yield number, to_json_safe(lines[index])
        except (UserError, BadValue) as error:
            yield BadItem(name, number, "bad line", error.message if isinstance(error, UserError) else str(error))
