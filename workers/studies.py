"""What studies need next: submitted as soon as a run has ended, and looked for by every reaper."""

from __future__ import annotations

import structlog

from lcl_core.errors import UserError
from lcl_core.runs.database import Database
from lcl_core.runs.store import advance_study, studies_due

log = structlog.get_logger(__name__)


def drive_studies(database: Database) -> list[str]:
    """Submit what is due. Returns: ids of the runs that are queued now. Raises: UNREACHABLE.

    A study whose spec a newer version no longer understands is passed over, and told.
    """
    queued: list[str] = []
    with database.reading() as session:
        due = studies_due(session)
    for study_id in due:
        try:
            with database.session() as session:
                queued += advance_study(session, study_id)
        except UserError as error:
            log.error("study_is_stuck", study=study_id, error=str(error))
    return queued
