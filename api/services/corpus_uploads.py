"""Corpora that clients send: a zip that arrives in chunks and is unpacked below ``$LCL_HOME/data/uploads``.

The folder of an upload has ``upload.json`` (owner and size), ``archive.zip`` while it arrives, and ``corpus`` once it
is unpacked. The size of the archive is how far the upload is, so a client whose connection broke asks and goes on. A
lock on ``upload.json`` keeps two requests, of any process, from writing one upload.

A conversion to shards reads ``corpus``. Uploads that no dataset and no unfinished run names are garbage after the grace
period (``lcl_core.db.garbage``).
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from api.core.errors import Problem
from lcl_core.common.archive import Unpacked, unpack_zip
from lcl_core.common.files import remove_tree, write_json_atomically
from lcl_core.db.models import UPLOAD_PREFIX, UPLOADS_FOLDER, new_id

CHUNK_BYTES = 1 << 20  # of an archive in one request
MAX_FILES = 100_000
MAX_UPLOADS_PER_OWNER = 64
_ID = re.compile(rf"{UPLOAD_PREFIX}_[0-9a-z]{{18}}")
_INFO, _ARCHIVE, _CORPUS, _STAGED = "upload.json", "archive.zip", "corpus", ".unpacking"
_PROGRESS = "unpacking.json"
_PROGRESS_SECONDS = 0.5  # between two writes of it


@dataclass(frozen=True)
class CorpusUpload:
    """An upload and how far it is.

    Attributes:
        folder: of its files.
        bytes: of the archive. ``received``: of them, so far.
        corpus: folder of the unpacked corpus. None: it is not unpacked.
        stored_path: of the folder below the home, by which its bytes are charged.
        unpacking: members that are unpacked, and all, while a request unpacks them.
    """

    id: str
    owner: str
    folder: Path
    bytes: int
    received: int
    corpus: Path | None
    unpacking: tuple[int, int] | None = None

    @property
    def stored_path(self) -> str:
        return f"{UPLOADS_FOLDER}/{self.id}"


class CorpusUploads:
    """The uploads below a home folder. Methods block on files.

    Args:
        max_bytes: of an archive, and of its files together.
    """

    def __init__(self, home: Path, max_bytes: int) -> None:
        self._root = home.resolve() / UPLOADS_FOLDER
        self._max_bytes = max_bytes

    def create(self, owner: str, size: int) -> CorpusUpload:
        """Raises: Problem 413 ``archive_too_large``, 429 ``too_many_uploads``."""
        if size > self._max_bytes:
            message = f"the archive has more than {self._max_bytes} bytes; put the corpus into a data root instead"
            raise Problem(413, "archive_too_large", message, field="bytes")
        if self._count(owner) >= MAX_UPLOADS_PER_OWNER:
            message = f"{owner} has {MAX_UPLOADS_PER_OWNER} uploads; delete those that are not needed"
            raise Problem(429, "too_many_uploads", message, headers={"retry-after": "60"})
        folder = self._root / new_id(UPLOAD_PREFIX)
        folder.mkdir(mode=0o700, parents=True)
        (folder / _ARCHIVE).touch(mode=0o600)
        write_json_atomically(folder / _INFO, {"owner": owner, "bytes": size})
        return self._read(folder)

    def find(self, upload_id: str, owner: str | None) -> CorpusUpload:
        """Raises: Problem 404 ``unknown_upload``, also for one of another owner. ``owner`` None: of anybody."""
        upload = None
        if _ID.fullmatch(upload_id):
            with suppress(OSError, ValueError, KeyError):  # removed, or about to be
                upload = self._read(self._root / upload_id)
        if upload is None or owner not in (None, upload.owner):
            raise Problem(404, "unknown_upload", f"there is no upload {upload_id[:40]}; start it again")
        return upload

    def append(self, upload: CorpusUpload, offset: int, chunk: bytes) -> CorpusUpload:
        """Add the bytes at ``offset``; those that are there already are not written again.

        Raises:
            Problem: 409 ``upload_offset`` for bytes that do not continue it, ``upload_busy``; 422 ``upload_exceeded``.
        """
        with self._locked(upload) as upload:
            if upload.corpus is not None or offset > upload.received:
                message = f"the upload has {upload.received} bytes; continue from there"
                raise Problem(409, "upload_offset", message, field="offset")
            new = chunk[upload.received - offset :]
            if upload.received + len(new) > upload.bytes:
                message = f"the upload was announced with {upload.bytes} bytes; start it again"
                raise Problem(422, "upload_exceeded", message, field="data")
            with (upload.folder / _ARCHIVE).open("ab") as file:
                file.write(new)
            return self._read(upload.folder)

    def unpack(
        self, upload: CorpusUpload, charge: Callable[[CorpusUpload, int], None]
    ) -> tuple[CorpusUpload, Unpacked | None]:
        """Unpack a complete archive and remove it. Unpacked None: it was unpacked before.

        Args:
            charge: receives the bytes before they are kept; if it raises, the archive stays and may be unpacked again.

        Raises: what ``charge`` raises; Problem 409 ``upload_incomplete``, ``upload_busy``; UserError ``bad_archive``,
        ``archive_too_large``.
        """
        with self._locked(upload) as upload:
            if upload.corpus is not None:
                return upload, None
            if upload.received < upload.bytes:
                message = f"{upload.received} of {upload.bytes} bytes have arrived; send the rest first"
                raise Problem(409, "upload_incomplete", message)
            staged = upload.folder / _STAGED
            shutil.rmtree(staged, ignore_errors=True)
            try:
                archive = upload.folder / _ARCHIVE
                unpacked = unpack_zip(
                    archive,
                    staged,
                    max_bytes=self._max_bytes,
                    max_files=MAX_FILES,
                    on_member=_ProgressFile(upload.folder / _PROGRESS).write,
                )
                if not unpacked.files:
                    raise Problem(422, "bad_archive", "there is no file in the archive", field="archive")
                charge(upload, unpacked.bytes)
                staged.rename(upload.folder / _CORPUS)
                archive.unlink()
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
            finally:
                (upload.folder / _PROGRESS).unlink(missing_ok=True)
            return self._read(upload.folder), unpacked

    def delete(self, upload: CorpusUpload, release: Callable[[CorpusUpload], None]) -> None:
        """Remove its files. ``release`` is called first: what is interrupted then is charged to nobody, and garbage.

        Raises: what ``release`` raises; Problem 404 ``unknown_upload``, 409 ``upload_busy`` while another request
        writes or unpacks it.
        """
        with self._locked(upload):
            release(upload)
            remove_tree(upload.folder)

    def _read(self, folder: Path) -> CorpusUpload:
        """Raises: OSError, ValueError, KeyError for a folder that is no upload."""
        info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
        corpus = folder / _CORPUS
        if corpus.is_dir():
            return CorpusUpload(folder.name, info["owner"], folder, info["bytes"], info["bytes"], _inner_folder(corpus))
        received = (folder / _ARCHIVE).stat().st_size
        progress = None
        with suppress(OSError, ValueError, KeyError):  # nothing is unpacked now
            counts = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
            progress = int(counts["done"]), int(counts["total"])
        return CorpusUpload(folder.name, info["owner"], folder, info["bytes"], received, None, progress)

    def _count(self, owner: str) -> int:
        if not self._root.is_dir():
            return 0
        count = 0
        for folder in self._root.iterdir():
            with suppress(OSError, ValueError, KeyError):
                count += bool(_ID.fullmatch(folder.name)) and self._read(folder).owner == owner
        return count

    @contextmanager
    def _locked(self, upload: CorpusUpload) -> Iterator[CorpusUpload]:
        """The upload as it is under its lock. Raises: Problem 404 ``unknown_upload``, 409 ``upload_busy``."""
        try:
            file = (upload.folder / _INFO).open("rb")
        except FileNotFoundError as error:
            raise Problem(404, "unknown_upload", f"there is no upload {upload.id}; start it again") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = "another request writes this upload; ask how far it is and go on from there"
                raise Problem(409, "upload_busy", message, headers={"retry-after": "1"}) from error
            yield self.find(upload.id, None)  # a deletion may have had the lock since the file was opened


class _ProgressFile:
    """How far an archive is unpacked, for requests of other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0  # on the monotonic clock

    def write(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            write_json_atomically(self._path, {"done": done, "total": total})
            self._next = time.monotonic() + _PROGRESS_SECONDS


def _inner_folder(folder: Path) -> Path:
    """The folder that wraps everything in an archive, if there is one."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
