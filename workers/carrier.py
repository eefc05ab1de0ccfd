"""Sends what runs have made to the store of artifacts. Every worker has one; all may act at once."""

from __future__ import annotations

import threading

import structlog

from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.store import Supply, carry
from workers.logs import log_database_error
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Carrier:
    """Looks every ``reap_seconds``, in a thread of its own: weights take long to send, and a store may be away."""

    def __init__(self, database: Database, settings: WorkerSettings) -> None:
        self._database = database
        self._settings = settings
        self._supply = Supply(settings)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="carrier", daemon=True)

    def start(self) -> None:
        """Does nothing where there is no store. Raises: OSError for a home that cannot be written."""
        if self._supply.holder is not None:
            self._thread.start()

    def stop(self) -> None:
        """End the thread. A folder that is on its way gets the time that a run would; else it is sent again later."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(self._settings.cancel_grace_seconds)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                if carry(self._database, self._supply):
                    continue  # perhaps there is more
            except UNREACHABLE as error:
                log_database_error(error)
            except Exception:  # one folder that cannot be sent must not keep the others
                log.exception("carrier_round_failed")
            self._stopping.wait(self._settings.reap_seconds)
