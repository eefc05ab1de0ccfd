"""What the machine, not the input, had too little of. Knows no torch: libraries are told by their words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import Enum
from pathlib import Path


class Fault(Enum):
    """The code of a run's reason, and what to do about it."""

    DISK_FULL = "disk_full"
    READ_ONLY = "read_only"
    OUT_OF_MEMORY = "out_of_memory"


_ERRNO = {
    errno.ENOSPC: Fault.DISK_FULL,
    errno.EDQUOT: Fault.DISK_FULL,
    errno.EROFS: Fault.READ_ONLY,
    errno.ENOMEM: Fault.OUT_OF_MEMORY,
}
_FORBIDDEN = (errno.EACCES, errno.EPERM)
# of errors that carry no number: safetensors' and torch's; CUDA says "out of memory", torch's CPU allocator the last
_WORDS = {
    "no space left on device": Fault.DISK_FULL,
    "database or disk is full": Fault.DISK_FULL,  # SQLite's
    "disk quota exceeded": Fault.DISK_FULL,
    "read-only file system": Fault.READ_ONLY,
    "out of memory": Fault.OUT_OF_MEMORY,
    "can't allocate memory": Fault.OUT_OF_MEMORY,
}


def fault_of(error: BaseException, folder: Path) -> Fault | None:
    """The fault behind an exception, its causes included; None when it is something else.

    Args:
        folder: the one that is written to. A permission that is lacking there is the machine's fault too; elsewhere it
            is about somebody's input.
    """
    return next((fault for each in _chain(error) if (fault := _single(each, folder)) is not None), None)


def _single(error: BaseException, folder: Path) -> Fault | None:
    if isinstance(error, MemoryError):
        return Fault.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        inside = isinstance(error.filename, str) and Path(error.filename).is_relative_to(folder)
        return Fault.READ_ONLY if error.errno in _FORBIDDEN and inside else _ERRNO.get(error.errno)
    said = str(error).lower()
    return next((fault for words, fault in _WORDS.items() if words in said), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
