"""Runs that come after others: let go as soon as a run has ended, and looked for by every reaper."""

from __future__ import annotations

from lcl_core.runs.database import Database
from lcl_core.runs.store import any_due, release


def drive_successors(database: Database) -> list[str]:
    """Returns: ids of the runs that are queued now. Raises: UNREACHABLE."""
    with database.reading() as session:
        if not any_due(session):
            return []
    with database.session() as session:
        return release(session)
