"""WebDataset tars of image-text pairs, as img2dataset writes them (LAION, CC3M, CC12M, DataComp): ``KEY.jpg`` with
``KEY.txt`` and ``KEY.json``, shard after shard in the order of their names, with the table NAME.parquet beside each
where there is one. Source: https://github.com/rom1504/img2dataset
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pydantic import Field

from lcl_core.data.readers.base import Reader
from lcl_core.data.readers.folders import corpus_files, has_files, shown
from lcl_core.data.readers.images import IMAGE_EXTENSIONS, MAX_META_BYTES, is_tar
from lcl_core.data.readers.loading import read_slice
from lcl_core.data.readers.options import ReaderOptions
from lcl_core.data.readers.side_files import SideFile
from lcl_core.data.readers.tars import Member, Odd, split_name, walk_tar
from lcl_core.data.readers.values import BadValue, decode_text, parse_object, plain_json, printable
from lcl_core.data.record import BadItem, Pair, Picture, Record
from lcl_core.errors import UserError

_SNIFFED_MEMBERS = 16
MAX_MEMBERS = 64
_READ = frozenset(("txt", "json", "cls"))


class WebDatasetOptions(ReaderOptions):
    """Attributes:
    caption_field: where KEY.json and the side file keep the caption.
    """

    caption_field: str = Field("caption", min_length=1)


class WebDatasetReader(Reader[WebDatasetOptions]):
    """Pair records. Captions: KEY.txt, then that of KEY.json where it differs; where there is none, the side file's.

    The other fields of KEY.json (of the side file where there is no usable KEY.json) go to ``extra``; KEY.cls is the
    label "class". Rows of a side file whose image is not in the tar are BadItems with the reason that the row gives.
    A picture's name is that of its member.
    """

    format = "webdataset"
    options_type = WebDatasetOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not has_files(path, is_tar):
            return False
        first = next((file for file in corpus_files(path, is_tar) if isinstance(file, Path)), None)
        members = islice(walk_tar(first), _SNIFFED_MEMBERS) if first is not None else ()
        return any(split_name(member.name)[1] in IMAGE_EXTENSIONS for member in members)

    def records(self) -> Iterator[Record | BadItem]:
        for file in corpus_files(self.path, is_tar):
            if isinstance(file, BadItem):
                yield file
            else:
                yield from _Shard(file, shown(file, self.path), self.options.caption_field).records()


class _Shard:
    """One tar and its side file."""

    def __init__(self, path: Path, name: str, caption_field: str) -> None:
        self._path = path
        self._name = name
        self._stem = name.removesuffix(".tar")
        self._caption_field = caption_field
        self._side = SideFile(path.with_suffix(".parquet"))
        self._number = 0

    def records(self) -> Iterator[Record | BadItem]:
        yield from self._side.problems
        seen: set[str] = set()
        try:
            for key, members in groupby(walk_tar(self._path), key=lambda entry: split_name(entry.name)[0]):
                self._number += 1
                yield from self._sample(printable(key), members, seen)
        except OSError as error:
            yield self._bad("unreadable file", str(error.strerror))
        yield from self._side.lost({key.rpartition("/")[2] for key in seen})

    def _sample(self, key: str, entries: Iterator[Member | Odd], seen: set[str]) -> Iterator[Record | BadItem]:
        files: dict[str, Member] = {}
        for entry in entries:
            extension = split_name(entry.name)[1]
            if isinstance(entry, Odd):
                reason = "damaged tar" if entry.broken else "not an ordinary file"
                yield self._bad(reason, f"{entry.name[:120]} {entry.problem}".strip())
            elif extension in files or len(files) == MAX_MEMBERS:
                yield self._bad("repeated member", entry.name)
            else:
                files[extension] = entry
        if not files:
            return
        images = [extension for extension in files if extension in IMAGE_EXTENSIONS]
        if key in seen:
            yield self._bad("repeated sample", f"the key {key[:120]!r} has been there before")
        elif not images:
            yield self._bad("no image", f"{key[:120]!r} has only {', '.join(files)[:120]}")
        else:
            for extension in images[1:]:
                yield self._bad("second image", files[extension].name)
            yield from self._record(key, files, files[images[0]])
        seen.add(key)

    def _record(self, key: str, files: dict[str, Member], image: Member) -> Iterator[Record | BadItem]:
        texts: dict[str, str] = {}
        extra: dict[str, Any] = {}
        for extension in sorted(_READ & set(files)):
            try:
                data = read_slice(self._path, files[extension].offset, files[extension].size, extension, MAX_META_BYTES)
                if extension == "json":
                    extra = plain_json(parse_object(data))
                else:
                    texts[extension] = decode_text(data)
            except (BadValue, UserError) as error:
                yield self._bad(f"bad {extension}", f"{files[extension].name[:120]!r}: {error}")
        captions = _captions(texts.get("txt"), extra.get(self._caption_field))
        if not captions or not extra:
            row = self._side.row(key.rpartition("/")[2])
            captions = captions or _captions(row.get(self._caption_field))
            extra = extra or row
        extra.pop(self._caption_field, None)
        others = sorted(set(files) - _READ - IMAGE_EXTENSIONS)
        if others:
            extra["other_members"] = others
        name = printable(image.name.removeprefix("./").rpartition("/")[2])
        labels = {"class": texts["cls"].strip()} if texts.get("cls", "").strip() else {}
        picture = Picture(name, partial(read_slice, self._path, image.offset, image.size, name))
        yield Record(f"{self._stem}/{key}", Pair(name, captions, labels), (picture,), extra=extra)

    def _bad(self, reason: str, detail: str) -> BadItem:
        return BadItem(self._name, self._number, reason, printable(detail))


def _captions(*stated: Any) -> tuple[str, ...]:
    """Those that are text and not blank, each once."""
    return tuple(dict.fromkeys(text for text in stated if isinstance(text, str) and text.strip()))
