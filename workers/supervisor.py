"""One claimed run from its directory to its final state."""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from lcl_core.errors import UserError
from lcl_core.faults import fault_of
from lcl_core.rundir import RunDir
from lcl_core.runs.artifacts import remove_tree
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.store import (
    Claim,
    Failed,
    Inputs,
    Outcome,
    StaleLease,
    Supply,
    begin_attempt,
    hand_back,
    handed_collections,
    renew,
    resolve_inputs,
    settle,
)
from lcl_core.specs import parse_spec
from workers.environment import devices_of
from workers.inheritance import inherit
from workers.inputs import Interrupted, fetched_inputs
from workers.keeping import kept_lease
from workers.nodes import call_others, is_echo, verdict_of_all
from workers.settings import WorkerSettings
from workers.studies import drive_studies
from workers.successors import drive_successors
from workers.tail import MetricsTail
from workers.trainer import Trainer
from workers.verdict import HandBack, judge, storage_failed
from workers.watch import Watch

MODULES = {
    "pretrain": "lcl_core.train",
    "evaluate": "lcl_core.transfer",
    "index": "lcl_core.serving",
    "validate": "lcl_core.data.validation",
    "convert": "lcl_core.data.conversion",
    "match": "lcl_core.serving.matching",
}
log = structlog.get_logger(__name__)


class Supervisor:
    """Prepares RUN_DIR, starts the process, watches it, and settles the run. Safe to use from several threads.

    Args:
        modules: the module that runs each kind of spec.
    """

    def __init__(self, database: Database, settings: WorkerSettings, modules: Mapping[str, str] = MODULES) -> None:
        self._database = database
        self._settings = settings
        self._modules = modules
        self._supply = Supply(settings)

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
            log.error("database_unreachable", error=str(error))  # the lease runs out, the reaper takes over

    def _attempt(self, claim: Claim, run_dir: RunDir, stopping: threading.Event) -> tuple[Outcome | HandBack, float]:
        """The verdict on one attempt, and the seconds worked on the run so far. Raises: StaleLease, UNREACHABLE."""
        try:
            with fetched_inputs(self._database, self._settings, self._supply, claim, stopping) as fetched:
                self._prepare(claim, run_dir, fetched)
                return self._work(claim, run_dir, stopping)
        except Interrupted as interruption:
            return HandBack(uses_attempt=False, cause=str(interruption)), claim.ran_seconds
        except (StaleLease, *UNREACHABLE):
            raise
        except UserError as error:
            verdict = Failed(error.to_dict())
        except OSError as error:
            verdict = _storage_failed(error, run_dir.path)
        except Exception as error:  # a fault of ours: the row says so, the log has the traceback
            log.exception("supervisor_failed")
            message = f"the worker could not supervise the run ({error!r}); its log has the traceback"
            verdict = Failed({"code": "internal", "message": message})
        return verdict, claim.ran_seconds

    def _work(self, claim: Claim, run_dir: RunDir, stopping: threading.Event) -> tuple[Outcome | HandBack, float]:
        tail = MetricsTail(run_dir.metrics_file)
        title = f"attempt {claim.attempt} on {claim.worker}"
        try:
            more = devices_of(claim) | call_others(self._database, self._settings, claim)
            with Trainer(self._modules[claim.kind], run_dir, title, self._settings.protocols, more) as trainer:
                log.info("started", kind=claim.kind, attempt=claim.attempt, pid=trainer.pid)
                watch = Watch(self._database, self._settings, claim, trainer, tail, stopping)
                exited = watch.until_exit()
        finally:
            tail.close()
        log.info("left", status=exited.status)
        verdict = judge(claim, run_dir, exited)
        if claim.nodes > 1 and is_echo(run_dir, exited):
            verdict = verdict_of_all(self._database, self._settings, claim, verdict)
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
                inherit(RunDir(run_dir.path.with_name(claim.continues)), run_dir)
        collections = handed_collections(self._database, spec, run_dir.changes, self._settings.home, fetched)
        run_dir.prepare({**_run_json(claim, inputs), "collections": collections, **_places(self._settings)})

    def _await_predecessor(self, claim: Claim, run_dir: RunDir) -> None:
        """Wait for a process of an earlier attempt that is still leaving; it holds the directory's lock."""
        deadline = time.monotonic() + self._settings.lease_seconds
        while not _free(run_dir) and time.monotonic() < deadline:
            with self._database.session() as session:
                renew(session, claim, self._settings.lease_seconds)
            time.sleep(self._settings.watch_seconds)

    def _conclude(self, claim: Claim, verdict: Outcome | HandBack, run_dir: RunDir, ran_seconds: float) -> None:
        if isinstance(verdict, HandBack):
            log.info("handed_back", cause=verdict.cause)
            self._persist(lambda: self._hand_back(claim, verdict))
            return
        shutil.rmtree(run_dir.changes, ignore_errors=True)  # handed over for this attempt alone
        try:
            state = self._settle(claim, verdict, run_dir, ran_seconds)
        except OSError as error:
            state = self._settle(claim, _storage_failed(error, run_dir.path), run_dir, ran_seconds)
        log.info("settled", state=state)
        drive_successors(self._database)
        drive_studies(self._database)  # now, so that an evaluation goes before the study's next pre-training

    def _settle(self, claim: Claim, outcome: Outcome, run_dir: RunDir, ran_seconds: float) -> str:
        """Raises: StaleLease, UNREACHABLE, OSError."""
        place, home, holder = run_dir.path, self._settings.home, self._supply.holder
        with kept_lease(self._database, self._settings, claim):  # what was made may be large
            return self._persist(lambda: settle(self._database, claim, outcome, place, home, ran_seconds, holder))

    def _hand_back(self, claim: Claim, verdict: HandBack) -> str:
        with self._database.session() as session:
            return hand_back(session, claim, uses_attempt=verdict.uses_attempt, cause=verdict.cause)

    def _persist(self, write: Callable[[], str]) -> str:
        """Write, again and again while the database is away, until the lease would be long over."""
        deadline = time.monotonic() + 2 * self._settings.lease_seconds
        while True:
            try:
                return write()
            except UNREACHABLE as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("database_unreachable", error=str(error))
                time.sleep(self._settings.watch_seconds)


def _run_json(claim: Claim, inputs: Inputs) -> dict[str, object]:
    return {
        "run_id": claim.run_id,
        "kind": claim.kind,
        "spec": claim.spec,
        "datasets": inputs.datasets,
        "encoders": inputs.encoders,
        "encoder_files": inputs.encoder_files,
        "attempt": claim.attempt,
    }


def _places(settings: WorkerSettings) -> dict[str, object]:
    roots = [str(root.resolve() if isinstance(root, Path) else root) for root in settings.roots]
    return {"cache": str(settings.home.resolve() / "cache"), "roots": roots}


def _free(run_dir: RunDir) -> bool:
    """Whether no process holds the directory."""
    with (run_dir.path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _storage_failed(error: OSError, run_dir: Path) -> Failed:
    return storage_failed(
        fault_of(error, run_dir.parent.parent), error.filename or run_dir, error.strerror or str(error)
    )
