"""Jobs of an engine whose nodes and worker communicate through files in RUN_DIR (``workers.executors.job_folder``).

An engine submits a job, says in which state it is, and removes it. It runs ``workers.executors.node_agent`` once on
each node of the run. Commands and exit statuses need no answer from the engine: it says only that a job waits, or why
it was ended. A worker that has lost the job to another one cannot stop it.

A job that the engine ends or queues again, for a time limit, a preemption or a node, is given up: the worker removes
it, and another attempt continues from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.leases import REATTACH_SECONDS
from lcl_core.train.launch import combined_status
from workers.executors.base import (
    EngineRefused,
    EngineUnreachable,
    Executor,
    Handle,
    JobRequest,
    MachineLost,
    NoCapacity,
    node_log_name,
)
from workers.executors.job_folder import JobFolder, StartOrder
from workers.failure_table import infrastructure_cause, read_log_lines
from workers.settings import WorkerSettings

_FOLDER = "agent"  # below RUN_DIR; has one folder for the job of this attempt
PATIENCE_SECONDS = 300.0  # for the engine to answer again
KILL_SECONDS = 5.0  # in which a killed job must have ended, before the engine is asked to remove it
END_SECONDS = 60.0  # for the engine to end a job whose processes have ended or were killed
POLL_SECONDS = 0.25
_UNREACHABLE_SECONDS = 20.0  # between two queries to an engine that does not answer: each one takes seconds
_DUMP_SECONDS = 30.0  # for the nodes to write stacks
_FILES_AT_ONCE = 8  # that are read every POLL_SECONDS
_RENEW_SECONDS = 2.0  # between two heartbeats of a worker
_OUTSIDE_STOPS = (ExitCode.CANCELLED, -signal.SIGTERM)
# of a process that the engine's memory limit may have ended; OK: no process has reported another one
_OUT_OF_MEMORY_STATUSES = (ExitCode.OK, ExitCode.CRASH, -signal.SIGKILL)
Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class JobPhase(Enum):
    """What the state of a job means for its processes."""

    PENDING = "not all have been started"
    RUNNING = "they may run"
    ENDING = "they are being ended"
    ENDED = "none is left"


@dataclass(frozen=True)
class JobState:
    """What an engine says about a job.

    Attributes:
        detail: why it waits.
        refusal: why it never starts, as it is.
        loss: why the engine, or somebody by it, has ended the job; empty: it has ended by itself, or not at all.
        is_paused: it is suspended, and will continue some time: no deadline counts meanwhile.
    """

    phase: JobPhase
    detail: str = ""
    loss: str = ""
    is_paused: bool = False
    out_of_memory: bool = False
    refusal: str = ""


class FolderExecutor(Executor, ABC):
    """An executor whose engine runs a node agent on each node.

    Attributes:
        name: in ``LCL_EXECUTOR`` and in handles.
        title: in messages.
        wait_seconds: for a place for the job.
        start_seconds: from a place for the job until its processes run.
        query_seconds: between two queries about a job that runs.
        detaches: jobs go on while their worker is stopped and started again.
    """

    places_nodes = True
    name: ClassVar[str]
    title: ClassVar[str]
    start_seconds: float = 120.0
    query_seconds: float = 5.0
    detaches = True

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings, self.wait_seconds = settings, settings.engine_wait_seconds
        self.orphan_seconds = settings.lease_seconds + REATTACH_SECONDS  # a lost lease has to expire first

    @abstractmethod
    def submit(self, request: JobRequest, name: str, gpus: int, folder: JobFolder) -> str:
        """Id of the new job, which is submitted once, also where the engine's answer was lost.

        Raises: EngineUnreachable, EngineRefused, NoCapacity, what ``request.check`` raises.
        """

    @abstractmethod
    def find(self, name: str) -> str | None:
        """Id of the job of that name; None: there is none. Raises: EngineUnreachable."""

    @abstractmethod
    def read_state(self, job_id: str, name: str) -> JobState | None:
        """None: the engine does not know the job. Raises: EngineUnreachable, EngineRefused."""

    @abstractmethod
    def remove(self, job_id: str, name: str) -> None:
        """Kill what is left of a job, and wait until it has ended, as far as the engine answers."""

    def gpus_of(self, request: JobRequest) -> int:
        """Of each node; where the cluster has none, runs that may run anywhere use CPUs."""
        return request.gpus

    def start(self, request: JobRequest, remember: Callable[[Handle], None]) -> FolderJob:
        """Raises: NoCapacity, MachineLost, OSError; UserError ``engine_refused``."""
        label = re.sub("[^a-z0-9]+", "-", request.name.lower()).strip("-")[:24].strip("-")
        name = f"lcl-{label}-{secrets.token_hex(4)}"
        handle: Handle = {"executor": self.name, "name": name, "nodes": request.nodes}
        remember(handle)  # before the job has an id: it is found by its name
        folder, owner = JobFolder(request.run_dir.path / _FOLDER / name), secrets.token_hex(8)
        job_id: str | None = None
        try:
            gpus = self.gpus_of(request) if request.gpus else 0
            self._create_folder(request, gpus, folder)
            folder.attach(owner)
            job_id = self.submit(request, name, gpus, folder)
            remember({**handle, "job_id": job_id})
            self._await_start(job_id, request, folder)
        except BaseException as error:
            self._withdraw(job_id, name, folder)
            if isinstance(error, EngineUnreachable):
                raise MachineLost(f"{self.title} could not start the processes: {error}") from error
            if isinstance(error, EngineRefused):
                raise UserError(
                    f"{self.title} refuses the job of the run: {error}; change what it names, in the run or in the "
                    "settings of the worker, then resume the run",
                    code="engine_refused",
                ) from error
            raise
        return FolderJob(self, job_id, owner, folder, request.run_dir, request.nodes)

    def attach(self, handle: Handle, run_dir: RunDir) -> FolderJob:
        """Raises: MachineLost, EngineUnreachable."""
        if handle.get("executor") != self.name:
            raise MachineLost("its processes are those of another executor")
        name, owner = handle["name"], secrets.token_hex(8)
        folder = JobFolder(run_dir.path / _FOLDER / name)
        try:
            job_id = handle.get("job_id") or self.answer(lambda: self.find(name))
            state = None if job_id is None else self.answer(partial(self.read_state, job_id, name))
        except EngineRefused as error:
            raise EngineUnreachable(f"{self.title} does not say whether its job runs: {error}") from error
        try:
            folder.attach(owner)  # after the queries, since it counts as a heartbeat
        except OSError as error:
            raise MachineLost(f"the folder of its {self.title} job is gone: {error}") from error
        reports = folder.read_reports(handle["nodes"])
        if job_id is None or (state is None and any(report.status is None for report in reports)):
            raise MachineLost(f"{self.title} does not know its job any more")
        if state is not None and state.phase is JobPhase.PENDING:
            self._withdraw(job_id, name, folder)
            raise MachineLost(f"its {self.title} job waited for a place while no worker had it")
        return FolderJob(self, job_id, owner, folder, run_dir, handle["nodes"])

    def answer(
        self, query: Callable[[], Result], check: Callable[[], None] = lambda: None, patience: float | None = None
    ) -> Result:
        """Result of ``query``, which is repeated while the engine is unreachable.

        Raises: EngineUnreachable after ``patience``, by default PATIENCE_SECONDS; what ``query`` and ``check`` raise.
        """
        patience = patience or PATIENCE_SECONDS
        deadline = time.monotonic() + patience
        while True:
            try:
                return query()
            except EngineUnreachable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("engine_unreachable", problem=str(error))
            check()
            time.sleep(min(2.0, patience / 10))

    def _create_folder(self, request: JobRequest, gpus: int, folder: JobFolder) -> None:
        """Without those of earlier attempts: what may be left of their processes ends then."""
        settings = self.settings
        shutil.rmtree(folder.path.parent, ignore_errors=True)
        folder.create(
            StartOrder(
                request.module,
                str(request.run_dir.path),
                request.title,
                sorted(request.protocols),
                request.nodes,
                gpus,
                settings.rendezvous_seconds,
                self.orphan_seconds,
                settings.cancel_grace_seconds,
            )
        )

    def _await_start(self, job_id: str, request: JobRequest, folder: JobFolder) -> None:
        """Until the processes of all nodes have been started.

        Raises: NoCapacity, MachineLost, EngineUnreachable, EngineRefused, what ``request.check`` raises.
        """
        waiting_since, running_since = time.monotonic(), float("inf")
        while not _all_started(folder, request.nodes):
            state = self.answer(lambda: self.read_state(job_id, folder.path.name), request.check)
            moment = time.monotonic()
            if state is None or state.phase in (JobPhase.ENDING, JobPhase.ENDED):
                if _all_started(folder, request.nodes):
                    return
                cause = (state.loss if state else "") or folder.last_output() or "without a message"
                raise MachineLost(f"its {self.title} job ended before its processes were started: {cause}")
            if state.refusal:
                raise EngineRefused(state.refusal)
            if state.is_paused:
                waiting_since, running_since = moment, float("inf")
            elif state.phase is JobPhase.RUNNING:
                running_since = min(running_since, moment)
            elif moment > waiting_since + self.wait_seconds:
                nodes = "1 node" if request.nodes == 1 else f"{request.nodes} nodes at once"
                limit = f"for {self.wait_seconds:g} s"
                raise NoCapacity(f"{self.title} has had no free capacity for {nodes} {limit} ({state.detail})")
            if moment > running_since + self.start_seconds:
                detail = folder.last_output() or state.detail
                raise MachineLost(f"{self.title} job {job_id} did not start its processes: {detail}")
            request.check()
            with contextlib.suppress(OSError):
                folder.renew()
            time.sleep(POLL_SECONDS * (1.0 if moment < waiting_since + KILL_SECONDS else 4.0))

    def _withdraw(self, job_id: str | None, name: str, folder: JobFolder) -> None:
        """Remove a job that may not have started, so that the engine does not start it later."""
        with contextlib.suppress(EngineUnreachable, EngineRefused):
            job_id = job_id or self.find(name)
            if job_id is not None:
                self.remove(job_id, name)
        shutil.rmtree(folder.path, ignore_errors=True)  # processes of a job that starts nevertheless end without it


def _all_started(folder: JobFolder, nodes: int) -> bool:
    return all(report.log_start is not None for report in folder.read_reports(nodes))


class FolderJob:
    """The processes of one job."""

    def __init__(
        self, engine: FolderExecutor, job_id: str, owner: str, folder: JobFolder, run_dir: RunDir, nodes: int
    ) -> None:
        self._engine, self._job_id, self._owner, self._folder = engine, job_id, owner, folder
        self._run_dir, self._nodes = run_dir, nodes
        self._renew_at = self._read_at = 0.0
        # an answer that the engine's jobs share may be from before the start
        self._query_at = self._first_query_at = time.monotonic() + engine.query_seconds
        self._state: JobState | None = None  # as the engine answered last
        self._loss = ""  # as it has said
        self._ended_at = self._ending_at = float("inf")  # when all processes had ended; since when the engine ends them
        # for a checkpoint of processes that the engine ends; those of a node that is cut off never do
        self._ending_seconds = 2 * engine.settings.cancel_grace_seconds + END_SECONDS
        self._statuses: dict[int, int] = {}  # in the order in which they were seen
        self._stopped = self._detached = self._removed = False
        self._removing, self._waiting = threading.Lock(), threading.Lock()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"job": self._folder.path.name, "id": self._job_id, "nodes": self._nodes}

    @property
    def log_file(self) -> Path:
        return self._run_dir.path / node_log_name(self._decisive)

    @property
    def log_start(self) -> int:
        return self._folder.read_report(self._decisive).log_start or 0

    @property
    def is_paused(self) -> bool:
        return self._state is not None and self._state.is_paused

    @property
    def _decisive(self) -> int:
        """The node whose log counts: of several that crashed, one with an error that is not the loss of another."""
        status = self._combined()
        failed = [number for number, each in self._statuses.items() if each == status != ExitCode.OK]
        for number in failed if status == ExitCode.CRASH else []:
            log_file = self._run_dir.path / node_log_name(number)
            start = self._folder.read_report(number).log_start or 0
            if log_file.exists() and infrastructure_cause(read_log_lines(log_file, start)) is None:
                return number
        return failed[0] if failed else 0

    def _combined(self) -> int:
        """That of a process that failed by itself comes before those that were ended because of it."""
        statuses = [*self._statuses.values()]
        own = combined_status([status for status in statuses if status not in _OUTSIDE_STOPS])
        return own or combined_status(statuses)

    def wait(self, seconds: float) -> int | None:
        """Raises: MachineLost."""
        deadline = time.monotonic() + seconds
        with self._waiting:
            while (status := self._poll()) is None and time.monotonic() < deadline:
                time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        return status

    def _poll(self) -> int | None:
        """Exit status of the job, or None. Raises: MachineLost."""
        self._renew()
        self._read_statuses()
        if self._is_complete:
            if self._stopped or not any(self._statuses.values()):
                return self._combined()
            if self._ended_at == float("inf"):
                self._ended_at, self._query_at = time.monotonic(), self._first_query_at
        return None if time.monotonic() < self._query_at else self._conclude()

    @property
    def _is_complete(self) -> bool:
        return len(self._statuses) == self._nodes

    def _read_statuses(self) -> None:
        if time.monotonic() < self._read_at:
            return
        self._read_at = time.monotonic() + POLL_SECONDS * max(1.0, self._nodes / _FILES_AT_ONCE)
        for number in set(range(self._nodes)) - self._statuses.keys():
            status = self._folder.read_report(number).status
            if status is not None:
                self._statuses[number] = status

    def _conclude(self) -> int | None:
        """What the engine's state and the statuses say together. Raises: MachineLost."""
        moment = time.monotonic()
        overdue = moment > self._ended_at + END_SECONDS
        try:
            state = self._state = self._engine.read_state(self._job_id, self._folder.path.name)
        except (EngineUnreachable, EngineRefused) as error:
            log.warning("engine_unreachable", problem=str(error))
            self._query_at = moment + _UNREACHABLE_SECONDS
            return self._combined() if overdue else None
        self._query_at = moment + (POLL_SECONDS if self._is_complete else self._engine.query_seconds)
        if state is not None and state.phase is JobPhase.ENDING:
            self._ending_at = min(self._ending_at, moment)
            overdue |= moment > self._ending_at + self._ending_seconds
        self._loss = (state.loss if state is not None else "") or self._loss
        lasts = state is not None and state.phase in (JobPhase.RUNNING, JobPhase.ENDING)
        return None if lasts and not overdue else self._decide(state)

    def _decide(self, state: JobState | None) -> int:
        """Exit status of the job when the engine has ended it, or its processes have ended. Raises: MachineLost."""
        self._read_at = 0.0
        self._read_statuses()  # of processes that have ended since the last time
        complete, status = self._is_complete, self._combined()
        if self._stopped:
            return status if complete else -signal.SIGKILL
        job = f"{self._engine.title} job {self._job_id}"
        if state is None and not complete:
            raise MachineLost(f"{job}: {self._loss or f'{self._engine.title} does not know it any more'}")
        if self._loss or (state is not None and state.phase is JobPhase.PENDING):
            raise MachineLost(f"{job}: {self._loss or 'it was queued again'}")
        if status in _OUTSIDE_STOPS:
            raise MachineLost(f"{job} was asked to end: by its time limit, a preemption or an operator")
        if state is not None and state.out_of_memory and status in _OUT_OF_MEMORY_STATUSES:
            return ExitCode.OUT_OF_MEMORY
        if status != ExitCode.OK or complete:
            return status
        if any(report.log_start is not None for report in self._folder.read_reports(self._nodes)):
            return -signal.SIGKILL  # together with the process that would have reported its status
        raise MachineLost(f"{job} did not start its processes: {self._folder.last_output()}")

    def terminate(self) -> None:
        self._stopped = True
        self._command("terminate")

    def kill(self) -> int:
        """Kill all processes and remove the job, unless another worker is the owner by now."""
        with self._removing:
            self._stopped = True
            if not self._removed and self._folder.owner() in (self._owner, ""):
                self._removed = True
                self._command("kill")
                deadline = time.monotonic() + KILL_SECONDS
                while not self._is_complete and time.monotonic() < deadline:
                    time.sleep(POLL_SECONDS)
                    self._read_statuses()
                self._engine.remove(self._job_id, self._folder.path.name)
        return self._combined() if self._is_complete else -signal.SIGKILL

    def dump_stacks(self) -> str:
        command, deadline = f"stacks {secrets.token_hex(4)}", time.monotonic() + _DUMP_SECONDS
        self._command(command)
        answers: list[str] = []
        while len(answers) < self._nodes and time.monotonic() < deadline:
            self._renew()
            time.sleep(POLL_SECONDS)
            reports = self._folder.read_reports(self._nodes)
            answers = [report.stacks for report in reports if report.stacks_command == command]
        missing = [f"{self._nodes - len(answers)} nodes did not answer"] if len(answers) < self._nodes else []
        return "; ".join(dict.fromkeys(answers + missing))

    def detach(self) -> bool:
        self._detached = self._engine.detaches
        return self._detached

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._detached:
            self.kill()

    def _renew(self) -> None:
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _RENEW_SECONDS
            with contextlib.suppress(OSError):
                if self._folder.owner() == self._owner:
                    self._folder.renew()

    def _command(self, command: str) -> None:
        with contextlib.suppress(OSError):  # the folder is gone, and with it the job
            self._folder.command(self._owner, command)
