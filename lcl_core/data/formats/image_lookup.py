"""Images of a record by name or URL, wherever a dataset keeps them: a folder, tars, or img2dataset's output.

    FOLDER/NAME                 by name; links may not lead out of the folder
    FOLDER/SUBFOLDER/NAME       by NAME where the finder is made so, as MMC4's download script writes images
    *.tar                       by name in the tar, or by the last part of that name
    NAME.tar, NAME.parquet      also by the URL of the image: from the side file (columns ``key`` and ``url``), or
                                else from the KEY.json beside KEY.jpg
    NAME/KEY.jpg, NAME.parquet  by URL, the same in folders, whatever the extension; also one folder down

Loaders are functions of plain values, so that records can be pickled. A large index is made once for all processes of
this machine and mapped by each:

    CACHE/files/SHA256/    named by what it was made from: names, sizes and times
        names.npy          rows of ``ImageIndex``, sorted
        files.bin          names of files in folders
        about.json         tars, folders and problems
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from lcl_core.common.disk_cache import DiskCache, data_cache_bytes, data_cache_folder
from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import FileStore, FolderStore, has_file
from lcl_core.data.formats.base import (
    IMAGE_EXTENSIONS,
    check_side_file,
    corpus_files,
    corpus_paths,
    display_name,
    is_tar,
    link_error,
    list_folder,
)
from lcl_core.data.formats.parquet import read_batches, read_schema
from lcl_core.data.formats.tar_index import TarMember, read_range, split_member_name, walk_tar
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.json_values import BadValue, parse_json_object
from lcl_core.data.records import BadItem, RecordImage

MAX_META_BYTES = 16 << 20
SHARED_BYTES = 4 << 20  # of tables, tars' headers and directories: some 100,000 images
_ROW_WIDTH = 5  # two halves of a name's hash, file number, offset, size


def read_folder_image(root: Path, name: str) -> bytes:
    """A file below a folder. Raises: UserError (``bad_path``, ``file_missing`` …), whatever the name is like."""
    return read_stored_image(FolderStore(root), name)


def read_stored_image(store: FileStore, name: str) -> bytes:
    """A file of a folder or a zip. Raises: UserError, likewise."""
    try:
        return store.read(name, MAX_IMAGE_BYTES)
    except OSError as error:  # a zip on a disk that fails
        raise UserError("the file cannot be read", code="file_unreadable", file=name) from error


def inline_image(data: bytes, name: str) -> bytes:
    """An image whose bytes came with its record. Raises: UserError ``file_too_large``."""
    if len(data) > MAX_IMAGE_BYTES:
        raise UserError(f"the file is larger than {MAX_IMAGE_BYTES:,} bytes", code="file_too_large", file=name)
    return data


def missing_image(name: str, where: str) -> bytes:
    """An image that is nowhere. Raises: UserError ``file_missing``."""
    raise UserError(f"the image is not in {where}", code="file_missing", file=name)


class ImageIndex:
    """Where the images of a folder or tar are: 40 bytes a name or URL, and the name of a file that lies in a folder.

    Names are kept as 128-bit hashes: two names meet by chance once in 10^18 for a billion images.

    Attributes:
        problems: what could not be indexed.
    """

    def __init__(self) -> None:
        self.problems: list[BadItem] = []
        self._added = array("Q")
        self._rows = np.empty((0, _ROW_WIDTH), np.uint64)  # sorted
        self._tars: list[str] = []
        self._folders: list[str] = []  # numbered from len(self._tars)
        self._file_names: Any = bytearray()  # entries of folders are ranges of it
        self._lock: IO[str] | None = None

    @classmethod
    def build(cls, path: Path, subfolders: bool) -> ImageIndex:
        """Index what there is at ``path``."""
        index = cls()
        for file in corpus_files(path, is_tar):
            if isinstance(file, BadItem):
                index.problems.append(file)
            else:
                index._tars.append(str(file))
                index._add_tar(file, path)
        if path.is_dir():
            tables = ([side for side in sides if index._has_urls(side, path)] for sides in _tables_of_folders(path))
            sides = next(filter(None, tables), [])
            for side in sides:
                index._add_by_url(path, side)
            for below in index._list(path, path, folders=True) if subfolders else ():
                if path / f"{below}.parquet" not in sides and (names := index._list(path, path / below)):
                    number = index._add_folder(below)
                    for name in names:
                        index._add_file(f"last {name}", number, name)
        rows = np.frombuffer(index._added, np.uint64).reshape(-1, _ROW_WIDTH)
        index._rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]  # stable: of two things of one name the first is found
        index._added = array("Q")
        return index

    @classmethod
    def load(cls, folder: Path, lock: IO[str]) -> ImageIndex:
        """Map a saved one. ``lock``: keeps the folder from being removed. Raises: OSError, ValueError."""
        index, about = cls(), json.loads((folder / "about.json").read_text())
        index._rows = np.load(folder / "names.npy", mmap_mode="r")
        index._tars, index._folders = about["tars"], about["folders"]
        index.problems = [BadItem(*item) for item in about["problems"]]
        index._lock = lock
        if (folder / "files.bin").stat().st_size:
            index._file_names = np.memmap(folder / "files.bin", np.uint8, "r")
        return index

    def save(self, folder: Path) -> None:
        """Write it to an empty folder. Raises: OSError."""
        np.save(folder / "names.npy", self._rows)
        (folder / "files.bin").write_bytes(self._file_names)
        about = {"tars": self._tars, "folders": self._folders, "problems": [astuple(item) for item in self.problems]}
        (folder / "about.json").write_text(json.dumps(about))

    def find(self, *labels: str) -> tuple[Path, int, int] | str | None:
        """Range of a tar, or path below the folder, of the first of ``name NAME``, ``last NAME``, ``url URL``."""
        for label in labels:
            high, low = _hash(label)
            row = int(np.searchsorted(self._rows[:, 0], np.uint64(high)))
            while row < len(self._rows) and self._rows[row, 0] == high:
                if self._rows[row, 1] == low:
                    return self._locate(*(int(value) for value in self._rows[row, 2:]))
                row += 1
        return None

    def _locate(self, number: int, offset: int, size: int) -> tuple[Path, int, int] | str:
        if number < len(self._tars):
            return Path(self._tars[number]), offset, size
        name = os.fsdecode(bytes(self._file_names[offset : offset + size]))
        return f"{self._folders[number - len(self._tars)]}/{name}"

    def _add(self, label: str, file: int, offset: int, size: int) -> None:
        self._added.extend((*_hash(label), file, offset, size))

    def _add_tar(self, tar: Path, root: Path) -> None:
        number = len(self._tars) - 1
        images: dict[str, TarMember] = {}
        metas: dict[str, TarMember] = {}
        for member in self._members(tar, display_name(tar, root)):
            key, extension = split_member_name(member.name)
            if extension == "json":
                metas.setdefault(key, member)
            elif extension != "txt":
                name = member.name.removeprefix("./")
                self._add(f"name {name}", number, member.offset, member.size)
                self._add(f"last {name.rpartition('/')[2]}", number, member.offset, member.size)
                if extension in IMAGE_EXTENSIONS:
                    images.setdefault(key, member)
        side = tar.with_suffix(".parquet")
        urls = self._side_urls(side) if self._has_urls(side, root) else self._meta_urls(tar, metas)
        for key, url in urls:
            if key in images:
                self._add(f"url {url}", number, images[key].offset, images[key].size)

    def _members(self, tar: Path, name: str) -> Iterator[TarMember]:
        irregular: list[str] = []
        try:
            for entry in walk_tar(tar):
                if isinstance(entry, TarMember):
                    yield entry
                elif entry.broken:
                    self.problems.append(BadItem(name, 0, "damaged tar", entry.problem))
                else:
                    irregular.append(entry.name)
        except OSError as error:
            self.problems.append(BadItem(name, 0, "unreadable file", str(error.strerror)))
        if irregular:
            detail = f"{len(irregular):,} entries are left out, such as {irregular[0][:120]!r}"
            self.problems.append(BadItem(name, 0, "not an ordinary file", detail))

    def _add_by_url(self, folder: Path, side: Path) -> None:
        """The files of NAME/ by the URLs of NAME.parquet, whose rows may be of images that could not be downloaded."""
        below = side.with_suffix("")
        files = {name.partition(".")[0]: name for name in reversed(self._list(folder, below))}
        number = self._add_folder(below.relative_to(folder).as_posix())
        for key, url in self._side_urls(side):
            if key in files:
                self._add_file(f"url {url}", number, files[key])

    def _add_folder(self, name: str) -> int:
        self._folders.append(name)
        return len(self._tars) + len(self._folders) - 1

    def _add_file(self, label: str, number: int, name: str) -> None:
        data = os.fsencode(name)
        self._add(label, number, len(self._file_names), len(data))
        self._file_names += data

    def _has_urls(self, side: Path, root: Path) -> bool:
        """Whether there is a side file with the columns of URLs. One that leads out of ``root`` is a problem."""
        file = check_side_file(side, root)
        if isinstance(file, BadItem):
            self.problems.append(file)
        return isinstance(file, Path) and has_url_columns(file)

    def _list(self, root: Path, folder: Path, folders: bool = False) -> list[str]:
        """Names of the folders, or of the files that may be images."""
        if not folder.resolve().is_relative_to(root.resolve()):
            self.problems.append(BadItem(display_name(folder, root), 0, "unsafe link", "it leads out of the folder"))
            return []
        try:
            entries = list_folder(folder)
        except OSError as error:
            self.problems.append(BadItem(display_name(folder, root), 0, "unreadable folder", str(error.strerror)))
            return []
        names = [name for name, is_folder in entries if is_folder == folders]
        return names if folders else [name for name in names if not name.lower().endswith((".txt", ".json"))]

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
                data = read_range(tar, member.offset, member.size, member.name, MAX_META_BYTES)
                url = parse_json_object(data).get("url")
            except (BadValue, UserError) as error:
                self.problems.append(BadItem(tar.name, 0, "bad json", f"{member.name[:120]!r}: {error}"))
                continue
            if isinstance(url, str):
                yield key, url


def _hash(label: str) -> tuple[int, int]:
    digest = hashlib.blake2b(label.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def has_url_columns(side: Path) -> bool:
    """Whether the side file has the columns ``key`` and ``url``."""
    schema = read_schema(side)
    return schema is not None and all(schema.names.count(column) == 1 for column in ("key", "url"))


def _tables_of_folders(folder: Path) -> Iterator[list[Path]]:
    """Files NAME.parquet beside folders NAME/: those in ``folder``, and then those one folder down."""
    for pattern in ("*.parquet", "*/*.parquet"):
        yield [side for side in sorted(folder.glob(pattern)) if side.with_suffix("").is_dir()]


def open_image_index(path: Path, subfolders: bool) -> ImageIndex:
    """The index of what there is at ``path``; one that several processes share where it is large."""
    key, size = _fingerprint(path, subfolders)
    if size >= SHARED_BYTES:
        cache = DiskCache(data_cache_folder() / "files", data_cache_bytes())
        try:
            with cache.open(
                key, lambda folder: ImageIndex.build(path, subfolders).save(folder), durable=True
            ) as folder:
                return ImageIndex.load(folder, cache.lock_entry(key))
        except (OSError, ValueError):  # a full or read-only disk: each process has its own
            pass
    return ImageIndex.build(path, subfolders)


def _fingerprint(path: Path, subfolders: bool) -> tuple[str, int]:
    """Hash of what decides the index, and about how large that is: of a tar, the share of its headers."""
    tars = corpus_paths(path, is_tar)
    others = [tar.with_suffix(".parquet") for tar in tars]
    if path.is_dir():
        sides = [side for files in _tables_of_folders(path) for side in files]
        others += [path, *sides, *(side.with_suffix("") for side in sides)]
        others += [path / name for name, is_folder in list_folder(path) if is_folder] if subfolders else ()
    digest = hashlib.sha256(repr((str(path.absolute()), subfolders)).encode("utf-8", "surrogateescape"))
    size = 0
    for source, share in [*((tar, 512) for tar in tars), *((other, 1) for other in others)]:
        try:
            status = source.stat()
        except OSError:  # a link to nothing, or no side file
            continue
        digest.update(f"\n{status.st_size} {status.st_mtime_ns} ".encode() + os.fsencode(source))
        size += status.st_size // share
    return digest.hexdigest(), size


class ImageFinder:
    """Finds images by name or URL. Tars and side files are indexed when it is made.

    Args:
        path: a folder of images, of tars or of img2dataset's output, or one tar; None: there are no images.
        subfolders: index the images one folder down by their names, too.

    Attributes:
        problems: what could not be indexed, for the reader to pass on.

    Raises:
        UserError: ``bad_option`` (field ``images``) when nothing exists at ``path``.
    """

    def __init__(self, path: Path | None, *, subfolders: bool = False) -> None:
        if path is not None and not path.exists():
            raise UserError("there is no such folder or tar of images", code="bad_option", field="images", file=path)
        self._where = "the images at hand" if path is None else path.name
        self._folder = path if path is not None and path.is_dir() else None
        self._index = ImageIndex() if path is None else open_image_index(path, subfolders)
        self.problems = self._index.problems

    def find(self, name: str, url: str | None = None, image_name: str | None = None) -> RecordImage:
        """The image of that name, or else the one from that URL, as an image called ``image_name`` (or ``name``).

        Nothing is read yet: that an image is missing, too large or unreadable shows when it is loaded.
        """
        labels = [f"name {name.removeprefix('./')}", f"last {name}", *([f"url {url}"] if url else [])]
        located = self._index.find(*labels)
        if located is None and self._folder is not None:
            located = name
        return RecordImage(image_name or name, self._loader(located, name))

    def find_url(self, url: str, image_name: str) -> RecordImage:
        """The image from that URL, likewise."""
        return RecordImage(image_name, self._loader(self._index.find(f"url {url}"), url))

    def _loader(self, located: tuple[Path, int, int] | str | None, name: str) -> Callable[[], bytes]:
        if isinstance(located, tuple):
            return partial(read_range, *located, name)
        if located is None:
            return partial(missing_image, name, self._where)
        assert self._folder is not None, "only a folder has files"
        return partial(read_folder_image, self._folder, located)


def find_images(option: Path | None, corpus: Path) -> Path | None:
    """Where the images are: as the option says, or ``images`` beside the corpus's files where that exists.

    Raises: UserError ``bad_path`` where ``images`` is a link that leads out of the corpus.
    """
    if option is not None:
        return option
    root = corpus if corpus.is_dir() else corpus.parent
    folder = root / "images"
    if not folder.exists():
        return None
    if not folder.resolve().is_relative_to(root.resolve()):
        raise link_error(folder, "the link leads out of the folder", "images")
    return folder


class NamedImages(ImageFinder):
    """Looks several names up."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._store = FolderStore(path) if path.is_dir() else None

    def find_first(self, names: Iterable[str], image_name: str, url: str | None = None) -> RecordImage:
        """The first of ``names`` that exists; else the first of them, or ``url``, resolved when loaded."""
        candidates = list(names)
        name = next((name for name in candidates if self.has(name)), candidates[0])
        return self.find(name, url, image_name)

    def has(self, name: str) -> bool:
        """Whether the folder has such a file."""
        return self._store is not None and has_file(self._store, name)
