"""Slurm executor: a run is one batch job, whose step has one node agent on each node.

Slurm allocates all nodes of the job or none. The job outlives the worker,
and is found again by its name, which the run's row has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterator

import structlog

from lcl_core.common.errors import UserError
from lcl_core.db.queue import EngineCapacity
from workers.executors.base import EngineRefused, EngineUnreachable, JobRequest, NoCapacity
from workers.executors.folder_job import END_SECONDS, KILL_SECONDS, POLL_SECONDS, FolderExecutor, JobPhase, JobState
from workers.executors.job_folder import JobFolder
from workers.executors.slurm_commands import PROGRAMS, SlurmCommands, is_transient, job_environment
from workers.settings import WorkerSettings

_CONNECT_SECONDS = 60.0  # for a controller that starts together with the worker
log = structlog.get_logger(__name__)


class SlurmExecutor(FolderExecutor):
    """Submits jobs to the cluster of the worker's ``slurm.conf``."""

    name, title = "slurm", "Slurm"

    def __init__(self, settings: WorkerSettings) -> None:
        wait = float("inf") if settings.slurm_queue else settings.engine_wait_seconds
        super().__init__(settings, wait_seconds=wait)
        self._commands = SlurmCommands(settings)
        self.query_seconds = max(5.0, settings.watch_seconds)

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        """Raises (on entry): UserError ``executor_missing``, ``executor_unreachable``."""
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise UserError(
                f"LCL_EXECUTOR is slurm, but this machine has no {', '.join(missing)}; install Slurm's client "
                "programs, or leave LCL_EXECUTOR at local",
                code="executor_missing",
            )
        try:
            nodes = self.answer(self._commands.nodes, patience=_CONNECT_SECONDS)
        except (EngineUnreachable, EngineRefused) as error:
            raise UserError(
                f"Slurm does not answer ({error}); is slurmctld running?", code="executor_unreachable"
            ) from error
        if not nodes:
            log.warning("slurm_has_no_nodes", partition=self.settings.slurm_partition or "that of sbatch")
        yield

    def capacity(self) -> EngineCapacity | None:
        """Nodes that can take a part of a run now; where runs wait in Slurm's queue, all that ever can."""
        try:
            nodes = self._commands.nodes()
        except (EngineUnreachable, EngineRefused) as error:
            log.warning("engine_unreachable", problem=str(error))
            return None
        cpus, queued = self.settings.least_cpus, self.settings.slurm_queue
        free = [(node.cpus, node.gpus) if queued else (node.free_cpus, node.free_gpus) for node in nodes]
        free = [(free_cpus, gpus) for free_cpus, gpus in free if free_cpus >= cpus]
        has_gpus = any(node.gpus for node in nodes)
        total_cpus, total_gpus = sum(cpus for cpus, _ in free), sum(gpus for _, gpus in free)
        return EngineCapacity("slurm", len(free), float(total_cpus), float(total_gpus), has_gpus, float(cpus))

    def gpus_of(self, request: JobRequest) -> int:
        nodes = self.answer(self._commands.nodes, request.check)
        return request.gpus if any(node.gpus for node in nodes) else 0

    def submit(self, request: JobRequest, name: str, gpus: int, folder: JobFolder) -> str:
        env = job_environment(os.environ, request.env)
        needed = self.settings.resources_of(request.kind, gpus)
        command = [sys.executable, "-P", "-m", "workers.executors.node_agent", str(folder.path)]
        tried = False

        def submit() -> str:
            nonlocal tried
            if tried and (known := self._commands.find(name)) is not None:
                return known
            tried = True
            return self._commands.submit(name, request.nodes, gpus, needed, folder.path, env, command)

        try:
            return self.answer(submit, request.check)
        except EngineRefused as error:
            if is_transient(error):
                raise NoCapacity(f"Slurm does not accept a job at present: {error}") from error
            raise

    def find(self, name: str) -> str | None:
        return self._commands.find(name)

    def read_state(self, job_id: str, name: str, *, fresh: bool = False) -> JobState | None:
        return self._commands.read_state(job_id, name, fresh=fresh)

    def remove(self, job_id: str, name: str, *, ends: bool = False) -> None:
        commands, started = self._commands, time.monotonic()
        kill_at = started + (KILL_SECONDS if ends else 0.0)
        cancel_at = kill_at + KILL_SECONDS
        while (moment := time.monotonic()) < started + END_SECONDS:
            try:
                state = commands.read_state(job_id, name, fresh=True)
                if state is None or state.phase is JobPhase.ENDED:
                    return
                if state.phase is JobPhase.PENDING or moment > cancel_at:
                    commands.cancel(job_id)
                    cancel_at = float("inf")
                elif moment > kill_at:
                    commands.kill_step(job_id)
                    kill_at = float("inf")
            except EngineUnreachable as error:
                log.warning("engine_unreachable", problem=str(error))
                if time.monotonic() > started + KILL_SECONDS:
                    return  # the command in the folder, or the folder's removal, ends the processes
            time.sleep(POLL_SECONDS)
        log.warning("slurm_job_not_ended", job=job_id)
