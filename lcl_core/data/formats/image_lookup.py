"""Images of a record by name or URL, wherever a dataset keeps them: a folder, tars, or img2dataset's output.

    FOLDER/NAME                 by name; links may not lead out of the folder
    FOLDER/SUBFOLDER/NAME       by NAME where the finder is made so, as MMC4's download script writes images
    *.tar                       by name in the tar, or by the last part of that name
    NAME.tar, NAME.parquet      also by the URL of the image, from the side file (columns ``key`` and ``url``)
    NAME/KEY.jpg, NAME.parquet  by URL, the same in folders, whatever the extension; also one folder down

A large index is made once for all processes of this machine:

    CACHE/files/SHA256/    named by what it was made from: names, sizes and times
        images.db          SQLite: labels (``name NAME``, ``last NAME``, ``url URL``) and where each image lies
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from lcl_core.common.disk_cache import FolderCache, data_cache_bytes, data_cache_folder
from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import FileStore, FolderStore, has_file
from lcl_core.data.formats.base import (
    IMAGE_EXTENSIONS,
    FilesReader,
    ReaderOptions,
    check_side_file,
    corpus_files,
    corpus_paths,
    display_name,
    is_tar,
    link_error,
    list_folder,
    to_printable,
)
from lcl_core.data.formats.parquet import read_batches, read_schema
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.records import BadItem, RecordImage

SHARED_BYTES = 4 << 20  # of tables, tars' headers and directories: some 100,000 images
INDEX_FILE = "images.db"


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
    """An image whose bytes came with its record. Raises: UserError ``too_large``."""
    if len(data) > MAX_IMAGE_BYTES:
        raise UserError(f"the file is larger than {MAX_IMAGE_BYTES:,} bytes", code="too_large", file=name)
    return data


def missing_image(name: str, where: str) -> bytes:
    """An image that is nowhere. Raises: UserError ``file_missing``."""
    raise UserError(f"the image is not in {where}", code="file_missing", file=name)


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
        self._store = FolderStore(path) if path is not None and path.is_dir() else None
        self._index = _open_index(path, subfolders)
        self.problems = [BadItem(*row) for row in self._index.execute("SELECT * FROM problems")]

    def find(self, name: str, url: str | None = None, image_name: str | None = None) -> RecordImage:
        """The image of that name, or else the one from that URL, as an image called ``image_name`` (or ``name``).

        Nothing is read yet: that an image is missing, too large or unreadable shows when it is loaded.
        """
        labels = [f"name {name.removeprefix('./')}", f"last {name}", *([f"url {url}"] if url else [])]
        load = self._indexed(labels, name)
        if load is None and self._store is not None:
            load = partial(read_stored_image, self._store, name)
        return RecordImage(image_name or name, load or partial(missing_image, name, self._where))

    def find_first(self, names: Iterable[str], image_name: str, url: str | None = None) -> RecordImage:
        """The first of ``names`` that exists; else the first of them, or ``url``, resolved when loaded."""
        candidates = list(names)
        return self.find(next(filter(self.has, candidates), candidates[0]), url, image_name)

    def find_url(self, url: str, image_name: str) -> RecordImage:
        """The image from that URL, likewise."""
        return RecordImage(image_name, self._indexed([f"url {url}"], url) or partial(missing_image, url, self._where))

    def find_source(self, where: str, data: bytes | None, image_name: str) -> RecordImage:
        """The image with these bytes, or else from that URL or of that path, likewise."""
        if data is not None:
            return RecordImage(image_name, partial(inline_image, data, image_name))
        return self.find_url(where, image_name) if "://" in where else self.find(where, where, image_name)

    def has(self, name: str) -> bool:
        """Whether the folder has such a file."""
        return self._store is not None and has_file(self._store, name)

    def _indexed(self, labels: Iterable[str], name: str) -> Callable[[], bytes] | None:
        """Loads the first image that has one of the labels."""
        query = "SELECT path, offset, size FROM images JOIN files ON files.id = file WHERE label = ? LIMIT 1"
        for label in labels:
            if (row := self._index.execute(query, (_hash(label),)).fetchone()) is not None:
                path, offset, size = os.fsdecode(row[0]), row[1], row[2]
                if size is not None:
                    return partial(read_range, Path(path), offset, size, name)
                assert self._store is not None, "only a folder has files"
                return partial(read_stored_image, self._store, path)
        return None


def _open_index(path: Path | None, subfolders: bool) -> sqlite3.Connection:
    """The index of what there is at ``path``; one that several processes share where it is large.

    Its file stays readable after the eviction of its entry.
    """
    if path is not None:
        key, size = _fingerprint(path, subfolders)
        if size >= SHARED_BYTES:
            cache = FolderCache(data_cache_folder() / "files", data_cache_bytes())

            def make(folder: Path) -> None:
                _IndexBuilder(sqlite3.connect(folder / INDEX_FILE)).build(path, subfolders).close()

            with contextlib.suppress(OSError, sqlite3.Error), cache.open(key, make) as folder:
                place = f"{(folder / INDEX_FILE).resolve().as_uri()}?mode=ro&immutable=1"
                return sqlite3.connect(place, uri=True, check_same_thread=False)
    # a small one; or the disk is full or read-only, and each process has its own
    builder = _IndexBuilder(sqlite3.connect(":memory:", check_same_thread=False))
    return builder.build(path, subfolders)


class _IndexBuilder:
    """Fills the tables of an index. Labels are kept as 128-bit hashes, which meet by chance once in 10^18."""

    def __init__(self, index: sqlite3.Connection) -> None:
        self._index = index
        index.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB);"
            "CREATE TABLE images (label BLOB, file INTEGER, offset INTEGER, size INTEGER);"  # size: NULL for a file
            "CREATE TABLE problems (file TEXT, line INTEGER, reason TEXT, detail TEXT);"
        )

    def build(self, path: Path | None, subfolders: bool) -> sqlite3.Connection:
        if path is not None:
            for file in corpus_files(path, is_tar):
                if isinstance(file, BadItem):
                    self._add_problem(file)
                else:
                    self._add_tar(file, path)
        if path is not None and path.is_dir():
            tables = ([side for side in sides if self._has_urls(side, path)] for sides in _tables_of_folders(path))
            sides = next(filter(None, tables), [])
            for side in sides:
                self._add_by_url(path, side)
            for below in self._list(path, path, folders=True) if subfolders else ():
                for name in self._list(path, path / below) if path / f"{below}.parquet" not in sides else ():
                    self._add([f"last {name}"], self._add_path(f"{below}/{name}"))
        self._index.execute("CREATE INDEX by_label ON images (label)")
        self._index.commit()
        return self._index

    def _add_problem(self, item: BadItem) -> None:
        values = (item.file, item.line, item.reason, item.detail)
        printable = [to_printable(value) if isinstance(value, str) else value for value in values]
        self._index.execute("INSERT INTO problems VALUES (?, ?, ?, ?)", printable)

    def _add_path(self, path: str) -> int:
        return self._index.execute("INSERT INTO files (path) VALUES (?)", (os.fsencode(path),)).lastrowid or 0

    def _add(self, labels: Iterable[str], file: int, offset: int | None = None, size: int | None = None) -> None:
        rows = ((_hash(label), file, offset, size) for label in labels)
        self._index.executemany("INSERT INTO images VALUES (?, ?, ?, ?)", rows)

    def _add_tar(self, tar: Path, root: Path) -> None:
        file, name = self._add_path(str(tar)), display_name(tar, root)
        images: dict[str, TarMember] = {}
        irregular: list[str] = []
        try:
            for entry in walk_tar(tar):
                if isinstance(entry, IrregularMember):
                    if entry.broken:
                        self._add_problem(BadItem(name, 0, "damaged tar", entry.problem))
                    else:
                        irregular.append(entry.name)
                    continue
                key, extension = split_member_name(entry.name)
                if extension not in ("json", "txt"):
                    inside = entry.name.removeprefix("./")
                    labels = (f"name {inside}", f"last {inside.rpartition('/')[2]}")
                    self._add(labels, file, entry.offset, entry.size)
                    if extension in IMAGE_EXTENSIONS:
                        images.setdefault(key, entry)
        except OSError as error:
            self._add_problem(BadItem(name, 0, "unreadable file", str(error.strerror)))
        if irregular:
            detail = f"{len(irregular):,} entries are left out, such as {irregular[0][:120]!r}"
            self._add_problem(BadItem(name, 0, "not an ordinary file", detail))
        side = tar.with_suffix(".parquet")
        for key, url in self._side_urls(side) if self._has_urls(side, root) else ():
            if key in images:
                self._add([f"url {url}"], file, images[key].offset, images[key].size)

    def _add_by_url(self, folder: Path, side: Path) -> None:
        """The files of NAME/ by the URLs of NAME.parquet, whose rows may be of images that could not be downloaded."""
        below = side.with_suffix("")
        files = {name.partition(".")[0]: name for name in reversed(self._list(folder, below))}
        for key, url in self._side_urls(side):
            if key in files:
                self._add([f"url {url}"], self._add_path(f"{below.relative_to(folder).as_posix()}/{files[key]}"))

    def _has_urls(self, side: Path, root: Path) -> bool:
        """Whether there is a side file with the columns of URLs. One that leads out of ``root`` is a problem."""
        file = check_side_file(side, root)
        if isinstance(file, BadItem):
            self._add_problem(file)
        schema = read_schema(file) if isinstance(file, Path) else None
        return schema is not None and all(schema.names.count(column) == 1 for column in ("key", "url"))

    def _list(self, root: Path, folder: Path, folders: bool = False) -> list[str]:
        """Names of the folders, or of the files that may be images."""
        if not folder.resolve().is_relative_to(root.resolve()):
            self._add_problem(BadItem(display_name(folder, root), 0, "unsafe link", "it leads out of the folder"))
            return []
        try:
            entries = list_folder(folder)
        except OSError as error:
            self._add_problem(BadItem(display_name(folder, root), 0, "unreadable folder", str(error.strerror)))
            return []
        names = [name for name, is_folder in entries if is_folder == folders]
        return names if folders else [name for name in names if not name.lower().endswith((".txt", ".json"))]

    def _side_urls(self, file: Path) -> Iterator[tuple[str, str]]:
        for rows in read_batches(file, file.name, ("key", "url")):
            if isinstance(rows, BadItem):
                self._add_problem(rows)
                continue
            keys, urls = (rows.batch.column(column).to_pylist() for column in ("key", "url"))
            yield from ((str(key), str(url)) for key, url in zip(keys, urls, strict=True))


def _hash(label: str) -> bytes:
    return hashlib.blake2b(label.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _tables_of_folders(folder: Path) -> Iterator[list[Path]]:
    """Files NAME.parquet beside folders NAME/: those in ``folder``, and then those one folder down."""
    for pattern in ("*.parquet", "*/*.parquet"):
        yield [side for side in sorted(folder.glob(pattern)) if side.with_suffix("").is_dir()]


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


class ImagesOptions(ReaderOptions):
    """Attributes:
    images: folder or tars of the images; None: where the format usually has them.
    """

    images: Path | None = None


Options = TypeVar("Options", bound=ImagesOptions)


class ImagesReader(FilesReader[Options]):
    """Files whose records name images that lie beside them or elsewhere."""

    @property
    def images_folder(self) -> Path | None:
        return find_images(self.options.images, self.path)

    @cached_property
    def images(self) -> ImageFinder:
        return ImageFinder(self.images_folder)

    def problems(self) -> Iterator[BadItem]:
        return iter(self.images.problems)


_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True, slots=True)
class TarMember:
    """An ordinary file in a tar: its name as written there, not checked, and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class IrregularMember:
    """No ordinary file (a link, a device …): ``broken`` False; or where the tar breaks off: ``broken`` True."""

    name: str
    problem: str
    broken: bool = False


