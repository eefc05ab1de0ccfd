"""Removes what no row names. Every worker has one; all may act at once."""

from __future__ import annotations

import threading

import structlog

from lcl_core.errors import UserError
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.store import Supply, collect
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Collector:
    """Looks every ``gc_seconds``, in a thread of its own: large folders take long to remove."""

    def __init__(self, database: Database, settings: WorkerSettings) -> None:
        self._database = database
        self._settings = settings
        self._supply = Supply(settings)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="collector", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a folder whose removal is broken off is out of sight, and the next round's."""
        self._stopping.set()

    def round(self) -> int:
        """Returns: how many folders were removed. Raises: OSError, UNREACHABLE; UserError of the store."""
        depot, stored = None, None
        if self._settings.artifacts:
            try:
                depot = self._supply.depot
                stored = depot.places()
            except UserError as error:  # the home has garbage all the same
                log.warning("store_not_looked_at", error=str(error))
        grace = self._settings.gc_grace_seconds
        removed = collect(self._database, self._supply.home, grace, depot, stored)
        for leftover in removed:
            log.info("collected", path=leftover.path, bytes=leftover.bytes)
        return len(removed)

    def _serve(self) -> None:
        while not self._stopping.wait(self._settings.gc_seconds):
            try:
                self.round()
            except (OSError, UserError, *UNREACHABLE) as error:
                log.warning("collection_failed", error=str(error))
