"""End of jobs that outlive a worker and that no run goes on with.

``lcl_core.db.leases`` says how a run comes to have such a job: it was paused or cancelled while no worker had it, or
its worker was lost in its last attempt. Any worker of the job's engine can find the job by the handle in the run's row,
and ends it as a cancel does. A job whose engine does not answer is tried again.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from lcl_core.common.run_dir import RunDir
from lcl_core.db.leases import forget_processes, unwanted_processes
from lcl_core.db.session import Database
from lcl_core.db.workers import claim_task, release_task
from workers.executors.base import EngineUnreachable, Executor, Handle, MachineLost
from workers.maintenance import PeriodicTask
from workers.settings import WorkerSettings

_AT_ONCE = 8  # jobs that are ended in parallel: each has its grace for a checkpoint
# after the grace, for an engine to end a job; then another worker may try too, which does no harm
_END_SECONDS = 120.0
log = structlog.get_logger(__name__)


def ending_tasks(
    database: Database, settings: WorkerSettings, executor: Executor, worker_id: str
) -> list[PeriodicTask]:
    """:func:`end_unwanted_jobs` every ``reap_seconds``; none where no job outlives its worker."""
    if not executor.places_nodes:
        return []
    work = partial(end_unwanted_jobs, database, settings, executor, worker_id)
    return [PeriodicTask("unwanted jobs", work, settings.reap_seconds, join_seconds=settings.cancel_grace_seconds)]


def end_unwanted_jobs(database: Database, settings: WorkerSettings, executor: Executor, worker_id: str) -> int:
    """End the unwanted jobs of this executor, unless another worker is doing so.

    Returns: the number of ended jobs. Raises: UNREACHABLE.
    """
    with database.reading() as session:
        rows = unwanted_processes(session, settings.executor)
    if not rows:
        return 0
    task, seconds = f"unwanted jobs/{settings.executor}", settings.cancel_grace_seconds + _END_SECONDS
    with database.session() as session:
        if not claim_task(session, task, worker_id, seconds):
            return 0

    def end(row: tuple[str, Handle]) -> bool:
        run_id, handle = row
        ended = _end_job(settings, executor, run_id, handle)
        if ended:
            with database.session() as session:
                forget_processes(session, run_id, handle)
            log.info("unwanted_job_ended", run=run_id, job=handle.get("name"))
        return ended

    try:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="unwanted") as pool:
            return sum(pool.map(end, rows))
    finally:
        with database.session() as session:
            release_task(session, task, worker_id)


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
