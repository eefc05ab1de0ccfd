"""Real worker processes on a real broker."""

from __future__ import annotations

import os
import subprocess
import sys

TOY_WORKER = """
from workers.worker import configure_logging
from workers.settings import WorkerSettings
from workers.worker import WorkerProcess

configure_logging("json")
WorkerProcess(WorkerSettings(), dict.fromkeys(("pretrain", "evaluate", "index"), "toy_run")).run()
"""
_SHOWN_LOG = 8000


class WorkerProcesses:
    """Starts workers; whatever still lives at the end of the test is killed."""

    def __init__(self, settings, broker, logs):
        self._environment = {
            **os.environ,
            "LCL_HOME": str(settings.home),
            "LCL_DATABASE_URL": settings.database_url,
            "LCL_BROKER_URL": broker.url,
            "LCL_LEASE_SECONDS": "2",
            "LCL_HEARTBEAT_SECONDS": "0.3",
            "LCL_WATCH_SECONDS": "0.05",
            "LCL_REAP_SECONDS": "0.3",
        }
        self._logs = logs
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, **environment):
        """Start a worker whose runs are toys."""
        with self.log(len(self.started)).open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", TOY_WORKER],
                env={**self._environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started.append(worker)
        return worker

    def log(self, number):
        return self._logs / f"worker-{number}.log"

    def end(self):
        """Kill what still lives, and print the end of each log, which pytest shows where a test failed."""
        for number, worker in enumerate(self.started):
            status = worker.poll()
            worker.kill()
            worker.wait()
            sys.stdout.write(f"worker {number}, exit status {status}:\n{self.log(number).read_text()[-_SHOWN_LOG:]}\n")
