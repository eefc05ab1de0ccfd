"""Corpora in files behind an fsspec URL, such as Parquet or tar files in S3, read by the reader of their format.

A file is downloaded whole into a bounded cache of this machine when its section is read, and stays there while it is
read; several processes that read parts of one file share the download. Records and ids are those of the same files on
disk.

    CACHE/files/SHA256/PATH    a file under its path below the URL, with its side file (same stem, ``.parquet``) and
                               those that it shares with others
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from lcl_core.common.disk_cache import FolderCache, data_cache_bytes, data_cache_folder
from lcl_core.common.errors import UserError
from lcl_core.common.storage import Storage
from lcl_core.data.corpus.file_store import safe_name
from lcl_core.data.formats import reader_class
from lcl_core.data.formats.base import WHOLE, FilesReader, ReaderOptions, option_paths, parse_options
from lcl_core.data.records import BadItem, Record
from lcl_core.parts import Section
from lcl_core.specs.corpus_jobs import REMOTE_FORMATS

_SIDE_FILE = ".parquet"
_STAMPS = ("ETag", "etag", "md5", "LastModified", "last_modified", "mtime", "updated", "created")


class RemoteFiles:
    """Records of the files below a URL: those directly below it, or else one folder down.

    Files that options name, such as a folder of images, lie on disk.

    Args:
        options: a reader's, already checked.
    """

    def __init__(self, url: str, format: str, options: ReaderOptions) -> None:
        self.url, self.format, self.options = url, format, options
        self._storage = Storage(url)
        self._cache = FolderCache(data_cache_folder() / "files", data_cache_bytes())

    def __reduce__(self) -> tuple[Any, tuple[str, str, ReaderOptions]]:
        return type(self), (self.url, self.format, self.options)

    def paths_beside(self) -> list[tuple[str, Path]]:
        return option_paths(self.options)

    def records(self) -> Iterator[Record | BadItem]:
        """All items in order. Raises: UserError ``not_found`` or ``file_unreadable``; StoreError."""
        for section in self.sections():
            yield from self.read_section(section.key)

    def sections(self) -> list[Section]:
        """One for each file. Raises: UserError ``not_found`` where there is no file of the format."""
        return [Section(WHOLE), *(Section(name, self._stamps[name]) for name in self._names)]

    def read_section(self, key: str, start: int = 0) -> Iterator[Record | BadItem]:
        """Items of a file from ``start`` on. Raises: UserError ``file_missing`` or ``file_unreadable``; StoreError."""
        if key == WHOLE:  # problems of what the options name
            with tempfile.TemporaryDirectory() as empty:
                yield from self._reader(Path(empty)).read_section(WHOLE, start)
            return
        path = PurePosixPath(key)
        shared: tuple[str, ...] = getattr(reader_class(self.format), "shared_files", ())
        sides = [path.with_suffix(_SIDE_FILE), *(folder / file for folder in path.parents for file in shared)]
        names = [key, *[side for side in map(str, sides) if side != key and side in self._stamps]]
        stamps = [self._stamps[name] for name in names]
        entry = hashlib.sha256("\n".join([self.url, *names, *stamps]).encode()).hexdigest()
        size = sum(self._sizes[name] or 0 for name in names)
        with self._cache.open(entry, lambda folder: self._download(names, folder), size) as folder:
            yield from self._reader(folder).read_section(key, start)

    def count_section(self, key: str) -> int:
        """How many items a file has."""
        return sum(1 for _ in self.read_section(key))

    def _reader(self, folder: Path) -> FilesReader[Any]:
        reader = reader_class(self.format)(folder, self.options)
        assert isinstance(reader, FilesReader)
        reader.is_partial = len(self._sizes) > 1
        return reader

    def _download(self, names: Sequence[str], folder: Path) -> None:
        is_file, _ = self._files_of_url
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._storage.download("" if is_file else name, target)
            listed, size = self._sizes[name], target.stat().st_size
            if listed not in (None, size):
                message = f"it was listed with {listed:,} bytes and has {size:,}: it changed meanwhile; "
                raise UserError(message + "start again", code="file_unreadable", file=f"{self.url}: {name}")

    @cached_property
    def _files_of_url(self) -> tuple[bool, Mapping[str, dict[str, Any]]]:
        """Whether the URL is that of a file; what the storage says of each file, by its path below the URL."""
        files, root = self._storage.files()
        found = self._storage.with_retries("", "read", lambda _, path: files.find(path, maxdepth=2, detail=True))
        if root in found:
            return True, {PurePosixPath(root).name: found[root]}
        listing = {path.removeprefix(root).lstrip("/"): details for path, details in found.items()}
        return False, {name: listing[name] for name in sorted(listing) if _stays_below(name)}

    @cached_property
    def _sizes(self) -> Mapping[str, int | None]:
        """Bytes of each file; None where the storage does not say, as some web servers do not."""
        return {name: details.get("size") for name, details in self._files_of_url[1].items()}

    @cached_property
    def _stamps(self) -> Mapping[str, str]:
        return {
            name: f"{self._sizes[name]} {next((details[key] for key in _STAMPS if details.get(key)), '')}"
            for name, details in self._files_of_url[1].items()
        }

    @cached_property
    def _names(self) -> list[str]:
        """Those that are of the format, in its order, which the names alone decide."""
        with tempfile.TemporaryDirectory() as folder:
            for name in self._files_of_url[1]:
                target = Path(folder, name)
                target.parent.mkdir(exist_ok=True)
                target.touch()
            names = [path.relative_to(folder).as_posix() for path in self._reader(Path(folder)).paths()]
        if not names:
            message = f"no file of format {self.format} lies there, nor one folder down; check the URL and the format"
            raise UserError(message, code="not_found", file=self.url)
        return names


def open_remote_files(url: str, format: str, options: Mapping[str, Any]) -> RemoteFiles:
    """Open the files behind a URL.

    Raises: UserError ``invalid_value`` whose field is the format, ``bad_option`` whose field is the option,
        ``corpus_unreadable`` for a protocol that is not known.
    """
    if format not in REMOTE_FORMATS:
        message = f"at a URL the formats {', '.join(REMOTE_FORMATS)} can be read, not {format}; copy the files to disk"
        raise UserError(message, field="format")
    return RemoteFiles(url, format, parse_options(reader_class(format).options_type, options, format))


def _stays_below(name: str) -> bool:
    try:
        return bool(safe_name(name))
    except UserError:  # a key of object storage may have any name
        return False
