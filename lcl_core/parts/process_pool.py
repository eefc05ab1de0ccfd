"""A pool of processes in which the death of one costs what it was at, and nothing else.

``concurrent.futures`` gives a pool up when one of its processes is killed, with all that the others were at. Here each
process has a pipe and one task at a time; a process that ends is replaced, and its task is given to the next idle one.
Tasks and results cross the pipe as JSON. Processes are spawned, never forked: the caller may have threads.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

from lcl_core.common.parent_process import exit_with_parent
from lcl_core.parts.runner import Handler, Json, PartTask, Report, decode_error, encode_error, task_failed_error

MAX_ATTEMPTS = 5  # of a task whose process ends
_REPORT_SECONDS = 0.25
_CLOSE_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Worker:
    """A process and what it is at."""

    process: BaseProcess
    connection: Connection
    task: PartTask | None = None
    items: int = 0


class ProcessPoolRunner:
    """Executes tasks in spawned processes.

    Args:
        processes: how many.
        make: makes the handler, in each process; it must be picklable.
    """

    def __init__(self, processes: int, make: Callable[[], Handler]) -> None:
        self.processes, self.deaths = processes, 0
        self._make = make
        self._context = multiprocessing.get_context("spawn")
        self._attempts: dict[int, int] = {}  # of tasks whose process has died, by identity
        self._lost: deque[PartTask] = deque()
        self._workers = [self._start() for _ in range(processes)]

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid or 0 for worker in self._workers]

    @property
    def idle(self) -> int:
        return max(0, sum(worker.task is None for worker in self._workers) - len(self._lost))

    def submit(self, task: PartTask) -> None:
        self._lost.append(task)
        self._assign()

    def wait(self, report: Report, seconds: float = 0.5) -> list[tuple[PartTask, Json]]:
        finished: list[tuple[PartTask, Json]] = []
        connections = {worker.connection: worker for worker in self._workers}
        for ready in wait(list(connections), seconds):
            worker = connections[ready]  # type: ignore[index]  # connections alone were waited for
            try:
                message = json.loads(worker.connection.recv_bytes())
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if "items" in message:
                worker.items = message["items"]
                continue
            assert worker.task is not None, "a process answers what it was asked"
            task, worker.task, worker.items = worker.task, None, 0
            if "error" in message:
                raise decode_error(message["error"], task)
            self._attempts.pop(id(task), None)
            finished.append((task, message["result"]))
        self._assign()
        report(sum(worker.items for worker in self._workers))
        return finished

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.connection.close()
            if worker.task is not None:  # what it writes is of no use any more
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(_CLOSE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._make))
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(process, ours)

    def _assign(self) -> None:
        """Give waiting tasks to idle processes."""
        for worker in list(self._workers):
            if not self._lost:
                return
            if worker.task is None:
                worker.task = self._lost.popleft()
                try:
                    worker.connection.send_bytes(json.dumps(worker.task.arguments).encode())
                except OSError:  # it has died while it was idle
                    self._replace(worker)

    def _replace(self, dead: _Worker) -> None:
        """Start another process for one that has ended. Raises: UserError ``part_failed``."""
        dead.connection.close()
        dead.process.join()
        dead.process.close()
        self.deaths += 1
        self._workers[self._workers.index(dead)] = self._start()
        if dead.task is None:
            return
        attempts = self._attempts[id(dead.task)] = self._attempts.get(id(dead.task), 0) + 1
        if attempts >= MAX_ATTEMPTS:
            raise task_failed_error(dead.task, attempts)
        self._lost.appendleft(dead.task)


def _serve(connection: Connection, make: Callable[[], Handler]) -> None:
    """Body of a process: execute tasks until the pipe is closed."""
    # the parent is asked to stop and ends its processes; a process group or a Slurm job gets the signal as a whole
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent()
    handler: Handler | None = None
    progress = _ThrottledReport(connection)
    while True:
        try:
            arguments = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            handler = handler or make()
            answer = {"result": handler(arguments, progress)}
        except Exception as error:  # the process boundary: it is raised again in the parent
            answer = {"error": encode_error(error)}
        try:
            connection.send_bytes(json.dumps(answer).encode())
        except OSError:  # the parent has ended, or does not want the answer
            return


class _ThrottledReport:
    """Sends the number of items that are done, now and then."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._last = connection, time.monotonic()

    def __call__(self, items: int) -> None:
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS:
            self._last = now
            self._connection.send_bytes(json.dumps({"items": items}).encode())
