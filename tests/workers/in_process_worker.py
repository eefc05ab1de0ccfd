"""Worker inside the test's process: claims runs and supervises them, here or in a thread."""

from __future__ import annotations

import threading

from lcl_core.common.run_dir import RunDir
from lcl_core.db import leases, queue
from lcl_core.db.artifacts import Artifacts
from workers.executors.base import create_executor
from workers.lease_keeper import Attempt, LeaseKeeper, WorkClock
from workers.supervisor import Supervisor


def attempt_at(claim, database, settings, lease=None):
    """Under a lease that is renewed within its ``with`` block."""
    stopping = threading.Event()

    def renew(session):
        return leases.renew_lease(session, claim, settings.lease_seconds)

    lease = lease or LeaseKeeper(database, settings, claim.run_id, renew, stopping)
    run_dir = RunDir(settings.runs_dir / claim.run_id)
    return Attempt(database, settings, Artifacts(settings), claim, run_dir, lease, WorkClock(0.0), stopping)


class InProcessWorker:
    """Supervises claimed runs, here or in a thread.

    Args:
        executor: None: that of the settings.
    """

    def __init__(self, database, settings, modules, executor=None):
        self.database = database
        self.settings = settings
        self.stopping = threading.Event()
        self._executor = executor or create_executor(settings)
        self._supervisor = Supervisor(database, settings, modules, self._executor)
        self._thread: threading.Thread | None = None

    def claim(self):
        claimed = self.try_claim()
        assert claimed is not None
        return claimed

    def try_claim(self):
        seconds = self.settings.lease_seconds
        capacity = self._executor.capacity() if self._executor.places_nodes else None
        with self.database.session() as session:
            if capacity is not None:
                return queue.claim_for_engine(session, "in-process", seconds, ("cpu", "gpu"), capacity)
            return queue.claim_next(session, "in-process", seconds)

    def work(self):
        self.supervise(self.claim())

    def supervise(self, claim):
        self._supervisor.run(claim, self.stopping)

    def start(self):
        claimed = self.claim()
        self._thread = threading.Thread(target=self._supervisor.run, args=(claimed, self.stopping))
        self._thread.start()
        return claimed

    def join(self):
        assert self._thread is not None
        self._thread.join()

    def run_dir(self, run_id):
        return RunDir(self.settings.runs_dir / run_id)
