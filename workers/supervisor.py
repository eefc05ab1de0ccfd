"""Supervision of one claimed run: prepare RUN_DIR, start the job process, monitor it, complete the run."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.complete_run import RunFailed, RunOutcome, complete_run
from lcl_core.db.leases import Claim, StaleLease, release_lease, renew_lease
from lcl_core.db.pgvector import CollectionDirectory
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.jobs import JOB_MODULES
from workers.executors.local import JobProcess, device_env
from workers.exit_outcome import Requeue, classify_exit, os_error_failure
from workers.gang import combine_outcomes, is_secondary_failure, published_rendezvous
from workers.logs import log_database_error
from workers.maintenance import schedule_dependents, schedule_studies
from workers.monitor import JobMonitor, MetricsTail
from workers.prepare_run import FetchInterrupted, fetch_inputs, prepare_run_dir
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


@contextmanager
def lease_heartbeat(database: Database, settings: WorkerSettings, claim: Claim) -> Iterator[None]:
    """Renew the lease in a thread until the end of the block, whose writes fail if it is lost."""
    done = threading.Event()
    thread = threading.Thread(target=_renew_until, args=(database, settings, claim, done), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _renew_until(database: Database, settings: WorkerSettings, claim: Claim, done: threading.Event) -> None:
    while not done.wait(settings.heartbeat_seconds):
        try:
            with database.session() as session:
                renew_lease(session, claim, settings.lease_seconds)
        except StaleLease:
            return  # the block has just completed the run, or another worker has claimed it
        except UNREACHABLE as error:
            log_database_error(error)


class Supervisor:
    """Prepares RUN_DIR, starts and monitors the process, and completes the run. Thread-safe.

    Args:
        modules: that run each job kind.
    """

    def __init__(self, database: Database, settings: WorkerSettings, modules: Mapping[str, str] = JOB_MODULES) -> None:
        self._database = database
        self._settings = settings
        self._modules = modules
        self._artifacts = Artifacts(settings)

    def run(self, claim: Claim, stopping: threading.Event) -> None:
        """Work on a claimed run until it is completed, requeued or lost. ``stopping`` requests to requeue it."""
        run_dir = RunDir(self._settings.runs_dir.resolve() / claim.run_id)
        try:
            outcome, ran_seconds = self._attempt(claim, run_dir, stopping)
            self._conclude(claim, outcome, run_dir, ran_seconds)
        except StaleLease:
            log.warning("lease_lost")
        except UNREACHABLE as error:
            log_database_error(error)  # the lease expires, and another worker requeues the run

    def _attempt(self, claim: Claim, run_dir: RunDir, stopping: threading.Event) -> tuple[RunOutcome | Requeue, float]:
        """Outcome of one attempt, and the seconds of work on the run so far. Raises: StaleLease, UNREACHABLE."""
        try:
            with fetch_inputs(self._database, self._settings, self._artifacts, claim, stopping) as fetched:
                prepare_run_dir(self._database, self._settings, claim, run_dir, fetched)
                return self._work(claim, run_dir, stopping)
        except FetchInterrupted as interruption:
            return Requeue(uses_attempt=False, cause=str(interruption)), claim.ran_seconds
        except (StaleLease, *UNREACHABLE):
            raise
        except UserError as error:
            outcome = RunFailed(error.to_dict())
        except OSError as error:
            outcome = os_error_failure(error, run_dir.path)
        except Exception as error:  # an error of the worker: the row says so, the log has the traceback
            log.exception("supervisor_failed")
            message = f"the worker could not supervise the run ({error!r}); its log has the traceback"
            outcome = RunFailed({"code": "internal", "message": message})
        return outcome, claim.ran_seconds

    def _work(self, claim: Claim, run_dir: RunDir, stopping: threading.Event) -> tuple[RunOutcome | Requeue, float]:
        tail = MetricsTail(run_dir.metrics_file)
        title = f"attempt {claim.attempt} on {claim.worker}"
        try:
            with (
                published_rendezvous(self._database, self._settings, claim) as gang_env,
                JobProcess(
                    self._modules[claim.kind], run_dir, title, self._settings.protocols, device_env(claim) | gang_env
                ) as process,
            ):
                log.info("started", kind=claim.kind, attempt=claim.attempt, pid=process.pid)
                monitor = JobMonitor(self._database, self._settings, claim, process, run_dir, tail, stopping)
                exited = monitor.until_exit()
        finally:
            tail.close()
        log.info("job_exited", status=exited.status)
        outcome = classify_exit(claim, run_dir, exited)
        if claim.nodes > 1 and is_secondary_failure(run_dir, exited):
            outcome = combine_outcomes(self._database, self._settings, claim, outcome)
        return outcome, monitor.ran_seconds

    def _conclude(self, claim: Claim, outcome: RunOutcome | Requeue, run_dir: RunDir, ran_seconds: float) -> None:
        if isinstance(outcome, Requeue):
            log.info("requeued", cause=outcome.cause)
            self._persist(lambda: self._requeue(claim, outcome))
            return
        shutil.rmtree(run_dir.changes, ignore_errors=True)  # of this attempt alone
        try:
            state = self._complete(claim, outcome, run_dir, ran_seconds)
        except OSError as error:
            state = self._complete(claim, os_error_failure(error, run_dir.path), run_dir, ran_seconds)
        log.info("completed", state=state)
        schedule_dependents(self._database)
        schedule_studies(self._database)  # now, so that an evaluation runs before the study's next pre-training

    def _complete(self, claim: Claim, outcome: RunOutcome, run_dir: RunDir, ran_seconds: float) -> str:
        """Raises: StaleLease, UNREACHABLE, OSError."""
        path, home, holder = run_dir.path, self._settings.home, self._artifacts.holder
        with lease_heartbeat(self._database, self._settings, claim):  # the output may be large
            return self._persist(
                lambda: complete_run(self._database, claim, outcome, path, home, ran_seconds, holder, _open_collection)
            )

    def _requeue(self, claim: Claim, outcome: Requeue) -> str:
        with self._database.session() as session:
            return release_lease(session, claim, uses_attempt=outcome.uses_attempt, cause=outcome.cause)

    def _persist(self, write: Callable[[], str]) -> str:
        """Retry ``write`` while the database is unreachable, for two lease lengths."""
        deadline = time.monotonic() + 2 * self._settings.lease_seconds
        while True:
            try:
                return write()
            except UNREACHABLE as error:
                if time.monotonic() > deadline:
                    raise
                log_database_error(error)
                time.sleep(self._settings.watch_seconds)


def _open_collection(directory: Path) -> CollectionDirectory:
    from lcl_core.collections.collection import Collection  # keeps numpy out of the worker until it is needed

    return Collection.open(directory)
