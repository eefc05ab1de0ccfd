"""Image-text pairs as img2dataset writes them (LAION, CC3M, CC12M, DataComp), in tars or folders, or CLIP benchmark.

``KEY.jpg`` with ``KEY.txt`` and ``KEY.json``, shard after shard in the order of their names. A shard is a tar, or a
folder (img2dataset's default, ``--output_format files``), maybe one folder down. Beside each there may be the table
NAME.parquet with a row for each image that img2dataset tried, failures included.

CLIP benchmark's tars lie in a folder for each split. Beside it, or beside the tars:

    dataset_type.txt    "retrieval": KEY.txt has a caption a line
    classnames.txt      the class of each number that is in KEY.cls, from 0

An interleaved sample is a document: ``KEY.json`` with lists ``images`` and ``texts`` of one length, exactly one of the
two at each index, and its images as ``KEY.0.jpg``, ``KEY.1.jpg`` … in the order of the list.

Sources: https://github.com/rom1504/img2dataset, https://github.com/LAION-AI/CLIP_benchmark
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pydantic import Field

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import FolderStore
from lcl_core.data.formats.base import (
    IMAGE_EXTENSIONS,
    WHOLE,
    FilesReader,
    ReaderOptions,
    check_side_file,
    contains_files,
    corpus_files,
    corpus_paths,
    display_name,
    distinct_names,
    file_stamp,
    is_image_file,
    is_tar,
    list_folder,
    split_from_name,
    to_printable,
)
from lcl_core.data.formats.image_lookup import (
    IrregularMember,
    TarMember,
    missing_image,
    read_folder_image,
    read_range,
    split_member_name,
    walk_tar,
)
from lcl_core.data.formats.parquet import read_rows, read_schema
from lcl_core.data.jsonl import BadValue, decode_utf8, parse_json_object, to_json_safe
from lcl_core.data.records import (
    BadItem,
    CaptionedImage,
    ImageSegment,
    Record,
    RecordImage,
    Segment,
    SequenceDocument,
    TextSegment,
)
from lcl_core.parts import Section

# of a side file, which is in memory while its shard is read; img2dataset writes 10,000 samples a shard
MAX_SIDE_ROWS = 250_000
MAX_META_BYTES = 16 << 20  # of a text or JSON file of a sample
MAX_MEMBERS = 64  # of a sample
_SNIFFED_MEMBERS = 16
_SNIFFED_FOLDERS = 200
_TEXT_MEMBERS = frozenset(("txt", "json", "cls"))
_NUMBERED = re.compile(rf"\d+\.({'|'.join(IMAGE_EXTENSIONS)})")  # the image of an interleaved sample
_TYPE_FILE, _CLASSES_FILE, _SPLIT_FILE = "dataset_type.txt", "classnames.txt", "nshards.txt"


class SideTable:
    """Rows by key of the Parquet file beside a shard, which need not exist. ``problems``: why some are not used."""

    def __init__(self, path: Path, root: Path) -> None:
        self.name = path.name
        self.problems: list[BadItem] = []
        self._rows: dict[str, tuple[int, dict[str, Any]]] = {}  # number of the row, and its fields
        file = check_side_file(path, root)
        if isinstance(file, BadItem):
            self.problems.append(file)
        elif file is not None:
            self._fill(file)

    def _fill(self, path: Path) -> None:
        schema = read_schema(path)
        if schema is not None and schema.names.count("key") != 1:
            self.problems.append(BadItem(self.name, 0, "side file not used", "it needs one column 'key'"))
            return
        for row in read_rows(path, self.name):
            if isinstance(row, BadItem):
                self.problems.append(row)
                continue
            number, fields = row
            key = fields["key"]
            if len(self._rows) >= MAX_SIDE_ROWS:
                detail = f"it has more than {MAX_SIDE_ROWS:,} rows"
                self.problems.append(BadItem(self.name, number, "rest of side file not used", detail))
                return
            if key is None or str(key) in self._rows:
                detail = "no key" if key is None else f"the key {str(key)[:120]!r} occurs twice"
                self.problems.append(BadItem(self.name, number, "bad side row", detail))
                continue
            known = {name: value for name, value in fields.items() if value is not None}
            try:
                self._rows[str(key)] = number, to_json_safe(known)
            except BadValue as error:
                self.problems.append(BadItem(self.name, number, "bad side row", str(error)))

    def row(self, key: str) -> dict[str, Any]:
        """The fields of a sample, empty where there is no row."""
        return dict(self._rows[key][1]) if key in self._rows else {}

    def lost(self, seen: set[str], shard: str) -> Iterator[BadItem]:
        """A BadItem for each row whose sample is not among ``seen``, with the reason that the row gives."""
        for key, (number, row) in self._rows.items():
            if key not in seen:
                status = str(row.get("status", "success"))
                detail = " ".join(str(part) for part in (key, row.get("url"), row.get("error_message")) if part)[:300]
                reason = f"not in the {shard}" if status == "success" else "not downloaded"
                yield BadItem(self.name, number, reason, detail)


@dataclass(frozen=True)
class BenchmarkFiles:
    """What CLIP benchmark writes about all tars of a dataset.

    Attributes:
        retrieval: whether KEY.txt has a caption a line.
        classes: by number; one that two numbers share has its number added.
    """

    retrieval: bool = False
    classes: tuple[str, ...] = ()

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
        caption_field: of KEY.json and of the side file.
    """

    kind: str

    def __init__(self, name: str, stem: str, side: SideTable, caption_field: str, benchmark: BenchmarkFiles) -> None:
        self.name, self._stem, self._side = name, stem, side
        self._split = split_from_name(name)
        self._caption_field, self._benchmark = caption_field, benchmark
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
        images = [extension for extension in files if extension in IMAGE_EXTENSIONS]
        numbered = {name.partition(".")[0]: file for name, file in files.items() if _NUMBERED.fullmatch(name)}
        if key in seen:
            yield self.bad("repeated sample", f"the key {key[:120]!r} has been there before")
        elif not images and numbered and "json" in files:
            yield self._document(key, files["json"], numbered)
        elif not images and files:
            yield self.bad("no image", f"{key[:120]!r} has only {', '.join(files)[:120]}")
        elif images:
            for extension in images[1:]:
                yield self.bad("second image", files[extension].name)
            yield from self._record(key, files, files[images[0]])
        if files:
            seen.add(key)

    def _document(self, key: str, text: SampleFile, images: dict[str, SampleFile]) -> Record | BadItem:
        """An interleaved sample. ``images`` by their numbers, as in their names."""
        try:
            fields = to_json_safe(parse_json_object(text.load(MAX_META_BYTES)))
        except (BadValue, UserError) as error:
            return self.bad("bad json", f"{text.name[:120]!r}: {error}")
        listed, texts = fields.pop("images", None), fields.pop("texts", None)
        if not isinstance(listed, list) or not isinstance(texts, list) or len(listed) != len(texts):
            return self.bad("bad json", f"{text.name[:120]!r}: images and texts must be lists of one length")
        segments: list[Segment] = []
        number = 0
        for place, (image, written) in enumerate(zip(listed, texts, strict=True)):
            if (image is None) == (written is None) or not isinstance(written, str | None):
                return self.bad("bad json", f"{text.name[:120]!r}: one of image and text must stand at place {place}")
            segments.append(ImageSegment(str(number)) if written is None else TextSegment(written))
            number += written is None
        where = f"the files of {key[:120]!r}"
        found = [
            RecordImage(name, images[name].image if name in images else partial(missing_image, f"{key}.{name}", where))
            for name in map(str, range(number))
        ]
        return Record(f"{self._stem}/{key}", SequenceDocument(tuple(segments)), tuple(found), self._split, extra=fields)

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
        if others := sorted(set(files) - _TEXT_MEMBERS - IMAGE_EXTENSIONS):
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


