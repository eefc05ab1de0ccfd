"""Writing shards: tar files of bounded size, in a folder that is renamed at the end or uploaded file by file.

.converting     lock file of the conversion that writes to a URL
shards/…, …     uploaded as soon as each is complete: an object store shows no partial object
index.json      uploaded last, and only if there is none: from then on there is a corpus
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.storage import Storage
from lcl_core.data.shards.format import (
    HEADER,
    MAX_GROUPS,
    MAX_RECORDS,
    ROW,
    SIMILARITY,
    TAR_END,
    check_shard_number,
    image_name,
    is_shard_corpus_file,
    json_name,
    shard_name,
    tar_member,
)
from lcl_core.data.shards.index import RecordGroup, ShardFile

LOCK_FILE = ".converting"
_DELETE_THREADS = 8


class UploadLock:
    """The right to write below a URL: a lock file that only one process can create.

    Args:
        owner: files of an earlier attempt by the same owner are replaced; empty: of none.
    """

    def __init__(self, storage: Storage, owner: str) -> None:
        self.storage, self._owner = storage, owner
        self._mark = json.dumps({"owner": owner, "token": secrets.token_hex(16)}).encode()

    def acquire(self, keep: Collection[str] = ()) -> bool:
        """Returns: whether an earlier attempt has left files.

        Args:
            keep: names of those that are used again; the others are removed.

        Raises: UserError ``target_exists``, ``conversion_running``, or what reading and writing there raises.
        """
        names = self._list()
        if LOCK_FILE in names and self._owner and self._holder().get("owner") == self._owner:
            self.storage.with_retries(LOCK_FILE, "written", lambda files, path: files.pipe_file(path, self._mark))
            self._remove(self._written() - set(keep))
            return True
        if names or not _create_file(self.storage, LOCK_FILE, self._mark):
            raise self._refusal(names or {LOCK_FILE})
        if others := self._list() - {LOCK_FILE}:  # of a conversion whose lock file came and went meanwhile
            self._remove({LOCK_FILE})
            raise self._refusal(others)
        return False

    def holds(self, names: Collection[str]) -> bool:
        """Whether an earlier attempt of the same owner holds the lock and all these files are there.

        Raises: StoreError.
        """
        return self._holder().get("owner") == self._owner and set(names) <= self._list(deep=True)

    def commit(self, folder: Path) -> None:
        """Write the index. Raises: UserError ``target_exists`` where another conversion did meanwhile."""
        if not _create_file(self.storage, HEADER, (folder / HEADER).read_bytes()):
            raise self._refusal({HEADER})
        self._remove({LOCK_FILE})

    def roll_back(self) -> None:
        """Remove the uploaded files, if the lock is still held. Files that cannot be removed stay without an index."""
        try:
            if self._holder() == json.loads(self._mark):
                self._remove(self._written())
                self._remove({LOCK_FILE})
        except UserError:
            return

    def _holder(self) -> dict[str, Any]:
        """Content of the lock file; {} where it is missing or foreign. Raises: StoreError."""
        try:
            content = json.loads(self.storage.read(LOCK_FILE))
        except ValueError:
            return {}
        except UserError as error:
            if error.code != "file_missing":
                raise
            return {}
        return content if isinstance(content, dict) else {}

    def _written(self) -> set[str]:
        """Files of conversions. Others may lie below the URL, such as corpora in folders there: these stay."""
        return {name for name in self._list(deep=True) if is_shard_corpus_file(name)}

    def _list(self, deep: bool = False) -> set[str]:
        """Names at the URL, relative to it; ``deep``: every file."""

        def list_files(files: Any, path: str) -> set[str]:
            files.invalidate_cache()
            try:
                names = files.find(path) if deep else files.ls(path, detail=False)
            except FileNotFoundError:
                return set()
            return {name[len(path) :].strip("/") for name in names} - {""}

        return self.storage.with_retries("", "read", list_files)

    def _remove(self, names: set[str]) -> None:
        def remove(name: str) -> None:
            try:
                self.storage.with_retries(name, "written", lambda files, path: files.rm_file(path))
            except UserError as error:
                if error.code != "file_missing":
                    raise

        with ThreadPoolExecutor(_DELETE_THREADS) as pool:
            list(pool.map(remove, sorted(names, key=lambda name: name != HEADER)))

    def _refusal(self, names: set[str]) -> UserError:
        if LOCK_FILE in names and HEADER not in names:
            code = "conversion_running"
            message = (
                "another conversion to this place is running, or was killed; wait for it, choose another place, or "
                "remove what lies there"
            )
        else:
            code, message = "target_exists", "there is something already; choose another place"
        return UserError(message, code=code, field="to", file=self.storage.url)


def _create_file(storage: Storage, name: str, data: bytes) -> bool:
    """Whether this process created the file, also in an attempt whose response was lost."""
    try:
        storage.with_retries(name, "written", lambda files, path: files.pipe_file(path, data, mode="create"))
    except FileExistsError:
        return storage.read(name) == data
    return True


ROW_FILE, SIMILARITY_FILE = "rows.tmp", "similarities.tmp"


class ShardWriter:
    """Writes below ``folder``: the same records give the same bytes.

    Args:
        folder: exists.
        shard_bytes: a shard is closed before it grows beyond this; a larger record has a shard of its own.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._shards: list[ShardFile] = []
        self._groups: dict[RecordGroup, int] = {}
        self._rows = (folder / ROW_FILE).open("wb")
        self._similarities = (folder / SIMILARITY_FILE).open("wb")
        self._shard: ShardTar | None = None
        self.records = 0

    @property
    def groups(self) -> list[RecordGroup]:
        """What the group codes of the rows stand for."""
        return list(self._groups)

    def add(
        self,
        group: RecordGroup,
        description: bytes,
        images: list[tuple[bytes, str]],
        text_bytes: int,
        similarities: list[float],
    ) -> None:
        """Append a record.

        Args:
            images: (bytes, extension) in order; those without bytes only have their number.
            similarities: see ``format.best_similarities``.

        Raises: UserError where a corpus has more records, shards or groups than the form can number.
        """
        if self.records >= MAX_RECORDS:
            message = f"a sharded corpus holds at most {MAX_RECORDS:,} records; make several, and mix them"
            raise UserError(message, code="corpus_too_large")
        record, code = self.records, self._code(group)
        head = tar_member(json_name(record), description)
        body = [tar_member(image_name(record, n, kind), data) for n, (data, kind) in enumerate(images) if data]
        data = b"".join((head, *body))
        shard = self._room_for(len(data))
        matches = len(similarities)
        row = (shard.bytes, len(data), len(head), text_bytes, len(self._shards), len(images), matches, code)
        self._rows.write(np.array(row, ROW).tobytes())
        self._similarities.write(np.array(similarities, SIMILARITY).tobytes())
        shard.write(data)
        self.records += 1

    def close(self) -> list[ShardFile]:
        """Close the last shard, and the files of rows and similarities. Returns: all shards."""
        self._close_shard()
        for file in (self._rows, self._similarities):
            if file.tell():
                file.flush()
                os.fsync(file.fileno())
            file.close()
        return self._shards

    def _code(self, group: RecordGroup) -> int:
        code = self._groups.setdefault(group, len(self._groups))
        if code >= MAX_GROUPS:
            message = f"more than {MAX_GROUPS:,} kinds of (split, source); name fewer sources"
            raise UserError(message, code="too_many_sources")
        return code

    def _room_for(self, size: int) -> ShardTar:
        if self._shard is not None and self._shard.bytes + size + len(TAR_END) > self._shard_bytes:
            self._close_shard()
        if self._shard is None:
            check_shard_number(len(self._shards))
            name = shard_name(len(self._shards))
            self._shard = ShardTar(self._folder / name, name)
        return self._shard

    def _close_shard(self) -> None:
        if self._shard is not None:
            shard = self._shard.close()
            self._shards.append(shard)
            self._shard = None


class ShardTar:
    """A tar file that is being written, as a shard of that name."""

    def __init__(self, path: Path, name: str) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._name, self._records = name, 0
        self.bytes = 0

    def write(self, data: bytes | bytearray) -> None:
        self._append(data)
        self._records += 1

    def close(self) -> ShardFile:
        self._append(TAR_END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return ShardFile(self._name, self.bytes, self._digest.hexdigest(), self._records)

    def _append(self, data: bytes | bytearray) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)
