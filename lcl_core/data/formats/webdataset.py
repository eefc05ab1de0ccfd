"""WebDataset tars of image-text pairs, as img2dataset writes them (LAION, CC3M, CC12M, DataComp), or CLIP benchmark.

``KEY.jpg`` with ``KEY.txt`` and ``KEY.json``, shard after shard in the order of their names; beside each tar there may
be the table NAME.parquet with a row for each image that img2dataset tried, failures included. A sample is put together
in the same way where its files lie in a folder; see ``pair_folders``.

CLIP benchmark's tars lie in a folder for each split. Beside it, or beside the tars:

    dataset_type.txt    "retrieval": KEY.txt has a caption a line
    classnames.txt      the class of each number that is in KEY.cls, from 0

Sources: https://github.com/rom1504/img2dataset, https://github.com/LAION-AI/CLIP_benchmark
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import FolderStore
from lcl_core.data.formats.base import (
    FilesReader,
    ReaderOptions,
    check_side_file,
    contains_files,
    corpus_files,
    corpus_paths,
    display_name,
    distinct_names,
    split_from_name,
    to_printable,
)
from lcl_core.data.formats.image_index import IMAGE_EXTENSIONS, MAX_META_BYTES, is_tar
from lcl_core.data.formats.parquet import RowBatch, read_batches
from lcl_core.data.formats.tar_index import IrregularMember, TarMember, read_range, split_member_name, walk_tar
from lcl_core.data.json_values import BadValue, decode_utf8, parse_json_object, to_json_safe
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage

# img2dataset writes 10,000 samples a shard
MAX_SIDE_ROWS = 250_000
MAX_SIDE_BYTES = 512 << 20


class SideTable:
    """Rows by key, in memory while their tar is read.

    Args:
        path: the Parquet file; it need not exist.
        root: the corpus, which it may not lead out of.

    Attributes:
        problems: why it, or some of its rows, could not be used.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self.name = path.name
        self.problems: list[BadItem] = []
        self._batches: list[pa.RecordBatch] = []
        self._places: dict[str, tuple[int, int, int]] = {}
        file = check_side_file(path, root)
        if isinstance(file, BadItem):
            self.problems.append(file)
        elif file is not None:
            self._fill(file)

    def row(self, key: str) -> dict[str, Any]:
        """The fields of a sample, empty where there is no row."""
        location = self._places.get(key)
        if location is None:
            return {}
        batch, index, _ = location
        try:
            fields = {name: column[index].as_py() for name, column in self._columns(batch)}
            return {name: value for name, value in to_json_safe(fields).items() if value is not None}
        except (
            BadValue,
            ValueError,
            OverflowError,
            pa.ArrowException,
        ):  # text that is not UTF-8, a date beyond Python's
            return {}

    def lost(self, seen: set[str], shard: str = "tar") -> Iterator[BadItem]:
        """A BadItem for each row whose sample is not among ``seen``, with the reason that the row gives."""
        for key, (_, _, number) in self._places.items():
            if key in seen:
                continue
            row = self.row(key)
            status = str(row.get("status", "success"))
            detail = " ".join(str(part) for part in (key, row.get("url"), row.get("error_message")) if part)[:300]
            reason = f"not in the {shard}" if status == "success" else "not downloaded"
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


_TYPE_FILE, _CLASSES_FILE, _SPLIT_FILE = "dataset_type.txt", "classnames.txt", "nshards.txt"


@dataclass(frozen=True)
class BenchmarkFiles:
    """What CLIP benchmark writes about all tars of a dataset.

    Attributes:
        retrieval: whether KEY.txt has a caption a line.
        classes: by number; one that two numbers share has its number added.
        problems: files that could not be used.
    """

    retrieval: bool = False
    classes: tuple[str, ...] = ()
    problems: tuple[BadItem, ...] = ()

    def captions(self, text: str | None) -> list[str]:
        """Captions of a KEY.txt."""
        if text is None or not self.retrieval:
            return [] if text is None else [text]
        return [line.rstrip("\r").replace("\\n", "\n") for line in text.split("\n")]

    def class_name(self, label: str) -> str | None:
        """The class of a KEY.cls; None: a number that is none of a class."""
        if not (self.classes and label.isascii() and label.isdigit()):
            return label
        number = int(label) if len(label) < 10 else len(self.classes)
        return (self.classes[number] or label) if number < len(self.classes) else None


