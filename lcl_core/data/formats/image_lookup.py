"""Images of a record by name or URL, wherever a dataset keeps them: a folder, tars, or img2dataset's output.

    FOLDER/NAME                 by name; links may not lead out of the folder
    FOLDER/SUBFOLDER/NAME       by NAME where the finder is made so, as MMC4's download script writes images
    *.tar                       by name in the tar, or by the last part of that name
    NAME.tar, NAME.parquet      also by the URL of the image: from the side file (columns ``key`` and ``url``), or
                                else from the KEY.json beside KEY.jpg
    NAME/KEY.jpg, NAME.parquet  by URL, the same in folders, whatever the extension; also one folder down

``NameIndex`` takes 40 bytes a name. Loaders are functions of plain values, so that records can be pickled.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import FileStore, FolderStore, has_file
from lcl_core.data.formats.base import corpus_files, display_name
from lcl_core.data.formats.parquet import read_batches, read_schema
from lcl_core.data.formats.tar_index import TarMember, split_member_name, walk_tar
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.json_values import BadValue, parse_json_object
from lcl_core.data.records import BadItem, RecordImage


def read_range(path: Path, offset: int, size: int, name: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """A member of a tar. Raises: UserError ``file_too_large`` or ``file_unreadable``, naming ``name``."""
    if size > max_bytes:
        raise _too_large_error(name, max_bytes)
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise UserError(f"{path.name}: {error.strerror}", code="file_unreadable", file=name) from error
    if len(data) != size:
        raise UserError(f"{path.name} has become shorter", code="file_unreadable", file=name)
    return data


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
        raise _too_large_error(name, MAX_IMAGE_BYTES)
    return data


def missing_image(name: str, where: str) -> bytes:
    """An image that is nowhere. Raises: UserError ``file_missing``."""
    raise UserError(f"the image is not in {where}", code="file_missing", file=name)


def _too_large_error(name: str, max_bytes: int) -> UserError:
    return UserError(f"the file is larger than {max_bytes:,} bytes", code="file_too_large", file=name)


_ROW_WIDTH = 5


class NameIndex:
    """Maps text to (file number, offset, size). Fill with ``add``, then ``seal``, then ``find``.

    Names are kept as 128-bit hashes: two names meet by chance once in 10^18 for a billion images.
    """

    def __init__(self) -> None:
        self._rows = array("Q")
        self._sorted = np.empty((0, _ROW_WIDTH), np.uint64)

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


class ImageFinder:
    """Finds images by name or URL.

    Tars and side files are indexed when it is made: once, 40 bytes a name or URL, and the file's name where it lies in
    a folder. Of two images of one name the first is found.

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
        self._place = path
        self._folder = path if path is not None and path.is_dir() else None
        self._index = NameIndex()
        self._tars: list[Path] = []
        self._folders: list[str] = []  # numbered from len(self._tars)
        self._file_names = bytearray()  # where entries of folders have their offset and size
        self.problems: list[BadItem] = []
        if path is not None:
            self._fill(path, subfolders)

    def find(self, name: str, url: str | None = None, image_name: str | None = None) -> RecordImage:
        """The image of that name, or else the one from that URL, as an image ``called`` so (or ``name``).

        Nothing is read yet: that an image is missing, too large or unreadable shows when it is loaded.
        """
        entry = self._index.find(f"name {name.removeprefix('./')}") or self._index.find(f"last {name}")
        if entry is None and url:
            entry = self._index.find(f"url {url}")
        return RecordImage(image_name or name, self._load(entry, name))

    def find_url(self, url: str, image_name: str) -> RecordImage:
        """The image from that URL, likewise."""
        entry = self._index.find(f"url {url}")
        if entry is None:
            return RecordImage(image_name, partial(missing_image, url, self._where))
        return RecordImage(image_name, self._load(entry, url))

    def _load(self, entry: tuple[int, int, int] | None, name: str) -> Callable[[], bytes]:
        if entry is not None and entry[0] < len(self._tars):
            return partial(read_range, self._tars[entry[0]], entry[1], entry[2], name)
        if self._folder is not None:
            return partial(read_folder_image, self._folder, name if entry is None else self._file(*entry))
        return partial(missing_image, name, self._where)

    def _file(self, number: int, offset: int, size: int) -> str:
        name = os.fsdecode(bytes(self._file_names[offset : offset + size]))
        return f"{self._folders[number - len(self._tars)]}/{name}"

    @property
    def _where(self) -> str:
        return "the images at hand" if self._place is None else self._place.name

    def _fill(self, path: Path, subfolders: bool) -> None:
        for file in corpus_files(path, is_tar):
            if isinstance(file, BadItem):
                self.problems.append(file)
            else:
                self._tars.append(file)
                self._add_tar(file, display_name(file, path))
        if self._folder is not None:
            sides = _folder_side_files(self._folder)
            for side in sides:
                self._add_by_url(self._folder, side)
            for below in self._subfolders(self._folder) if subfolders else ():
                if below.with_name(f"{below.name}.parquet") not in sides:
                    self._add_by_name(self._folder, below)
        self._index.seal()

    def _add_tar(self, tar: Path, name: str) -> None:
        number = len(self._tars) - 1
        images: dict[str, TarMember] = {}
        metas: dict[str, TarMember] = {}
        for member in self._members(tar, name):
            key, extension = split_member_name(member.name)
            if extension == "json":
                metas.setdefault(key, member)
            elif extension != "txt":
                self._add_image(number, member)
                if extension in IMAGE_EXTENSIONS:
                    images.setdefault(key, member)
        side = tar.with_suffix(".parquet")
        urls = self._side_urls(side) if has_url_columns(side) else self._meta_urls(tar, metas)
        for key, url in urls:
            if key in images:
                self._index.add(f"url {url}", number, images[key].offset, images[key].size)

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
        self._index.add(f"name {name}", number, member.offset, member.size)
        if "/" in name:
            self._index.add(f"last {name.rpartition('/')[2]}", number, member.offset, member.size)

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
        return len(self._tars) + len(self._folders) - 1

    def _add_file(self, label: str, number: int, name: str) -> None:
        data = os.fsencode(name)
        self._index.add(label, number, len(self._file_names), len(data))
        self._file_names += data

    def _subfolders(self, folder: Path) -> list[Path]:
        entries = self._entries(folder, folder)
        return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]

    def _image_files(self, folder: Path, below: Path) -> list[str]:
        """Names of the files that may be images."""
        if below.is_symlink() and not below.resolve().is_relative_to(folder.resolve()):
            self.problems.append(
                BadItem(display_name(below, folder), 0, "unsafe link", "the link leads out of the folder")
            )
            return []
        entries = self._entries(folder, below)
        return [entry.name for entry in entries if _may_be_image(entry.name) and not _is_folder(entry)]

    def _entries(self, folder: Path, below: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(below) as entries:
                return sorted(entries, key=lambda entry: entry.name)
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


def _folder_side_files(folder: Path) -> list[Path]:
    """Side files NAME.parquet of folders NAME/, those in ``folder``, or else one folder down."""
    for pattern in ("*.parquet", "*/*.parquet"):
        files = [side for side in sorted(folder.glob(pattern)) if side.with_suffix("").is_dir()]
        if found := [side for side in files if has_url_columns(side)]:
            return found
    return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _may_be_image(name: str) -> bool:
    return not name.startswith(".") and not name.lower().endswith((".txt", ".json"))


def find_images(option: Path | None, corpus: Path) -> Path | None:
    """Where the images are: as the option says, or ``images`` beside the corpus's files where that exists."""
    if option is not None:
        return option
    folder = (corpus if corpus.is_dir() else corpus.parent) / "images"
    return folder if folder.exists() else None


def has_url_columns(side: Path) -> bool:
    """Whether the side file exists and has the columns ``key`` and ``url``."""
    schema = read_schema(side) if side.is_file() else None
    return schema is not None and all(schema.names.count(column) == 1 for column in ("key", "url"))


class NamedImages:
    """Looks a name up in several folders.

    Args:
        path: a folder or tar, see :class:`ImageFinder`.

    Attributes:
        problems: what could not be indexed, for the reader to pass on.
    """

    def __init__(self, path: Path) -> None:
        self._finder = ImageFinder(path)
        self._store = FolderStore(path) if path.is_dir() else None
        self.problems: list[BadItem] = self._finder.problems

    def find(self, names: Iterable[str], image_name: str, url: str | None = None) -> RecordImage:
        """The first of ``names`` that exists; else the first of them, or ``url``, resolved when loaded."""
        candidates = list(dict.fromkeys(names))
        name = next((name for name in candidates if self.has(name)), candidates[0])
        return self._finder.find(name, url, image_name)

    def find_url(self, url: str, image_name: str) -> RecordImage:
        return self._finder.find_url(url, image_name)

    def has(self, name: str) -> bool:
        """Whether the folder has such a file."""
        return self._store is not None and has_file(self._store, name)
