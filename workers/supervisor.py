"""Supervision of one claimed run: prepare RUN_DIR, start the job process, monitor it, complete the run."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from lcl_core.common.gpus import visible_devices_env
from lcl_core.common.logging import log_database_error
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.complete_run import RunOutcome, complete_run
from lcl_core.db.leases import Claim, StaleLease, check_lease, read_setbacks, record_handle, release_lease, renew_lease
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.states import State
from lcl_core.jobs import JOB_MODULES
from lcl_core.vector_indexes import CollectionDirectory
from workers.executors.base import Executor, Handle, Job, JobRequest
from workers.executors.local import LocalExecutor
from workers.exit_outcome import (
    ProcessExit,
    Requeue,
    StopReason,
    await_outcome_file,
    classify_exit,
    os_error_failure,
    outcome_of,
)
from workers.fetch_checkpoints import fetch_checkpoints
from workers.job_output import MetricsTail
from workers.lease_keeper import LeaseKeeper
from workers.maintenance import schedule_dependents, schedule_studies
from workers.monitor import JobMonitor, WorkClock
from workers.prepare_run import fetch_inputs, locked_run_dir, prepare_run_dir, remove_earlier_state
from workers.remote_checkpoints import copied_checkpoints
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Supervisor:
    """Works on claimed runs, one attempt each. Thread-safe.

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
        self.database, self.settings, self.modules = database, settings, modules
        self.artifacts = Artifacts(settings)
        self.executor: Executor = executor or LocalExecutor(settings)

    def run(self, claim: Claim, stopping: threading.Event) -> None:
        """Work on a claimed run until it is completed, requeued or lost. ``stopping`` requests to requeue it."""
        clock = WorkClock(claim.ran_seconds)
        lease = LeaseKeeper(
            self.database,
            self.settings,
            claim.run_id,
            lambda session: renew_lease(session, claim, self.settings.lease_seconds, clock.seconds),
            stopping,
        )
        try:
            with lease:
                attempt = Attempt(self, claim, lease, clock, stopping)
                attempt.conclude(attempt.outcome())
        except StaleLease:
            log.warning("lease_lost")
        except UNREACHABLE as error:
            log_database_error(error)  # the worker stops: another one requeues the run when its lease has expired