def read_benchmark_files(tar: Path, corpus: Path) -> BenchmarkFiles:
    """Read them where they lie: beside the tar, or beside the folder of its split."""
    folders = [tar.parent]
    if tar.parent not in (corpus, corpus.parent) or (tar.parent / _SPLIT_FILE).is_file():
        folders.append(tar.parent.parent)
    problems: list[BadItem] = []
    kind, classes = (_first_text(folders, name, problems) for name in (_TYPE_FILE, _CLASSES_FILE))
    names = distinct_names([line.strip() for line in classes.splitlines()])
    return BenchmarkFiles(kind.strip().lower() == "retrieval", names, tuple(problems))


def _first_text(folders: Iterable[Path], name: str, problems: list[BadItem]) -> str:
    """Text of the file in the first folder that has it; empty for none."""
    for folder in folders:
        try:
            return decode_utf8(FolderStore(folder).read(name, MAX_META_BYTES))
        except (UserError, BadValue) as error:
            if not (isinstance(error, UserError) and error.code == "file_missing"):
                problems.append(BadItem(name, 0, "side file not used", str(error)))
                return ""
    return ""


_SNIFFED_MEMBERS = 16
MAX_MEMBERS = 64
_TEXT_MEMBERS = frozenset(("txt", "json", "cls"))


class WebDatasetOptions(ReaderOptions):
    """Attributes:
    caption_field: where KEY.json and the side file keep the caption, or a list of captions.
    """

    caption_field: str = Field("caption", min_length=1)


