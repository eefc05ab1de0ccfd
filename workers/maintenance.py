"""Periodic work of workers: heartbeats, expired leases, dependents, studies and unwanted jobs.

One worker, the maintainer, does what needs to be done once: the live one with the lowest id. Two workers that both
consider themselves the maintainer do no harm: the database decides which of them changes a row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.gpus import Gpu, gpu_usage
from lcl_core.common.processes import boot_time
from lcl_core.common.run_dir import RunDir
from lcl_core.db.leases import expire_leases, forget_processes, has_expired_leases, unwanted_processes
from lcl_core.db.queue import has_ready_runs
from lcl_core.db.session import UNREACHABLE, Database, now
from lcl_core.db.studies import advance_study, due_studies
from lcl_core.db.submit import has_releasable, release_dependents
from lcl_core.db.workers import (
    WorkerIdentity,
    expire_serving_leases,
    has_expired_serving_leases,
    is_first_worker,
    record_heartbeat,
)
from workers.claim_loop import ClaimLoop
from workers.executors.base import EngineUnreachable, Executor, Handle, MachineLost
from workers.settings import WorkerSettings

_JOBS_AT_ONCE = 8  # that are ended in parallel: each has its grace for a checkpoint
log = structlog.get_logger(__name__)


class QueueMaintenance:
    """Sends heartbeats, and notifies this worker's claim loop of queued runs. The maintainer also requeues runs with an
    expired lease, releases dependents, and submits what studies need.

    A lease that ran out is a sign of a lost worker only if this process has run, and the database has answered it, for
    a whole lease without a gap: after an outage of the database, a step of its clock, or when a machine has slept, live
    workers have had a lease's time to renew theirs.
    """

    def __init__(
        self,
        database: Database,
        claim_loop: ClaimLoop,
        identity: WorkerIdentity,
        settings: WorkerSettings,
        gpus: Sequence[Gpu] = (),
    ) -> None:
        self._database, self._claim_loop, self._identity = database, claim_loop, identity
        self._settings, self._gpus = settings, gpus
        # after a shorter gap every live worker still has time to renew: there are four heartbeats per lease
        self._longest_gap = max(settings.lease_seconds / 2, 3 * settings.reap_seconds)
        self._answered_since = self._answered_at = boot_time()
        self._clock_ahead = math.nan  # seconds by which the database's clock is ahead of this machine's
        self._maintainer_until = 0.0

    @property
    def is_maintainer(self) -> bool:
        return time.monotonic() < self._maintainer_until

    def round(self) -> bool:
        """To be called every ``reap_seconds``. Returns: whether the next call is due at once. Raises: UNREACHABLE."""
        try:
            clock_ahead = self._heartbeat() - boot_time()
            moment = boot_time()
            gap, step = moment - self._answered_at, abs(clock_ahead - self._clock_ahead)
            if gap > self._longest_gap or step > self._longest_gap:
                log.warning("clock_gap", seconds=round(gap, 1), database_step=round(step, 1))
                self._answered_since = moment
            self._answered_at, self._clock_ahead = moment, clock_ahead
            more = False
            if self.is_maintainer:
                if moment >= self._answered_since + self._settings.lease_seconds:
                    self._expire_leases()
                more = schedule_dependents(self._database)
                schedule_studies(self._database)
            with self._database.reading() as session:
                waiting = has_ready_runs(session)
        except UNREACHABLE:
            self._answered_since = boot_time()
            raise
        if waiting:
            self._claim_loop.notify()
        return more

    def _heartbeat(self) -> float:
        """Returns: the time of the database's clock, in seconds."""
        gpus = gpu_usage(self._gpus)  # before the transaction: a driver may take seconds to answer
        began, seconds = time.monotonic(), _heard_within(self._settings)
        with self._database.session() as session:
            record_heartbeat(session, self._identity, gpus)
            elected = is_first_worker(session, self._identity.id, seconds)
            clock = now(session).timestamp()
        self._maintainer_until = began + seconds if elected else 0.0
        return clock

    def _expire_leases(self) -> None:
        with self._database.reading() as session:
            if not has_expired_leases(session) and not has_expired_serving_leases(session):
                return
        with self._database.session() as session:
            expired = expire_leases(session)
            for device in expire_serving_leases(session):
                log.warning("device_serves_no_more", device=device)
        for run in expired:
            log.warning("lease_expired", run=run.id, state=run.state, attempt=run.attempt)


def _heard_within(settings: WorkerSettings) -> float:
    """Seconds since the last heartbeat of a worker that counts as alive."""
    return 5 * settings.reap_seconds


def schedule_dependents(database: Database) -> bool:
    """Queue or cancel some of the runs whose predecessors have ended, in one short transaction.

    Returns: whether there may be more to release. Raises: UNREACHABLE.
    """
    with database.reading() as session:
        if not has_releasable(session):
            return False
    with database.session() as session:
        return release_dependents(session)[1]


def schedule_studies(database: Database) -> None:
    """Submit the next runs of all studies. Raises: UNREACHABLE."""
    with database.reading() as session:
        due = due_studies(session)
    for study_id in due:
        try:
            with database.session() as session:
                advance_study(session, study_id)
        except UserError as error:  # of its spec; others go on
            log.error("study_is_stuck", study=study_id, error=str(error))


def end_unwanted_jobs(database: Database, settings: WorkerSettings, executor: Executor, worker_id: str) -> int:
    """End the unwanted jobs of this executor, if this is the first of its workers.

    An unwanted job has outlived its worker, and its run does not continue with it (``lcl_core.db.leases``). A job whose
    engine does not answer is tried again with the next call.

    Returns: the number of ended jobs. Raises: UNREACHABLE.
    """
    with database.reading() as session:
        rows = unwanted_processes(session, settings.executor)
        if not rows or not is_first_worker(session, worker_id, _heard_within(settings), settings.executor):
            return 0

    def end(row: tuple[str, Handle]) -> bool:
        run_id, handle = row
        ended = _end_job(settings, executor, run_id, handle)
        if ended:
            with database.session() as session:
                forget_processes(session, run_id, handle)
            log.info("unwanted_job_ended", run=run_id, job=handle.get("name"))
        return ended

    with ThreadPoolExecutor(_JOBS_AT_ONCE, thread_name_prefix="unwanted") as pool:
        return sum(pool.map(end, rows))


def _end_job(settings: WorkerSettings, executor: Executor, run_id: str, handle: Handle) -> bool:
    """SIGTERM to the processes of a job, and SIGKILL after the grace. Returns: whether none of them is left."""
    try:
        with executor.attach(handle, RunDir(settings.runs_dir.resolve() / run_id)) as job:
            job.terminate()
            deadline = time.monotonic() + settings.cancel_grace_seconds
            while job.wait(settings.watch_seconds) is None and time.monotonic() < deadline:
                pass
    except MachineLost as error:  # it is gone, or had not started
        log.info("unwanted_job_gone", run=run_id, problem=str(error))
    except EngineUnreachable as error:
        log.warning("unwanted_job_not_reached", run=run_id, problem=str(error))
        return False
    except Exception:  # an error of ours must not keep the other jobs running
        log.exception("unwanted_job_not_ended", run=run_id)
        return False
    return True
