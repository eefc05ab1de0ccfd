"""One error for memory that could not be had, whoever asked for it. Knows no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lcl_core.errors import UserError

_SAYS_SO = ("can't allocate memory", "not enough memory", "out of memory")  # PyTorch's RuntimeErrors


class OutOfMemory(UserError):
    """The process could not get the memory that a request needs. ``retry_after``: seconds."""

    retry_after = 5.0

    def __init__(self) -> None:
        message = "the service has not enough memory for this request now; send fewer or smaller images, or try later"
        super().__init__(message, code="out_of_memory")


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise OutOfMemory in place of the errors of Python, Pillow and PyTorch.

    It is raised without their tracebacks: those keep alive what filled the memory.
    """
    try:
        yield
        return
    except MemoryError:
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in _SAYS_SO):
            raise
    raise OutOfMemory


def guarded(steps: Iterable[Any]) -> Iterator[Any]:
    """The same for work in steps."""
    with memory_errors():
        yield from steps
