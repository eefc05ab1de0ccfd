"""Periodic work of every worker: expired leases, dependents, studies, heartbeats, artifact uploads, garbage.

All workers may act at once; the database decides who wins.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import structlog

from lcl_core.common.errors import UserError
from lcl_core.db.artifacts import Artifacts, upload_next
from lcl_core.db.garbage import collect_garbage
from lcl_core.db.leases import expire_leases, has_expired_leases
from lcl_core.db.queue import unclaimed_runs
from lcl_core.db.session import UNREACHABLE, Database, now
from lcl_core.db.states import State
from lcl_core.db.studies import advance_study, due_studies
from lcl_core.db.submit import has_releasable, release_dependents
from lcl_core.db.wakeup import WakeupProducer
from lcl_core.db.workers import WorkerIdentity, record_heartbeat
from workers.claim_loop import ClaimLoop
from workers.devices import gpu_usage
from workers.logs import log_database_error
from workers.settings import WorkerSettings


def schedule_dependents(database: Database) -> list[str]:
    """Returns: ids of the runs that are queued now. Raises: UNREACHABLE."""
    with database.reading() as session:
        if not has_releasable(session):
            return []
    with database.session() as session:
        return release_dependents(session)


log = structlog.get_logger(__name__)


def schedule_studies(database: Database) -> list[str]:
    """Submit what is due. Returns: ids of the runs that are queued now. Raises: UNREACHABLE.

    A study whose spec a newer version no longer understands is passed over, and told.
    """
    queued: list[str] = []
    with database.reading() as session:
        due = due_studies(session)
    for study_id in due:
        try:
            with database.session() as session:
                queued += advance_study(session, study_id)
        except UserError as error:
            log.error("study_is_stuck", study=study_id, error=str(error))
    return queued


class ArtifactUploader:
    """Looks every ``reap_seconds``, in a thread of its own: weights take long to send, and a store may be away."""

    def __init__(self, database: Database, settings: WorkerSettings) -> None:
        self._database = database
        self._settings = settings
        self._supply = Artifacts(settings)
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
                if upload_next(self._database, self._supply):
                    continue  # perhaps there is more
            except UNREACHABLE as error:
                log_database_error(error)
            except Exception:  # one folder that cannot be sent must not keep the others
                log.exception("carrier_round_failed")
            self._stopping.wait(self._settings.reap_seconds)


class GarbageRemover:
    """Looks every ``gc_seconds``, in a thread of its own: large folders take long to remove."""

    def __init__(self, database: Database, settings: WorkerSettings) -> None:
        self._database = database
        self._settings = settings
        self._supply = Artifacts(settings)
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
                depot = self._supply.store
                stored = depot.list_keys()
            except UserError as error:  # the home has garbage all the same
                log.warning("store_not_looked_at", error=str(error))
        grace = self._settings.gc_grace_seconds
        removed = collect_garbage(self._database, self._supply.home, grace, depot, stored)
        for leftover in removed:
            log.info("collected", path=leftover.path, bytes=leftover.bytes)
        return len(removed)

    def _serve(self) -> None:
        while not self._stopping.wait(self._settings.gc_seconds):
            try:
                self.round()
            except (OSError, UserError, *UNREACHABLE) as error:
                log.warning("collection_failed", error=str(error))


_WAKEUPS_PER_ROUND = 8  # a woken worker goes on to the next run by itself


class QueueMaintenance:
    """Every ``reap_seconds``: take runs back whose lease ran out, let those go on whose predecessors have succeeded,
    submit what studies need next, and see to queued runs that nobody claimed.

    A run that waits is offered to this worker's own slots without the broker's help, and rung for so that others
    wake too. Every ``ping_seconds``: a sign of life in the database and a ping through the broker.
    """

    def __init__(
        self,
        database: Database,
        doorbell: WakeupProducer,
        slots: ClaimLoop,
        identity: WorkerIdentity,
        settings: WorkerSettings,
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
            lost = has_expired_leases(session)
            unclaimed_since = now(session) - timedelta(seconds=self._settings.reap_seconds)
            waiting = unclaimed_runs(session, unclaimed_since, self._identity.offers)
        if lost:
            waiting += self._take_back()
        waiting += schedule_dependents(self._database)
        waiting += schedule_studies(self._database)
        for run_id in waiting[:_WAKEUPS_PER_ROUND]:
            if not self._doorbell.wake(run_id):
                break  # the broker is down
        if waiting:
            self._slots.notify()

    def _take_back(self) -> list[str]:
        """Ids of the runs that are queued again."""
        with self._database.session() as session:
            expired = expire_leases(session)
        for run in expired:
            log.warning("lease_expired", run=run.id, state=run.state, attempt=run.attempt)
        return [run.id for run in expired if run.state == State.QUEUED]

    def _beat(self) -> None:
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + self._settings.ping_seconds
        gpus = gpu_usage()  # before the transaction: a driver may take seconds to answer
        with self._database.session() as session:
            record_heartbeat(session, self._identity, gpus)
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
