"""Periodic work of workers: heartbeats, expired leases, dependents, studies, unwanted jobs, artifact uploads, garbage.

One worker, the maintainer, does what needs to be done once: the live one with the lowest id. Two workers that both
consider themselves the maintainer do no harm: the database decides which of them changes a row.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.gpus import Gpu, gpu_usage
from lcl_core.common.processes import boot_time
from lcl_core.common.run_dir import RunDir
from lcl_core.db import garbage
from lcl_core.db.artifacts import Artifacts, upload_next
from lcl_core.db.leases import expire_leases, forget_processes, has_expired_leases, unwanted_processes
from lcl_core.db.queue import unclaimed_runs, unclaimed_since
from lcl_core.db.session import UNREACHABLE, Database, now
from lcl_core.db.states import State
from lcl_core.db.studies import advance_study, due_studies
from lcl_core.db.submit import has_releasable, release_dependents
from lcl_core.db.wakeup import WakeupProducer
from lcl_core.db.workers import (
    PeriodicTask,
    WorkerIdentity,
    expire_serving_leases,
    has_expired_serving_leases,
    is_first_worker,
    record_heartbeat,
)
from workers.claim_loop import ClaimLoop
from workers.executors.base import EngineUnreachable, Executor, Handle, MachineLost
from workers.settings import WorkerSettings

_WAKEUPS_PER_ROUND = 8  # a woken worker claims its next runs without one
_JOBS_AT_ONCE = 8  # that are ended in parallel: each has its grace for a checkpoint
log = structlog.get_logger(__name__)


class Continuity:
    """Whether this process has run, and the database has answered it, for a whole lease without a gap.

    Only then is a lease that ran out a sign of a lost worker: after an outage of the database, a suspended machine or a
    changed wall clock, live workers have had a lease's time to renew theirs.
    """

    def __init__(self, lease_seconds: float, round_seconds: float) -> None:
        self._lease = lease_seconds
        # after a shorter gap every live worker still has time to renew: there are four heartbeats per lease
        self._longest_gap = max(lease_seconds / 2, 3 * round_seconds)
        self._began = self._ticked = boot_time()
        self._offset = time.time() - self._ticked  # SQLite's leases are times of the wall clock

    def tick(self) -> None:
        """To be called in each round."""
        moment, gap = boot_time(), self._longest_gap
        offset = time.time() - moment
        if moment - self._ticked > gap or abs(offset - self._offset) > gap:
            log.warning("clock_gap", seconds=round(moment - self._ticked, 1), wall=round(offset - self._offset, 1))
            self._began = moment
        self._ticked, self._offset = moment, offset

    def interrupt(self) -> None:
        """The database did not answer."""
        self._began = boot_time()

    @property
    def lasts(self) -> bool:
        return boot_time() >= self._began + self._lease


class QueueMaintenance:
    """Sends heartbeats and queries for queued runs. The maintainer's also requeues runs with an expired lease, releases
    dependents, submits what studies need, and announces runs that wait longer than their wake-up takes.

    A waiting run is offered to this worker's own claim loop without the broker, and to the others through it. The other
    workers query by themselves every ``scan_seconds``, or every ``reap_seconds`` while the broker cannot wake them.

    Args:
        always_scans: what this worker can run changes without a message.
    """

    def __init__(
        self,
        database: Database,
        wakeups: WakeupProducer,
        claim_loop: ClaimLoop,
        identity: WorkerIdentity,
        settings: WorkerSettings,
        gpus: Sequence[Gpu] = (),
        *,
        always_scans: bool = False,
    ) -> None:
        self._database = database
        self._wakeups = wakeups
        self._claim_loop = claim_loop
        self._identity = identity
        self._settings = settings
        self._gpus = gpus
        self._seconds = min(settings.ping_seconds, settings.reap_seconds)
        self._continuity = Continuity(settings.lease_seconds, self._seconds)
        self._next_heartbeat = self._next_scan = self._next_round = 0.0
        self._maintainer_until = 0.0
        self._always_scans = always_scans
        self._hears = False  # the broker can wake this worker
        self._announced_until: datetime | None = None

    @property
    def is_maintainer(self) -> bool:
        return time.monotonic() < self._maintainer_until

    def task(self) -> PeriodicTask:
        """A heartbeat every ``ping_seconds``, a scan when it is due, the maintainer's round every ``reap_seconds``."""
        return PeriodicTask("queue", self._heartbeat_and_round, self._seconds)

    def round(self) -> bool:
        """One round of the maintainer. Returns: whether more dependents are to be released. Raises: UNREACHABLE."""
        self._continuity.tick()
        with self._database.reading() as session:
            lasts = self._continuity.lasts
            expired = lasts and (has_expired_leases(session) or has_expired_serving_leases(session))
            before = now(session) - timedelta(seconds=self._settings.reap_seconds)
            unclaimed = unclaimed_since(session, self._announced_until, before)
        if unclaimed is None or self._announce(unclaimed):
            self._announced_until = before
        queued = self._expire_leases() if expired else []
        released, more = schedule_dependents(self._database)
        queued += released
        queued += schedule_studies(self._database)
        for run_id in queued[:_WAKEUPS_PER_ROUND]:
            if not self._wakeups.wake(run_id):
                break  # the broker is down
        if queued:
            self._claim_loop.notify()
        return more

    def _announce(self, run_id: str) -> bool:
        """Wake all workers for a run that the one that was woken did not claim. False: the broker is down.

        Each run is announced once: a worker that is busy then queries the queue when it has a free slot.
        """
        self._claim_loop.notify()
        return self._wakeups.wake_all(run_id)

    def _scan(self) -> None:
        """Look for runs that this worker could claim, without a message, if that is due. Raises: UNREACHABLE."""
        if time.monotonic() < self._next_scan:
            return
        settings, worker = self._settings, self._identity
        waits = self._hears and not self._always_scans
        self._next_scan = time.monotonic() + (settings.scan_seconds if waits else settings.reap_seconds)
        with self._database.reading() as session:
            before = now(session) - timedelta(seconds=settings.reap_seconds)
            unclaimed = unclaimed_runs(session, before, worker.offers, worker.gpu_ids)
        if unclaimed:
            self._claim_loop.notify()

    def _expire_leases(self) -> list[str]:
        """Ids of the runs that are queued again."""
        with self._database.session() as session:
            expired = expire_leases(session)
            for device in expire_serving_leases(session):
                log.warning("device_serves_no_more", device=device)
        for run in expired:
            log.warning("lease_expired", run=run.id, state=run.state, attempt=run.attempt)
        return [run.id for run in expired if run.state == State.QUEUED]

    def _heartbeat_and_round(self) -> bool:
        """Returns: whether the next call is due at once."""
        try:
            self._heartbeat()
            self._continuity.tick()
            self._scan()
            if self.is_maintainer and time.monotonic() >= self._next_round:
                self._next_round = time.monotonic() + self._settings.reap_seconds
                if self.round():
                    self._next_round = 0.0  # a heartbeat may be due before
                    return True
        except UNREACHABLE:
            self._continuity.interrupt()
            raise
        return False

    def _heartbeat(self) -> None:
        if time.monotonic() >= self._next_heartbeat:
            self._next_heartbeat = time.monotonic() + self._settings.ping_seconds
            gpus = gpu_usage(self._gpus)  # before the transaction: a driver may take seconds to answer
            began, seconds = time.monotonic(), _heard_within(self._settings)
            with self._database.session() as session:
                record_heartbeat(session, self._identity, gpus)
                elected = is_first_worker(session, self._identity.id, seconds)
            self._maintainer_until = began + seconds if elected else 0.0
            self._hears = self._wakeups.ping(self._identity.id)