class Attempt:
    """One attempt at a run, under its lease. Every method raises StaleLease and UNREACHABLE."""

    def __init__(
        self, services: Supervisor, claim: Claim, lease: LeaseKeeper, clock: WorkClock, stopping: threading.Event
    ) -> None:
        self.database, self.settings, self.artifacts = services.database, services.settings, services.artifacts
        self.executor, self.module = services.executor, services.modules[claim.kind]
        self.claim, self.lease, self.clock, self.stopping = claim, lease, clock, stopping
        self.run_dir = RunDir(self.settings.runs_dir.resolve() / claim.run_id)

    def outcome(self) -> RunOutcome | Requeue:
        """Work until the processes have ended."""
        try:
            self.lease.confirm()
            exited = self._prepare_and_start() if self.claim.handle is None else self._reattach(self.claim.handle)
            if self.executor.places_nodes:
                await_outcome_file(self.run_dir, exited, self.lease.check)
            return classify_exit(self.claim, self.run_dir, exited)
        except (StaleLease, *UNREACHABLE):
            raise
        except Exception as error:
            return outcome_of(error, self.claim, self.run_dir)

    def _prepare_and_start(self) -> ProcessExit:
        claim, run_dir, lease, where = self.claim, self.run_dir, self.lease, (self.database, self.settings)
        with (
            fetch_inputs(*where, self.artifacts, claim, lease) as fetched,
            locked_run_dir(self.settings, run_dir, lease),
        ):
            remove_earlier_state(claim, run_dir)
            fetch_checkpoints(*where, self.artifacts, claim, run_dir, lease)
            lease.persist(lambda: prepare_run_dir(*where, claim, run_dir, fetched))
            request = JobRequest(
                self.module,
                run_dir,
                f"attempt {claim.attempt} on {claim.worker}",
                self.settings.protocols,
                env={} if self.executor.places_nodes else visible_devices_env(claim.devices),
                name=claim.run_id,
                nodes=claim.nodes,
                gpus=claim.gpus if claim.resource != "cpu" else 0,
                kind=claim.kind,
                check=lease.raise_if_interrupted,
            )
            lease.confirm()
            run_dir.unlock()  # for the process, which locks it again
            with self.executor.start(request, self._remember) as job:
                log.info("started", kind=claim.kind, attempt=claim.attempt, **job.identity)
                return self._watch(job)

    def _reattach(self, handle: Handle) -> ProcessExit:
        """Supervise processes that have outlived their worker."""
        with self.executor.attach(handle, self.run_dir) as job:
            log.info("reattached", kind=self.claim.kind, attempt=self.claim.attempt, **job.identity)
            return self._watch(job)

    def _remember(self, handle: Handle) -> None:
        def record() -> None:
            with self.database.session() as session:
                record_handle(session, self.claim, handle)

        self.lease.persist(record)

    def _watch(self, job: Job) -> ProcessExit:
        where = self.database, self.settings
        tail = MetricsTail(self.run_dir.metrics_file)
        try:
            with copied_checkpoints(*where, self.artifacts, self.claim, self.run_dir) as finish_copies:
                monitor = JobMonitor(*where, self.claim, job, self.run_dir, tail, self.lease, self.clock, self.stopping)
                exited = monitor.until_exit()
                if exited.stop_reason is not StopReason.DETACHED:
                    finish_copies()
                    log.info("job_exited", status=exited.status)
                return exited
        finally:
            tail.close()

    def conclude(self, outcome: RunOutcome | Requeue) -> None:
        """Release or complete the run. The lease is renewed meanwhile: the output may be large."""
        if isinstance(outcome, Requeue):
            requeue = outcome
            if self.lease.persist(lambda: self._requeue(requeue)) is not None:
                log.info("requeued", cause=requeue.cause)
                return
            outcome = replace(requeue.failure, keeps_processes=requeue.keeps_processes)
        shutil.rmtree(self.run_dir.changes, ignore_errors=True)  # of this attempt alone
        try:
            state = self._complete(outcome)
        except OSError as error:
            state = self._complete(os_error_failure(error, self.run_dir.path))
        log.info("completed", state=state)
        schedule_dependents(self.database)  # of very many the maintainer does the rest
        schedule_studies(self.database)  # now, so that an evaluation runs before the study's next pre-training

    def _complete(self, outcome: RunOutcome) -> State:
        """Raises: OSError."""
        return self.lease.persist(
            lambda: complete_run(
                self.database,
                self.claim,
                outcome,
                self.run_dir.path,
                self.settings.home,
                self.clock.seconds,
                self.artifacts.holder,
                _open_collection,
                self.settings,
            )
        )

    def _requeue(self, requeue: Requeue) -> State | None:
        """Release the lease as the rule says; None: no attempt is left."""
        claim, rule = self.claim, requeue.rule
        with self.database.session() as session:
            setbacks = read_setbacks(session, claim)
            if check_lease(session, claim) is State.RUNNING and rule.exhausted(setbacks, claim.max_attempts):
                return None
            return release_lease(
                session,
                claim,
                uses_attempt=rule.uses_attempt,
                cause=requeue.cause,
                code=rule.cause,
                delay_seconds=rule.delay_seconds(setbacks),
                keep_handle=requeue.keeps_processes,
                holder=self.artifacts.holder,
            )


def _open_collection(directory: Path) -> CollectionDirectory:
    from lcl_core.collections.collection import Collection  # keeps numpy out of the worker until it is needed

    return Collection.open(directory)
