"""Slurm executor: a run is one batch job, whose step has one process of ``workers.executors.slurm_node`` on each node.

Slurm allocates all nodes of the job or none. The job outlives the worker, and is found again by its name, which the
run's row has. Worker and nodes communicate through files in RUN_DIR (``workers.executors.job_folder``): commands and
exit statuses need no answer from Slurm's controller, and a worker that has lost the job to another cannot stop it. From
Slurm the worker learns that a job waits, or why it was ended.

A job that Slurm ends or queues again, for a time limit, a preemption or a node, is given up: the worker removes it,
and another attempt continues from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.leases import REATTACH_SECONDS
from lcl_core.db.queue import EngineCapacity
from lcl_core.train.launch import combined_status
from workers.executors.base import EngineUnreachable, Handle, JobRequest, MachineLost, NoCapacity, node_log_name
from workers.executors.job_folder import JobCommand, JobFolder, StartOrder, read_reports
from workers.executors.slurm_commands import (
    ENDING_SECONDS,
    PATIENCE_SECONDS,
    PROGRAMS,
    QUEUE_SECONDS,
    JobPhase,
    JobState,
    SlurmCommands,
    SlurmRefused,
    SlurmUnreachable,
    job_environment,
    until_answered,
)
from workers.settings import WorkerSettings

_FOLDER = "slurm"  # below RUN_DIR; has one folder for the job of this attempt
_START_SECONDS = 120.0  # from the start of the job until its processes run
_CONNECT_SECONDS = 60.0  # for a controller that starts together with the worker
_KILL_SECONDS = 5.0  # in which a killed job must have ended, before Slurm is asked to remove it
_END_SECONDS = 60.0  # for Slurm to end a job whose processes have ended or were killed; its KillWait is 30 s
_UNREACHABLE_SECONDS = 20.0  # between two queries to a controller that does not answer: each one takes seconds
_DUMP_SECONDS = 30.0  # for the nodes to write stacks
_POLL_SECONDS = 0.25
_FILES_AT_ONCE = 8  # that are read every _POLL_SECONDS
_RENEW_SECONDS = 2.0  # between two heartbeats of a worker
_OUTSIDE_STOPS = (ExitCode.CANCELLED, -signal.SIGTERM)
# of a process that Slurm's memory limit may have ended; OK: no process has reported another one
_OUT_OF_MEMORY_STATUSES = (ExitCode.OK, ExitCode.CRASH, -signal.SIGKILL)
log = structlog.get_logger(__name__)


class SlurmJob:
    """The processes of one job of Slurm.

    Args:
        query_seconds: between two queries to Slurm while the job runs.
    """

    def __init__(
        self,
        commands: SlurmCommands,
        job_id: str,
        owner: str,
        folder: JobFolder,
        run_dir: RunDir,
        nodes: int,
        *,
        query_seconds: float,
        detachable: bool,
    ) -> None:
        self._commands, self._job_id, self._owner, self._folder = commands, job_id, owner, folder
        self._run_dir, self._nodes = run_dir, nodes
        self._query_seconds, self._detachable = query_seconds, detachable
        self._renew_at = self._query_at = self._read_at = 0.0
        self._answered_at = time.monotonic()  # by Slurm
        self._state: JobState | None = None  # as it answered last
        self._all_ended_at: float | None = None
        self._statuses: dict[int, int] = {}  # in the order in which they were seen
        self._stopped = self._detached = self._removed = False
        self._removing, self._waiting = threading.Lock(), threading.Lock()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"slurm_job": self._job_id, "nodes": self._nodes}

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
        """The node whose exit status counts."""
        status = self._combined()
        return next((number for number, each in self._statuses.items() if each == status != ExitCode.OK), 0)

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
                time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        return status

    def _poll(self) -> int | None:
        """Exit status of the job, or None. Raises: MachineLost."""
        self._renew()
        self._read_statuses()
        if len(self._statuses) == self._nodes:
            if self._stopped or not any(self._statuses.values()):
                return self._combined()
            self._all_ended_at = self._all_ended_at or time.monotonic()
        if time.monotonic() < self._query_at:
            return None
        self._query_at = time.monotonic() + (self._query_seconds if self._all_ended_at is None else _POLL_SECONDS)
        return self._conclude()

    def _read_statuses(self) -> None:
        if time.monotonic() < self._read_at:
            return
        self._read_at = time.monotonic() + _POLL_SECONDS * max(1.0, self._nodes / _FILES_AT_ONCE)
        for number in set(range(self._nodes)) - self._statuses.keys():
            status = self._folder.read_report(number).status
            if status is not None:
                self._statuses[number] = status

    def _conclude(self) -> int | None:
        """What Slurm's state and the statuses say together. Raises: MachineLost."""
        try:
            max_age = QUEUE_SECONDS if self._all_ended_at is None else ENDING_SECONDS
            state = self._commands.read_state(self._job_id, self._folder.path.name, max_age)
        except SlurmUnreachable as error:
            if time.monotonic() > self._answered_at + PATIENCE_SECONDS:
                raise MachineLost(f"Slurm has not answered for {PATIENCE_SECONDS:g} s: {error}") from error
            log.warning("slurm_unreachable", problem=str(error))
            self._query_at = time.monotonic() + _UNREACHABLE_SECONDS
            return None
        self._answered_at, self._state = time.monotonic(), state
        running = state is not None and state.phase in (JobPhase.RUNNING, JobPhase.COMPLETING)
        if running and (self._all_ended_at is None or time.monotonic() < self._all_ended_at + _END_SECONDS):
            return None
        return self._decide(state)

    def _decide(self, state: JobState | None) -> int:
        """Exit status of the job when Slurm has ended it, or its processes have ended. Raises: MachineLost."""
        complete, status = len(self._statuses) == self._nodes, self._combined()
        if self._stopped:
            return status if complete else -signal.SIGKILL
        loss = "Slurm does not know it any more" if state is None else state.loss
        if loss is not None and not (state is None and complete):
            raise MachineLost(f"Slurm job {self._job_id}: {loss}")
        if status in _OUTSIDE_STOPS:
            raise MachineLost(
                f"Slurm job {self._job_id} was asked to end: by its time limit, a preemption or `scancel`"
            )
        if state is not None and state.state == "OUT_OF_MEMORY" and status in _OUT_OF_MEMORY_STATUSES:
            return ExitCode.OUT_OF_MEMORY
        if status != ExitCode.OK or complete:
            return status
        if any(report.log_start is not None for report in read_reports(self._folder, self._nodes)):
            return -signal.SIGKILL  # together with the process that would have reported its status
        raise MachineLost(f"Slurm job {self._job_id} did not start its processes: {self._folder.last_output()}")

    def terminate(self) -> None:
        self._stopped = True
        self._command(JobCommand(int(signal.SIGTERM)))

    def signal_group(self, number: signal.Signals) -> None:
        self._stopped |= number == signal.SIGKILL
        self._command(JobCommand(int(number), group=True))

    def kill(self) -> int:
        """Kill all processes and remove the job, unless another worker is the owner by now."""
        with self._removing:
            self._stopped = True
            if not self._removed and self._folder.owner() in (self._owner, ""):
                self._removed = True
                self._command(JobCommand(int(signal.SIGKILL), group=True))
                ends = len(self._statuses) == self._nodes
                remove_job(self._commands, self._job_id, self._folder.path.name, ends=ends)
        return self._combined() if len(self._statuses) == self._nodes else -signal.SIGKILL

    def dump_stacks(self) -> str:
        name, deadline = secrets.token_hex(4), time.monotonic() + _DUMP_SECONDS
        self._command(JobCommand(stacks=name))
        answers: list[str] = []
        while len(answers) < self._nodes and time.monotonic() < deadline:
            self._renew()
            time.sleep(_POLL_SECONDS)
            reports = read_reports(self._folder, self._nodes)
            answers = [report.stacks for report in reports if report.stacks_command == name]
        missing = [f"{self._nodes - len(answers)} nodes did not answer"] if len(answers) < self._nodes else []
        return "; ".join(dict.fromkeys(answers + missing))

    def detach(self) -> bool:
        self._detached = self._detachable
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

    def _command(self, command: JobCommand) -> None:
        with contextlib.suppress(OSError):  # the folder is gone, and with it the job
            self._folder.command(self._owner, command)


