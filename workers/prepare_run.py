"""Preparation of a claimed run: RUN_DIR locked, inputs fetched from the store, the milestone of a branch copied."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree, restore_trees, stage
from lcl_core.common.run_dir import RunDir
from lcl_core.db.collections import prepare_collection_snapshots
from lcl_core.db.leases import Claim, begin_attempt
from lcl_core.db.models import ArtifactUpload
from lcl_core.db.registry import managed_paths, resolve_inputs
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from workers.attempt import Attempt

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
    """Create RUN_DIR and lock it until ``unlock`` or the end of the block; what a killed job was replacing is restored.

    A process of an earlier attempt may still have the lock; a file system keeps that of a lost machine for minutes. The
    lease is renewed meanwhile.

    Raises (on entry): UserError ``run_dir_busy`` after ``folder_seconds``; AttemptInterrupted, StaleLease, OSError.
    """
    settings, run_dir = attempt.settings, attempt.run_dir
    run_dir.path.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + settings.folder_seconds
    while not run_dir.try_lock():
        if time.monotonic() > deadline:
            message = f"another process has been at work in {run_dir.path} for {settings.folder_seconds:g} s"
            raise UserError(message, code="run_dir_busy")
        attempt.lease.raise_if_interrupted()
        time.sleep(settings.watch_seconds)
    try:
        attempt.lease.check()
        for folder in (run_dir.checkpoints, run_dir.artifacts):
            restore_trees(folder)
        yield
    finally:
        run_dir.unlock()


def remove_earlier_state(claim: Claim, run_dir: RunDir) -> None:
    """Remove from RUN_DIR, which is locked, what was computed before the run was last started from the beginning.

    Each home has a folder of its own, and an attempt may be interrupted before it empties one: ``run.json`` says which
    state a folder is in.
    """
    try:
        restarts = int(run_dir.read_run().get("restarts", 0))
    except (OSError, ValueError):
        restarts = 0
    if restarts < claim.restarts:
        _remove_output(run_dir)
        run_dir.tokenizer_file.unlink(missing_ok=True)


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
    scratch = claim.from_scratch or not run_dir.checkpoints.is_dir() or not any(run_dir.checkpoints.iterdir())
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
        if claim.from_scratch:
            run_dir.tokenizer_file.unlink(missing_ok=True)
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
            "attempt_id": claim.attempt_id,
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

    Raises: UserError ``no_milestone`` where ``parent`` has none of that step; OSError.
    """
    name = f"step_{step:08d}"
    if not (parent.checkpoints / name).is_dir():
        found = sorted(int(path.name.removeprefix("step_")) for path in parent.checkpoints.glob("step_*"))
        known = f"its checkpoints are of step {', '.join(map(str, found))}" if found else "it has no checkpoint at all"
        raise UserError(
            f"branch.step: run {parent.path.name} has no checkpoint of step {step} in this home; {known}. "
            "Choose one of them, or train the trunk with milestone_every",
            code="no_milestone",
            field="branch.step",
        )
    _copy_history(parent, child)
    child.truncate_metrics(step)
    stage(parent.checkpoints / name, child.checkpoints / name, link=True).publish()


def _copy_history(parent: RunDir, child: RunDir) -> None:
    """Metrics, and the tokenizer that the weights belong to."""
    for source, target in ((parent.metrics_file, child.metrics_file), (parent.tokenizer_file, child.tokenizer_file)):
        if source.exists():
            shutil.copyfile(source, target)
