"""The tasks of a run that are complete, one JSON object a line, in a file that is only appended to.

The first line names the input and the settings. A log of another input, or of other settings, is removed with all that
lies beside it: nothing of what it lists can be used. The last line may be torn, by a process that was killed while it
wrote; it is cut off, and its task is done again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lcl_core.common.files import write_atomically

LOG_FILE = "completed.jsonl"


class CompletionLog:
    """The log of a folder.

    Args:
        folder: of the run's parts; made if it is not there.
        fingerprint: of input and settings.

    Attributes:
        resumed: whether an earlier attempt at the same has left a log.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._path, self._fingerprint = folder, folder / LOG_FILE, fingerprint
        size = _usable_size(self._path, fingerprint)
        self.resumed = size is not None
        if size is None:
            self._begin()
        else:
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(size)

    def discard(self) -> None:
        """Remove the log, and all that lies beside it, and begin anew."""
        self._file.close()
        self._begin()

    def entries(self) -> Iterator[dict[str, Any]]:
        """What was appended, in this attempt and in earlier ones."""
        with self._path.open("rb") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def finish(self, **entry: Any) -> None:
        """Replace all entries by one that tells how the run ended."""
        lines = [{"fingerprint": self._fingerprint}, entry]
        write_atomically(self._path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))

    def append(self, **entry: Any) -> None:
        """Add an entry. When this returns, it is on the disk; so must be what it says."""
        self._append(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _begin(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._file = self._path.open("ab", buffering=0)
        self._append({"fingerprint": self._fingerprint})

    def _append(self, entry: dict[str, Any]) -> None:
        # one write each: another process's view ends between lines, or in the last one
        self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        os.fsync(self._file.fileno())


def _usable_size(path: Path, fingerprint: str) -> int | None:
    """Bytes of the log's whole lines; None where it is not there, or of another input or other settings."""
    size = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file):
                entry = _parse(line)
                if number == 0 and (entry is None or entry.get("fingerprint") != fingerprint):
                    return None
                if entry is None:
                    break
                size += len(line)
    except FileNotFoundError:
        return None
    return size or None


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object of a whole line; None for a torn one."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:  # blocks of the file that the disk never got
        return None
    return entry if isinstance(entry, dict) else None
