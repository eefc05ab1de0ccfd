"""MMC4: ``docs_shard_{i}_v2.jsonl.zip`` and its kin (fewer faces: ``docs_no_face_shard_``; core: ``_v3``, unpacked or
gzipped), any subset of the shards in the order of their numbers; images as its download script or img2dataset left
them. Source: https://github.com/allenai/mmc4
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcl_core.data.readers.base import Reader
from lcl_core.data.readers.documents import Origin, read_document
from lcl_core.data.readers.folders import corpus_files, has_files, shown
from lcl_core.data.readers.images import ImageFinder, images_place
from lcl_core.data.readers.line_files import Line, read_lines
from lcl_core.data.readers.options import ReaderOptions
from lcl_core.data.readers.values import BadValue, parse_object
from lcl_core.data.record import BadItem, Picture, Record

_SHARD = re.compile(r"docs.*_shard_([0-9]{1,9})[^/]*\.jsonl(\.zip|\.gz)?", re.IGNORECASE | re.ASCII)
_PACKED = re.compile(r"\.(zip|gz)$", re.IGNORECASE)


class MMC4Options(ReaderOptions):
    """Attributes:
    images: folder or tar of the images; None: ``images`` beside the shards, if there.
    """

    images: Path | None = None


class MMC4Reader(Reader[MMC4Options]):
    """Matched records. An image is looked up by ``image_name``, or else by ``raw_url``."""

    format = "mmc4"
    options_type = MMC4Options

    @classmethod
    def sniff(cls, path: Path) -> bool:
        return has_files(path, _is_shard)

    def records(self) -> Iterator[Record | BadItem]:
        finder = ImageFinder(images_place(self.options.images, self.path))
        yield from finder.problems
        seen: set[str] = set()
        for file in corpus_files(self.path, _is_shard, order=_by_number):
            if isinstance(file, BadItem):
                yield file
                continue
            shard = _PACKED.sub("", shown(file, self.path))
            if shard in seen:
                yield BadItem(shown(file, self.path), 0, "repeated shard", f"{shard} is there unpacked or packed, too")
                continue
            seen.add(shard)
            yield from self._shard(file, shard, finder)

    def _shard(self, file: Path, shard: str, finder: ImageFinder) -> Iterator[Record | BadItem]:
        name = shown(file, self.path)

        def find(image: dict[str, Any]) -> Picture:
            url = image.get("raw_url")
            return finder.find(image["image_name"], url if isinstance(url, str) else None)

        for line in read_lines(file, name):
            if isinstance(line, BadItem):
                yield line
                continue
            try:
                document = parse_object(line.data)
            except BadValue as error:
                yield BadItem(name, line.number, "bad line", str(error))
                continue
            yield from read_document(document, Origin(name, line.number, _id(shard, line)), find)


def _id(shard: str, line: Line) -> str:
    member = f"/{line.member}" if line.member else ""
    return f"{shard}{member}:{line.number}"


def _is_shard(name: str) -> bool:
    return _SHARD.fullmatch(name) is not None


def _by_number(path: Path) -> tuple[int, str]:
    found = _SHARD.fullmatch(path.name)
    return (int(found[1]) if found else 0, str(path))
