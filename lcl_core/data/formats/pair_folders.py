"""Image-text pairs whose files lie in folders, as img2dataset writes them by default (``--output_format files``).

    ROOT/00000/KEY.jpg, KEY.txt, KEY.json    a sample: image, caption, and what is known of it
    ROOT/00000.parquet                       a row for each image that img2dataset tried, failures included

The folders are read like the tars of a WebDataset, in the order of their names; they may lie one folder down.
Source: https://github.com/rom1504/img2dataset
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import FolderStore
from lcl_core.data.formats.base import WHOLE, FilesReader, display_name, file_stamp
from lcl_core.data.formats.image_index import IMAGE_EXTENSIONS
from lcl_core.data.formats.image_lookup import read_folder_image
from lcl_core.data.formats.webdataset import BenchmarkFiles, PairShard, SampleFile, SideTable, WebDatasetOptions
from lcl_core.data.records import BadItem, Record
from lcl_core.parts.plan import Section

_TEXT_EXTENSIONS = ("txt", "json")
_SNIFFED_IMAGES = 16
_SNIFFED_FOLDERS = 200
_SIDE_FILE = ".parquet"


def sniff_pairs(folder: Path) -> bool | None:
    """Whether most of the first images of a folder have a text file of the same stem; None: it has no image.

    Raises: OSError.
    """
    with os.scandir(folder) as entries:
        images = list(islice((entry.name for entry in entries if _is_image(entry.name)), _SNIFFED_IMAGES))
    stems = [name.rpartition(".")[0] for name in images]
    paired = sum(any((folder / f"{stem}.{text}").is_file() for text in _TEXT_EXTENSIONS) for stem in stems)
    return 2 * paired >= len(images) if images else None


class PairFoldersReader(FilesReader[WebDatasetOptions]):
    """Pair records, as of a WebDataset; ids are ``FOLDER/KEY``. A key is a file's name up to its last dot."""

    format = "pair_folders"
    options_type = WebDatasetOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        above = _folders(path) if path.is_dir() else []
        for folders in (above, chain.from_iterable(map(_folders, above))):
            sniffed = (sniff_pairs(folder) for folder in islice(folders, _SNIFFED_FOLDERS))
            paired = next((pairs for pairs in sniffed if pairs is not None), None)
            if paired is not None:
                return paired
        return False

    def paths(self) -> list[Path]:
        if not self.path.is_dir():
            raise UserError("a folder of folders of pairs is expected", code="corpus_unreadable", file=self.path)
        return _shard_folders(self.path)

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
        with os.scandir(self._folder) as entries:
            files = sorted((_split_name(entry.name), entry) for entry in entries if not entry.name.startswith("."))
        for key, sample in groupby(files, key=lambda file: file[0][0]):
            yield key, (self._file(extension, entry) for (_, extension, _), entry in sample)

    def _file(self, extension: str, entry: os.DirEntry[str]) -> tuple[str, SampleFile] | BadItem:
        if entry.is_dir(follow_symlinks=False):
            return self.bad("not an ordinary file", f"{entry.name[:120]} is a folder in a folder of pairs")
        inside = os.path.relpath(entry.path, self._corpus).replace(os.sep, "/")
        image = partial(read_folder_image, self._corpus, inside)
        return extension, SampleFile(entry.name, partial(self._store.read, inside), image)


def _side_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_SIDE_FILE}")


def _split_name(name: str) -> tuple[str, str, str]:
    """Key and extension of a file, and its name, which orders files of one extension."""
    stem, dot, extension = name.rpartition(".")
    return (stem, extension.lower(), name) if dot else (name, "", name)


def _shard_folders(root: Path) -> list[Path]:
    """Folders of samples directly in ``root``, or else one folder down, sorted."""
    above = _folders(root)
    shards = [folder for folder in above if _is_shard(folder)]
    return shards or [below for folder in above for below in _folders(folder) if _is_shard(below)]


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []


def _is_shard(folder: Path) -> bool:
    """Whether it has images, or a table of those that were tried. A folder that cannot be read is one, to be listed."""
    try:
        with os.scandir(folder) as entries:
            return any(_is_image(entry.name) for entry in entries) or _side_file(folder).is_file()
    except OSError:
        return True


def _is_image(name: str) -> bool:
    return not name.startswith(".") and "." in name and name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS
