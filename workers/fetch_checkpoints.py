"""Checkpoints that this home lacks are fetched from the artifact store before an attempt starts.

``workers.remote_checkpoints`` says what the store has.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, remove_tree, sha256_file
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import (
    Artifacts,
    StoredCheckpoint,
    stored_checkpoints,
    write_checked,
)
from lcl_core.db.leases import Claim
from lcl_core.db.session import Database
from workers.lease_keeper import LeaseKeeper
from workers.remote_checkpoints import (
    BEST,
    CHECKPOINT,
    METRICS,
    OWN_MANIFEST,
    TOKENIZER,
    copies_checkpoints,
    is_whole,
    link_or_copy,
    local_checkpoints,
    remove_links,
    written_checkpoints,
)
from workers.settings import WorkerSettings

DAMAGES = ("artifact_damaged", "file_missing")
log = structlog.get_logger(__name__)


def fetch_checkpoints(
    database: Database,
    settings: WorkerSettings,
    artifacts: Artifacts,
    claim: Claim,
    run_dir: RunDir,
    lease: LeaseKeeper,
) -> None:
    """Fetch what this attempt starts from, where this home lacks it: its newest checkpoint, or one of another run.

    Damaged copies are skipped, with a line in the run's log. RUN_DIR is locked.

    Raises: UserError ``store_unreachable``; AttemptInterrupted, StaleLease, UNREACHABLE, OSError.
    """
    remove_links(run_dir.path / "fetching")
    if not copies_checkpoints(settings, claim):
        return
    fetcher = _Fetcher(database, artifacts, lease, run_dir.log_file)
    if not claim.from_scratch:
        fetched = fetcher.fetch(run_dir)
        for _, path in written_checkpoints(run_dir.checkpoints):
            if path.name != fetched and not is_whole(path):  # other homes have the rest, or had it
                remove_tree(path)
        if written_checkpoints(run_dir.checkpoints):
            return
        if claim.parent not in (None, (claim.spec.get("branch") or {}).get("run")):
            fetcher.fetch_from(RunDir(run_dir.path.parent / claim.parent))
    if branch := claim.spec.get("branch"):
        fetcher.fetch_from(RunDir(run_dir.path.parent / branch["run"]), branch["step"])


@dataclass(frozen=True)
class _Fetcher:
    database: Database
    artifacts: Artifacts
    lease: LeaseKeeper
    log_file: Path

    def fetch_from(self, parent: RunDir, step: int | None = None) -> None:
        """:meth:`fetch` for the folder of another run, unless a job uses it, which has the newest checkpoint."""
        if self.lease.persist(lambda: self._read_rows(parent.path.name)):
            parent.path.mkdir(parents=True, exist_ok=True)
            if parent.try_lock():
                try:
                    self.fetch(parent, step)
                finally:
                    parent.unlock()

    def fetch(self, run_dir: RunDir, step: int | None = None) -> str | None:
        """Fetch the newest whole checkpoint of a run, or that of ``step``, if its folder is behind.

        Returns: its name; None: the folder has what there is.
        """
        folder = run_dir.path / "fetching"
        for stored in self.lease.persist(lambda: self._read_rows(run_dir.path.name)):
            if step not in (None, stored.step):
                continue
            if not _is_behind(run_dir, stored, only=step is not None):
                return None
            name = f"step_{stored.step:08d}"
            try:
                fetch_copy(self.artifacts, stored, folder, run_dir, self.lease.raise_if_interrupted)
            except UserError as error:
                if error.code not in DAMAGES:
                    raise
                log.warning("stored_checkpoint_damaged", step=stored.step, key=stored.key, error=str(error))
                _append_line(self.log_file, f"checkpoint {name} in the store is passed over: {error}")
                continue
            _publish(folder, run_dir, name, alone=step is None)
            log.info("checkpoint_fetched", step=stored.step, key=stored.key)
            _append_line(self.log_file, f"checkpoint {name} was fetched from the store")
            return name
        return None

    def _read_rows(self, run_id: str) -> list[StoredCheckpoint]:
        with self.database.reading() as session:
            return stored_checkpoints(session, run_id)


def _is_behind(run_dir: RunDir, stored: StoredCheckpoint, *, only: bool) -> bool:
    """Whether the checkpoints of a folder are older than ``stored``; ``only``: whether that one is not among them.

    After a later attempt, in another home, what the folder has beyond that attempt's copies is not part of the run.
    """
    local = local_checkpoints(run_dir.checkpoints)
    if only or not local:
        return stored.step not in dict(local)
    step, path = local[0]
    with suppress(OSError, ValueError, KeyError):
        if stored.attempt > int(run_dir.read_run()["attempt"]):
            return sha256_file(path / OWN_MANIFEST) != stored.content
    return stored.step > step


def fetch_copy(
    artifacts: Artifacts,
    stored: StoredCheckpoint,
    folder: Path,
    run_dir: RunDir,
    progress: Callable[[], None],
) -> None:
    """Fetch a copy into ``folder``; files that RUN_DIR has are linked.

    Raises: UserError ``artifact_damaged``, ``file_missing``, ``store_unreachable``; OSError; as ``progress``.
    """
    store = artifacts.store
    remove_links(folder)
    files = store.read_manifest(stored.key, stored.manifest)["files"]
    if not all(map(_is_ours, files)):
        raise UserError("the manifest in the store names a file that no checkpoint has", code="artifact_damaged")
    local = run_dir.checkpoints / f"step_{stored.step:08d}"

    def fetch(name: str) -> None:
        target, entry = folder / name, files[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _link_equal(local / name.removeprefix(f"{CHECKPOINT}/"), target, entry):
            write_checked(target, store.read_stream(stored.key, name, 0, entry["bytes"]), entry["sha256"], progress)

    own_manifest = f"{CHECKPOINT}/{OWN_MANIFEST}"
    fetch(own_manifest)
    for name in files.keys() - {own_manifest}:
        fetch(name)


def _link_equal(source: Path, target: Path, entry: dict[str, Any]) -> bool:
    """Link a file of this home, if it is what the store has. Raises: OSError."""
    if not source.is_file() or source.stat().st_size != entry["bytes"] or sha256_file(source) != entry["sha256"]:
        return False
    link_or_copy(source, target)
    return True


def _publish(folder: Path, run_dir: RunDir, name: str, *, alone: bool) -> None:
    """Rename what was fetched into RUN_DIR, the checkpoint last. Raises: OSError.

    Args:
        alone: replacing checkpoints from which the run did not continue; else beside later checkpoints.
    """
    run_dir.checkpoints.mkdir(exist_ok=True)
    later = not alone and any(path.name > name for path in run_dir.checkpoints.glob("step_*"))
    if not later:
        for source, target in ((METRICS, run_dir.metrics_file), (TOKENIZER, run_dir.tokenizer_file)):
            if (folder / source).exists():
                (folder / source).replace(target)
        remove_tree(run_dir.best_encoder)
        if (folder / BEST).is_dir():
            run_dir.artifacts.mkdir(exist_ok=True)
            (folder / BEST).rename(run_dir.best_encoder)
    for path in (folder / CHECKPOINT, *(folder / CHECKPOINT).rglob("*")):
        if path.is_dir():
            fsync_path(path)
    for path in run_dir.checkpoints.glob("step_*"):
        if path.name == name or (alone and path.name > name):
            remove_tree(path)
    (folder / CHECKPOINT).rename(run_dir.checkpoints / name)
    fsync_path(run_dir.checkpoints)
    remove_links(folder)


def _is_ours(name: str) -> bool:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and (name in (METRICS, TOKENIZER) or name.startswith((f"{CHECKPOINT}/", f"{BEST}/")))


def _append_line(log_file: Path, line: str) -> None:
    with log_file.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