class SlurmExecutor:
    """Submits jobs to the cluster of the worker's ``slurm.conf``."""

    places_nodes = True

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._commands = SlurmCommands(settings)
        self._orphan_seconds = settings.lease_seconds + REATTACH_SECONDS  # a lost lease has to expire first
        self._query_seconds = max(5.0, settings.watch_seconds)

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        """Raises (on entry): UserError ``executor_missing``, ``executor_unreachable``."""
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise UserError(
                f"LCL_EXECUTOR is slurm, but this machine has no {', '.join(missing)}; install Slurm's client "
                "programs, or leave LCL_EXECUTOR at local",
                code="executor_missing",
            )
        partition = self._settings.slurm_partition
        try:
            nodes = until_answered(self._commands.nodes, _CONNECT_SECONDS, lambda: None)
        except (SlurmUnreachable, SlurmRefused) as error:
            raise UserError(
                f"Slurm does not answer ({error}); is slurmctld running?", code="executor_unreachable"
            ) from error
        if not nodes:
            log.warning("slurm_has_no_nodes", partition=partition or "that of sbatch")
        yield

    def capacity(self) -> EngineCapacity | None:
        """Nodes that can take a part of a run now; where runs wait in Slurm's queue, all that ever can."""
        try:
            nodes = self._commands.nodes()
        except (SlurmUnreachable, SlurmRefused) as error:
            log.warning("slurm_unreachable", problem=str(error))
            return None
        cpus, queued = self._settings.least_cpus, self._settings.slurm_queue
        free = [
            (node.cpus, node.gpus) if queued else (node.free_cpus, node.free_gpus)
            for node in nodes
            if (node.cpus if queued else node.free_cpus) >= cpus
        ]
        has_gpus = any(node.gpus for node in nodes)
        total_cpus, total_gpus = sum(cpus for cpus, _ in free), sum(gpus for _, gpus in free)
        return EngineCapacity("slurm", len(free), float(total_cpus), float(total_gpus), has_gpus, float(cpus))

    def start(self, request: JobRequest, remember: Callable[[Handle], None]) -> SlurmJob:
        """Raises: NoCapacity, MachineLost, OSError; UserError ``bad_setting`` for the time limit."""
        name = f"lcl-{request.name}-{secrets.token_hex(4)}"
        handle: Handle = {"executor": "slurm", "name": name, "nodes": request.nodes}
        remember(handle)  # before the job has an id: it is found by its name
        folder, owner = JobFolder(request.run_dir.path / _FOLDER / name), secrets.token_hex(8)
        job_id = None
        try:
            gpus = request.gpus if request.gpus and self._has_gpus(request) else 0
            self._create_folder(request, folder, gpus)
            folder.attach(owner)
            job_id = self._submit(request, name, gpus, folder)
            remember({**handle, "job_id": job_id})
            self._await_start(job_id, request, folder)
        except BaseException as error:
            self._withdraw(job_id, name, folder)
            if isinstance(error, SlurmUnreachable | SlurmRefused):
                raise MachineLost(f"Slurm could not start the processes: {error}") from error
            raise
        return self._job(job_id, owner, folder, request.run_dir, request.nodes)

    def attach(self, handle: Handle, run_dir: RunDir) -> SlurmJob:
        """Raises: MachineLost, EngineUnreachable."""
        if handle.get("executor") != "slurm":
            raise MachineLost("its processes are those of another executor")
        name, owner = handle["name"], secrets.token_hex(8)
        folder = JobFolder(run_dir.path / _FOLDER / name)
        try:
            job_id = handle.get("job_id") or self._answer(lambda: self._commands.find(name))
            state = None if job_id is None else self._answer(lambda: self._commands.read_state(job_id, name))
        except SlurmUnreachable as error:
            raise EngineUnreachable(f"Slurm does not answer: {error}") from error
        try:
            folder.attach(owner)  # after the queries, since it counts as a heartbeat
        except OSError as error:
            raise MachineLost(f"the folder of its Slurm job is gone: {error}") from error
        reports = read_reports(folder, handle["nodes"])
        if job_id is None or (state is None and any(report.status is None for report in reports)):
            raise MachineLost("Slurm does not know its job any more")
        if state is not None and state.phase is JobPhase.PENDING:
            self._withdraw(job_id, name, folder)
            raise MachineLost("its Slurm job waited for a place while no worker had it")
        return self._job(job_id, owner, folder, run_dir, handle["nodes"])

    def _job(self, job_id: str, owner: str, folder: JobFolder, run_dir: RunDir, nodes: int) -> SlurmJob:
        seconds, detachable = self._query_seconds, self._settings.slurm_detach
        return SlurmJob(
            self._commands, job_id, owner, folder, run_dir, nodes, query_seconds=seconds, detachable=detachable
        )

    def _answer(self, query: Callable[[], Any], check: Callable[[], None] = lambda: None) -> Any:
        """Raises: SlurmUnreachable, SlurmRefused, what ``check`` raises."""
        return until_answered(query, PATIENCE_SECONDS, check)

    def _has_gpus(self, request: JobRequest) -> bool:
        """Whether the cluster has some; without any, runs that may run anywhere use CPUs."""
        return any(node.gpus for node in self._answer(self._commands.nodes, request.check))

    def _create_folder(self, request: JobRequest, folder: JobFolder, gpus: int) -> None:
        """Without those of earlier attempts: what may be left of their processes ends then."""
        settings = self._settings
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
                self._orphan_seconds,
                settings.cancel_grace_seconds,
            )
        )

    def _submit(self, request: JobRequest, name: str, gpus: int, folder: JobFolder) -> str:
        """Id of the job, which is submitted once, also where the controller's answer was lost.

        Raises: NoCapacity, SlurmUnreachable, SlurmRefused, what ``request.check`` raises; UserError ``bad_setting`` for
            a time limit that the partition does not allow.
        """
        command = [sys.executable, "-P", "-m", "workers.executors.slurm_node", str(folder.path)]
        env = job_environment(os.environ, request.env)
        needed = self._settings.resources_of(request.kind, gpus)
        tried = False

        def submit() -> str:
            nonlocal tried
            if tried and (known := self._commands.find(name)) is not None:
                return known
            tried = True
            return self._commands.submit(name, request.nodes, gpus, needed, folder.path, env, command)

        try:
            job_id: str = self._answer(submit, request.check)
        except SlurmRefused as error:
            if error.transient:
                raise NoCapacity(f"Slurm does not accept a job at present: {error}") from error
            if error.bad_time_limit:
                limit = f"'{self._settings.slurm_time}'" if self._settings.slurm_time else "not set"
                raise UserError(
                    f"LCL_SLURM_TIME is {limit}, and Slurm does not accept the time limit of its jobs ({error}); set "
                    "it to one that the partition allows (MaxTime of `scontrol show partition`), then resume the run",
                    code="bad_setting",
                ) from error
            raise
        return job_id

    def _await_start(self, job_id: str, request: JobRequest, folder: JobFolder) -> None:
        """Until the processes of all nodes have been started. Raises: NoCapacity, MachineLost, SlurmUnreachable."""
        wait = float("inf") if self._settings.slurm_queue else self._settings.slurm_wait_seconds
        submitted, running_since = time.monotonic(), float("inf")
        while not all(report.log_start is not None for report in read_reports(folder, request.nodes)):
            state = self._answer(lambda: self._commands.read_state(job_id, folder.path.name), request.check)
            moment = time.monotonic()
            if state is None or state.phase in (JobPhase.COMPLETING, JobPhase.ENDED):
                self._check_started(state, folder, request.nodes)
                return
            if state.is_paused:
                running_since = float("inf")
            elif state.phase is JobPhase.RUNNING:
                running_since = min(running_since, moment)
            elif moment > submitted + wait:
                self._commands.cancel(job_id, pending_only=True)  # it may just have been started
                if self._has_ended(job_id, folder.path.name):
                    nodes = "1 node" if request.nodes == 1 else f"{request.nodes} nodes at once"
                    raise NoCapacity(f"Slurm has had no free capacity for {nodes} for {wait:g} s ({state.reason})")
            if moment > running_since + _START_SECONDS:
                raise MachineLost(f"Slurm job {job_id} did not start its processes: {folder.last_output()}")
            request.check()
            with contextlib.suppress(OSError):
                folder.renew()
            time.sleep(_POLL_SECONDS * (1.0 if moment < submitted + _KILL_SECONDS else 4.0))

    def _check_started(self, state: JobState | None, folder: JobFolder, nodes: int) -> None:
        """Raises: MachineLost when a job has ended before its processes were started."""
        if all(report.log_start is not None for report in read_reports(folder, nodes)):
            return
        cause = (state.loss if state is not None else None) or folder.last_output() or "without a message"
        raise MachineLost(f"its Slurm job ended before its processes were started: {cause}")

    def _has_ended(self, job_id: str, name: str) -> bool:
        state = self._answer(lambda: self._commands.read_state(job_id, name))
        return state is None or state.phase is JobPhase.ENDED

    def _withdraw(self, job_id: str | None, name: str, folder: JobFolder) -> None:
        """Remove a job that may not have started, so that Slurm does not start it later."""
        with contextlib.suppress(SlurmUnreachable):
            job_id = job_id or self._commands.find(name)
            if job_id is not None:
                remove_job(self._commands, job_id, name)
        shutil.rmtree(folder.path, ignore_errors=True)  # processes of a job that starts nevertheless end without it


def remove_job(commands: SlurmCommands, job_id: str, name: str, *, ends: bool = False) -> None:
    """Kill the processes of a job, and wait until it has ended, as far as Slurm answers.

    Args:
        ends: its processes have ended, and the job is about to do so by itself.
    """
    started = time.monotonic()
    kill_at = started + (_KILL_SECONDS if ends else 0.0)
    cancel_at = kill_at + _KILL_SECONDS
    while (moment := time.monotonic()) < started + _END_SECONDS:
        try:
            state = commands.read_state(job_id, name, ENDING_SECONDS)
            if state is None or state.phase is JobPhase.ENDED:
                return
            if state.phase is JobPhase.PENDING or moment > cancel_at:
                commands.cancel(job_id)
                cancel_at = float("inf")
            elif moment > kill_at:
                commands.kill_step(job_id)
                kill_at = float("inf")
        except SlurmUnreachable as error:
            log.warning("slurm_unreachable", problem=str(error))
            if time.monotonic() > started + _KILL_SECONDS:
                return  # the command in the folder, or the folder's removal, ends the processes
        time.sleep(_POLL_SECONDS)
    log.warning("slurm_job_not_ended", job=job_id)
