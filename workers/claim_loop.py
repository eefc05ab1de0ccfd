"""Claim loop: one thread a slot; each claims and supervises run after run while any is queued."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from lcl_core.db.gang import MemberLease
from lcl_core.db.leases import Claim
from lcl_core.db.queue import claim_next
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.workers import WorkerIdentity
from workers.logs import log_database_error

log = structlog.get_logger(__name__)


class ClaimLoop:
    """Claims runs while it has free slots.

    Args:
        work: supervises one claimed run, or keeps a seat at one; it hands the run back when the event is set. It
            returns the id of a run for whose other workers it has waited in vain.
    """

    def __init__(
        self,
        worker: WorkerIdentity,
        database: Database,
        lease_seconds: float,
        work: Callable[[Claim | MemberLease, threading.Event], str | None],
    ) -> None:
        self._worker = worker
        self._database = database
        self._lease_seconds = lease_seconds
        self._work = work
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._rings = 0
        self._threads: set[threading.Thread] = set()

    def notify(self) -> None:
        """Something may be queued: if a slot is free, look. Returns at once; costs nothing when called in vain."""
        with self._lock:
            self._rings += 1
            if len(self._threads) >= self._worker.slots or self._stopping.is_set():
                return
            thread = threading.Thread(target=self._serve, name="slot")
            self._threads.add(thread)
            thread.start()

    def stop(self) -> None:
        """Claim nothing more and ask the supervised runs to be handed back. Safe in a signal handler."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until every slot is empty."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _serve(self) -> None:
        given_up = None
        try:
            while not self._stopping.is_set():
                with self._lock:
                    heard = self._rings
                claim = self._claim(given_up)
                if claim is None:
                    with self._lock:
                        if self._rings == heard:  # nobody rang since we looked
                            self._threads.discard(threading.current_thread())
                            return
                    continue
                self.notify()  # perhaps there is work for another slot too
                with structlog.contextvars.bound_contextvars(run=claim.run_id):
                    given_up = self._supervise(claim)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _claim(self, given_up: str | None) -> Claim | MemberLease | None:
        try:
            with self._database.session() as session:
                return claim_next(session, self._worker.id, self._lease_seconds, self._worker.offers, given_up)
        except UNREACHABLE as error:
            log_database_error(error)
            return None

    def _supervise(self, claim: Claim | MemberLease) -> str | None:
        try:
            return self._work(claim, self._stopping)
        except Exception:  # the slot outlives a fault of the supervisor; the run's lease runs out
            log.exception("supervisor_failed")
            return None
