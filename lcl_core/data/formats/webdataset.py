"""WebDataset tars of image-text pairs, as img2dataset writes them (LAION, CC3M, CC12M, DataComp).

``KEY.jpg`` with ``KEY.txt`` and ``KEY.json``, shard after shard in the order of their names; beside each tar there may
be the table NAME.parquet with a row for each image that img2dataset tried, failures included.
Source: https://github.com/rom1504/img2dataset
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from lcl_core.common.errors import UserError
from lcl_core.data.formats.base import (
    FilesReader,
    ReaderOptions,
    contains_files,
    corpus_files,
    corpus_paths,
    display_name,
    split_from_name,
    to_printable,
)
from lcl_core.data.formats.image_lookup import IMAGE_EXTENSIONS, MAX_META_BYTES, is_tar, read_range
from lcl_core.data.formats.parquet import RowBatch, read_batches
from lcl_core.data.formats.tar_index import IrregularMember, TarMember, split_member_name, walk_tar
from lcl_core.data.json_values import BadValue, decode_utf8, parse_json_object, to_json_safe
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage

# img2dataset writes 10,000 samples a shard
MAX_SIDE_ROWS = 250_000
MAX_SIDE_BYTES = 512 << 20


class SideTable:
    """Rows by key, in memory while their tar is read.

    Args:
        path: the Parquet file; it need not exist.

    Attributes:
        problems: why it, or some of its rows, could not be used.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.problems: list[BadItem] = []
        self._batches: list[pa.RecordBatch] = []
        self._places: dict[str, tuple[int, int, int]] = {}
        if path.is_file():
            self._fill(path)

    def row(self, key: str) -> dict[str, Any]:
        """The fields of a sample, empty where there is no row."""
        location = self._places.get(key)
        if location is None:
            return {}
        batch, index, _ = location
        try:
            fields = {name: column[index].as_py() for name, column in self._columns(batch)}
            return {name: value for name, value in to_json_safe(fields).items() if value is not None}
        except (BadValue, ValueError, pa.ArrowException):  # text that is not UTF-8, a date beyond Python's
            return {}

    def lost(self, seen: set[str]) -> Iterator[BadItem]:
        """A BadItem for each row whose sample is not among ``seen``, with the reason that the row gives."""
        for key, (_, _, number) in self._places.items():
            if key in seen:
                continue
            row = self.row(key)
            status = str(row.get("status", "success"))
            detail = " ".join(str(part) for part in (key, row.get("url"), row.get("error_message")) if part)[:300]
            reason = "not in the tar" if status == "success" else "not downloaded"
            yield BadItem(self.name, number, reason, detail)

    def _columns(self, batch: int) -> Iterator[tuple[str, Any]]:
        found = self._batches[batch]
        return ((name, found.column(location)) for location, name in enumerate(found.schema.names))

    def _fill(self, path: Path) -> None:
        columns = self._usable_columns(path)
        if columns is None:
            return
        for rows in read_batches(path, self.name, columns):
            if not isinstance(rows, RowBatch):
                self.problems.append(rows)
                continue
            self._batches.append(rows.batch)
            self._add(rows)

    def _add(self, rows: RowBatch) -> None:
        keys = rows.batch.column(rows.batch.schema.get_field_index("key"))
        for index in range(len(keys)):
            try:
                key = keys[index].as_py()
            except ValueError:
                key = None
            location = (len(self._batches) - 1, index, rows.start + index + 1)
            if key is None or self._places.setdefault(str(key), location) != location:
                problem = "no key" if key is None else f"the key {str(key)[:120]!r} occurs twice"
                self.problems.append(BadItem(self.name, rows.start + index + 1, "bad side row", problem))

    def _usable_columns(self, path: Path) -> list[str] | None:
        try:
            about = pq.read_metadata(path)
            schema = pq.read_schema(path)
            names = schema.names
        except (pa.ArrowException, OSError, ValueError) as error:
            self.problems.append(BadItem(self.name, 0, "damaged parquet", str(error).split("\n", 1)[0][:200]))
            return None
        size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        problem = ""
        if about.num_rows > MAX_SIDE_ROWS or size > MAX_SIDE_BYTES:
            problem = f"{about.num_rows:,} rows in {size:,} bytes; {MAX_SIDE_ROWS:,} in {MAX_SIDE_BYTES:,} are allowed"
        elif "key" not in names or len(names) != len(set(names)):
            problem = "it needs one column 'key', and no two columns of one name"
        if problem:
            self.problems.append(BadItem(self.name, 0, "side file not used", problem))
            return None
        binary = (pa.types.is_binary, pa.types.is_large_binary)
        return [field.name for field in schema if not any(kind(field.type) for kind in binary)]


