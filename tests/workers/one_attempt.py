"""``python -m tests.workers.one_attempt``: claims the next run and supervises one attempt at it, as a worker does.

Without a broker and other threads of a worker, so that it starts at once. It reads ``LCL_*`` from its environment.
"""

from __future__ import annotations

import threading

from lcl_core.db import queue
from lcl_core.db.leases import Claim
from lcl_core.db.session import Database
from workers.settings import WorkerSettings
from workers.supervisor import Supervisor
from workers.worker import configure_logging


def main():
    configure_logging("json")
    settings = WorkerSettings()
    database = Database(settings.resolved_database_url)
    with database.session() as session:
        claim = queue.claim_next(session, f"worker of {settings.home.name}", settings.lease_seconds)
    assert isinstance(claim, Claim)
    Supervisor(database, settings).run(claim, threading.Event())


if __name__ == "__main__":
    main()