class WebDatasetReader(FilesReader[WebDatasetOptions]):
    """Pair records. Captions: KEY.txt, then those of KEY.json that differ; where there is none, the side file's.

    The other fields of KEY.json (of the side file where there is no usable KEY.json) go to ``extra``; KEY.cls is the
    label "class". Rows of a side file whose image is not in the tar are BadItems with the reason that the row gives.
    An image's name is that of its member. The split is that in the name of the tar (``cc3m-validation-0000.tar``) or of
    its folder, else train.
    """

    format = "webdataset"
    options_type = WebDatasetOptions
    shared_files = (_TYPE_FILE, _CLASSES_FILE)

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
        benchmark = read_benchmark_files(file, self.path)
        yield from benchmark.problems
        yield from _TarShard(file, self.path, self.options.caption_field, benchmark).records()


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One file of a sample.

    Attributes:
        name: of the file, as it is written.
        load: returns its content of at most so many bytes. Raises: UserError.
        image: returns the image, likewise.
    """

    name: str
    load: Callable[[int], bytes]
    image: Callable[[], bytes]


class PairShard(ABC):
    """Samples of one shard, a tar or a folder, and its side file.

    Args:
        name: of the shard, for messages.
        stem: of the ids of its records.
        side: the side file.
        caption_field: of KEY.json and of the side file.
    """

    kind: str

    def __init__(self, name: str, stem: str, side: SideTable, caption_field: str, benchmark: BenchmarkFiles) -> None:
        self.name = name
        self._stem = stem
        self._split = split_from_name(name)
        self._caption_field = caption_field
        self._benchmark = benchmark
        self._side = side
        self._number = 0

    @abstractmethod
    def samples(self) -> Iterator[tuple[str, Iterator[tuple[str, SampleFile] | BadItem]]]:
        """Keys and their files by extension. Raises: OSError."""

    def records(self) -> Iterator[Record | BadItem]:
        """All samples as records, and what could not be read."""
        yield from self._side.problems
        seen: set[str] = set()
        try:
            for key, files in self.samples():
                self._number += 1
                yield from self._sample(to_printable(key), files, seen)
        except OSError as error:
            yield self.bad("unreadable file", str(error.strerror))
        yield from self._side.lost({key.rpartition("/")[2] for key in seen}, self.kind)

    def bad(self, reason: str, detail: str) -> BadItem:
        """A BadItem of the sample that is being read."""
        return BadItem(self.name, self._number, reason, to_printable(detail))

    def _sample(
        self, key: str, entries: Iterator[tuple[str, SampleFile] | BadItem], seen: set[str]
    ) -> Iterator[Record | BadItem]:
        files: dict[str, SampleFile] = {}
        for entry in entries:
            if isinstance(entry, BadItem):
                yield entry
            elif entry[0] in files or len(files) == MAX_MEMBERS:
                yield self.bad("repeated member", entry[1].name)
            else:
                files[entry[0]] = entry[1]
        if not files:
            return
        images = [extension for extension in files if extension in IMAGE_EXTENSIONS]
        if key in seen:
            yield self.bad("repeated sample", f"the key {key[:120]!r} has been there before")
        elif not images:
            yield self.bad("no image", f"{key[:120]!r} has only {', '.join(files)[:120]}")
        else:
            for extension in images[1:]:
                yield self.bad("second image", files[extension].name)
            yield from self._record(key, files, files[images[0]])
        seen.add(key)

    def _record(self, key: str, files: dict[str, SampleFile], image: SampleFile) -> Iterator[Record | BadItem]:
        texts: dict[str, str] = {}
        extra: dict[str, Any] = {}
        for extension in sorted(_TEXT_MEMBERS & set(files)):
            try:
                data = files[extension].load(MAX_META_BYTES)
                if extension == "json":
                    extra = to_json_safe(parse_json_object(data))
                else:
                    texts[extension] = decode_utf8(data)
            except (BadValue, UserError) as error:
                yield self.bad(f"bad {extension}", f"{files[extension].name[:120]!r}: {error}")
        captions, stated_fields = self._benchmark.captions(texts.get("txt")), len(extra)
        yield from self._pop_captions(extra, captions, "bad json")
        if not _usable(captions) or not stated_fields:
            row = self._side.row(key.rpartition("/")[2])
            stated: list[str] = []
            yield from self._pop_captions(row, stated, "bad side row")
            captions = captions if _usable(captions) else stated
            extra = extra if stated_fields else row
        others = sorted(set(files) - _TEXT_MEMBERS - IMAGE_EXTENSIONS)
        if others:
            extra["other_members"] = others
        label = texts.get("cls", "").strip()
        name_of_class = self._benchmark.class_name(label)
        if name_of_class is None:
            yield self.bad("bad cls", f"{label[:20]} is none of the numbers of {_CLASSES_FILE}")
        labels = {"class": name_of_class or label} if label else {}
        name = to_printable(image.name.removeprefix("./").rpartition("/")[2])
        body = CaptionedImage(name, _usable(captions), labels)
        yield Record(f"{self._stem}/{key}", body, (RecordImage(name, image.image),), self._split, extra=extra)

    def _pop_captions(self, fields: dict[str, Any], captions: list[str], reason: str) -> Iterator[BadItem]:
        """Move the captions of a sample from its fields to ``captions``. A value that is none stays."""
        value = fields.get(self._caption_field)
        texts = value if isinstance(value, list) else [] if value is None else [value]
        if all(isinstance(text, str) for text in texts):
            captions += texts
            fields.pop(self._caption_field, None)
        else:
            detail = f"{self._caption_field!r} must be a string or a list of strings; it is kept as a further field"
            yield self.bad(reason, detail)


class _TarShard(PairShard):
    kind = "tar"

    def __init__(self, path: Path, corpus: Path, caption_field: str, benchmark: BenchmarkFiles) -> None:
        name, side = display_name(path, corpus), SideTable(path.with_suffix(".parquet"), corpus)
        super().__init__(name, name.removesuffix(".tar"), side, caption_field, benchmark)
        self._path = path

    def samples(self) -> Iterator[tuple[str, Iterator[tuple[str, SampleFile] | BadItem]]]:
        for key, entries in groupby(walk_tar(self._path), key=lambda entry: split_member_name(entry.name)[0]):
            yield key, map(self._file, entries)

    def _file(self, entry: TarMember | IrregularMember) -> tuple[str, SampleFile] | BadItem:
        if isinstance(entry, IrregularMember):
            reason = "damaged tar" if entry.broken else "not an ordinary file"
            return self.bad(reason, f"{entry.name[:120]} {entry.problem}".strip())
        read = partial(read_range, self._path, entry.offset, entry.size)
        name = to_printable(entry.name.rpartition("/")[2])
        return split_member_name(entry.name)[1], SampleFile(entry.name, partial(read, name), partial(read, name))


def _usable(captions: list[str]) -> tuple[str, ...]:
    """Those that are not blank, each once."""
    return tuple(dict.fromkeys(text for text in captions if text.strip()))
