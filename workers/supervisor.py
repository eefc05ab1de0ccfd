"""Supervision of one claimed run: prepare RUN_DIR, start the job process, monitor it, complete the run."""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree
from lcl_core.common.run_dir import RunDir
from lcl_core.common.system_errors import failure_code
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.collections import prepare_collection_snapshots
from lcl_core.db.complete_run import RunFailed, RunOutcome, complete_run
from lcl_core.db.leases import Claim, StaleLease, begin_attempt, release_lease, renew_lease
from lcl_core.db.registry import ResolvedInputs, resolve_inputs
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.jobs import JOB_MODULES
from lcl_core.specs.parsing import parse_spec
from workers.executors.local import JobProcess, device_env
from workers.exit_outcome import Requeue, classify_exit, storage_failure
from workers.gang import combine_outcomes, is_secondary_failure, publish_rendezvous
from workers.logs import log_database_error
from workers.maintenance import schedule_dependents, schedule_studies
from workers.monitor import JobMonitor, MetricsTail
from workers.prepare_run import FetchInterrupted, copy_parent_checkpoint, fetch_inputs
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


@contextmanager
def lease_heartbeat(database: Database, settings: WorkerSettings, claim: Claim) -> Iterator[None]:
    """Renew in a thread until the end of the block. A lease that is lost shows where the block names its token."""
    over = threading.Event()
    thread = threading.Thread(target=_renew_until, args=(database, settings, claim, over), name="keeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _renew_until(database: Database, settings: WorkerSettings, claim: Claim, over: threading.Event) -> None:
    while not over.wait(settings.heartbeat_seconds):
        try:
            with database.session() as session:
                renew_lease(session, claim, settings.lease_seconds)
        except StaleLease:
            return  # the block has just settled the run, or another has taken it over
        except UNREACHABLE as error:
            log_database_error(error)


class Supervisor:
    """Prepares RUN_DIR, starts the process, watches it, and settles the run. Safe to use from several threads.

    Args:
        modules: the module that runs each kind of spec.
    """

    def __init__(self, database: Database, settings: WorkerSettings, modules: Mapping[str, str] = JOB_MODULES) -> None:
        self._database = database
        self._settings = settings
        self._modules = modules
        self._supply = Artifacts(settings)

    def run(self, claim: Claim, stopping: threading.Event) -> None:
        """Work on a claimed run until it is settled, handed back, or no longer ours.

        ``stopping`` asks to hand it back.
        """
        run_dir = RunDir(self._settings.runs_dir.resolve() / claim.run_id)
        try:
            verdict, ran_seconds = self._attempt(claim, run_dir, stopping)
            self._conclude(claim, verdict, run_dir, ran_seconds)
        except StaleLease:
            log.warning("lease_lost")
        except UNREACHABLE as error:
            log_database_error(error)  # the lease runs out, the reaper takes over

    def _attempt(self, claim: Claim, run_dir: RunDir, stopping: threading.Event) -> tuple[RunOutcome | Requeue, float]:
        """The verdict on one attempt, and the seconds worked on the run so far. Raises: StaleLease, UNREACHABLE."""
        try:
            with fetch_inputs(self._database, self._settings, self._supply, claim, stopping) as fetched:
                self._prepare(claim, run_dir, fetched)
                return self._work(claim, run_dir, stopping)
        except FetchInterrupted as interruption:
            return Requeue(uses_attempt=False, cause=str(interruption)), claim.ran_seconds
        except (StaleLease, *UNREACHABLE):
            raise
        except UserError as error:
            verdict = RunFailed(error.to_dict())
        except OSError as error:
            verdict = _storage_failure(error, run_dir.path)
        except Exception as error:  # a fault of ours: the row says so, the log has the traceback
            log.exception("supervisor_failed")
            message = f"the worker could not supervise the run ({error!r}); its log has the traceback"
            verdict = RunFailed({"code": "internal", "message": message})
        return verdict, claim.ran_seconds

    def _work(self, claim: Claim, run_dir: RunDir, stopping: threading.Event) -> tuple[RunOutcome | Requeue, float]:
        tail = MetricsTail(run_dir.metrics_file)
        title = f"attempt {claim.attempt} on {claim.worker}"
        try:
            more = device_env(claim) | publish_rendezvous(self._database, self._settings, claim)
            with JobProcess(self._modules[claim.kind], run_dir, title, self._settings.protocols, more) as trainer:
                log.info("started", kind=claim.kind, attempt=claim.attempt, pid=trainer.pid)
                watch = JobMonitor(self._database, self._settings, claim, trainer, run_dir, tail, stopping)
                exited = watch.until_exit()
        finally:
            tail.close()
        log.info("left", status=exited.status)
        verdict = classify_exit(claim, run_dir, exited)
        if claim.nodes > 1 and is_secondary_failure(run_dir, exited):
            verdict = combine_outcomes(self._database, self._settings, claim, verdict)
        return verdict, watch.ran_seconds

    def _prepare(self, claim: Claim, run_dir: RunDir, fetched: Mapping[str, Path]) -> None:
        """Raises: UserError for names that stand for nothing, StaleLease, OSError."""
        run_dir.path.mkdir(parents=True, exist_ok=True)
        self._await_predecessor(claim, run_dir)
        over = claim.from_scratch or not run_dir.checkpoints.is_dir() or not any(run_dir.checkpoints.iterdir())
        with self._database.session() as session:
            spec = parse_spec(claim.kind, claim.spec)
            inputs = resolve_inputs(session, spec, self._settings.home, self._settings.roots, fetched)
            read = {"datasets": inputs.dataset_hashes}
            begin_attempt(session, claim, encoder_id=inputs.encoder_id, from_scratch=over, inputs=read)
        if over:
            run_dir.metrics_file.unlink(missing_ok=True)
            remove_tree(run_dir.checkpoints)
            remove_tree(run_dir.artifacts)
            if claim.continues and not claim.from_scratch:
                copy_parent_checkpoint(RunDir(run_dir.path.with_name(claim.continues)), run_dir)
        collections = prepare_collection_snapshots(self._database, spec, run_dir.changes, self._settings.home, fetched)
        run_dir.prepare({**_run_json(claim, inputs), "collections": collections, **_storage_paths(self._settings)})

    def _await_predecessor(self, claim: Claim, run_dir: RunDir) -> None:
        """Wait for a process of an earlier attempt that is still leaving; it holds the directory's lock."""
        deadline = time.monotonic() + self._settings.lease_seconds
        while not _is_unlocked(run_dir) and time.monotonic() < deadline:
            with self._database.session() as session:
                renew_lease(session, claim, self._settings.lease_seconds)
            time.sleep(self._settings.watch_seconds)

    def _conclude(self, claim: Claim, verdict: RunOutcome | Requeue, run_dir: RunDir, ran_seconds: float) -> None:
        if isinstance(verdict, Requeue):
            log.info("handed_back", cause=verdict.cause)
            self._persist(lambda: self._hand_back(claim, verdict))
            return
        shutil.rmtree(run_dir.changes, ignore_errors=True)  # handed over for this attempt alone
        try:
            state = self._settle(claim, verdict, run_dir, ran_seconds)
        except OSError as error:
            state = self._settle(claim, _storage_failure(error, run_dir.path), run_dir, ran_seconds)
        log.info("settled", state=state)
        schedule_dependents(self._database)
        schedule_studies(self._database)  # now, so that an evaluation goes before the study's next pre-training

    def _settle(self, claim: Claim, outcome: RunOutcome, run_dir: RunDir, ran_seconds: float) -> str:
        """Raises: StaleLease, UNREACHABLE, OSError."""
        place, home, holder = run_dir.path, self._settings.home, self._supply.holder
        with lease_heartbeat(self._database, self._settings, claim):  # what was made may be large
            return self._persist(lambda: complete_run(self._database, claim, outcome, place, home, ran_seconds, holder))

    def _hand_back(self, claim: Claim, verdict: Requeue) -> str:
        with self._database.session() as session:
            return release_lease(session, claim, uses_attempt=verdict.uses_attempt, cause=verdict.cause)

    def _persist(self, write: Callable[[], str]) -> str:
        """Write, again and again while the database is away, until the lease would be long over."""
        deadline = time.monotonic() + 2 * self._settings.lease_seconds
        while True:
            try:
                return write()
            except UNREACHABLE as error:
                if time.monotonic() > deadline:
                    raise
                log_database_error(error)
                time.sleep(self._settings.watch_seconds)


def _run_json(claim: Claim, inputs: ResolvedInputs) -> dict[str, object]:
    return {
        "run_id": claim.run_id,
        "kind": claim.kind,
        "spec": claim.spec,
        "datasets": inputs.datasets,
        "encoders": inputs.encoders,
        "encoder_files": inputs.encoder_files,
        "attempt": claim.attempt,
    }


def _storage_paths(settings: WorkerSettings) -> dict[str, object]:
    roots = [str(root.resolve() if isinstance(root, Path) else root) for root in settings.roots]
    return {"cache": str(settings.home.resolve() / "cache"), "roots": roots}


def _is_unlocked(run_dir: RunDir) -> bool:
    """Whether no process holds the directory."""
    with (run_dir.path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _storage_failure(error: OSError, run_dir: Path) -> RunFailed:
    return storage_failure(
        failure_code(error, run_dir.parent.parent), error.filename or run_dir, error.strerror or str(error)
    )
