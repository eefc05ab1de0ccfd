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
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

from lcl_core.data.formats.base import (
    ImageName,
    contains_files,
    corpus_paths,
    display_name,
    validate_item,
)
from lcl_core.data.formats.image_lookup import ImageFinder, ImagesOptions, ImagesReader
from lcl_core.data.formats.text_files import read_json_lines
from lcl_core.data.jsonl import BadValue, to_json_safe
from lcl_core.data.records import BadItem, ImageMatch, MatchedDocument, Record, RecordImage

_ROUNDING = 1e-3  # of similarities beyond 1
_SHARD = re.compile(r"docs.*_shard_([0-9]{1,9})[^/]*\.jsonl(\.zip|\.gz)?", re.IGNORECASE | re.ASCII)
_PACKED = re.compile(r"\.(zip|gz)$", re.IGNORECASE)


class ImageInfo(BaseModel):
    """An object of ``image_info``: an image and the sentence that it is matched to."""

    model_config = ConfigDict(extra="allow")

    image_name: ImageName
    matched_text_index: StrictInt = Field(ge=0)
    matched_sim: Annotated[StrictFloat, Field(ge=-1 - _ROUNDING, le=1 + _ROUNDING)]


class MMC4Line(BaseModel):
    """A line. The matrix is by far its largest part, and nothing uses it: the match of each image is all."""

    model_config = ConfigDict(extra="allow")

    text_list: list[StrictStr]
    image_info: list[Any]
    similarity_matrix: Any = None


@dataclass(frozen=True, slots=True)
class LineLocation:
    """File and line of a document, and the id and split of its record."""

    file: str
    line: int
    id: str
    split: str = "train"


def read_mmc4_document(
    line: dict[str, Any], location: LineLocation, find: Callable[[str, Any], RecordImage]
) -> Iterator[Record | BadItem]:
    """The record of a document, after a BadItem for each image reference that had to be left out.

    The line's other fields go to ``extra``, and so do those of its images: ``extra["image_info"]`` has an object
    for each match, in the same order. ``similarity_matrix`` is dropped.

    Args:
        find: returns the image of a name and a ``raw_url``.
    """
    images: list[ImageInfo] = []
    try:
        document = validate_item(MMC4Line, line)
        for number, value in enumerate(document.image_info):
            try:
                image = validate_item(ImageInfo, value)
                if image.matched_text_index >= len(document.text_list):
                    raise BadValue(f"matched_text_index is outside the {len(document.text_list):,} sentences")
                images.append(image)
            except BadValue as error:
                yield BadItem(location.file, location.line, "bad image reference", f"image_info[{number}].{error}")
        extra = to_json_safe(document.model_extra)
        others = [to_json_safe(image.model_extra) for image in images]
    except BadValue as error:
        yield BadItem(location.file, location.line, "bad document", str(error))
        return
    source = extra.pop("source") if isinstance(extra.get("source"), str) else ""
    if any(others):
        extra["image_info"] = others
    matches = [ImageMatch(image.image_name, image.matched_text_index, image.matched_sim) for image in images]
    found: dict[str, RecordImage] = {}
    for image in images:
        if image.image_name not in found:
            found[image.image_name] = find(image.image_name, (image.model_extra or {}).get("raw_url"))
    body = MatchedDocument(tuple(document.text_list), tuple(matches))
    yield Record(location.id, body, tuple(found.values()), location.split, source, extra)


class MMC4Reader(ImagesReader[ImagesOptions]):
    """Matched records. An image is looked up by ``image_name``, or else by ``raw_url``.

    Without the option, images lie in ``images`` or ``mmc4_images`` beside the shards, or in ``SHARD_images``.
    """

    format = "mmc4"
    options_type = ImagesOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        return contains_files(path, _is_shard)

    def paths(self) -> list[Path]:
        paths = corpus_paths(self.path, _is_shard, order=_by_number)
        # a shard may be there packed and unpacked
        return [*{_PACKED.sub("", str(path)): path for path in reversed(paths)}.values()][::-1]

    @property
    def images_folder(self) -> Path | None:
        """By the option, or by the names that MMC4's download script suggests."""
        images = super().images_folder
        if images is None and (self.folder / "mmc4_images").is_dir():
            return self.folder / "mmc4_images"
        if images is None and any(path.is_dir() for path in self.folder.glob("docs*_images")):
            return self.folder
        return images

    @cached_property
    def images(self) -> ImageFinder:
        return ImageFinder(self.images_folder, subfolders=True)

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        name = display_name(file, self.path)
        shard = _PACKED.sub("", name)
        for item in read_json_lines(file, name):
            if isinstance(item, BadItem):
                yield item
                continue
            line, document = item
            member = f"/{line.member}" if line.member else ""
            location = LineLocation(name, line.number, f"{shard}{member}:{line.number}")
            yield from read_mmc4_document(document, location, self._find)

    def _find(self, name: str, url: Any) -> RecordImage:
        return self.images.find(name, url if isinstance(url, str) else None)


def _is_shard(name: str) -> bool:
    return _SHARD.fullmatch(name) is not None


def _by_number(path: Path) -> tuple[int, str]:
    found = _SHARD.fullmatch(path.name)
    return (int(found[1]) if found else 0, str(path))