def _usable(captions: list[str]) -> tuple[str, ...]:
    """Those that are not blank, each once."""
    return tuple(dict.fromkeys(text for text in captions if text.strip()))


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
        return any(is_image_file(f"x.{split_member_name(member.name)[1]}") for member in members)

    def paths(self) -> list[Path]:
        return corpus_paths(self.path, is_tar)

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        folders = [file.parent]  # or, of a tar of a split, the folder above
        if file.parent not in (self.path, self.path.parent) or (file.parent / _SPLIT_FILE).is_file():
            folders.append(file.parent.parent)
        problems: list[BadItem] = []
        kind, classes = (_first_text(folders, name, problems) for name in (_TYPE_FILE, _CLASSES_FILE))
        names = distinct_names([line.strip() for line in classes.splitlines()])
        yield from problems
        benchmark = BenchmarkFiles(kind.strip().lower() == "retrieval", names)
        yield from _TarShard(file, self.path, self.options.caption_field, benchmark).records()


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


class PairFoldersReader(FilesReader[WebDatasetOptions]):
    """Pair records, likewise, of folders; ids are ``FOLDER/KEY``. A key is a file's name up to its last dot."""

    format = "pair_folders"
    options_type = WebDatasetOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        above = _folders(path) if path.is_dir() else []
        for folders in (above, (below for folder in above for below in _folders(folder))):
            sniffed = (sniff_pairs(folder) for folder in islice(folders, _SNIFFED_FOLDERS))
            paired = next((pairs for pairs in sniffed if pairs is not None), None)
            if paired is not None:
                return paired
        return False

    def paths(self) -> list[Path]:
        """Folders of samples directly in the corpus, or else one folder down."""
        if not self.path.is_dir():
            raise UserError("a folder of folders of pairs is expected", code="corpus_unreadable", file=self.path)
        above = _folders(self.path)
        shards = [folder for folder in above if _is_shard(folder)]
        return shards or [below for folder in above for below in _folders(folder) if _is_shard(below)]

    def sections(self) -> list[Section]:
        stamps = {path: f"{path.stat().st_mtime_ns} {file_stamp(_side_file(path))}" for path in self.paths()}
        return [Section(WHOLE), *(Section(self.key(path), stamp) for path, stamp in stamps.items())]

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        return _FolderShard(self.path, file, self.options.caption_field).records()

    def _checked(self, path: Path) -> Iterator[Record | BadItem]:
        if path.resolve().is_relative_to(self.path.resolve()):
            return self.read_file(path)
        return iter((BadItem(display_name(path, self.path), 0, "unsafe link", "the link leads out of the folder"),))


