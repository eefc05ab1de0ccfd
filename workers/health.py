"""``python -m workers.health``: exit status 0 while a worker of this host sends heartbeats."""

from __future__ import annotations

import socket
import sys
from datetime import timedelta

from lcl_core.db.runs import list_workers
from lcl_core.db.session import UNREACHABLE, Database, now
from workers.settings import WorkerSettings

MISSED_HEARTBEATS = 6


def has_live_worker(database: Database, host: str, ping_seconds: float) -> bool:
    """Whether a worker on ``host`` was seen within the last few pings. Raises: UNREACHABLE."""
    with database.reading() as session:
        oldest = now(session) - timedelta(seconds=MISSED_HEARTBEATS * ping_seconds)
        return any(worker.host == host and worker.seen_at >= oldest for worker in list_workers(session))


def main() -> int:
    settings = WorkerSettings()
    database = Database(settings.resolved_database_url)
    try:
        alive = has_live_worker(database, socket.gethostname(), settings.ping_seconds)
    except UNREACHABLE as error:
        print(f"the database does not answer ({type(error).__name__})", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        database.dispose()
    if not alive:
        print("no worker of this host has been seen lately", file=sys.stderr)  # noqa: T201
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main())