_SNIFFED_MEMBERS = 16
MAX_MEMBERS = 64
_TEXT_MEMBERS = frozenset(("txt", "json", "cls"))


class WebDatasetOptions(ReaderOptions):
    """Attributes:
    caption_field: where KEY.json and the side file keep the caption.
    """

    caption_field: str = Field("caption", min_length=1)


class WebDatasetReader(FilesReader[WebDatasetOptions]):
    """Pair records. Captions: KEY.txt, then that of KEY.json where it differs; where there is none, the side file's.

    The other fields of KEY.json (of the side file where there is no usable KEY.json) go to ``extra``; KEY.cls is the
    label "class". Rows of a side file whose image is not in the tar are BadItems with the reason that the row gives.
    An image's name is that of its member. The split is that in the name of the tar (``cc3m-validation-0000.tar``) or of
    its folder, else train.
    """

    format = "webdataset"
    options_type = WebDatasetOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not contains_files(path, is_tar):
            return False
        first = next((file for file in corpus_files(path, is_tar) if isinstance(file, Path)), None)
        members = islice(walk_tar(first), _SNIFFED_MEMBERS) if first is not None else ()
        return any(split_member_name(member.name)[1] in IMAGE_EXTENSIONS for member in members)

    def paths(self) -> list[Path]:
        return corpus_paths(self.path, is_tar)

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        return _Shard(file, display_name(file, self.path), self.options.caption_field).records()


class _Shard:
    """One tar and its side file."""

    def __init__(self, path: Path, name: str, caption_field: str) -> None:
        self._path = path
        self._name = name
        self._stem = name.removesuffix(".tar")
        self._split = split_from_name(name)
        self._caption_field = caption_field
        self._side = SideTable(path.with_suffix(".parquet"))
        self._number = 0

    def records(self) -> Iterator[Record | BadItem]:
        yield from self._side.problems
        seen: set[str] = set()
        try:
            for key, members in groupby(walk_tar(self._path), key=lambda entry: split_member_name(entry.name)[0]):
                self._number += 1
                yield from self._sample(to_printable(key), members, seen)
        except OSError as error:
            yield self._bad("unreadable file", str(error.strerror))
        yield from self._side.lost({key.rpartition("/")[2] for key in seen})

    def _sample(
        self, key: str, entries: Iterator[TarMember | IrregularMember], seen: set[str]
    ) -> Iterator[Record | BadItem]:
        files: dict[str, TarMember] = {}
        for entry in entries:
            extension = split_member_name(entry.name)[1]
            if isinstance(entry, IrregularMember):
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

    def _record(self, key: str, files: dict[str, TarMember], image: TarMember) -> Iterator[Record | BadItem]:
        texts: dict[str, str] = {}
        extra: dict[str, Any] = {}
        for extension in sorted(_TEXT_MEMBERS & set(files)):
            try:
                data = read_range(self._path, files[extension].offset, files[extension].size, extension, MAX_META_BYTES)
                if extension == "json":
                    extra = to_json_safe(parse_json_object(data))
                else:
                    texts[extension] = decode_utf8(data)
            except (BadValue, UserError) as error:
                yield self._bad(f"bad {extension}", f"{files[extension].name[:120]!r}: {error}")
        captions = _captions(texts.get("txt"), extra.get(self._caption_field))
        if not captions or not extra:
            row = self._side.row(key.rpartition("/")[2])
            captions = captions or _captions(row.get(self._caption_field))
            extra = extra or row
        extra.pop(self._caption_field, None)
        others = sorted(set(files) - _TEXT_MEMBERS - IMAGE_EXTENSIONS)
        if others:
            extra["other_members"] = others
        name = to_printable(image.name.removeprefix("./").rpartition("/")[2])
        labels = {"class": texts["cls"].strip()} if texts.get("cls", "").strip() else {}
        loadable = RecordImage(name, partial(read_range, self._path, image.offset, image.size, name))
        body = CaptionedImage(name, captions, labels)
        yield Record(f"{self._stem}/{key}", body, (loadable,), self._split, extra=extra)

    def _bad(self, reason: str, detail: str) -> BadItem:
        return BadItem(self._name, self._number, reason, to_printable(detail))


def _captions(*stated: Any) -> tuple[str, ...]:
    """Those that are text and not blank, each once."""
    return tuple(dict.fromkeys(text for text in stated if isinstance(text, str) and text.strip()))
