"""The plainest engine: a job is a process of this machine for each node, and starts at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import nullcontext, suppress

from lcl_core.db.queue import EngineCapacity
from workers.executors.base import EngineUnreachable
from workers.executors.folder_job import FolderExecutor, JobPhase, JobState


class ProcessEngine(FolderExecutor):
    """``is_away``: it does not answer."""

    name, title, query_seconds = "process", "The engine", 0.1

    def __init__(self, settings):
        super().__init__(settings)
        self.jobs: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.is_away = False

    def serving(self, modules):
        return nullcontext()

    def capacity(self):
        return EngineCapacity(self.name, 10, 10.0, 0.0, False)

    def submit(self, request, name, gpus, folder):
        command = [sys.executable, "-m", "workers.executors.node_agent", str(folder.path)]
        environment = {**os.environ, "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
        self.jobs[name] = [
            subprocess.Popen(command, env={**environment, "SLURM_NODEID": str(number)}, start_new_session=True)
            for number in range(request.nodes)
        ]
        return f"id of {name}"

    def find(self, name):
        return f"id of {name}" if name in self.jobs else None

    def read_state(self, job_id, name):
        if self.is_away:
            raise EngineUnreachable("no answer")
        if job_id != self.find(name):
            return None
        statuses = [process.poll() for process in self.jobs[name]]
        if any(statuses):  # as other engines do, it ends the other nodes
            self._kill(name)
        return JobState(JobPhase.RUNNING if None in statuses else JobPhase.ENDED)

    def remove(self, job_id, name):
        if not self.is_away:
            self._kill(name)
            self.jobs.pop(name, None)

    def _kill(self, name):
        for process in self.jobs.get(name, ()):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
