"""The project's own folder or zip of JSON lines: its documents, then its captioned images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_corpus import FileCorpus, jsonl_files
from lcl_core.data.corpus.file_store import FileStore, open_store
from lcl_core.data.formats.base import FormatReader, ReaderOptions, check_image_name, file_stamp
from lcl_core.data.formats.image_lookup import read_stored_image
from lcl_core.data.formats.mmc4 import LineLocation, read_mmc4_document
from lcl_core.data.jsonl import BadValue, JsonLines, to_json_safe
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
from lcl_core.parts import Section

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
        return any(jsonl_files(open_store(path), stem) for stem in _STEMS)

    def records(self) -> Iterator[Record | BadItem]:
        for name in self._files:
            yield from self._section(name)

    def sections(self) -> list[Section]:
        """One a file. The subjects of images come from other files, so that the stamps of all are those of each."""
        zipped = not self.path.is_dir()
        stamps = [file_stamp(self.path if zipped else self.path / name) for name in self._files]
        return [Section(name, " ".join(stamps)) for name in self._files]

    def _section(self, key: str) -> Iterator[Record | BadItem]:
        try:
            lines = JsonLines({key: self._store.buffer(key)}, lambda value: None, dict)
        except UserError as error:
            yield BadItem(key, 0, "unreadable file", error.message)
            return
        for index in range(len(lines)):
            location = LineLocation(
                key, lines.line_number(index), f"{key}:{lines.line_number(index)}", document_split(key)
            )
            try:
                line = to_json_safe(lines[index])
            except (UserError, BadValue) as error:
                detail = error.message if isinstance(error, UserError) else str(error)
                yield BadItem(key, location.line, "bad line", detail)
                continue
            if not key.startswith("interleaved"):
                yield self._pair(line, location)
                continue
            line = self._corpus.with_subjects(line)
            read = read_sequence if "segments" in line else read_mmc4_document
            yield from read(line, location, self._image)

    @cached_property
    def _files(self) -> list[str]:
        files = [name for stem in _STEMS for name in jsonl_files(self._store, stem)]
        if not files:
            message = "there is neither interleaved.jsonl nor pairs.jsonl"
            raise UserError(message, code="corpus_unreadable", file=self.path)
        return files

    @cached_property
    def _store(self) -> FileStore:
        return open_store(self.path)

    @cached_property
    def _corpus(self) -> FileCorpus:
        return FileCorpus(self._store)

    def _image(self, name: str, url: Any = None) -> RecordImage:
        return RecordImage(name, partial(read_stored_image, self._store, f"images/{name}"))

    def _pair(self, line: dict[str, Any], location: LineLocation) -> Record | BadItem:
        problem = check_pair(line)
        try:
            if problem is None:
                check_image_name(line["image"])
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            return BadItem(location.file, location.line, "bad pair", problem)
        return Record(
            id=location.id,
            body=CaptionedImage(line["image"], tuple(line["captions"]), line.get("labels", {})),
            images=(self._image(line["image"]),),
            split=line.get("split", DEFAULT_SPLIT),
            source=line.get("source", ""),
            extra={key: value for key, value in line.items() if key not in PAIR_FIELDS},
        )


def read_sequence(
    line: dict[str, Any], location: LineLocation, find: Callable[[str, Any], RecordImage]
) -> Iterator[Record | BadItem]:
    """The sequence record, after a BadItem for each image that was left out; the other fields go to ``extra``.

    Args:
        find: as of :func:`read_mmc4_document`.
    """
    try:
        segments = parse_segments(line)
    except UserError as error:
        yield BadItem(location.file, location.line, "bad document", error.message)
        return
    kept: list[Segment] = []
    for number, segment in enumerate(segments):
        try:
            if isinstance(segment, ImageSegment):
                check_image_name(segment.name)
            kept.append(segment)
        except ValueError as error:
            yield BadItem(location.file, location.line, "bad image reference", f"segments[{number}]: {error}")
    names = dict.fromkeys(segment.name for segment in kept if isinstance(segment, ImageSegment))
    images = tuple(find(name, None) for name in names)
    source = line["source"] if isinstance(line.get("source"), str) else ""
    extra = {key: value for key, value in line.items() if key not in _DROPPED_FIELDS}
    yield Record(location.id, SequenceDocument(tuple(kept)), images, location.split, source, extra)
