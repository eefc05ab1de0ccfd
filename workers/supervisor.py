"""Supervision of one claimed run: prepare RUN_DIR, start the job process, monitor it, complete the run."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace

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
from workers.attempt import Attempt, WorkClock
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
from workers.lease_keeper import LeaseKeeper
from workers.maintenance import schedule_dependents, schedule_studies
from workers.mirror import CheckpointMirror
from workers.monitor import JobMonitor
from workers.prepare_run import fetched_inputs, locked_run_dir, prepare_run_dir, remove_earlier_state
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
        self._database, self._settings, self._modules = database, settings, modules
        self._artifacts = Artifacts(settings)
        self._executor: Executor = executor or LocalExecutor(settings)

    def run(self, claim: Claim, stopping: threading.Event) -> None:
        """Work on a claimed run until it is completed, requeued or lost. ``stopping`` requests to requeue it."""
        database, settings, clock = self._database, self._settings, WorkClock(claim.ran_seconds)
        lease = LeaseKeeper(
            database,
            settings,
            claim.run_id,
            lambda session: renew_lease(session, claim, settings.lease_seconds, clock.seconds),
            stopping,
        )
        run_dir = RunDir(settings.runs_dir.resolve() / claim.run_id)
        attempt = Attempt(database, settings, self._artifacts, claim, run_dir, lease, clock, stopping)
        try:
            with lease:
                _conclude(attempt, self._outcome(attempt))
        except StaleLease:
            log.warning("lease_lost")
        except UNREACHABLE as error:
            log_database_error(error)  # the worker stops: another one requeues the run when its lease has expired

    def _outcome(self, attempt: Attempt) -> RunOutcome | Requeue:
        """Work until the processes have ended. Raises: StaleLease, UNREACHABLE."""
        claim, run_dir = attempt.claim, attempt.run_dir
        try:
            attempt.lease.confirm()
            if claim.handle is None:
                exited = self._prepare_and_start(attempt)
            else:  # the processes have outlived their worker
                with self._executor.attach(claim.handle, run_dir) as job:
                    exited = _watch(attempt, job, "reattached")
            if self._executor.places_nodes:
                await_outcome_file(run_dir, exited, attempt.lease.check)
            return classify_exit(claim, run_dir, exited)
        except (StaleLease, *UNREACHABLE):
            raise
        except Exception as error:
            return outcome_of(error, claim, run_dir)

    def _prepare_and_start(self, attempt: Attempt) -> ProcessExit:
        claim, run_dir, lease = attempt.claim, attempt.run_dir, attempt.lease
        with fetched_inputs(attempt) as inputs, locked_run_dir(attempt):
            remove_earlier_state(claim, run_dir)
            CheckpointMirror(attempt).fetch()
            lease.persist(lambda: prepare_run_dir(attempt, inputs))
            request = JobRequest(
                self._modules[claim.kind],
                run_dir,
                f"attempt {claim.attempt} on {claim.worker}",
                self._settings.protocols,
                env={} if self._executor.places_nodes else visible_devices_env(claim.devices),
                name=claim.run_id,
                nodes=claim.nodes,
                gpus=claim.gpus if claim.resource != "cpu" else 0,
                kind=claim.kind,
                check=lease.raise_if_interrupted,
            )
            lease.confirm()
            run_dir.unlock()  # for the process, which locks it again

            def remember(handle: Handle) -> None:
                def record() -> None:
                    with self._database.session() as session:
                        record_handle(session, claim, handle)

                lease.persist(record)

            with self._executor.start(request, remember) as job:
                return _watch(attempt, job, "started")


def _watch(attempt: Attempt, job: Job, event: str) -> ProcessExit:
    log.info(event, kind=attempt.claim.kind, attempt=attempt.claim.attempt, **job.identity)
    with CheckpointMirror(attempt).copying() as finish_copies:
        exited = JobMonitor(attempt, job).until_exit()
        if exited.stop_reason is not StopReason.DETACHED:
            finish_copies()
            log.info("job_exited", status=exited.status)
        return exited


def _conclude(attempt: Attempt, outcome: RunOutcome | Requeue) -> None:
    """Release or complete the run. The lease is renewed meanwhile: the output may be large."""
    if isinstance(outcome, Requeue):
        requeue = outcome
        if attempt.lease.persist(lambda: _requeue(attempt, requeue)) is not None:
            log.info("requeued", cause=requeue.cause)
            return
        outcome = replace(requeue.failure, keeps_processes=requeue.keeps_processes)
    shutil.rmtree(attempt.run_dir.changes, ignore_errors=True)  # of this attempt alone
    try:
        state = _complete(attempt, outcome)
    except OSError as error:
        state = _complete(attempt, os_error_failure(error, attempt.run_dir.path))
    log.info("completed", state=state)
    schedule_dependents(attempt.database)  # of very many the maintainer does the rest
    schedule_studies(attempt.database)  # now, so that an evaluation runs before the study's next pre-training


def _complete(attempt: Attempt, outcome: RunOutcome) -> State:
    """Raises: OSError."""
    return attempt.lease.persist(
        lambda: complete_run(
            attempt.database,
            attempt.claim,
            outcome,
            attempt.run_dir.path,
            attempt.settings.home,
            attempt.clock.seconds,
            attempt.artifacts.holder,
            attempt.settings,
        )
    )


def _requeue(attempt: Attempt, requeue: Requeue) -> State | None:
    """Release the lease as the rule says; None: no attempt is left."""
    claim, rule = attempt.claim, requeue.rule
    with attempt.database.session() as session:
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
            holder=attempt.artifacts.holder,
        )
