"""Claim loop: one thread per slot; each claims and supervises run after run while any is queued."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from lcl_core.common.logging import log_database_error
from lcl_core.db.leases import Claim
from lcl_core.db.queue import claim_for_engine, claim_next
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.workers import WorkerIdentity
from workers.executors.base import Executor

log = structlog.get_logger(__name__)


class ClaimLoop:
    """Claims runs while it has free slots.

    Args:
        executor: one that places all nodes of a run reports free capacity; None: this worker leases its own devices.
        work: supervises one claimed run; it requeues the run when the event is set.
    """

    def __init__(
        self,
        worker: WorkerIdentity,
        database: Database,
        lease_seconds: float,
        work: Callable[[Claim, threading.Event], None],
        executor: Executor | None = None,
    ) -> None:
        self._worker = worker
        self._database = database
        self._lease_seconds = lease_seconds
        self._work = work
        self._executor = executor
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()

    def notify(self) -> None:
        """Try to claim if a slot is free. Returns at once. It may come too late for a claim that is just failing."""
        with self._lock:
            if len(self._threads) >= self._worker.slots or self.stopping.is_set():
                return
            thread = threading.Thread(target=self._serve, name="slot")
            self._threads.add(thread)
            thread.start()

    def stop(self) -> None:
        """Claim nothing more and requeue the supervised runs. Safe in a signal handler."""
        self.stopping.set()

    def join(self) -> None:
        """Wait until all slots are free."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _serve(self) -> None:
        try:
            while not self.stopping.is_set() and (claim := self._claim()) is not None:
                self.notify()  # another slot may find work too
                with structlog.contextvars.bound_contextvars(run=claim.run_id):
                    try:
                        self._work(claim, self.stopping)
                    except Exception:  # the slot survives an error of the supervisor; the run's lease expires
                        log.exception("supervisor_failed")
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _claim(self) -> Claim | None:
        worker, seconds = self._worker, self._lease_seconds
        try:
            if self._executor is not None and self._executor.places_nodes:
                capacity = self._executor.capacity()
                if capacity is None:
                    return None
                with self._database.session() as session:
                    return claim_for_engine(session, worker.id, seconds, worker.offers, capacity)
            with self._database.session() as session:
                return claim_next(session, worker.id, seconds, worker.offers, devices=worker.gpu_ids)
        except UNREACHABLE as error:
            log_database_error(error)
        except Exception:  # the slot is free again, and the next notification tries again
            log.exception("claim_failed")
        return None
