"""A runner whose tasks are those of a Ray cluster, on any of its machines; a lost machine costs what it was at.

Ray is asked for a processor a task, and for GPUs where the cluster has some. The machines need the same installation,
and the folders of input, run and encoder under the same paths. Ray itself repeats nothing (``max_retries=0``): a task
is submitted again here when its process or its machine has ended, and a task whose process keeps ending fails the run,
as with a pool of processes. While Ray places no task at all, the calling process executes them, one at a time: it may
have the cluster's last processor or GPU.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError

from lcl_core.common.processes import OFFLINE
from lcl_core.part_runners import Handler, Json, PartTask, Report, Runner, count_attempt, portable_error

_LOOK_SECONDS = 2.0  # between two looks at which machines are alive
PLACE_SECONDS = 30.0  # in which Ray has to start one of the tasks, before the calling process executes one
_handlers: dict[str, Handler] = {}  # of this process, when it is one of Ray's: the last run's


@dataclass(eq=False, slots=True)
class _Submission:
    """A task that Ray has.

    Attributes:
        answers: Ray's generator of what :func:`_serve` yields.
        node: Ray's id of the machine; empty until the task has started.
    """

    task: PartTask
    answers: Any
    node: str = ""


class RayRunner(Runner):
    """Executes tasks on a Ray cluster.

    Args:
        processes: tasks that Ray has at the same time, some of which may wait for a place.
        make: makes the handler, in each process; it must be picklable.
        address: HOST:PORT of the cluster.
        gpus: of a task, where the cluster has any.
        place_seconds: without a place, after which the calling process executes tasks.
    """

    def __init__(
        self,
        processes: int,
        make: Callable[[], Handler],
        *,
        address: str,
        gpus: float = 0.0,
        place_seconds: float = PLACE_SECONDS,
    ) -> None:
        self.processes = processes
        self._make, self._token, self._place_seconds = make, secrets.token_hex(8), place_seconds
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
        self._connected = not ray.is_initialized()
        if self._connected:
            handled = signal.getsignal(signal.SIGTERM)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
            signal.signal(signal.SIGTERM, handled)  # Ray's own would end the process without its last words
        self._stored = ray.put(make)
        self._remote = ray.remote(_serve).options(
            num_cpus=1,
            num_gpus=gpus if ray.cluster_resources().get("GPU") else 0,
            num_returns="streaming",
            max_retries=0,
            runtime_env={"env_vars": OFFLINE | {"OMP_NUM_THREADS": "1"}},
        )
        self._submissions: list[_Submission] = []
        self._attempts: dict[int, int] = {}  # of tasks whose process has died, by identity
        self._placed_at = self._looked_at = time.monotonic()  # when a task was last seen to have a place; machines
        self._unplaced = False  # whether this process executes tasks
        self._handler: Handler | None = None  # of this process

    @property
    def idle(self) -> int:
        return self.processes - len(self._submissions)

    def submit(self, task: PartTask) -> None:
        if not self._submissions and not self._unplaced:
            self._placed_at = time.monotonic()
        self._submissions.append(self._submitted(task))

    def wait(self, report: Report, seconds: float = 0.5) -> list[tuple[PartTask, Json]]:
        finished: list[tuple[PartTask, Json]] = []
        waiting = {submission.answers: submission for submission in self._submissions}
        if waiting:
            ready, _ = ray.wait([*waiting], num_returns=len(waiting), timeout=0)
            ready = ready or ray.wait([*waiting], num_returns=1, timeout=seconds)[0]
            for answers in ready:
                finished += self._read(waiting[answers])
            self._replace_unreachable()
        report(0)
        return finished or self._execute_unplaced(report)

    def close(self) -> None:
        for submission in self._submissions:
            _cancel(submission)
        if self._connected:
            ray.shutdown()

    def _submitted(self, task: PartTask) -> _Submission:
        return _Submission(task, self._remote.remote(self._token, self._stored, task))

    def _read(self, submission: _Submission) -> list[tuple[PartTask, Json]]:
        """The next answer of a task: that it has started, or its result. Raises: what its handler raised."""
        try:
            answer = ray.get(next(submission.answers))
        except (RayTaskError, RuntimeEnvSetupError) as error:  # it could not even be asked
            raise RuntimeError(f"Ray cannot execute {submission.task.label}: {error}") from error
        except (RayError, StopIteration):
            self._replace(submission, self._alive())
            return []
        self._placed_at, self._unplaced = time.monotonic(), False
        if isinstance(answer, str):
            submission.node = answer
            return []
        self._submissions.remove(submission)
        if isinstance(answer, Exception):
            raise answer
        return [(submission.task, answer)]

    def _replace(self, lost: _Submission, alive: set[str]) -> None:
        """Submit a task again whose process or machine has ended. Raises: UserError ``part_failed``."""
        self.deaths += 1
        number = self._submissions.index(lost)
        if not lost.node or lost.node in alive:  # a lost machine tells nothing about the task
            count_attempt(lost.task, self._attempts)
        self._submissions[number] = self._submitted(lost.task)

    def _replace_unreachable(self) -> None:
        """A machine that Ray has given up may still hold its connections open, as behind a cable that was cut."""
        if time.monotonic() < self._looked_at + _LOOK_SECONDS:
            return
        alive = self._alive()
        for submission in [each for each in self._submissions if each.node and each.node not in alive]:
            _cancel(submission)
            self._replace(submission, alive)

    def _alive(self) -> set[str]:
        """Ray's ids of the machines that it has."""
        self._looked_at = time.monotonic()
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def _execute_unplaced(self, report: Report) -> list[tuple[PartTask, Json]]:
        """Execute a task here, if none has had a place for long."""
        if any(submission.node for submission in self._submissions):
            self._placed_at = time.monotonic()
        if not self._submissions or time.monotonic() < self._placed_at + self._place_seconds:
            return []
        submission = self._submissions.pop(0)
        _cancel(submission)
        self._unplaced = True
        if self._handler is None:
            print("Ray has no free capacity for a part: this process executes them meanwhile", file=sys.stderr)  # noqa: T201
            self._handler = self._make()
        return [(submission.task, self._handler(submission.task.arguments, report))]


def _cancel(submission: _Submission) -> None:
    with contextlib.suppress(RayError, ValueError):
        ray.cancel(submission.answers, force=True)


def _serve(token: str, make: Callable[[], Handler], task: PartTask) -> Iterator[Any]:
    """Body of a task: yields the machine where it is executed, and then its result or its error."""
    yield ray.get_runtime_context().get_node_id()
    try:
        if token not in _handlers:
            _handlers.clear()
            _handlers[token] = make()
        # Ray has no channel for progress within a task: items count when their part is complete
        answer: Any = _handlers[token](task.arguments, lambda items: None)
    except Exception as error:  # the process boundary: it is raised again where the task was submitted
        answer = portable_error(error, task)
    yield answer
