"""UserError, the one error that a user sees: what is wrong, where, and the way out. Import of optional libraries,
names that were meant.

Failures of the machine (full disk, no memory) and of native libraries (Rust panics) are recognised from exceptions. A
Rust panic arrives in Python as a BaseException that is no Exception.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
from asyncio import CancelledError
from collections.abc import Iterable, Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Bad input. Its message is shown to the user, never a traceback.

    Args:
        message: what is wrong and what to do about it, one or two sentences.
        code: a stable snake_case word for programs (``bad_spec``, ``corpus_unreadable`` …); None: that of the class.
        field: dotted path of the offending spec field, such as ``data.sources.0.dataset``.
        file: the offending file, when there is one.
        line: the 1-based line in ``file``.
    """

    status = 422  # of an HTTP response
    code = "invalid_value"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        file: str | Path | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.field = field
        self.file = None if file is None else str(file)
        self.line = line

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return f"{where}: {self.message}" if where else self.message

    def to_dict(self) -> dict[str, Any]:
        """JSON form in run rows, ``error.json`` and REST responses; empty fields are left out."""
        fields = {"code": self.code, "message": str(self), "field": self.field, "file": self.file, "line": self.line}
        return {key: value for key, value in fields.items() if value is not None}


class NotFound(UserError):
    """What a name or id refers to does not exist, or is not visible."""

    status, code = 404, "not_found"


class Conflict(UserError):
    """The present state of things does not allow it."""

    status, code = 409, "conflict"


class TooLarge(UserError):
    """More bytes than are accepted."""

    status, code = 413, "too_large"


class Busy(UserError):
    """Something is missing for now; the same request may succeed later."""

    status, code = 503, "busy"


class StoreError(Busy):
    """A store that does not answer or does not permit the access: it says nothing about the item that was wanted.

    Code that leaves out items that cannot be read lets it pass. Else an outage would leave out all items after it.
    """


@contextlib.contextmanager
def item_errors_suppressed() -> Iterator[None]:
    """Suppress a UserError about an item; a StoreError passes."""
    try:
        yield
    except StoreError:
        raise
    except UserError:
        pass


def import_optional(module: str, purpose: str, extra: str = "data", field: str | None = None) -> Any:
    """Import a module of an extra."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        message = f"{purpose} needs {name}, which is not installed; `pip install 'lcl[{extra}]'` brings it"
        raise UserError(message, code="missing_extra", field=field) from error


def suggestion(name: str, names: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the most similar of ``names``, to be put after a message; empty: none is similar."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


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
    "readonly database": FailureCode.READ_ONLY,  # SQLite's
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
    return _tokenizer_error(error) if type(error).__name__ == "PanicException" else RuntimeError(repr(error)[:500])


def _tokenizer_error(error: BaseException) -> UserError:
    reason = str(error).strip().partition("\n")[0][:200]
    message = f"the encoder's tokenizer cannot read this text ({reason}); its owner should import it again"
    return UserError(message, code="bad_tokenizer")


@contextlib.contextmanager
def tokenizer_errors(*, only_panics: bool = False) -> Iterator[None]:
    """Convert whatever a tokenizer raises to a UserError ``bad_tokenizer``; ``only_panics``: Exceptions pass."""
    try:
        yield
    except (UserError, *TERMINATIONS):
        raise
    except BaseException as error:
        if only_panics and isinstance(error, Exception):
            raise
        raise _tokenizer_error(error) from error
