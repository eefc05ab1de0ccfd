"""Sends folders of this home to the store of artifacts."""

from __future__ import annotations

import structlog

from lcl_core.errors import UserError
from lcl_core.runs.database import Database
from lcl_core.runs.deposits import any_to_send, note_failed, note_sent, take
from lcl_core.runs.supply import Supply

log = structlog.get_logger(__name__)


def carry_all(database: Database, supply: Supply) -> None:
    """Send everything that is due now. Raises: UNREACHABLE."""
    while carry(database, supply):
        pass


def carry(database: Database, supply: Supply) -> bool:
    """Send one folder that is due, if there is any. Any number of processes may do so at once.

    Returns: whether there was one. Raises: UNREACHABLE.
    """
    holder = supply.holder
    if holder is None:
        return False
    with database.reading() as session:
        if not any_to_send(session, holder):
            return False
    with database.session() as session:
        task = take(session, holder)
    if task is None:
        return False
    try:
        files = supply.depot.put(task.place, supply.home / task.path, task.twins)
    except (UserError, OSError) as error:
        log.warning("artifacts_not_sent", path=task.path, tries=task.tries, error=str(error))
        with database.session() as session:
            note_failed(session, task, str(error))
        return True
    with database.session() as session:
        note_sent(session, task, files)
    log.info("artifacts_sent", path=task.path, files=len(files), bytes=sum(each["bytes"] for each in files.values()))
    return True
