"""Index of the images of a folder or tar: where each is, by name and by URL; see ``image_lookup`` for what is found.

A large one is made once for all processes of this machine and mapped by each:

    CACHE/files/SHA256/    named by what it was made from: names, sizes and times
        names.npy          rows of ``NameIndex``, sorted
        files.bin          names of files in folders
        about.json         tars, folders and problems
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import IO

import numpy as np

from lcl_core.common.disk_cache import DiskCache, data_cache_bytes, data_cache_folder
from lcl_core.common.errors import UserError
from lcl_core.data.formats.base import check_side_file, corpus_files, corpus_paths, display_name
from lcl_core.data.formats.parquet import read_batches, read_schema
from lcl_core.data.formats.tar_index import TarMember, read_range, split_member_name, walk_tar
from lcl_core.data.json_values import BadValue, parse_json_object
from lcl_core.data.records import BadItem

_ROW_WIDTH = 5


class NameIndex:
    """Maps text to (file number, offset, size). Fill with ``add``, then ``seal``, then ``find``.

    Names are kept as 128-bit hashes: two names meet by chance once in 10^18 for a billion images.
    """

    def __init__(self) -> None:
        self._rows = array("Q")
        self._sorted = np.empty((0, _ROW_WIDTH), np.uint64)

    @classmethod
    def load(cls, file: Path) -> NameIndex:
        """A sealed index, mapped from a file. Raises: OSError, ValueError."""
        index = cls()
        index._sorted = np.load(file, mmap_mode="r")
        return index

    def save(self, file: Path) -> None:
        """Write a sealed index. Raises: OSError."""
        np.save(file, self._sorted)

    def add(self, name: str, file: int, offset: int, size: int) -> None:
        self._rows.extend((*_hash(name), file, offset, size))

    def seal(self) -> None:
        """Sort, stably: of two things of one name the first is found."""
        rows = np.frombuffer(self._rows, np.uint64).reshape(-1, _ROW_WIDTH)
        self._sorted = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        self._rows = array("Q")

    def repeated(self) -> int:
        """How many names were added that were there already."""
        first, second = self._sorted[:-1, :2], self._sorted[1:, :2]
        return int((first == second).all(axis=1).sum())

    def find(self, name: str) -> tuple[int, int, int] | None:
        """(file number, offset, size) of the first thing added under ``name``."""
        high, low = _hash(name)
        row = int(np.searchsorted(self._sorted[:, 0], np.uint64(high)))
        while row < len(self._sorted) and self._sorted[row, 0] == high:
            if self._sorted[row, 1] == low:
                file, offset, size = (int(value) for value in self._sorted[row, 2:])
                return file, offset, size
            row += 1
        return None


def _hash(name: str) -> tuple[int, int]:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


# of the formats that are decoded
IMAGE_EXTENSIONS = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif")
)
MAX_META_BYTES = 16 << 20
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")  # packed ones are found, to be reported


def is_tar(name: str) -> bool:
    return name.lower().endswith(_TARS)


_VERSION = 1  # of the form of its files
_NAMES, _FILES, _ABOUT = "names.npy", "files.bin", "about.json"
SHARED_BYTES = 4 << 20  # of tables and directories; some 100,000 images
_TAR_BYTES_A_NAME_BYTE = 512


class ImageIndex:
    """Where the images of a folder or tar are: 40 bytes a name or URL, and the name of a file that lies in a folder.

    Attributes:
        names: entries for ``locate``, by "name NAME", "last NAME" (of a path) and "url URL".
        tars: those that could be opened.
        problems: what could not be indexed.
    """

    def __init__(self) -> None:
        self.names = NameIndex()
        self.tars: list[Path] = []
        self.problems: list[BadItem] = []
        self._folders: list[str] = []  # numbered from len(self.tars)
        self._file_names: bytearray | bytes | mmap.mmap = bytearray()  # entries of folders are ranges of it
        self._lock: IO[str] | None = None

    def locate(self, number: int, offset: int, size: int) -> tuple[Path, int, int] | str:
        """The range of a tar, or the path below the folder, that an entry stands for."""
        if number < len(self.tars):
            return self.tars[number], offset, size
        name = os.fsdecode(bytes(self._file_names[offset : offset + size]))
        return f"{self._folders[number - len(self.tars)]}/{name}"

    def save(self, folder: Path) -> None:
        """Write it to an empty folder. Raises: OSError."""
        self.names.save(folder / _NAMES)
        (folder / _FILES).write_bytes(self._file_names)
        tars, problems = [str(tar) for tar in self.tars], [astuple(item) for item in self.problems]
        (folder / _ABOUT).write_text(json.dumps({"tars": tars, "folders": self._folders, "problems": problems}))

    @classmethod
    def load(cls, folder: Path, lock: IO[str]) -> ImageIndex:
        """Map it. Raises: OSError, ValueError.

        Args:
            lock: keeps the folder from being removed while it is open.
        """
        index, about = cls(), json.loads((folder / _ABOUT).read_text())
        index.names = NameIndex.load(folder / _NAMES)
        index.tars = [Path(tar) for tar in about["tars"]]
        index.problems = [BadItem(*item) for item in about["problems"]]
        index._folders, index._lock = about["folders"], lock
        with (folder / _FILES).open("rb") as file:
            empty = not os.fstat(file.fileno()).st_size
            index._file_names = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return index

    def fill(self, path: Path, *, subfolders: bool) -> None:
        """Index what there is at ``path``."""
        for file in corpus_files(path, is_tar):
            if isinstance(file, BadItem):
                self.problems.append(file)
            else:
                self.tars.append(file)
                self._add_tar(file, path)
        if path.is_dir():
            sides = self._folder_side_files(path)
            for side in sides:
                self._add_by_url(path, side)
            for below in self._subfolders(path) if subfolders else ():
                if below.with_name(f"{below.name}.parquet") not in sides:
                    self._add_by_name(path, below)
        self.names.seal()

    def _add_tar(self, tar: Path, root: Path) -> None:
        number = len(self.tars) - 1
        images: dict[str, TarMember] = {}
        metas: dict[str, TarMember] = {}
        for member in self._members(tar, display_name(tar, root)):
            key, extension = split_member_name(member.name)
            if extension == "json":
                metas.setdefault(key, member)
            elif extension != "txt":
                self._add_image(number, member)
                if extension in IMAGE_EXTENSIONS:
                    images.setdefault(key, member)
        side = tar.with_suffix(".parquet")
        urls = self._side_urls(side) if self._has_urls(side, root) else self._meta_urls(tar, metas)
        for key, url in urls:
            if key in images:
                self.names.add(f"url {url}", number, images[key].offset, images[key].size)

    def _members(self, tar: Path, name: str) -> Iterator[TarMember]:
        irregular: list[str] = []
        try:
            for entry in walk_tar(tar):
                if isinstance(entry, TarMember):
                    yield entry
                elif entry.broken:
                    self.problems.append(BadItem(name, 0, "damaged tar", entry.problem))
                else:
                    irregular.append(f"{entry.name[:120]!r} ({entry.problem})")
        except OSError as error:
            self.problems.append(BadItem(name, 0, "unreadable file", str(error.strerror)))
        if irregular:
            detail = f"{len(irregular):,} entries are left out, such as {irregular[0]}"
            self.problems.append(BadItem(name, 0, "not an ordinary file", detail))

    def _add_image(self, number: int, member: TarMember) -> None:
        name = member.name.removeprefix("./")
        self.names.add(f"name {name}", number, member.offset, member.size)
        if "/" in name:
            self.names.add(f"last {name.rpartition('/')[2]}", number, member.offset, member.size)

    def _add_by_url(self, folder: Path, side: Path) -> None:
        """The files of NAME/ by the URLs of NAME.parquet, whose rows may be of images that could not be downloaded."""
        below = side.with_suffix("")
        files = {name.partition(".")[0]: name for name in reversed(self._image_files(folder, below))}
        number = self._add_folder(folder, below)
        for key, url in self._side_urls(side):
            if key in files:
                self._add_file(f"url {url}", number, files[key])

    def _add_by_name(self, folder: Path, below: Path) -> None:
        names = self._image_files(folder, below)
        number = self._add_folder(folder, below) if names else 0
        for name in names:
            self._add_file(f"last {name}", number, name)

    def _add_folder(self, folder: Path, below: Path) -> int:
        self._folders.append(below.relative_to(folder).as_posix())
        return len(self.tars) + len(self._folders) - 1

    def _add_file(self, label: str, number: int, name: str) -> None:
        data = os.fsencode(name)
        self.names.add(label, number, len(self._file_names), len(data))
        assert isinstance(self._file_names, bytearray), "a mapped index is complete"
        self._file_names += data

    def _folder_side_files(self, folder: Path) -> list[Path]:
        """Side files NAME.parquet of folders NAME/, those in ``folder``, or else one folder down."""
        for files in _tables_of_folders(folder):
            if found := [side for side in files if self._has_urls(side, folder)]:
                return found
        return []

    def _has_urls(self, side: Path, root: Path) -> bool:
        """Whether there is a side file with the columns of URLs. One that leads out of ``root`` is a problem."""
        file = check_side_file(side, root)
        if isinstance(file, BadItem):
            self.problems.append(file)
            return False
        return file is not None and has_url_columns(file)

    def _subfolders(self, folder: Path) -> list[Path]:
        return [folder / name for name in self._names(folder, folder, _is_subfolder)]

    def _image_files(self, folder: Path, below: Path) -> list[str]:
        """Names of the files that may be images."""
        if below.is_symlink() and not below.resolve().is_relative_to(folder.resolve()):
            self.problems.append(
                BadItem(display_name(below, folder), 0, "unsafe link", "the link leads out of the folder")
            )
            return []
        return self._names(folder, below, _may_be_image)

    def _names(self, folder: Path, below: Path, selects: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        try:
            return _entry_names(below, selects)
        except OSError as error:
            self.problems.append(BadItem(display_name(below, folder), 0, "unreadable folder", str(error.strerror)))
            return []

    def _side_urls(self, file: Path) -> Iterator[tuple[str, str]]:
        for rows in read_batches(file, file.name, ("key", "url")):
            if isinstance(rows, BadItem):
                self.problems.append(rows)
                continue
            keys, urls = (rows.batch.column(column).to_pylist() for column in ("key", "url"))
            yield from ((str(key), str(url)) for key, url in zip(keys, urls, strict=True))

    def _meta_urls(self, tar: Path, metas: dict[str, TarMember]) -> Iterator[tuple[str, str]]:
        for key, member in metas.items():
            try:
                url = parse_json_object(read_range(tar, member.offset, member.size, member.name, MAX_META_BYTES)).get(
                    "url"
                )
            except (BadValue, UserError) as error:
                self.problems.append(BadItem(display_name(tar, tar), 0, "bad json", f"{member.name[:120]!r}: {error}"))
                continue
            if isinstance(url, str):
                yield key, url


def open_image_index(path: Path, *, subfolders: bool) -> ImageIndex:
    """The index of what there is at ``path``; one that several processes may share where it is large.

    Raises: UserError ``bad_setting``.
    """
    key, size = _identify(path, subfolders)
    if size >= SHARED_BYTES:
        cache = DiskCache(data_cache_folder() / "files", data_cache_bytes())
        try:
            with cache.open(key, lambda folder: _make(path, subfolders).save(folder), durable=True) as folder:
                return ImageIndex.load(folder, cache.lock_entry(key))
        # a full or read-only disk, or a damaged entry: each process has its own
        except (OSError, EOFError, ValueError):
            pass
    return _make(path, subfolders)


def _make(path: Path, subfolders: bool) -> ImageIndex:
    index = ImageIndex()
    index.fill(path, subfolders=subfolders)
    return index


def _identify(path: Path, subfolders: bool) -> tuple[str, int]:
    """Hash of what decides the index, and how large that is: an image of a tar counts as a name."""
    tars = corpus_paths(path, is_tar)
    others = [tar.with_suffix(".parquet") for tar in tars]
    if path.is_dir():
        sides = [side for files in _tables_of_folders(path) for side in files]
        others += [path, *sides, *(side.with_suffix("") for side in sides)]
        with contextlib.suppress(OSError):  # reported when the index is made
            others += [path / name for name in _entry_names(path, _is_subfolder)] if subfolders else ()
    digest = hashlib.sha256(repr((_VERSION, str(path.absolute()), subfolders)).encode("utf-8", "surrogateescape"))
    size, packed = 0, frozenset(tars)
    for source in (*tars, *others):
        try:
            status = source.stat()
        except OSError:  # a link to nothing, or no side file
            continue
        digest.update(f"\n{status.st_size} {status.st_mtime_ns} ".encode() + os.fsencode(source))
        size += status.st_size // (_TAR_BYTES_A_NAME_BYTE if source in packed else 1)
    return digest.hexdigest(), size


def _tables_of_folders(folder: Path) -> Iterator[list[Path]]:
    """Files NAME.parquet beside folders NAME/: those in ``folder``, and then those one folder down."""
    for pattern in ("*.parquet", "*/*.parquet"):
        yield [side for side in sorted(folder.glob(pattern)) if side.with_suffix("").is_dir()]


def _entry_names(folder: Path, selects: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """Sorted. Raises: OSError."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and selects(entry))


def _is_subfolder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _may_be_image(entry: os.DirEntry[str]) -> bool:
    return not entry.name.lower().endswith((".txt", ".json")) and not _is_subfolder(entry)


def has_url_columns(side: Path) -> bool:
    """Whether the side file has the columns ``key`` and ``url``."""
    schema = read_schema(side)
    return schema is not None and all(schema.names.count(column) == 1 for column in ("key", "url"))
