"""Artifact store: folders behind a URL, each under a key of its own.

    KEY/files/…          the folder's files, each checked by reading it again
    KEY/parts/00001.json of a checkpoint of several nodes: what node 1 has sent, written after it
    KEY/manifest.json    written last: {"format", "files": {name: {"bytes", "sha256", "modified_at"}}}

KEY is ``encoders/enc_…/ATTEMPT`` and the like, of a checkpoint ``checkpoints/run_…/step_00000100/ATTEMPT_ID``. A key
without a manifest is an interrupted upload, and no row names it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.files import regular_files, sha256_file
from lcl_core.common.storage import Storage
from lcl_core.db.outbox import FileEntries

MANIFEST = "manifest.json"
CHUNK = 8 << 20  # bytes of one request
_FORMAT = 1
_ATTEMPTS = 3  # most protocol libraries retry, too, and a user may wait for the response
_DIGITS = "[0-9a-hjkmnp-tv-z]{18}"
_KEY = re.compile(
    rf"((?:runs/run|encoders/enc|collections/col|datasets/data)_{_DIGITS}/\d+"
    rf"|checkpoints/run_{_DIGITS}/step_\d+/[0-9a-f]{{16}})/.+"
)
_FOLDERS = ("runs", "encoders", "collections", "datasets", "checkpoints")
_LISTED_TOGETHER = 1000  # folders whose objects are listed, and in memory, at a time
_RUN_FILES = ("artifacts/", "log.txt", "metrics.jsonl", "result.json")  # only a resume needs the other files
CopySources = Mapping[str, tuple[str, str]]


class ArtifactStore:
    """Client of the store, safe from several threads. Raises UserError ``store_unreachable`` after retries.

    Args:
        url: of fsspec; credentials and endpoint come from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._storage = Storage(url, _ATTEMPTS)

    def put(self, key: str, folder: Path, copy_sources: CopySources) -> FileEntries:
        """Upload the regular files of a folder, then its manifest. Files that the store has already are not sent.

        Args:
            copy_sources: (key, name) of objects by the SHA-256 of their content, which the store copies.

        Raises: UserError also ``artifact_damaged`` for a file that differs from what was sent; OSError.
        """
        files, sizes = _describe_files(folder), self._sizes(key)
        for name, entry in files.items():
            source = copy_sources.get(entry["sha256"])
            self._put_file(f"{key}/files/{name}", folder / name, entry, source, sizes)
        self.put_manifest(key, {"files": files})
        return files

    def send_file(self, key: str, name: str, file: Path, source: tuple[str, str] | None = None) -> bool:
        """Upload one file of a folder, which is not read back: who reads it compares its SHA-256.

        Args:
            source: (key, name) of an object with the same content, which the store copies if it can.

        Returns: whether the file was sent, and not copied. Raises: OSError.
        """
        target = f"{key}/files/{name}"
        if source is not None and self._copy(source, target):
            return False
        self._with_retries(target, "written", lambda store, path: store.put_file(str(file), path))
        return True

    def put_manifest(self, key: str, content: Mapping[str, Any]) -> str:
        """Write the manifest of a folder whose files have all been sent. Returns: its SHA-256.

        Raises: UserError also ``artifact_damaged``.
        """
        manifest = json.dumps({"format": _FORMAT, **content}, ensure_ascii=False).encode()
        self._with_retries(f"{key}/{MANIFEST}", "written", lambda store, path: store.pipe_file(path, manifest))
        if self._read_manifest(key) != manifest:
            raise _damaged_error(MANIFEST)
        return hashlib.sha256(manifest).hexdigest()

    def put_part(self, key: str, node: int, content: Mapping[str, Any]) -> None:
        """Record what a node has sent of a folder that several nodes send."""
        part = json.dumps(content, ensure_ascii=False).encode()
        self._with_retries(f"{key}/parts/{node:05d}.json", "written", lambda store, path: store.pipe_file(path, part))

    def read_parts(self, key: str) -> list[dict[str, Any]]:
        """What nodes have recorded so far. One that is just being written is left out."""
        parts = []
        for name in self._sizes(f"{key}/parts"):
            content = self._with_retries(name, "read", lambda store, path: store.cat_file(path))
            with suppress(ValueError):
                parts.append(json.loads(content))
        return parts

    def read_manifest(self, key: str, sha256: str) -> dict[str, Any]:
        """The manifest of a folder. Raises: UserError ``artifact_damaged`` if it is another one, ``file_missing``."""
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

    def iter_keys(self) -> Iterator[tuple[str, int]]:
        """(key, bytes) of all keys that have the form of ours, listed piece by piece."""
        for folder in _FOLDERS:
            for prefix in _common_prefixes(self._names(folder)):
                keys: dict[str, int] = {}
                for name, size in self._sizes(folder, prefix).items():
                    match = _KEY.fullmatch(name)
                    if match is not None:
                        keys[match[1]] = keys.get(match[1], 0) + size
                yield from keys.items()

    def remove(self, key: str) -> None:
        """Remove all objects of a key, the manifest first. A key that does not exist is no error."""
        for name in (f"{key}/{MANIFEST}", key):
            try:
                self._with_retries(name, "written", lambda store, path: store.rm(path, recursive=True))
            except UserError as error:
                if error.code != "file_missing":
                    raise

    def _put_file(
        self, name: str, file: Path, entry: dict[str, Any], source: tuple[str, str] | None, sizes: Mapping[str, int]
    ) -> None:
        def is_stored() -> bool:
            return self._digest(name, entry["bytes"]) == entry["sha256"]

        if sizes.get(name) == entry["bytes"] and is_stored():
            return  # an earlier attempt sent it
        if source is not None and self._copy(source, name) and is_stored():
            return
        self._with_retries(name, "written", lambda store, path: store.put_file(str(file), path))
        if not is_stored():
            raise _damaged_error(file.name)

    def _copy(self, source: tuple[str, str], name: str) -> bool:
        """Copy an object inside the store. False: the store cannot, or the source has just been removed."""
        try:
            root = self._storage.files()[1]
            path_of_source = f"{root}/{source[0]}/files/{source[1]}"
            self._with_retries(name, "written", lambda store, path: store.cp_file(path_of_source, path))
        except UserError:
            return False
        return True

    def _digest(self, name: str, size: int) -> str:
        digest = hashlib.sha256()
        for chunk in self._read_chunks(name, 0, size):
            digest.update(chunk)
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

    def _names(self, folder: str) -> list[str]:
        """Sorted names of what is directly in a folder of the store."""

        def list_names(store: Any, path: str) -> list[str]:
            store.invalidate_cache()
            try:
                return sorted(name.rstrip("/").rpartition("/")[2] for name in store.ls(path, detail=False))
            except FileNotFoundError:
                return []

        return self._with_retries(folder, "read", list_names)

    def _sizes(self, folder: str, prefix: str = "") -> dict[str, int]:
        """{name: bytes} of every object below ``folder`` whose name continues with ``prefix``."""

        def list_objects(store: Any, path: str) -> dict[str, int]:
            store.invalidate_cache()
            root = self._storage.files()[1]
            # object storage finds a prefix by itself; a file system would walk through everything else as well
            by_prefix = prefix and "prefix" in inspect.signature(store.find).parameters
            starts = (
                [path] if by_prefix or not prefix else [f"{path}/{name}" for name in self._matching(folder, prefix)]
            )
            objects: dict[str, Any] = {}
            for start in starts:
                with suppress(FileNotFoundError):
                    objects |= store.find(start, detail=True, **({"prefix": prefix} if by_prefix else {}))
            return {name[len(root) :].strip("/"): int(details["size"] or 0) for name, details in objects.items()}

        return self._with_retries(folder, "read", list_objects)

    def _matching(self, folder: str, prefix: str) -> list[str]:
        return [name for name in self._names(folder) if name.startswith(prefix)]

    def _with_retries(self, name: str, verb: str, act: Any) -> Any:
        try:
            return self._storage.with_retries(name, verb, act)
        except UserError as error:
            if error.code == "file_missing":
                raise
            raise UserError(error.message, code="store_unreachable", file=error.file) from error


def _common_prefixes(names: Sequence[str]) -> Iterator[str]:
    """Prefixes that cover the sorted names, each of at most ``_LISTED_TOGETHER`` names."""
    if not names:
        return
    first, last = names[0], names[-1]
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    if len(names) <= _LISTED_TOGETHER:
        yield first[:length]
        return
    length += 1
    for _, group in groupby(names, lambda name: name[:length]):
        yield from _common_prefixes(list(group))


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


def _damaged_error(name: str) -> UserError:
    message = "the store does not hold what was sent to it: its bytes differ; look at the store, it will be sent again"
    return UserError(message, code="artifact_damaged", file=name)
