"""Periodic work of the api for its own home, which need not have a worker: uploads of imported encoders, garbage.

What runs made is uploaded by workers, so that no large upload delays requests. Several processes may have one home:
each upload, and each round of garbage, is claimed in the database.
"""

from __future__ import annotations

from functools import partial

from api.core.settings import ApiSettings
from lcl_core.db.artifacts import Artifacts, upload_next
from lcl_core.db.garbage import collect_garbage
from lcl_core.db.session import Database
from lcl_core.db.workers import PeriodicTask

UPLOAD_SECONDS = 2.0  # between two queries for imported encoders that are due
_JOIN_SECONDS = 5.0  # for an upload at work when the service stops; another process begins it again later


def home_tasks(database: Database, settings: ApiSettings, artifacts: Artifacts) -> list[PeriodicTask]:
    """Tasks for the caller to start and stop; none without an artifact store, where workers have the same home."""
    if artifacts.holder is None:
        return []
    send = partial(upload_next, database, artifacts, imports=True)
    collect = partial(collect_garbage, database, settings, artifacts)
    return [
        PeriodicTask("lcl-uploads", send, UPLOAD_SECONDS, join_seconds=_JOIN_SECONDS),
        PeriodicTask("lcl-garbage", collect, settings.gc_seconds, delayed=True, join_seconds=0.0),
    ]
