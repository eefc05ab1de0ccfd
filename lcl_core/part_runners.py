"""Where the tasks of a run are executed: in the calling process, in a pool of processes, or on a Ray cluster.

A task is a JSON object that a handler turns into another one. It must be safe to execute twice, also at the same time:
a runner repeats what a process that died was at. What a task writes, it therefore writes under a name of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

from lcl_core.common.errors import UserError
from lcl_core.common.processes import exit_with_parent, usable_cores

MAX_ATTEMPTS = 5  # of a task whose process ends
RAY_ADDRESS = "LCL_PARTS_RAY_ADDRESS"  # HOST:PORT: variable of a run's processes where its executor is Ray
_REPORT_SECONDS = 0.25
_CLOSE_SECONDS = 5.0

Json = dict[str, Any]
Report = Callable[[int], None]  # called with the number of items that a task has done so far
Handler = Callable[[Json, Report], Json]  # executes tasks, one after the other; made once in each process


@dataclass(slots=True)
class PartTask:
    """What a handler is asked to do.

    Attributes:
        label: names it in messages, such as ``items 1 to 1,024 of a.jsonl``.
        attempts: how often its process has ended before it was complete.
    """

    arguments: Json
    label: str
    attempts: int = 0


class Runner(ABC):
    """Executes tasks, ``processes`` at a time. Leaving its ``with`` statement ends what is in progress."""

    processes = 1

    @property
    @abstractmethod
    def idle(self) -> int:
        """How many processes have nothing to do."""

    @abstractmethod
    def submit(self, task: PartTask) -> None:
        """Start a task. Only where ``idle`` is not 0."""

    @abstractmethod
    def wait(self, report: Report, seconds: float = 0.5) -> list[tuple[PartTask, Json]]:
        """Tasks that are complete, with their results; none after ``seconds`` without one.

        Args:
            report: called meanwhile with the number of items that the tasks in progress have done; may raise.

        Raises: what a handler raised; UserError ``part_failed`` for a task that keeps killing its process.
        """

    def close(self) -> None:  # noqa: B027 - most have something to end
        """End what is in progress."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


StartRunner = Callable[[Callable[[], Handler]], Runner]


class InProcessRunner(Runner):
    """Executes a task in ``wait``, in this process."""

    def __init__(self, make: Callable[[], Handler]) -> None:
        self._handler = make()
        self._task: PartTask | None = None

    @property
    def idle(self) -> int:
        return int(self._task is None)

    def submit(self, task: PartTask) -> None:
        self._task = task

    def wait(self, report: Report, seconds: float = 0.5) -> list[tuple[PartTask, Json]]:
        task, self._task = self._task, None
        return [] if task is None else [(task, self._handler(task.arguments, report))]


@dataclass(eq=False, slots=True)
class _Worker:
    """A process and what it is at."""

    process: BaseProcess
    connection: Connection
    task: PartTask | None = None
    items: int = 0


class ProcessPoolRunner(Runner):
    """Executes tasks in spawned processes; the death of one costs what it was at, and nothing else.

    ``concurrent.futures`` gives a pool up when one of its processes is killed, with all that the others were at.

    Args:
        make: makes the handler, in each process; it must be picklable.
    """

    def __init__(self, processes: int, make: Callable[[], Handler]) -> None:
        self.processes = processes
        self._make = make
        self._waiting: deque[PartTask] = deque()
        self._workers = [self._start() for _ in range(processes)]

    @property
    def idle(self) -> int:
        return max(0, sum(worker.task is None for worker in self._workers) - len(self._waiting))

    def submit(self, task: PartTask) -> None:
        self._waiting.append(task)
        self._assign()

    def wait(self, report: Report, seconds: float = 0.5) -> list[tuple[PartTask, Json]]:
        finished: list[tuple[PartTask, Json]] = []
        connections = {worker.connection: worker for worker in self._workers}
        for ready in wait(list(connections), seconds):
            worker = connections[ready]  # type: ignore[index]  # connections alone were waited for
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, int):
                worker.items = answer
                continue
            assert worker.task is not None, "a process answers what it was asked"
            finished.append((worker.task, answer))
            worker.task, worker.items = None, 0
        self._assign()
        report(sum(worker.items for worker in self._workers))
        return finished

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            if worker.task is not None:  # what it writes is of no use any more
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(_CLOSE_SECONDS)
            worker.process.kill()
            worker.process.join()
            worker.process.close()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # never forked: the caller may have threads
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._make))
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(process, ours)

    def _assign(self) -> None:
        """Give waiting tasks to idle processes."""
        for worker in [each for each in self._workers if each.task is None][: len(self._waiting)]:
            worker.task = self._waiting.popleft()
            try:
                worker.connection.send(worker.task)
            except OSError:  # it has died while it was idle
                self._replace(worker)

    def _replace(self, dead: _Worker) -> None:
        """Start another process for one that has ended. Raises: UserError ``part_failed``."""
        dead.connection.close()
        dead.process.join()
        dead.process.close()
        self._workers[self._workers.index(dead)] = self._start()
        if dead.task is not None:
            dead.task.attempts += 1
            if dead.task.attempts == MAX_ATTEMPTS:
                raise part_failed(dead.task)
            self._waiting.appendleft(dead.task)


def _serve(connection: Connection, make: Callable[[], Handler]) -> None:
    """Body of a process: execute tasks until the pipe is closed."""
    # the parent is asked to stop and ends its processes; a process group or a Slurm job gets the signal as a whole
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent()
    handler: Handler | None = None
    reported = time.monotonic()

    def report(items: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _REPORT_SECONDS:
            reported = time.monotonic()
            connection.send(items)

    while True:
        try:
            task = connection.recv()
            try:
                handler = handler or make()
                answer: Any = handler(task.arguments, report)
            except Exception as error:  # the process boundary: it is raised again in the parent
                answer = portable_error(error, task)
            connection.send(answer)
        except (EOFError, OSError):  # the parent has ended, or does not want the answer
            return


def portable_error(error: Exception, task: PartTask) -> Exception:
    """An exception of a handler, to be raised again in another process."""
    if isinstance(error, (UserError, OSError, MemoryError)):
        return error
    return RuntimeError(f"{task.label} failed in its process:\n{''.join(traceback.format_exception(error))}")


def part_failed(task: PartTask) -> UserError:
    message = (
        f"the process that worked on {task.label} has ended {MAX_ATTEMPTS} times, for lack of memory or in a library "
        "that crashed; the log of the run may say more. Use fewer processes, or take what it reads out of the corpus"
    )
    return UserError(message, code="part_failed")


def task_threads(processes: int) -> int:
    """Threads of a task in each of several processes."""
    return 1 if os.environ.get(RAY_ADDRESS) else max(1, usable_cores() // processes)
