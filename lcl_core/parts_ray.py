"""A runner whose tasks are those of a Ray cluster, on any of its machines; a lost machine costs what it was at.

Ray is asked for a processor a task, and for GPUs where the cluster has some; it repeats a task whose process or machine
has ended. The machines need the same installation, and the folders of input, run and encoder under the same paths.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError, RuntimeEnvSetupError

from lcl_core.common.processes import OFFLINE
from lcl_core.part_runners import (
    MAX_ATTEMPTS,
    Handler,
    InProcessRunner,
    Json,
    PartTask,
    Report,
    Runner,
    part_failed,
    portable_error,
)

PLACE_SECONDS = 30.0  # in which Ray has to find a place for a first task
_handlers: dict[str, Handler] = {}  # of this process, when it is one of Ray's: the last run's


class RayRunner(Runner):
    """Executes tasks on a Ray cluster.

    Args:
        processes: tasks that Ray has at the same time, some of which may wait for a place.
        make: makes the handler, in each process; it must be picklable.
        address: HOST:PORT of the cluster.
        gpus: of a task, where the cluster has any.
    """

    def __init__(self, processes: int, address: str, gpus: float, make: Callable[[], Handler]) -> None:
        self.processes = processes
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
        self._connected = not ray.is_initialized()
        if self._connected:
            handled = signal.getsignal(signal.SIGTERM)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
            signal.signal(signal.SIGTERM, handled)  # Ray's own would end the process without its last words
        self._token, self._make = secrets.token_hex(8), ray.put(make)
        self._options = {
            "num_cpus": 1,
            "num_gpus": gpus if ray.cluster_resources().get("GPU") else 0,
            "max_retries": MAX_ATTEMPTS - 1,
            "runtime_env": {"env_vars": OFFLINE | {"OMP_NUM_THREADS": "1"}},
        }
        self._serve = ray.remote(_serve).options(**self._options)
        self._tasks: dict[Any, PartTask] = {}  # by Ray's reference to the answer

    def has_place(self) -> bool:
        """Whether Ray executes a task that does nothing within ``PLACE_SECONDS``."""
        reference = ray.remote(_do_nothing).options(**self._options).remote()
        try:
            ray.get(reference, timeout=PLACE_SECONDS)
        except GetTimeoutError:
            _cancel(reference)
            return False
        return True

    @property
    def idle(self) -> int:
        return self.processes - len(self._tasks)

    def submit(self, task: PartTask) -> None:
        reference = self._serve.remote(self._token, self._make, task)
        self._tasks[reference] = task

    def wait(self, report: Report, seconds: float = 0.5) -> list[tuple[PartTask, Json]]:
        finished: list[tuple[PartTask, Json]] = []
        ready = ray.wait([*self._tasks], num_returns=1, timeout=seconds)[0] if self._tasks else []
        for reference in ready:
            task = self._tasks.pop(reference)
            try:
                answer = ray.get(reference)
            except (RayTaskError, RuntimeEnvSetupError) as error:  # it could not even be asked
                raise RuntimeError(f"Ray cannot execute {task.label}: {error}") from error
            except RayError as error:
                raise part_failed(task) from error
            if isinstance(answer, Exception):
                raise answer
            finished.append((task, answer))
        report(0)  # Ray has no channel for progress within a task: items count when their part is complete
        return finished

    def close(self) -> None:
        for reference in self._tasks:
            _cancel(reference)
        if self._connected:
            ray.shutdown()


def start_ray_runner(processes: int, address: str, gpus: float, make: Callable[[], Handler]) -> Runner:
    """A runner on the cluster; where it has no place for any task, which this process may itself be holding, this
    process alone."""
    runner = RayRunner(processes, address, gpus, make)
    if runner.has_place():
        return runner
    print("Ray has no free capacity for a part: this process executes them all", file=sys.stderr)  # noqa: T201
    runner.close()
    return InProcessRunner(make)


def _cancel(reference: Any) -> None:
    with contextlib.suppress(RayError, ValueError):
        ray.cancel(reference, force=True)


def _do_nothing() -> None:
    pass


def _serve(token: str, make: Callable[[], Handler], task: PartTask) -> Any:
    """Body of a task: its result, or its error."""
    try:
        if token not in _handlers:
            _handlers.clear()
            _handlers[token] = make()
        return _handlers[token](task.arguments, lambda items: None)
    except Exception as error:  # the process boundary: it is raised again where the task was submitted
        return portable_error(error, task)
