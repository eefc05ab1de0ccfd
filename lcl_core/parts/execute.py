"""Execute the tasks of a schedule with a runner, and log each one that is complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from lcl_core.common.errors import import_optional
from lcl_core.common.threads import usable_cores
from lcl_core.parts.completion_log import CompletionLog
from lcl_core.parts.process_pool import ProcessPoolRunner
from lcl_core.parts.runner import Handler, InProcessRunner, Json, PartTask, Runner

RAY_ADDRESS = "LCL_PARTS_RAY_ADDRESS"  # HOST:PORT: variable of a run's processes where its executor is Ray
StartRunner = Callable[[Callable[[], Handler]], Runner]


class Schedule(Protocol):
    """Which task comes next, and what follows from those that are complete."""

    @property
    def finished(self) -> bool:
        """Whether no task is left."""

    @property
    def items(self) -> int:
        """Of the tasks that are complete."""

    def next_task(self) -> PartTask | None:
        """A task that can be started now; None: there is none until another one is complete."""

    def complete(self, arguments: Json, result: Json) -> None:
        """A task is complete. ``arguments``: those that name it, as the log has them."""


class NumberedTasks:
    """Schedule of tasks that are known beforehand, none of which needs the output of another.

    Args:
        sizes: items of each task.
        make: makes the task of a number.
        results: of tasks that earlier attempts have completed, by number; gets those of the others.
    """

    def __init__(self, sizes: Sequence[int], make: Callable[[int], PartTask], results: dict[int, Json]) -> None:
        self._sizes, self._make, self.results = sizes, make, results
        self._left = (number for number in range(len(sizes)) if number not in results)
        self.items = sum(sizes[number] for number in results)

    @property
    def finished(self) -> bool:
        return len(self.results) == len(self._sizes)

    def next_task(self) -> PartTask | None:
        number = next(self._left, None)
        return None if number is None else self._make(number)

    def complete(self, arguments: Json, result: Json) -> None:
        self.results[arguments["number"]] = result
        self.items += self._sizes[arguments["number"]]


def start_runner(processes: int, gpus: float = 0.0) -> StartRunner:
    """The runner of a number of processes; 1: the calling process alone.

    Several are processes of this machine, or of a Ray cluster where the executor has named one in the environment.

    Args:
        gpus: that a task uses where there are some; processes of this machine share those of the run.
    """
    if processes == 1:
        return InProcessRunner
    if address := os.environ.get(RAY_ADDRESS):
        import_optional("ray", "a Ray cluster", extra="ray")
        from lcl_core.parts.ray_runner import RayRunner

        return partial(RayRunner, processes, address=address, gpus=gpus)
    return partial(ProcessPoolRunner, processes)


def task_threads(processes: int) -> int:
    """Threads of a task in each of several processes of :func:`start_runner`."""
    return 1 if os.environ.get(RAY_ADDRESS) else max(1, usable_cores() // processes)


def execute(schedule: Schedule, runner: Runner, log: CompletionLog, on_progress: Callable[[int], None]) -> None:
    """Execute the tasks that are left. The log has their kind, number and start, and their results.

    Args:
        on_progress: called with the number of items that are done, which never falls; what it raises ends the work.
    """
    done = 0

    def report(items: int) -> None:
        nonlocal done
        # a task that has just ended is no longer in progress and not yet in the schedule; one that died begins anew
        done = max(done, schedule.items + items)
        on_progress(done)

    while not schedule.finished:
        while runner.idle and (task := schedule.next_task()) is not None:
            runner.submit(task)
        for task, result in runner.wait(report):
            arguments: Json = {
                name: task.arguments[name] for name in ("kind", "number", "start") if name in task.arguments
            }
            log.append(kind=arguments["kind"], arguments=arguments, result=result)
            schedule.complete(arguments, result)
