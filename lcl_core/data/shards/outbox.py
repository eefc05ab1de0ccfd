"""Files on their way to a URL, and the right to put them there.

    .converting     who is at work here, as long as somebody is
    shards/…, …     each whole as soon as it is there: an object store shows no half of an object
    index.json      last, and only if there is none: from then on there is a corpus
"""

from __future__ import annotations

import json
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lcl_core.data.shards.layout import HEADER
from lcl_core.errors import UserError
from lcl_core.storage import Storage

MARK = ".converting"
_DELETERS = 8


class Claim:
    """The right to write below a URL: a marker that only one can make.

    Args:
        owner: what an earlier attempt of the same one left is replaced; empty: of nobody.
    """

    def __init__(self, storage: Storage, owner: str) -> None:
        self.storage, self._owner = storage, owner
        self._mark = json.dumps({"owner": owner, "token": secrets.token_hex(16)}).encode()

    def take(self) -> bool:
        """Returns: whether an earlier attempt's files were removed.

        Raises: UserError ``target_exists``, ``conversion_running``, or what reading and writing there raises.
        """
        names = self._names()
        if MARK in names and self._owner and self._holder().get("owner") == self._owner:
            _write(self.storage, MARK, self._mark)
            self._remove(self._names(deep=True) - {MARK})
            return True
        if names or not _create(self.storage, MARK, self._mark):
            raise self._refusal(names or {MARK})
        if others := self._names() - {MARK}:  # of somebody whose marker came and went since we looked
            self._remove({MARK})
            raise self._refusal(others)
        return False

    def conclude(self, folder: Path) -> None:
        """Write the index. Raises: UserError ``target_exists`` where somebody else did meanwhile."""
        if not _create(self.storage, HEADER, (folder / HEADER).read_bytes()):
            raise self._refusal({HEADER})
        self._remove({MARK})

    def withdraw(self) -> None:
        """Remove what was written, if the place is still ours. What cannot be removed stays without an index."""
        try:
            if self._holder() == json.loads(self._mark):
                self._remove(self._names(deep=True) - {MARK})
                self._remove({MARK})
        except UserError:
            return

    def _holder(self) -> dict[str, Any]:
        """What the marker says; nothing where it is gone or not of our making."""
        try:
            found = json.loads(self.storage.read(MARK))
        except (UserError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _names(self, deep: bool = False) -> set[str]:
        """What lies at the URL, relative to it; ``deep``: every file."""

        def look(files: Any, path: str) -> set[str]:
            files.invalidate_cache()
            try:
                found = files.find(path) if deep else files.ls(path, detail=False)
            except FileNotFoundError:
                return set()
            return {name[len(path) :].strip("/") for name in found} - {""}

        return self.storage.tried("", "read", look)

    def _remove(self, names: set[str]) -> None:
        def remove(name: str) -> None:
            self.storage.tried(name, "written", lambda files, path: files.rm_file(path))

        with ThreadPoolExecutor(_DELETERS) as pool:
            list(pool.map(remove, sorted(names, key=lambda name: name != HEADER)))

    def _refusal(self, names: set[str]) -> UserError:
        if MARK in names and HEADER not in names:
            message = (
                "another conversion to this place is running, or was killed; wait for it, choose another place, or "
                "remove what lies there"
            )
            return UserError(message, code="conversion_running", field="to", file=self.storage.url)
        message = "there is something already; choose another place"
        return UserError(message, code="target_exists", field="to", file=self.storage.url)


class Outbox:
    """Sends a finished file while the next one is being made: two of them are on the local disk at most.

    Leaving waits for what is under way.
    """

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self._folder = storage, folder
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future[None] | None = None

    def send(self, name: str) -> None:
        """Raises: UserError ``file_unwritable`` of the file before."""
        self._wait()
        self._under_way = self._pool.submit(self._send, name)

    def send_rest(self) -> None:
        """Everything that is left in the folder but the index's header."""
        self._wait()
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name = path.relative_to(self._folder).as_posix()
            if name != HEADER:
                self._send(name)

    def _send(self, name: str) -> None:
        local = self._folder / name
        self._storage.tried(name, "written", lambda files, path: files.put_file(str(local), path))
        local.unlink()

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()


def _write(storage: Storage, name: str, data: bytes) -> None:
    storage.tried(name, "written", lambda files, path: files.pipe_file(path, data))


def _create(storage: Storage, name: str, data: bytes) -> bool:
    """Whether the file is ours: there was none, or an attempt whose answer got lost had written it."""
    try:
        storage.tried(name, "written", lambda files, path: files.pipe_file(path, data, mode="create"))
    except FileExistsError:
        return storage.read(name) == data
    return True
