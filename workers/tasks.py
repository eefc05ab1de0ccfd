"""The two messages that a worker understands."""

from __future__ import annotations

import structlog
from celery import Celery

from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.doorbell import PING, WAKE
from lcl_core.runs.roster import consumed
from workers.logs import log_database_error
from workers.slots import Slots

log = structlog.get_logger(__name__)


def register_tasks(app: Celery, slots: Slots, database: Database, worker_id: str) -> None:
    """Give ``app`` its tasks."""

    @app.task(name=WAKE)
    def wake(run_id: str) -> None:
        """Something is queued, ``run_id`` perhaps; which run is next is the database's to say."""
        log.debug("woken", run=run_id)
        slots.offer()

    @app.task(name=PING)
    def ping(sender: str) -> None:
        """Whoever takes this proves that it consumes messages."""
        try:
            with database.session() as session:
                consumed(session, worker_id)
        except UNREACHABLE as error:
            log_database_error(error, sender=sender)