class _FolderShard(PairShard):
    kind = "folder"

    def __init__(self, corpus: Path, folder: Path, caption_field: str) -> None:
        name = display_name(folder, corpus)
        super().__init__(name, name, SideTable(_side_file(folder), corpus), caption_field, BenchmarkFiles())
        self._corpus, self._folder = corpus, folder
        self._store = FolderStore(corpus)

    def samples(self) -> Iterator[tuple[str, Iterator[tuple[str, SampleFile] | BadItem]]]:
        files = sorted((*_split_name(name), name, is_folder) for name, is_folder in list_folder(self._folder))
        for key, sample in groupby(files, key=lambda file: file[0]):
            yield key, (self._file(extension, name, is_folder) for _, extension, name, is_folder in sample)

    def _file(self, extension: str, name: str, is_folder: bool) -> tuple[str, SampleFile] | BadItem:
        if is_folder:
            return self.bad("not an ordinary file", f"{name[:120]} is a folder in a folder of pairs")
        inside = os.path.relpath(self._folder / name, self._corpus).replace(os.sep, "/")
        image = partial(read_folder_image, self._corpus, inside)
        return extension, SampleFile(name, partial(self._store.read, inside), image)


def sniff_pairs(folder: Path) -> bool | None:
    """Whether most of the first images of a folder have a text file of the same stem; None: it has no image.

    Raises: OSError.
    """
    with os.scandir(folder) as entries:
        images = list(islice((entry.name for entry in entries if is_image_file(entry.name)), _SNIFFED_MEMBERS))
    stems = [name.rpartition(".")[0] for name in images]
    paired = sum(any((folder / f"{stem}.{text}").is_file() for text in ("txt", "json")) for stem in stems)
    return 2 * paired >= len(images) if images else None


def _side_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.parquet")


def _split_name(name: str) -> tuple[str, str]:
    """Key and extension of a file."""
    stem, dot, extension = name.rpartition(".")
    return (stem, extension.lower()) if dot else (name, "")


def _folders(folder: Path) -> list[Path]:
    try:
        return [folder / name for name, is_folder in list_folder(folder) if is_folder]
    except OSError:
        return []


def _is_shard(folder: Path) -> bool:
    """Whether it has images, or a table of those that were tried. A folder that cannot be read is one, to be listed."""
    try:
        with os.scandir(folder) as entries:
            return any(is_image_file(entry.name) for entry in entries) or _side_file(folder).is_file()
    except OSError:
        return True