def walk_tar(path: Path) -> Iterator[TarMember | IrregularMember]:
    """Members in their order, folders left out; nothing follows one that is ``broken``.

    Raises: OSError when the file cannot be opened.
    """
    with path.open("rb") as file:
        if file.read(6).startswith(_PACKED):
            yield IrregularMember("", "the tar is compressed; unpack it to a plain .tar", broken=True)
            return
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                total = path.stat().st_size
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # the list would grow with the tar
                    if member.size < 0 or member.offset_data + member.size > total:
                        raise tarfile.ReadError(f"{member.name[:120]!r} has {member.size:,} bytes, the tar ends before")
                    if member.isreg() and not member.issparse():
                        yield TarMember(member.name, member.offset_data, member.size)
                    elif not member.isdir():
                        yield IrregularMember(member.name, "a link, a device, or a sparse file")
                # the library takes a damaged header for the end, and a tar that was cut there for a whole one
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    problem = f"neither header nor end mark at byte {archive.offset:,}; the tar is cut or damaged"
                    yield IrregularMember("", problem, broken=True)
                elif file.read(tarfile.RECORDSIZE).strip(b"\0"):
                    problem = "more follows the end mark (two tars in one file?); make one tar of it"
                    yield IrregularMember("", problem, broken=True)
        except (tarfile.TarError, ValueError, OverflowError) as error:
            yield IrregularMember("", f"the rest cannot be read ({error})", broken=True)


def split_member_name(name: str) -> tuple[str, str]:
    """Key and extension of a member of a WebDataset tar: cut at the first dot of the last part.

    ``a/b.seg.png`` → (``a/b``, ``seg.png``); extensions in lower case, a leading ``./`` dropped.
    """
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def read_range(path: Path, offset: int, size: int, name: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """A member of a tar. Raises: UserError ``too_large`` or ``file_unreadable``, naming ``name``."""
    if size > max_bytes:
        raise UserError(f"the file is larger than {max_bytes:,} bytes", code="too_large", file=name)
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise UserError(f"{path.name}: {error.strerror}", code="file_unreadable", file=name) from error
    if len(data) != size:
        raise UserError(f"{path.name} has become shorter", code="file_unreadable", file=name)
    return data
