"""Artifact store: folders behind a URL, each under a key of its own.

    KEY/files/…          the folder's files
    KEY/manifest.json    written last: {"format", "files": {name: {"bytes", "sha256", "modified_at"}}}

KEY is ``encoders/enc_…/ATTEMPT`` and the like, of a checkpoint ``checkpoints/run_…/step_00000100/ATTEMPT_ID``. A key
without a manifest is an interrupted upload, and no row names it. Readers compare the SHA-256 of what they read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.common.files import regular_files, sha256_file
from lcl_core.common.storage import Storage
from lcl_core.db.uploads import FileEntries

MANIFEST = "manifest.json"
CHUNK = 8 << 20  # bytes of one request
_FORMAT = 1
_ATTEMPTS = 3  # most protocol libraries retry as well, and a user may be waiting for the response
_RUN_FILES = ("artifacts/", "log.txt", "metrics.jsonl", "result.json")  # only a resume needs the other files


class ArtifactStore:
    """Client of the store, safe from several threads. Raises StoreError after retries.

    Args:
        url: of fsspec; credentials and endpoint come from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._storage = Storage(url, _ATTEMPTS)

    def put(self, key: str, folder: Path, progress: Callable[[], None] = no_progress) -> FileEntries:
        """Upload the regular files of a folder that the key does not have yet, then its manifest.

        Args:
            progress: called before each file.

        Raises: UserError ``missing_files``; OSError.
        """
        files, sizes = _describe_files(folder), self._sizes(key)
        for name, entry in files.items():
            progress()
            if sizes.get(f"{key}/files/{name}") != entry["bytes"]:
                self.send_file(key, name, folder / name)
        self.put_manifest(key, {"files": files})
        return files

    def send_file(self, key: str, name: str, file: Path) -> None:
        """Upload one file of a folder. Raises: OSError."""
        path = f"{key}/files/{name}"
        self._storage.with_retries(path, "written", lambda store, target: store.put_file(str(file), target))

    def put_manifest(self, key: str, content: Mapping[str, Any]) -> str:
        """Write the manifest of a folder whose files have all been sent. Returns: its SHA-256."""
        manifest = json.dumps({"format": _FORMAT, **content}, ensure_ascii=False).encode()
        self._storage.with_retries(f"{key}/{MANIFEST}", "written", lambda store, path: store.pipe_file(path, manifest))
        return hashlib.sha256(manifest).hexdigest()

    def read_manifest(self, key: str, sha256: str) -> dict[str, Any]:
        """The manifest of a folder. Raises: UserError ``artifact_damaged`` if it has changed, ``file_missing``."""
        manifest = self._storage.read(f"{key}/{MANIFEST}")
        if hashlib.sha256(manifest).hexdigest() != sha256:
            raise damaged_error(MANIFEST)
        content: dict[str, Any] = json.loads(manifest)
        return content

    def read_stream(self, key: str, name: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` of a file, in chunks of a few MiB. Raises: UserError ``artifact_damaged``."""
        for first in range(start, end, CHUNK):
            stop = min(first + CHUNK, end)
            data = self._storage.read(f"{key}/files/{name}", first, stop)
            if len(data) != stop - first:
                raise damaged_error(name)
            yield data

    def remove(self, key: str) -> None:
        """Remove all objects of a key, the manifest first. A key that does not exist is not an error."""
        for name in (f"{key}/{MANIFEST}", key):
            try:
                self._storage.with_retries(name, "written", lambda store, path: store.rm(path, recursive=True))
            except UserError as error:
                if error.code != "file_missing":
                    raise

    def _sizes(self, folder: str) -> dict[str, int]:
        """{name: bytes} of every object below ``folder``."""
        root = self._storage.files()[1]

        def list_objects(store: Any, path: str) -> dict[str, int]:
            store.invalidate_cache()
            try:
                objects = store.find(path, detail=True)
            except FileNotFoundError:
                return {}
            return {name[len(root) :].strip("/"): int(details["size"] or 0) for name, details in objects.items()}

        return self._storage.with_retries(folder, "read", list_objects)


def _describe_files(folder: Path) -> FileEntries:
    """The regular files of a folder; of the folder of a run those that the service shows. Raises: ``missing_files``."""
    if not folder.is_dir():
        raise UserError("the folder that was to be sent to the store is gone", code="missing_files", file=folder)
    is_run = folder.parent.name == "runs"
    return {
        name: {
            "bytes": status.st_size,
            "sha256": sha256_file(folder / name),
            "modified_at": datetime.fromtimestamp(status.st_mtime, UTC).isoformat(),
        }
        for name, status in regular_files(folder)
        if not is_run or name.startswith(_RUN_FILES)
    }


def damaged_error(name: str) -> UserError:
    message = "the store does not hold what was sent to it: its bytes differ; restore the object, or run anew"
    return UserError(message, code="artifact_damaged", file=name)
