"""MMC4: ``docs_shard_{i}_v2.jsonl.zip`` and variants, and one line of its layout as a record.

Fewer faces: ``docs_no_face_shard_``; core: ``_v3``, unpacked or gzipped. Any subset of the shards is read in the order
of their numbers; images as MMC4's download script (flat, a folder for each shard, ``SHARD_images`` beside the shards)
or img2dataset left them. Source: https://github.com/allenai/mmc4
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import safe_name
from lcl_core.data.formats.base import (
    FilesReader,
    ReaderOptions,
    contains_files,
    corpus_paths,
    display_name,
)
from lcl_core.data.formats.image_lookup import ImageFinder, find_images
from lcl_core.data.formats.text_files import TextLine, read_lines
from lcl_core.data.json_values import BadValue, parse_json_object, to_json_safe
from lcl_core.data.records import BadItem, ImageMatch, MatchedDocument, Record, RecordImage

# The matrix is by far the largest part of a line and nothing of ours uses it: the match of each image is all.
_DROPPED_FIELDS = frozenset(("text_list", "image_info", "similarity_matrix"))
_MATCH_FIELDS = frozenset(("image_name", "matched_text_index", "matched_sim"))
MAX_NAME_BYTES = 1024
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class LineLocation:
    """File and line of a document, and the id and split of its record."""

    file: str
    line: int
    id: str
    split: str = "train"


def read_mmc4_document(
    line: dict[str, Any], location: LineLocation, find: Callable[[dict[str, Any]], RecordImage]
) -> Iterator[Record | BadItem]:
    """The record of a document, after a BadItem for each image reference that had to be left out.

    The line's other fields go to ``extra``, and so do those of its images: ``extra["image_info"]`` has an object
    for each match, in the same order. ``similarity_matrix`` is dropped.

    Args:
        find: gives the image of an object of ``image_info``.
    """
    try:
        yield from _read_document(line, location, find)
    except BadValue as error:
        yield BadItem(location.file, location.line, "bad document", str(error))


def _read_document(
    line: dict[str, Any], location: LineLocation, find: Callable[[dict[str, Any]], RecordImage]
) -> Iterator[Record | BadItem]:
    texts, images = line.get("text_list"), line.get("image_info")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        yield BadItem(location.file, location.line, "bad document", "text_list must be a list of strings")
        return
    if not isinstance(images, list):
        yield BadItem(location.file, location.line, "bad document", "image_info must be a list of objects")
        return
    usable = []
    for number, image in enumerate(images):
        problem = check_image_reference(image, len(texts))
        if problem is None:
            usable.append(image)
        else:
            yield BadItem(location.file, location.line, "bad image reference", f"image_info[{number}]{problem}")
    yield _make_record(line, texts, usable, location, find)


def _make_record(
    line: dict[str, Any],
    texts: list[str],
    images: list[dict[str, Any]],
    location: LineLocation,
    find: Callable[[dict[str, Any]], RecordImage],
) -> Record:
    matches = [
        ImageMatch(image["image_name"], image["matched_text_index"], float(image["matched_sim"])) for image in images
    ]
    matched = {image["image_name"]: find(image) for image in reversed(images)}
    extra = {key: to_json_safe(value) for key, value in line.items() if key not in _DROPPED_FIELDS}
    source = extra.pop("source") if isinstance(extra.get("source"), str) else ""
    others = [
        {key: to_json_safe(value) for key, value in image.items() if key not in _MATCH_FIELDS} for image in images
    ]
    if any(others):
        extra["image_info"] = others
    body = MatchedDocument(tuple(texts), tuple(matches))
    return Record(location.id, body, tuple(reversed(matched.values())), location.split, source, extra)


def check_image_reference(image: Any, sentences: int) -> str | None:
    """What is wrong with an object of ``image_info``; None: nothing."""
    if not isinstance(image, dict):
        return " must be an object"
    name_problem = check_image_name(image.get("image_name"))
    if name_problem is not None:
        return f".image_name {name_problem}"
    index, similarity = image.get("matched_text_index"), image.get("matched_sim")
    if not isinstance(index, int) or isinstance(index, bool):
        return ".matched_text_index must be an integer"
    if not 0 <= index < sentences:
        return f".matched_text_index is outside the {sentences:,} sentences"
    if not isinstance(similarity, (int, float)) or isinstance(similarity, bool):
        return ".matched_sim must be a number"
    if not abs(similarity) <= 1 + _ROUNDING:
        return ".matched_sim must be from -1 to 1"
    return None


def check_image_name(name: Any) -> str | None:
    """What is wrong with the name of an image; None: it is a plain relative path."""
    if not isinstance(name, str) or not name:
        return "must be a file name"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES:,} bytes"
    try:
        safe_name(name)
    except UserError as error:
        return f"is unsafe: {error.message}"
    return None


_SHARD = re.compile(r"docs.*_shard_([0-9]{1,9})[^/]*\.jsonl(\.zip|\.gz)?", re.IGNORECASE | re.ASCII)
_PACKED = re.compile(r"\.(zip|gz)$", re.IGNORECASE)


class MMC4Options(ReaderOptions):
    """Attributes:
    images: folder or tar of the images; None: ``images`` or ``mmc4_images`` beside the shards, or ``SHARD_images``.
    """

    images: Path | None = None


class MMC4Reader(FilesReader[MMC4Options]):
    """Matched records. An image is looked up by ``image_name``, or else by ``raw_url``."""

    format = "mmc4"
    options_type = MMC4Options

    @classmethod
    def sniff(cls, path: Path) -> bool:
        return contains_files(path, _is_shard)

    def paths(self) -> list[Path]:
        return corpus_paths(self.path, _is_shard, order=_by_number)

    def problems(self) -> Iterator[BadItem]:
        return iter(self._finder.problems)

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        name, key = display_name(file, self.path), self.key(file)
        shard = _shard_of(name)
        if self._first_names[_shard_of(key)] == key:
            yield from self._shard(file, name, shard)
        else:
            yield BadItem(name, 0, "repeated shard", f"{shard} is there unpacked or packed, too")

    @cached_property
    def _finder(self) -> ImageFinder:
        return ImageFinder(_images_of(self.options.images, self.path), subfolders=True)

    @cached_property
    def _first_names(self) -> dict[str, str]:
        """The first file of each shard."""
        return {_shard_of(name): name for name in reversed(self.names)}

    def _shard(self, file: Path, name: str, shard: str) -> Iterator[Record | BadItem]:
        def find(image: dict[str, Any]) -> RecordImage:
            url = image.get("raw_url")
            return self._finder.find(image["image_name"], url if isinstance(url, str) else None)

        for line in read_lines(file, name):
            if isinstance(line, BadItem):
                yield line
                continue
            try:
                document = parse_json_object(line.data)
            except BadValue as error:
                yield BadItem(name, line.number, "bad line", str(error))
                continue
            yield from read_mmc4_document(document, LineLocation(name, line.number, _record_id(shard, line)), find)


def _images_of(option: Path | None, corpus: Path) -> Path | None:
    """Where the images are, by the option or by the names that MMC4's download script suggests."""
    images = find_images(option, corpus)
    if images is not None:
        return images
    folder = corpus if corpus.is_dir() else corpus.parent
    if (folder / "mmc4_images").is_dir():
        return folder / "mmc4_images"
    return folder if any(path.is_dir() for path in folder.glob("docs*_images")) else None


def _shard_of(name: str) -> str:
    """Name of a shard, packed or not."""
    return _PACKED.sub("", name)


def _record_id(shard: str, line: TextLine) -> str:
    member = f"/{line.member}" if line.member else ""
    return f"{shard}{member}:{line.number}"


def _is_shard(name: str) -> bool:
    return _SHARD.fullmatch(name) is not None


def _by_number(path: Path) -> tuple[int, str]:
    found = _SHARD.fullmatch(path.name)
    return (int(found[1]) if found else 0, str(path))
