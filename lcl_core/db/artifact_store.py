"""Artifact store: folders behind a URL, each under a key of its own.

    KEY/files/…          the folder's files, each checked by reading it again
    KEY/manifest.json    written last: {"format", "files": {name: {"bytes", "sha256", "modified_at"}}}

KEY is ``encoders/enc_…/ATTEMPT`` and the like. A key without a manifest is an interrupted upload, and no row names it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.files import regular_files, sha256_file
from lcl_core.common.storage import Storage
from lcl_core.db.outbox import FileEntries

MANIFEST = "manifest.json"
CHUNK = 8 << 20  # bytes of one request
_FORMAT = 1
_ATTEMPTS = 3  # the libraries of most protocols try again, too, and somebody may wait for an answer
_KEY = re.compile(r"((?:runs/run|encoders/enc|collections/col|datasets/data)_[0-9a-hjkmnp-tv-z]{18}/\d+)/.+")
_RUN_FILES = ("artifacts/", "log.txt", "metrics.jsonl", "result.json")  # the rest is of use to a resume alone
CopySources = Mapping[str, tuple[str, str]]


class ArtifactStore:
    """Safe from several threads. What cannot be reached raises UserError ``store_unreachable``, after retries.

    Args:
        url: of fsspec; credentials and endpoint come from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._storage = Storage(url, _ATTEMPTS)

    def put(self, place: str, folder: Path, twins: CopySources) -> FileEntries:
        """Send a folder's plain files, then its manifest. Files that are there already, bit for bit, are not sent.

        Args:
            twins: objects (place, name) by the sha256 of their bytes: these are copied where they are.

        Raises: UserError also ``artifact_damaged`` for what is not there as it was sent; OSError.
        """
        files, sizes = _describe_files(folder), self._sizes(f"{place}/")
        for name, facts in files.items():
            self._put_file(f"{place}/files/{name}", folder / name, facts, twins.get(facts["sha256"]), sizes)
        manifest = json.dumps({"format": _FORMAT, "files": files}, ensure_ascii=False).encode()
        self._act(f"{place}/{MANIFEST}", "written", lambda store, path: store.pipe_file(path, manifest))
        if self._act(f"{place}/{MANIFEST}", "read", lambda store, path: store.cat_file(path)) != manifest:
            raise _damaged_error(MANIFEST)
        return files

    def read_stream(self, place: str, name: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a file from ``start`` up to ``end``, a few MiB at a time."""
        return self._chunks(f"{place}/files/{name}", start, end)

    def list_keys(self) -> dict[str, int]:
        """Everything in the store that bears a name of ours: its place and bytes."""
        found: dict[str, int] = {}
        for name, size in self._sizes("").items():
            ours = _KEY.fullmatch(name)
            if ours is not None:
                found[ours[1]] = found.get(ours[1], 0) + size
        return found

    def remove(self, place: str) -> None:
        """Remove all that lies at a place, if it is there; the manifest first."""
        for name in (f"{place}/{MANIFEST}", place):
            try:
                self._act(name, "written", lambda store, path: store.rm(path, recursive=True))
            except UserError as error:
                if error.code != "file_missing":
                    raise

    def _put_file(
        self, name: str, file: Path, facts: dict[str, Any], twin: tuple[str, str] | None, sizes: Mapping[str, int]
    ) -> None:
        if sizes.get(name) == facts["bytes"] and self._digest(name, facts["bytes"]) == facts["sha256"]:
            return  # an earlier try got so far
        if twin is not None and self._copied(twin, name) and self._digest(name, facts["bytes"]) == facts["sha256"]:
            return
        self._act(name, "written", lambda store, path: store.put_file(str(file), path))
        if self._digest(name, facts["bytes"]) != facts["sha256"]:
            raise _damaged_error(file.name)

    def _copied(self, twin: tuple[str, str], name: str) -> bool:
        """Whether the store could copy it by itself; the twin may just have been removed."""
        source = f"{twin[0]}/files/{twin[1]}"
        try:
            root = self._storage.files()[1]
            self._act(name, "written", lambda store, path: store.cp_file(f"{root}/{source}", path))
        except UserError:
            return False
        return True

    def _digest(self, name: str, size: int) -> str | None:
        digest = hashlib.sha256()
        for chunk in self._chunks(name, 0, size):
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self, name: str, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, CHUNK):
            upto = min(at + CHUNK, end)

            def read(store: Any, path: str, at: int = at, upto: int = upto) -> bytes:
                return bytes(store.cat_file(path, start=at, end=upto))

            data = self._act(name, "read", read)
            if len(data) != upto - at:
                raise _damaged_error(name)
            yield data

    def _sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object whose name begins with ``prefix``, by name."""

        def look(store: Any, path: str) -> dict[str, int]:
            store.invalidate_cache()
            root = self._storage.files()[1]
            try:
                found = store.find(path.rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
            return {name[len(root) :].strip("/"): int(facts["size"] or 0) for name, facts in found.items()}

        return self._act(prefix, "read", look)

    def _act(self, name: str, verb: str, act: Any) -> Any:
        try:
            return self._storage.with_retries(name, verb, act)
        except UserError as error:
            if error.code == "file_missing":
                raise
            raise UserError(error.message, code="store_unreachable", file=error.file) from error


def _describe_files(folder: Path) -> FileEntries:
    """Of the plain files of a folder. Of a run's own: what the service shows of it."""
    if not folder.is_dir():
        raise UserError("the folder that was to be sent to the store is gone", code="missing_files", file=folder)
    run = folder.parent.name == "runs"
    return {
        name: {
            "bytes": facts.st_size,
            "sha256": sha256_file(folder / name),
            "modified_at": datetime.fromtimestamp(facts.st_mtime, UTC).isoformat(),
        }
        for name, facts in regular_files(folder)
        if not run or name.startswith(_RUN_FILES)
    }


def _damaged_error(name: str) -> UserError:
    message = "the store does not hold what was sent to it: its bytes differ; look at the store, it will be sent again"
    return UserError(message, code="artifact_damaged", file=name)
