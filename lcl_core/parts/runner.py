"""Where the tasks of a run are executed: the interface, and the runner that executes them in the calling process.

A task is a JSON object that a handler turns into another one. It must be safe to execute twice, also at the same time:
a runner repeats what a process that died was at. What a task writes, it therefore writes under a name of its own.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from lcl_core.common.errors import UserError

Json = dict[str, Any]
Report = Callable[[int], None]  # called with the number of items that a task has done so far


@dataclass(frozen=True, slots=True)
class PartTask:
    """What a handler is asked to do.

    Attributes:
        arguments: a JSON object.
        label: names the task in messages, such as ``items 1,024 to 2,047 of a.jsonl``.
    """

    arguments: Json
    label: str


class Handler(Protocol):
    """Executes tasks, one after the other; made once in each process."""

    def __call__(self, arguments: Json, report: Report) -> Json:
        """The result, a JSON object. Calls ``report`` after each item. Raises: UserError, OSError."""


class Runner(Protocol):
    """Executes tasks. It is left with a ``with`` statement, which ends what is in progress.

    Attributes:
        processes: that execute tasks at the same time.
        idle: how many of them have nothing to do.
        deaths: how many of them have ended before their task did.
    """

    processes: int
    deaths: int

    @property
    def idle(self) -> int: ...

    def submit(self, task: PartTask) -> None:
        """Start a task. Only where ``idle`` is not 0."""

    def wait(self, report: Report, seconds: float = 0.5) -> list[tuple[PartTask, Json]]:
        """Tasks that are complete, with their results; none after ``seconds`` without one.

        Args:
            report: called meanwhile with the number of items that the tasks in progress have done; may raise.

        Raises: what a handler raised; UserError ``part_failed`` for a task that keeps killing its process.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InProcessRunner:
    """Executes a task in ``wait``, in this process."""

    processes = 1
    deaths = 0

    def __init__(self, make: Callable[[], Handler]) -> None:
        self._handler = make()
        self._task: PartTask | None = None

    @property
    def idle(self) -> int:
        return int(self._task is None)

    def submit(self, task: PartTask) -> None:
        assert self._task is None, "the runner is idle"
        self._task = task

    def wait(self, report: Report, seconds: float = 0.5) -> list[tuple[PartTask, Json]]:
        task, self._task = self._task, None
        return [] if task is None else [(task, self._handler(task.arguments, report))]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task = None


def encode_error(error: Exception) -> Json:
    """An exception of a handler, to be raised again in the process that asked."""
    if isinstance(error, UserError):
        fields = {name: getattr(error, name) for name in ("message", "code", "field", "file", "line")}
        return {"user": fields}
    if isinstance(error, OSError) and error.errno is not None:
        return {"errno": error.errno, "filename": None if error.filename is None else os.fsdecode(str(error.filename))}
    if isinstance(error, MemoryError):
        return {"memory": str(error)}
    return {"traceback": "".join(traceback.format_exception(error))}


def decode_error(value: Json, task: PartTask) -> Exception:
    """The exception, to be raised."""
    if "user" in value:
        fields = dict(value["user"])
        return UserError(fields.pop("message"), **fields)
    if "errno" in value:
        return OSError(value["errno"], os.strerror(value["errno"]), value["filename"])
    if "memory" in value:
        return MemoryError(value["memory"])
    return RuntimeError(f"{task.label} failed in its process:\n{value['traceback']}")


def task_failed_error(task: PartTask, attempts: int) -> UserError:
    """A task whose process has ended each time."""
    message = (
        f"the process that worked on {task.label} has ended {attempts} times, for lack of memory or in a library that "
        "crashed; the log of the run may say more. Use fewer processes, or take what it reads out of the corpus"
    )
    return UserError(message, code="part_failed")
