"""One error for memory that could not be had, whoever asked for it. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from lcl_core.errors import UserError

_SAYS_SO = ("can't allocate memory", "not enough memory", "out of memory")  # PyTorch's RuntimeErrors
_END = object()
Answer = TypeVar("Answer")


class OutOfMemory(UserError):
    """The process could not get the memory that a request needs. ``retry_after``: seconds."""

    retry_after = 5.0

    def __init__(self) -> None:
        message = "the service has not enough memory for this request now; send fewer or smaller images, or try later"
        super().__init__(message, code="out_of_memory")


def within_memory(call: Callable[[], Answer]) -> Answer:
    """What ``call`` returns. Raises: OutOfMemory in place of the errors of Python, Pillow and PyTorch.

    It is raised when theirs is over: as its context that would keep alive, by its traceback, what filled the memory.
    """
    try:
        return call()
    except MemoryError:
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in _SAYS_SO):
            raise
    raise OutOfMemory


def steps_within_memory(steps: Iterable[Any]) -> Iterator[Any]:
    """The same for work in steps."""
    remaining = iter(steps)
    while (step := within_memory(lambda: next(remaining, _END))) is not _END:
        yield step
