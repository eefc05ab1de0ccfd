"""Migrations that stop nobody: on PostgreSQL they wait briefly for a lock, and are repeated where it is not free.

A statement that waits for a table, as ALTER TABLE behind a backup, makes all later statements on that table wait too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

log = structlog.get_logger(__name__)

LOCK_SECONDS = 3.0  # for which those who use a table may have to wait behind a migration
PAUSE_SECONDS = 1.0  # in which they go on
_LOCK_NOT_AVAILABLE = "55P03"  # SQLSTATE


def limit_lock_waits(connection: Connection) -> None:
    """Limit how long the statements of each later transaction wait for a lock.

    Outside of a transaction the limit has no effect: CREATE INDEX CONCURRENTLY may wait, since nobody waits for it.
    """
    if connection.dialect.name == "postgresql":
        event.listen(connection, "begin", _limit_transaction)


def _limit_transaction(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT set_config('lock_timeout', '{int(LOCK_SECONDS * 1000)}', true)")


def repeat_until_unlocked(connection: Connection, migrate: Callable[[], None]) -> None:
    """Call ``migrate`` until no lock stops it. It goes on after the last migration that was committed.

    Raises: as ``migrate``.
    """
    reported = False
    while True:
        try:
            migrate()
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            connection.rollback()
            if not reported:
                reported = True
                log.warning(
                    "migration_waits",
                    statement=" ".join((error.statement or "").split()),
                    until="the transactions that use the table end (oldest xact_start of pg_stat_activity)",
                )
            time.sleep(PAUSE_SECONDS)
        else:
            return
