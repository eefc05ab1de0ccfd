"""Failures of the machine (full disk, no memory) and of native libraries (Rust panics), recognised from exceptions.

Imports no torch: errors of libraries without an errno are recognised by their messages. A Rust panic arrives in Python
as a BaseException that is no Exception.
"""

from __future__ import annotations

import errno
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from lcl_core.common.errors import UserError


class FailureCode(Enum):
    """What the machine lacked; the value is the ``code`` of a run's reason."""

    DISK_FULL = "disk_full"
    READ_ONLY = "read_only"
    OUT_OF_MEMORY = "out_of_memory"


_ERRNO = {
    errno.ENOSPC: FailureCode.DISK_FULL,
    errno.EDQUOT: FailureCode.DISK_FULL,
    errno.EROFS: FailureCode.READ_ONLY,
    errno.ENOMEM: FailureCode.OUT_OF_MEMORY,
}
_FORBIDDEN = (errno.EACCES, errno.EPERM)
# errors without an errno: safetensors' and torch's; CUDA says "out of memory", torch's CPU allocator the last
_MESSAGES = {
    "no space left on device": FailureCode.DISK_FULL,
    "database or disk is full": FailureCode.DISK_FULL,  # SQLite's
    "disk quota exceeded": FailureCode.DISK_FULL,
    "read-only file system": FailureCode.READ_ONLY,
    "out of memory": FailureCode.OUT_OF_MEMORY,
    "can't allocate memory": FailureCode.OUT_OF_MEMORY,
}


def failure_code(error: BaseException, folder: Path) -> FailureCode | None:
    """Failure code of an exception or of one of its causes; None for any other error.

    Args:
        folder: where the caller writes. A missing permission counts inside it; elsewhere it is about an input.
    """
    return next((code for each in _cause_chain(error) if (code := _code_of_one(each, folder)) is not None), None)


def _code_of_one(error: BaseException, folder: Path) -> FailureCode | None:
    if isinstance(error, MemoryError):
        return FailureCode.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        inside = isinstance(error.filename, str) and Path(error.filename).is_relative_to(folder)
        return FailureCode.READ_ONLY if error.errno in _FORBIDDEN and inside else _ERRNO.get(error.errno)
    message = str(error).lower()
    return next((code for words, code in _MESSAGES.items() if words in message), None)


def _cause_chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


# exceptions that end a thread or a coroutine on purpose
TERMINATIONS = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)


def as_exception(error: BaseException) -> Exception:
    """``error`` as an Exception that can be passed on. Raises: ``error`` itself when it ends the thread on purpose."""
    if isinstance(error, TERMINATIONS):
        raise error
    if isinstance(error, Exception):
        return error
    return tokenizer_error(error) if type(error).__name__ == "PanicException" else RuntimeError(repr(error)[:500])


def tokenizer_error(error: BaseException) -> UserError:
    reason = str(error).strip().partition("\n")[0][:200]
    return UserError(
        f"the encoder's tokenizer cannot read this text ({reason}); its owner should import it again",
        code="tokenizer_failed",
    )


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """Convert whatever a tokenizer raises to a UserError ``tokenizer_failed``."""
    try:
        yield
    except (UserError, *TERMINATIONS):
        raise
    except BaseException as error:
        raise tokenizer_error(error) from error


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Convert a Rust panic to a UserError ``tokenizer_failed``; Exceptions pass."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise as_exception(error) from error