def _heard_within(settings: WorkerSettings) -> float:
    """Seconds since the last heartbeat of a worker that counts as alive."""
    return 3 * max(settings.ping_seconds, settings.reap_seconds)


def schedule_dependents(database: Database) -> tuple[list[str], bool]:
    """Queue or cancel some of the runs whose predecessors have ended, in one short transaction.

    Returns: ids of the queued ones, and whether there may be more to release. Raises: UNREACHABLE.
    """
    with database.reading() as session:
        if not has_releasable(session):
            return [], False
    with database.session() as session:
        return release_dependents(session)


def schedule_studies(database: Database) -> list[str]:
    """Submit the next runs of all studies. Returns: ids of the queued runs. Raises: UNREACHABLE.

    A study whose spec this version no longer understands is logged and left out.
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


def unwanted_job_tasks(
    database: Database, settings: WorkerSettings, executor: Executor, worker_id: str
) -> list[PeriodicTask]:
    """:func:`end_unwanted_jobs` every ``reap_seconds``; none where no job outlives its worker."""
    if not executor.places_nodes:
        return []
    work = partial(end_unwanted_jobs, database, settings, executor, worker_id)
    return [PeriodicTask("unwanted jobs", work, settings.reap_seconds, join_seconds=settings.cancel_grace_seconds)]


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


def upload_tasks(database: Database, settings: WorkerSettings) -> list[PeriodicTask]:
    """Uploads of artifacts to the store; none where there is no store. Raises: OSError for an unwritable home.

    An upload in progress gets the time at shutdown that a run would; else another round starts it again.
    """
    artifacts = Artifacts(settings)
    if artifacts.holder is None:
        return []
    work = partial(upload_next, database, artifacts)
    return [PeriodicTask("uploads", work, settings.reap_seconds, join_seconds=settings.cancel_grace_seconds)]


def garbage_task(database: Database, settings: WorkerSettings) -> PeriodicTask:
    """A round of garbage collection every hour; one that is interrupted continues in a later round."""
    work = partial(garbage.collect_garbage, database, settings, Artifacts(settings))
    return PeriodicTask("garbage", work, garbage.ROUND_SECONDS, delayed=True, join_seconds=0.0)
