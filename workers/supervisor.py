"""Supervision of one claimed run: prepare RUN_DIR and inputs, start the job process, monitor it, complete the run."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree, stage
from lcl_core.common.gpus import visible_devices_env
from lcl_core.common.logging import log_database_error
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.collections import prepare_collection_snapshots
from lcl_core.db.complete_run import RunFailed, RunOutcome, complete_run
from lcl_core.db.leases import (
    Claim,
    StaleLease,
    begin_attempt,
    check_lease,
    read_setbacks,
    record_handle,
    release_lease,
    renew_lease,
)
from lcl_core.db.models import ArtifactUpload
from lcl_core.db.registry import managed_paths, resolve_inputs
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.states import State
from lcl_core.jobs import JOB_MODULES
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from workers.executors.base import EngineUnreachable, Executor, Handle, Job, JobRequest, MachineLost, NoCapacity
from workers.executors.local import LocalExecutor
from workers.failure_table import (
    ProcessExit,
    Requeue,
    StopReason,
    await_outcome_file,
    classify_error,
    classify_exit,
    os_error_failure,
)
from workers.lease_keeper import Attempt, AttemptInterrupted, LeaseKeeper, WorkClock
from workers.maintenance import schedule_dependents, schedule_studies
from workers.mirror import CheckpointMirror
from workers.monitor import JobMonitor
from workers.settings import WorkerSettings

_LOCK_SECONDS = 30.0  # to wait for the lock of RUN_DIR, before the run is queued again
log = structlog.get_logger(__name__)


@contextmanager
def fetched_inputs(attempt: Attempt) -> Iterator[dict[str, Path]]:
    """Local copies of the inputs that another home holds, by stored path; they stay until the end of the block.

    Raises (on entry): AttemptInterrupted, StaleLease, UNREACHABLE; UserError for an input that is unknown or
    unavailable.
    """
    artifacts, claim, lease = attempt.artifacts, attempt.claim, attempt.lease

    def remote_inputs() -> list[ArtifactUpload]:
        if artifacts.holder is None:
            return []
        with attempt.database.reading() as session:
            stored = managed_paths(session, parse_spec(claim.kind, claim.spec))
            return [row for path in stored if (row := artifacts.find_remote_copy(session, path)) is not None]

    with ExitStack() as stack:
        rows = lease.persist(remote_inputs)
        yield {
            row.path: stack.enter_context(artifacts.open_cached(row, progress=lease.raise_if_interrupted))
            for row in rows
        }


@contextmanager
def locked_run_dir(attempt: Attempt) -> Iterator[None]:
    """Create RUN_DIR and lock it until ``unlock`` or the end of the block.

    A process of an earlier attempt may still have the lock; a file system keeps that of a lost machine for minutes.

    Raises (on entry): UserError ``run_dir_busy`` after _LOCK_SECONDS; AttemptInterrupted, StaleLease, OSError.
    """
    run_dir, deadline = attempt.run_dir, time.monotonic() + _LOCK_SECONDS
    run_dir.path.mkdir(parents=True, exist_ok=True)
    while not run_dir.try_lock():
        if time.monotonic() > deadline:
            raise UserError(f"another process is at work in {run_dir.path}", code="run_dir_busy")
        attempt.lease.raise_if_interrupted()
        time.sleep(attempt.settings.watch_seconds)
    try:
        attempt.lease.check()
        yield
    finally:
        run_dir.unlock()


def _remove_output(run_dir: RunDir) -> None:
    run_dir.metrics_file.unlink(missing_ok=True)
    remove_tree(run_dir.checkpoints)
    remove_tree(run_dir.artifacts)


def prepare_run_dir(attempt: Attempt, fetched: Mapping[str, Path]) -> None:
    """Record the run's inputs in the database and write RUN_DIR, which is locked, for a new attempt.

    Args:
        fetched: of :func:`fetched_inputs`.

    Raises: UserError for unknown names and a missing milestone, StaleLease, UNREACHABLE, OSError.
    """
    claim, run_dir, settings = attempt.claim, attempt.run_dir, attempt.settings
    scratch = not run_dir.checkpoints.is_dir() or not any(run_dir.checkpoints.iterdir())
    spec = parse_spec(claim.kind, claim.spec)
    with attempt.database.session() as session:
        inputs = resolve_inputs(session, spec, settings.home, settings.roots, fetched)
        read: dict[str, object] = {"datasets": inputs.dataset_hashes}
        read |= {"encoders": inputs.encoder_hashes} if inputs.encoder_hashes else {}
        folders = managed_paths(session, spec)
        read |= {"folders": folders} if folders else {}
        begin_attempt(session, claim, encoder_id=inputs.encoder_id, from_scratch=scratch, inputs=read)
    if scratch:
        _remove_output(run_dir)
        if isinstance(spec, PretrainSpec) and (branch := spec.branch) is not None:
            copy_milestone(RunDir(run_dir.path.parent / branch.run), run_dir, branch.step)
    run_dir.prepare(
        {
            "run_id": claim.run_id,
            "kind": claim.kind,
            "spec": claim.spec,
            "datasets": inputs.datasets,
            "dataset_hashes": inputs.dataset_hashes,
            "encoders": inputs.encoders,
            "encoder_files": inputs.encoder_files,
            "items": inputs.items,
            "attempt": claim.attempt,
            "restarts": claim.restarts,
            "collections": prepare_collection_snapshots(
                attempt.database, spec, run_dir.changes, settings.home, fetched
            ),
            "cache": str(settings.home.resolve() / "cache"),
            "roots": [str(root.resolve() if isinstance(root, Path) else root) for root in settings.roots],
        }
    )


def copy_milestone(parent: RunDir, child: RunDir, step: int) -> None:
    """Copy the checkpoint of ``step`` (hard links where the disk allows), the tokenizer, and the metrics up to it.

    The checkpoint appears last and whole: an attempt that is interrupted before finds none and copies again.

    Raises: UserError ``invalid_value`` where ``parent`` has none of that step; OSError.
    """
    name = f"step_{step:08d}"
    if not (parent.checkpoints / name).is_dir():
        found = sorted(int(path.name.removeprefix("step_")) for path in parent.checkpoints.glob("step_*"))
        known = f"its checkpoints are of step {', '.join(map(str, found))}" if found else "it has no checkpoint at all"
        raise UserError(
            f"branch.step: run {parent.path.name} has no checkpoint of step {step} in this home; {known}. "
            "Choose one of them, or train the trunk with milestone_every",
            field="branch.step",
        )
    for source, target in ((parent.metrics_file, child.metrics_file), (parent.tokenizer_file, child.tokenizer_file)):
        if source.exists():
            shutil.copyfile(source, target)
    child.truncate_metrics(step)
    stage(parent.checkpoints / name, child.checkpoints / name, link=True).publish()


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
            # Each home has a folder of its own: this one may hold what was computed before the run was last restarted.
            try:
                restarts = int(run_dir.read_run().get("restarts", 0))
            except (OSError, ValueError):
                restarts = 0
            if restarts < claim.restarts:
                _remove_output(run_dir)
                run_dir.tokenizer_file.unlink(missing_ok=True)
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
        outcome = requeue.failure
    shutil.rmtree(attempt.run_dir.changes, ignore_errors=True)  # of this attempt alone

    def complete(final: RunOutcome) -> State:
        return complete_run(
            attempt.database,
            attempt.claim,
            final,
            attempt.run_dir.path,
            attempt.settings.home,
            attempt.clock.seconds,
            attempt.artifacts.holder,
            attempt.settings,
        )

    try:
        state = attempt.lease.persist(partial(complete, outcome))
    except OSError as error:
        state = attempt.lease.persist(partial(complete, os_error_failure(error, attempt.run_dir.path)))
    log.info("completed", state=state)
    schedule_dependents(attempt.database)  # of very many the maintainer does the rest
    schedule_studies(attempt.database)  # now, so that an evaluation runs before the study's next pre-training


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


def outcome_of(error: Exception, claim: Claim, run_dir: RunDir) -> RunOutcome | Requeue:
    """Outcome of an attempt whose supervision ended with an error."""
    reattaches = claim.handle is not None
    match error:
        case AttemptInterrupted():
            return Requeue("interrupted", str(error), keeps_processes=reattaches)
        case NoCapacity():
            return Requeue("no_capacity", str(error))
        case MachineLost():  # what the processes wrote before counts
            return classify_exit(claim, run_dir, ProcessExit(-signal.SIGKILL, StopReason.MACHINE, 0, loss=str(error)))
        case EngineUnreachable():
            return Requeue("machine_lost", str(error), keeps_processes=True)
        case UserError():
            return classify_error(error.to_dict())
        case OSError():
            return os_error_failure(error, run_dir.path)
    log.exception("supervisor_failed", exc_info=error)  # an error of the worker
    message = f"the worker could not supervise the run ({error!r}); its log has the traceback"
    return RunFailed({"code": "internal", "message": message}, keeps_processes=reattaches)
