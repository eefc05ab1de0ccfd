"""Supervision of one claimed run: prepare RUN_DIR, start the job process, monitor it, complete the run."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.common.gpus import visible_devices_env
from lcl_core.common.logging import log_database_error
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.complete_run import RunFailed, RunOutcome, complete_run
from lcl_core.db.leases import Claim, StaleLease, check_lease, read_setbacks, record_handle, release_lease, renew_lease
from lcl_core.db.quotas import folder_bytes
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.states import State
from lcl_core.jobs import JOB_MODULES
from lcl_core.vector_indexes import CollectionDirectory
from workers.executors.base import EngineUnreachable, Executor, Handle, Job, JobRequest, MachineLost, NoCapacity
from workers.executors.local import LocalExecutor
from workers.exit_outcome import (
    ProcessExit,
    Requeue,
    StopReason,
    await_outcome_file,
    classify_error,
    classify_exit,
    os_error_failure,
)
from workers.fetch_checkpoints import fetch_checkpoints
from workers.job_output import MetricsTail
from workers.lease_keeper import AttemptInterrupted, LeaseKeeper
from workers.maintenance import schedule_dependents, schedule_studies
from workers.monitor import JobMonitor, WorkClock
from workers.prepare_run import fetch_inputs, locked_run_dir, prepare_run_dir, remove_earlier_state
from workers.remote_checkpoints import copied_checkpoints
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Supervisor:
    """Prepares RUN_DIR, starts and monitors the process, and completes the run. Thread-safe.

    Args:
        modules: that run each job kind.
        executor: where they run; None: on this machine.
    """

    def __init__(
        self,
        database: Database,
        settings: WorkerSettings,
        modules: Mapping[str, str] = JOB_MODULES,
        executor: Executor | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._modules = modules
        self._artifacts = Artifacts(settings)
        self._executor: Executor = executor or LocalExecutor(settings)

    def run(self, claim: Claim, stopping: threading.Event) -> None:
        """Work on a claimed run until it is completed, requeued or lost. ``stopping`` requests to requeue it."""
        run_dir, clock = RunDir(self._settings.runs_dir.resolve() / claim.run_id), WorkClock(claim.ran_seconds)

        def renew(session: Session) -> State:
            return renew_lease(session, claim, self._settings.lease_seconds, clock.seconds)

        try:
            with LeaseKeeper(self._database, self._settings, claim.run_id, renew, stopping) as lease:
                outcome = self._attempt(claim, run_dir, lease, clock, stopping)
                self._conclude(claim, outcome, run_dir, lease, clock)
        except StaleLease:
            log.warning("lease_lost")
        except UNREACHABLE as error:
            log_database_error(error)  # the worker stops: another one requeues the run when its lease has expired

    def _attempt(
        self, claim: Claim, run_dir: RunDir, lease: LeaseKeeper, clock: WorkClock, stopping: threading.Event
    ) -> RunOutcome | Requeue:
        """Outcome of one attempt. Raises: StaleLease, UNREACHABLE."""
        try:
            lease.confirm()
            if claim.handle is not None:
                return self._classify(claim, run_dir, lease, self._reattach(claim, run_dir, lease, clock, stopping))
            with (
                fetch_inputs(self._database, self._settings, self._artifacts, claim, lease) as fetched,
                locked_run_dir(self._settings, run_dir, lease),
            ):
                remove_earlier_state(claim, run_dir)
                fetch_checkpoints(self._database, self._settings, self._artifacts, claim, run_dir, lease)
                lease.persist(lambda: prepare_run_dir(self._database, self._settings, claim, run_dir, fetched))
                return self._classify(claim, run_dir, lease, self._work(claim, run_dir, lease, clock, stopping))
        except AttemptInterrupted as interruption:
            return replace(Requeue.by("interrupted", str(interruption)), keeps_processes=claim.handle is not None)
        except (StaleLease, *UNREACHABLE):
            raise
        except NoCapacity as error:
            return Requeue.by("no_capacity", str(error))
        except MachineLost as error:
            return classify_exit(claim, run_dir, ProcessExit(-signal.SIGKILL, StopReason.MACHINE, 0, loss=str(error)))
        except EngineUnreachable as error:
            return replace(Requeue.by("machine_lost", str(error)), keeps_processes=True)
        except UserError as error:
            return classify_error(error.to_dict())
        except OSError as error:
            return os_error_failure(error, run_dir.path)
        except Exception as error:  # an error of the worker: the row says so, the log has the traceback
            log.exception("supervisor_failed")
            message = f"the worker could not supervise the run ({error!r}); its log has the traceback"
            return RunFailed({"code": "internal", "message": message}, keeps_processes=claim.handle is not None)

    def _work(
        self, claim: Claim, run_dir: RunDir, lease: LeaseKeeper, clock: WorkClock, stopping: threading.Event
    ) -> ProcessExit:
        """Raises: StaleLease, AttemptInterrupted, NoCapacity, MachineLost, UserError, OSError."""

        def remember(handle: Handle) -> None:
            def record() -> None:
                with self._database.session() as session:
                    record_handle(session, claim, handle)

            lease.persist(record)

        request = JobRequest(
            self._modules[claim.kind],
            run_dir,
            f"attempt {claim.attempt} on {claim.worker}",
            self._settings.protocols,
            env={} if self._executor.places_nodes else visible_devices_env(claim.devices),
            name=claim.run_id,
            nodes=claim.nodes,
            gpus=claim.gpus if claim.resource != "cpu" else 0,
            check=lease.raise_if_interrupted,
        )
        lease.confirm()
        run_dir.unlock()  # for the process, which locks it again
        with self._executor.start(request, remember) as job:
            log.info("started", kind=claim.kind, attempt=claim.attempt, **job.identity)
            return self._monitor(claim, job, run_dir, lease, clock, stopping)

    def _reattach(
        self,
        claim: Claim,
        run_dir: RunDir,
        lease: LeaseKeeper,
        clock: WorkClock,
        stopping: threading.Event,
    ) -> ProcessExit:
        """Supervise processes that have outlived their worker. Raises: StaleLease, MachineLost, EngineUnreachable."""
        with self._executor.attach(claim.handle or {}, run_dir) as job:
            log.info("reattached", kind=claim.kind, attempt=claim.attempt, **job.identity)
            return self._monitor(claim, job, run_dir, lease, clock, stopping)

    def _monitor(
        self,
        claim: Claim,
        job: Job,
        run_dir: RunDir,
        lease: LeaseKeeper,
        clock: WorkClock,
        stopping: threading.Event,
    ) -> ProcessExit:
        tail = MetricsTail(run_dir.metrics_file)
        try:
            where = self._database, self._settings, self._artifacts, claim, run_dir
            with copied_checkpoints(*where) as finish_copies:
                monitor = JobMonitor(self._database, self._settings, claim, job, run_dir, tail, lease, clock, stopping)
                exited = monitor.until_exit()
                if exited.stop_reason is not StopReason.DETACHED:
                    finish_copies()
        finally:
            tail.close()
        if exited.stop_reason is not StopReason.DETACHED:
            log.info("job_exited", status=exited.status)
        return exited

    def _classify(self, claim: Claim, run_dir: RunDir, lease: LeaseKeeper, exited: ProcessExit) -> RunOutcome | Requeue:
        if self._executor.places_nodes:
            await_outcome_file(run_dir, exited, lease.check)
        return classify_exit(claim, run_dir, exited)

    def _conclude(
        self, claim: Claim, outcome: RunOutcome | Requeue, run_dir: RunDir, lease: LeaseKeeper, clock: WorkClock
    ) -> None:
        """The lease is renewed meanwhile: the output may be large. Raises: StaleLease, UNREACHABLE."""
        if isinstance(outcome, Requeue):
            requeue = outcome
            if lease.persist(lambda: self._requeue(claim, requeue, run_dir)) is not None:
                log.info("requeued", cause=requeue.cause)
                return
            outcome = replace(requeue.failure, keeps_processes=requeue.keeps_processes)
        shutil.rmtree(run_dir.changes, ignore_errors=True)  # of this attempt alone
        try:
            state = self._complete(claim, outcome, run_dir, lease, clock)
        except OSError as error:
            state = self._complete(claim, os_error_failure(error, run_dir.path), run_dir, lease, clock)
        log.info("completed", state=state)
        schedule_dependents(self._database)  # of very many the maintainer does the rest
        schedule_studies(self._database)  # now, so that an evaluation runs before the study's next pre-training

    def _complete(
        self, claim: Claim, outcome: RunOutcome, run_dir: RunDir, lease: LeaseKeeper, clock: WorkClock
    ) -> State:
        """Raises: StaleLease, UNREACHABLE, OSError."""
        settings, holder = self._settings, self._artifacts.holder
        return lease.persist(
            lambda: complete_run(
                *(self._database, claim, outcome, run_dir.path, settings.home, clock.seconds, holder),
                _open_collection,
                settings,
            )
        )

    def _requeue(self, claim: Claim, outcome: Requeue, run_dir: RunDir) -> State | None:
        """Release the lease as the rule says; None: no attempt is left. Raises: StaleLease, UNREACHABLE."""
        rule = outcome.rule
        size = folder_bytes(run_dir.path, shared=False) if run_dir.path.is_dir() else None
        with self._database.session() as session:
            setbacks = read_setbacks(session, claim)
            if check_lease(session, claim) is State.RUNNING and rule.exhausted(setbacks, claim.max_attempts):
                return None
            return release_lease(
                session,
                claim,
                uses_attempt=outcome.uses_attempt,
                cause=outcome.cause,
                code=rule.cause,
                delay_seconds=rule.delay_seconds(setbacks),
                keep_handle=outcome.keeps_processes,
                folder_bytes=size,
                holder=self._artifacts.holder,
            )


def _open_collection(directory: Path) -> CollectionDirectory:
    from lcl_core.collections.collection import Collection  # keeps numpy out of the worker until it is needed

    return Collection.open(directory)
