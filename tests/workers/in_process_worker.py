"""Worker inside the test's process: claims runs and supervises them, here or in a thread."""

from __future__ import annotations

import threading

from lcl_core.common.run_dir import RunDir
from lcl_core.db import leases, queue
from lcl_core.db.session import Database
from workers.settings import WorkerSettings
from workers.supervisor import Supervisor


class InProcessWorker:
    """Supervises claimed runs, here or in a thread."""

    def __init__(self, database: Database, settings: WorkerSettings, modules: dict[str, str]) -> None:
        self.database = database
        self.settings = settings
        self.stopping = threading.Event()
        self._supervisor = Supervisor(database, settings, modules)
        self._thread: threading.Thread | None = None

    def claim(self) -> leases.Claim:
        with self.database.session() as session:
            claimed = queue.claim_next(session, "desk", self.settings.lease_seconds)
        assert claimed is not None
        return claimed

    def work(self) -> None:
        self._supervisor.run(self.claim(), self.stopping)

    def start(self) -> leases.Claim:
        claimed = self.claim()
        self._thread = threading.Thread(target=self._supervisor.run, args=(claimed, self.stopping))
        self._thread.start()
        return claimed

    def join(self) -> None:
        assert self._thread is not None
        self._thread.join()

    def run_dir(self, run_id: str) -> RunDir:
        return RunDir(self.settings.runs_dir / run_id)
