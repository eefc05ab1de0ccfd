"""What every executor can do: start, re-attach to, wait for, stop and kill the processes of a job; and their registry.

An executor runs ``python -m MODULE RUN_DIR`` once for each node of a run. What it started is a :class:`Job`, whatever
executes it: a process group of this machine, or processes that an engine places on machines of its own. RUN_DIR is
on a file system that all these machines share. ``LCL_EXECUTOR`` names one; docs/operations.md says what each needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.db.queue import EngineCapacity
from workers.settings import WorkerSettings

# ``MODULE:CLASS`` of each; the class is called with the settings of the worker
EXECUTORS = {
    "local": "workers.executors.local:LocalExecutor",
    "ray": "workers.executors.ray:RayExecutor",
    "slurm": "workers.executors.slurm:SlurmExecutor",
    "kubernetes": "workers.executors.kubernetes:KubernetesExecutor",
}
Handle = dict[str, Any]  # of a started job, as JSON: {"executor", …}


class MachineLost(Exception):
    """The engine says that a machine with processes of the job is gone, or does not know the job any more."""


class EngineUnreachable(Exception):
    """The engine does not say whether the processes of the job run; they may be well."""


class EngineRefused(Exception):
    """The engine does not accept the job, and would not accept it again."""


class NoCapacity(Exception):
    """The engine has no free capacity for all processes of the job at this moment. None has been started."""


@dataclass(frozen=True)
class JobRequest:
    """What to start. ``name``, ``nodes``, ``gpus`` and ``kind`` are used where the executor ``places_nodes``.

    Attributes:
        title: line of the log that precedes the output of this attempt.
        protocols: of object storage whose credentials the processes get.
        name: unique among the jobs of the service that may exist at the same time.
        nodes: on which the module runs, each on a machine of its own.
        gpus: of each node.
        kind: of the run, by which a node gets processors and memory.
        check: called while the executor waits; what it raises ends the start.
    """

    module: str
    run_dir: RunDir
    title: str
    protocols: Collection[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    nodes: int = 1
    gpus: int = 0
    kind: str = ""
    check: Callable[[], None] = lambda: None


class Job(Protocol):
    """The processes of one attempt. Thread-safe, since the lease keeper stops it from a thread of its own.

    Attributes:
        identity: what the worker's log says about it.
        log_file: with the output of the process whose exit status counts.
        log_start: byte offset there of this attempt's output.
        is_paused: the engine is known to have suspended the processes: no deadline counts meanwhile.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def log_file(self) -> Path: ...
    @property
    def log_start(self) -> int: ...
    @property
    def is_paused(self) -> bool: ...

    def wait(self, seconds: float) -> int | None:
        """Exit status of the job (negative: of the signal that killed it), or None if it still runs.

        Raises: MachineLost.
        """

    def terminate(self) -> None:
        """SIGTERM to the main process of each node, which writes a checkpoint and exits. Does not wait."""

    def kill(self) -> int:
        """Kill all processes. Returns: the exit status."""

    def dump_stacks(self) -> str:
        """Have the processes write their stacks to an artifact. Returns: what came of it."""

    def detach(self) -> bool:
        """Whether the processes now continue after the end of the ``with`` block, for another worker to re-attach."""


class Executor(Protocol):
    """Where the processes of jobs run. Thread-safe.

    Attributes:
        places_nodes: it places all nodes of a run, and leases GPUs itself. Else it runs a job on this machine with the
            GPUs that the worker leases, and gets no run of several nodes.
    """

    places_nodes: bool

    def serving(self, modules: Collection[str]) -> AbstractContextManager[None]:
        """Context of all that it needs while the worker serves jobs of these modules.

        Raises (on entry): UserError ``executor_unreachable``.
        """

    def capacity(self) -> EngineCapacity | None:
        """Free capacity at this moment, where it ``places_nodes``; None: nothing can be started."""

    def start(self, request: JobRequest, remember: Callable[[Handle], None]) -> AbstractContextManager[Job]:
        """Start a job. After exit none of its processes is left, unless it is detached.

        Args:
            remember: called before any process starts, where another worker could re-attach.

        Raises (on entry): NoCapacity, MachineLost, OSError, UserError for a setting that the engine refuses, and what
            ``remember`` and ``request.check`` raise.
        """

    def attach(self, handle: Handle, run_dir: RunDir) -> AbstractContextManager[Job]:
        """Re-attach to a job; the worker that was attached before cannot stop it any more.

        For the processes, a failed attempt does not count as a heartbeat of a worker.

        Raises (on entry): MachineLost when the job is gone, or had not started and has been removed;
            EngineUnreachable, and then all its processes are as they were.
        """


def node_log_name(number: int) -> str:
    """Log of a node of a run whose nodes an executor places, in RUN_DIR. That of node 0 is the run's own."""
    return f"artifacts/log-{number}.txt" if number else "log.txt"


def node_stacks_name(number: int) -> str:
    """Artifact with the stacks of the processes of such a node."""
    return f"stacks-{number}.txt" if number else "stacks.txt"


def create_executor(settings: WorkerSettings) -> Executor:
    """The executor that ``LCL_EXECUTOR`` names. Raises: UserError ``executor_missing`` without its libraries."""
    name = settings.executor
    module, _, attribute = EXECUTORS[name].partition(":")
    try:
        executor: Executor = getattr(import_module(module), attribute)(settings)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in ("workers", "lcl_core"):
            raise
        raise UserError(
            f"LCL_EXECUTOR is {name}, but the module {error.name} is not installed; pip install 'lcl[{name}]', or "
            "leave LCL_EXECUTOR at local",
            code="executor_missing",
        ) from error
    return executor
