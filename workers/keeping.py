"""The lease of a run whose process has left, kept while what it made is copied and written to the database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.store import Claim, StaleLease, renew
from workers.logs import log_database_error
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


@contextmanager
def kept_lease(database: Database, settings: WorkerSettings, claim: Claim) -> Iterator[None]:
    """Renew in a thread until the end of the block. A lease that is lost shows where the block names its token."""
    over = threading.Event()
    thread = threading.Thread(target=_renew, args=(database, settings, claim, over), name="keeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _renew(database: Database, settings: WorkerSettings, claim: Claim, over: threading.Event) -> None:
    while not over.wait(settings.heartbeat_seconds):
        try:
            with database.session() as session:
                renew(session, claim, settings.lease_seconds)
        except StaleLease:
            return  # the block has just settled the run, or another has taken it over
        except UNREACHABLE as error:
            log_database_error(error)
