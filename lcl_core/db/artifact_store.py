"""Artifact store: folders behind a URL, each under a key of its own.

    KEY/files/…          the folder's files, each checked by reading it again
    KEY/manifest.json    written last: {"format", "files": {name: {"bytes", "sha256", "modified_at"}}}

KEY is ``encoders/enc_…/ATTEMPT`` and the like, of a checkpoint ``checkpoints/run_…/step_00000100/ATTEMPT_ID``. A key
without a manifest is an interrupted upload, and no row names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.callbacks import Callback

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import Busy, UserError
from lcl_core.common.files import regular_files
from lcl_core.common.storage import Storage
from lcl_core.db.uploads import FileEntries

MANIFEST = "manifest.json"
CHUNK = 8 << 20  # bytes of one request
_FORMAT = 1
_ATTEMPTS = 3  # most protocol libraries retry as well, and a user may be waiting for the response
_RUN_FILES = ("artifacts/", "log.txt", "metrics.jsonl", "result.json")  # only a resume needs the other files


class ArtifactStore:
    """Client of the store, safe from several threads. Raises UserError ``store_unreachable`` after retries.

    Args:
        url: of fsspec; credentials and endpoint come from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._storage = Storage(url, _ATTEMPTS)

    def put(self, key: str, folder: Path, progress: Callable[[], None] = no_progress) -> FileEntries:
        """Upload the regular files of a folder, then its manifest. Files that the store has already are not sent.

        Args:
            progress: called before each file, and repeatedly during one; what it raises ends the call, at the latest
                after the file.

        Raises: UserError also ``artifact_damaged`` for a file that differs from what was sent; OSError.
        """
        files, sizes = _describe_files(folder, progress), self._sizes(key)
        for name, entry in files.items():
            progress()
            self._put_file(key, name, folder / name, entry, sizes, progress)
        progress()
        self.put_manifest(key, {"files": files})
        return files

    def send_file(self, key: str, name: str, file: Path) -> None:
        """Upload one file of a folder, which is not read back: readers compare its SHA-256. Raises: OSError."""
        self._send(key, name, file, no_progress)

    def put_manifest(self, key: str, content: Mapping[str, Any]) -> str:
        """Write the manifest of a folder whose files have all been sent. Returns: its SHA-256.

        Raises: UserError also ``artifact_damaged``.
        """
        manifest = json.dumps({"format": _FORMAT, **content}, ensure_ascii=False).encode()
        self._with_retries(f"{key}/{MANIFEST}", "written", lambda store, path: store.pipe_file(path, manifest))
        if self._read_manifest(key) != manifest:
            raise _damaged_error(MANIFEST)
        return hashlib.sha256(manifest).hexdigest()

    def read_manifest(self, key: str, sha256: str) -> dict[str, Any]:
        """The manifest of a folder. Raises: UserError ``artifact_damaged`` if it has changed, ``file_missing``."""
        manifest = self._read_manifest(key)
        if hashlib.sha256(manifest).hexdigest() != sha256:
            raise _damaged_error(MANIFEST)
        content: dict[str, Any] = json.loads(manifest)
        return content

    def _read_manifest(self, key: str) -> bytes:
        return bytes(self._with_retries(f"{key}/{MANIFEST}", "read", lambda store, path: store.cat_file(path)))

    def read_stream(self, key: str, name: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` of a file, in chunks of a few MiB."""
        return self._read_chunks(f"{key}/files/{name}", start, end)

    def remove(self, key: str) -> None:
        """Remove all objects of a key, the manifest first. A key that does not exist is not an error."""
        for name in (f"{key}/{MANIFEST}", key):
            self._remove(name)

    def _remove(self, name: str) -> None:
        try:
            self._with_retries(name, "written", lambda store, path: store.rm(path, recursive=True))
        except UserError as error:
            if error.code != "file_missing":
                raise

    def _put_file(
        self,
        key: str,
        name: str,
        file: Path,
        entry: dict[str, Any],
        sizes: Mapping[str, int],
        progress: Callable[[], None],
    ) -> None:
        target = f"{key}/files/{name}"

        def is_stored() -> bool:
            return self._digest(target, entry["bytes"], progress) == entry["sha256"]

        if sizes.get(target) == entry["bytes"] and is_stored():
            return  # an earlier attempt sent it
        self._send(key, name, file, progress)
        if not is_stored():
            raise _damaged_error(file.name)

    def _send(self, key: str, name: str, file: Path, progress: Callable[[], None]) -> None:
        """Upload a file. Raises: as ``progress``."""
        with _TransferProgress(progress) as callback:

            def put_file(store: Any, path: str) -> None:
                store.put_file(str(file), path, callback=callback)

            self._with_retries(f"{key}/files/{name}", "written", put_file)

    def _digest(self, name: str, size: int, progress: Callable[[], None]) -> str:
        digest = hashlib.sha256()
        for chunk in self._read_chunks(name, 0, size):
            digest.update(chunk)
            progress()
        return digest.hexdigest()

    def _read_chunks(self, name: str, start: int, end: int) -> Iterator[bytes]:
        for first in range(start, end, CHUNK):
            stop = min(first + CHUNK, end)

            def read(store: Any, path: str, first: int = first, stop: int = stop) -> bytes:
                return bytes(store.cat_file(path, start=first, end=stop))

            data = self._with_retries(name, "read", read)
            if len(data) != stop - first:
                raise _damaged_error(name)
            yield data

    def _sizes(self, folder: str) -> dict[str, int]:
        """{name: bytes} of every object below ``folder``."""

        def list_objects(store: Any, path: str) -> dict[str, int]:
            store.invalidate_cache()
            root = self._storage.files()[1]
            try:
                objects = store.find(path, detail=True)
            except FileNotFoundError:
                return {}
            return {name[len(root) :].strip("/"): int(details["size"] or 0) for name, details in objects.items()}

        return self._with_retries(folder, "read", list_objects)

    def _with_retries(self, name: str, verb: str, act: Any) -> Any:
        try:
            return self._storage.with_retries(name, verb, act)
        except UserError as error:
            if error.code == "file_missing":
                raise
            raise Busy(error.message, code="store_unreachable", file=error.file) from error


class _TransferProgress(Callback):
    """Calls ``progress`` while a file is sent, in a thread: the file system's own must not wait for a database.

    What ``progress`` raises is raised at the end of the block: in the transfer it would be one of the store's errors.
    """

    def __init__(self, progress: Callable[[], None]) -> None:
        super().__init__()
        self._progress, self._called = progress, Future[None]()
        self._called.set_result(None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="upload")

    def relative_update(self, inc: int = 1) -> None:
        if self._called.done() and self._called.exception() is None:
            self._called = self._thread.submit(self._progress)

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()
        self._called.result()


def _describe_files(folder: Path, progress: Callable[[], None]) -> FileEntries:
    """The regular files of a folder; of the folder of a run those that the service shows. Raises: ``missing_files``."""
    if not folder.is_dir():
        raise UserError("the folder that was to be sent to the store is gone", code="missing_files", file=folder)
    is_run = folder.parent.name == "runs"
    return {
        name: {
            "bytes": status.st_size,
            "sha256": _sha256_file(folder / name, progress),
            "modified_at": datetime.fromtimestamp(status.st_mtime, UTC).isoformat(),
        }
        for name, status in regular_files(folder)
        if not is_run or name.startswith(_RUN_FILES)
    }


def _sha256_file(file: Path, progress: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            progress()
    return digest.hexdigest()


def _damaged_error(name: str) -> UserError:
    message = "the store does not hold what was sent to it: its bytes differ; look at the store, it will be sent again"
    return UserError(message, code="artifact_damaged", file=name)
