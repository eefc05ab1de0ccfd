"""Preparation of a claimed run: inputs fetched from the artifact store, checkpoints copied from a parent run."""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree, stage
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.collections import prepare_collection_snapshots
from lcl_core.db.leases import Claim, begin_attempt, renew_lease
from lcl_core.db.models import ArtifactUpload
from lcl_core.db.registry import ResolvedInputs, managed_paths, resolve_inputs
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.states import State
from lcl_core.specs.parsing import parse_spec
from workers.logs import log_database_error
from workers.settings import LEASE_SAFETY, WorkerSettings

_FETCH_SECONDS = 300.0
# of errors that pass: an upload in progress, a store that is unreachable
_TRANSIENT_CODES = ("artifacts_pending", "store_unreachable")
log = structlog.get_logger(__name__)


def prepare_run_dir(
    database: Database, settings: WorkerSettings, claim: Claim, run_dir: RunDir, fetched: Mapping[str, Path]
) -> None:
    """Record the run's inputs in the database and write RUN_DIR for a new attempt.

    Args:
        fetched: of :func:`fetch_inputs`.

    Raises: UserError for unknown names, StaleLease, UNREACHABLE, OSError.
    """
    run_dir.path.mkdir(parents=True, exist_ok=True)
    _await_earlier_process(database, settings, claim, run_dir)
    scratch = claim.from_scratch or not run_dir.checkpoints.is_dir() or not any(run_dir.checkpoints.iterdir())
    with database.session() as session:
        spec = parse_spec(claim.kind, claim.spec)
        inputs = resolve_inputs(session, spec, settings.home, settings.roots, fetched)
        read = {"datasets": inputs.dataset_hashes}
        begin_attempt(session, claim, encoder_id=inputs.encoder_id, from_scratch=scratch, inputs=read)
    if scratch:
        run_dir.metrics_file.unlink(missing_ok=True)
        remove_tree(run_dir.checkpoints)
        remove_tree(run_dir.artifacts)
        if claim.continues and not claim.from_scratch:
            copy_parent_checkpoint(RunDir(run_dir.path.with_name(claim.continues)), run_dir)
    collections = prepare_collection_snapshots(database, spec, run_dir.changes, settings.home, fetched)
    run_dir.prepare({**_run_json(claim, inputs), "collections": collections, **_storage_paths(settings)})


def _await_earlier_process(database: Database, settings: WorkerSettings, claim: Claim, run_dir: RunDir) -> None:
    """Wait for a process of an earlier attempt that still holds the directory's lock."""
    deadline = time.monotonic() + settings.lease_seconds
    while not _is_unlocked(run_dir) and time.monotonic() < deadline:
        with database.session() as session:
            renew_lease(session, claim, settings.lease_seconds)
        time.sleep(settings.watch_seconds)


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
    """Whether no process holds the directory's lock."""
    with (run_dir.path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def copy_parent_checkpoint(parent: RunDir, child: RunDir) -> bool:
    """Copy checkpoints (hard links where the disk allows) and metrics of ``parent`` to ``child``.

    The checkpoints appear last and whole: an attempt that is interrupted before finds none and starts from scratch, as
    a run does whose parent's folder is gone.

    Returns: whether the parent had checkpoints. Raises: OSError.
    """
    if not parent.checkpoints.is_dir() or not any(parent.checkpoints.iterdir()):
        log.warning("parent_has_no_checkpoint", parent=parent.path.name)
        return False
    if parent.metrics_file.exists():
        shutil.copyfile(parent.metrics_file, child.metrics_file)
    stage(parent.checkpoints, child.checkpoints, link=True).publish()
    return True


class FetchInterrupted(Exception):
    """The worker or the run was stopped while its inputs were fetched."""


@contextmanager
def fetch_inputs(
    database: Database, settings: WorkerSettings, artifacts: Artifacts, claim: Claim, stopping: threading.Event
) -> Iterator[dict[str, Path]]:
    """Local copies of the inputs that another home holds, by stored path; they stay until the end of the block.

    Raises (on entry): FetchInterrupted, StaleLease, UNREACHABLE; UserError for an input that is unknown or unavailable.
    """
    keeper = _LeaseKeeper(database, settings, claim, stopping)
    with ExitStack() as stack:
        yield {row.path: keeper.fetch(stack, artifacts, row) for row in _remote_inputs(database, artifacts, claim)}


def _remote_inputs(database: Database, artifacts: Artifacts, claim: Claim) -> list[ArtifactUpload]:
    if artifacts.holder is None:
        return []
    with database.reading() as session:
        stored = managed_paths(session, parse_spec(claim.kind, claim.spec))
        return [row for path in stored if (row := artifacts.find_remote_copy(session, path)) is not None]


class _LeaseKeeper:
    """Fetches inputs and renews the lease meanwhile."""

    def __init__(self, database: Database, settings: WorkerSettings, claim: Claim, stopping: threading.Event) -> None:
        self._database, self._settings, self._claim, self._stopping = database, settings, claim, stopping
        self._renewed = time.monotonic()

    def fetch(self, stack: ExitStack, artifacts: Artifacts, row: ArtifactUpload) -> Path:
        """Raises: as :func:`fetch_inputs`."""
        deadline = time.monotonic() + _FETCH_SECONDS
        while True:
            try:
                return stack.enter_context(artifacts.open_cached(row, progress=self.tick))
            except UserError as error:
                if error.code not in _TRANSIENT_CODES or time.monotonic() > deadline:
                    raise
                log.warning("input_unavailable", path=row.path, error=str(error))
            self._stopping.wait(self._settings.reap_seconds)
            self.tick()
            with self._database.reading() as session:
                row = session.get_one(ArtifactUpload, row.path)

    def tick(self) -> None:
        """Raises: Interrupted, StaleLease, UNREACHABLE."""
        if self._stopping.is_set():
            raise FetchInterrupted("the worker is leaving")
        if time.monotonic() < self._renewed + self._settings.heartbeat_seconds:
            return
        now = time.monotonic()
        try:
            with self._database.session() as session:
                state = renew_lease(session, self._claim, self._settings.lease_seconds)
        except UNREACHABLE as error:
            log_database_error(error)
            if now > self._renewed + LEASE_SAFETY * self._settings.lease_seconds:
                raise
            return
        self._renewed = now
        if state is not State.RUNNING:
            raise FetchInterrupted("it was stopped before its inputs were fetched")
