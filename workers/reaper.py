"""The safety net under lost messages and lost workers. Every worker has one; all may act at once."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import structlog

from lcl_core.runs.database import UNREACHABLE, Database, now
from lcl_core.runs.doorbell import Doorbell
from lcl_core.runs.roster import Identity, beat
from lcl_core.runs.store import State, any_expired, expire, waiting_since
from workers.devices import gpu_use
from workers.logs import log_database_error
from workers.settings import WorkerSettings
from workers.slots import Slots
from workers.studies import drive_studies
from workers.successors import drive_successors

_RINGS_A_ROUND = 8  # a woken worker goes on to the next run by itself
log = structlog.get_logger(__name__)


class Reaper:
    """Every ``reap_seconds``: take runs back whose lease ran out, let those go on whose predecessors have succeeded,
    submit what studies need next, and see to queued runs that nobody claimed.

    A run that waits is offered to this worker's own slots without the broker's help, and rung for so that others
    wake too. Every ``ping_seconds``: a sign of life in the database and a ping through the broker.
    """

    def __init__(
        self, database: Database, doorbell: Doorbell, slots: Slots, identity: Identity, settings: WorkerSettings
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._slots = slots
        self._identity = identity
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="reaper", daemon=True)
        self._next_beat = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        self._thread.join()

    def round(self) -> None:
        """One round. Raises: UNREACHABLE."""
        with self._database.reading() as session:
            lost = any_expired(session)
            unclaimed_since = now(session) - timedelta(seconds=self._settings.reap_seconds)
            waiting = waiting_since(session, unclaimed_since, self._identity.offers)
        if lost:
            waiting += self._take_back()
        waiting += drive_successors(self._database)
        waiting += drive_studies(self._database)
        for run_id in waiting[:_RINGS_A_ROUND]:
            if not self._doorbell.ring(run_id):
                break  # the broker is down
        if waiting:
            self._slots.offer()

    def _take_back(self) -> list[str]:
        """Ids of the runs that are queued again."""
        with self._database.session() as session:
            expired = expire(session)
        for run in expired:
            log.warning("lease_expired", run=run.id, state=run.state, attempt=run.attempt)
        return [run.id for run in expired if run.state == State.QUEUED]

    def _beat(self) -> None:
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + self._settings.ping_seconds
        gpus = gpu_use()  # before the transaction: a driver may take seconds to answer
        with self._database.session() as session:
            beat(session, self._identity, gpus)
        self._doorbell.ping(self._identity.id)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._beat()
                self.round()
            except UNREACHABLE as error:
                log_database_error(error)
            except Exception:  # the net must hold whatever happens to one round
                log.exception("reaper_round_failed")
            self._stopping.wait(self._settings.reap_seconds)
