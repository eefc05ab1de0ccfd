"""Copies of a run's checkpoints in the artifact store, from which a worker with another home folder continues.

    checkpoints/run_…/step_00000100/ATTEMPT_ID/
      files/checkpoint/…              the checkpoint
      files/metrics.jsonl             metric lines up to its step
      files/tokenizer.json            that of the run, if it learnt one
      files/artifacts/encoder_best/…  best weights so far, of a run with a monitor

A thread of the worker copies, not the job: steps do not wait for it, and the job gets no credentials of the store. A
row names each complete copy, with the hashes of its files. It is written under the run's lease, so an attempt that has
lost it replaces nothing, and every attempt has keys of its own.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, fsync_tree, regular_files, remove_tree, sha256_file, stage
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import StoredCheckpoint, record_stored_checkpoint, stored_checkpoints
from lcl_core.db.leases import StaleLease, lock_with_lease
from lcl_core.db.session import UNREACHABLE
from workers.lease_keeper import Attempt

_CHECKPOINT, _METRICS, _TOKENIZER, _BEST = "checkpoint", "metrics.jsonl", "tokenizer.json", "artifacts/encoder_best"
_MANIFEST = "manifest.json"  # of a checkpoint
_MAX_DELAY_SECONDS = 60.0
log = structlog.get_logger(__name__)


def local_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints in a folder, newest first."""
    found = []
    for path in folder.glob("step_*"):
        digits = path.name.removeprefix("step_")
        if digits.isdecimal() and (path / _MANIFEST).is_file():
            found.append((int(digits), path))
    return sorted(found, reverse=True)


class CheckpointMirror:
    """Copies the newest checkpoint of a run, and its milestones, to the store; fetches what an attempt starts from.

    While a copy takes longer than the next checkpoint, those between are left out.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._database, self._settings, self._artifacts = attempt.database, attempt.settings, attempt.artifacts
        self._claim, self._run_dir, self._lease = attempt.claim, attempt.run_dir, attempt.lease
        self._enabled = self._settings.checkpoints == "store" and self._claim.kind == "pretrain"
        self._links = self._run_dir.path / "uploading" / self._claim.attempt_id
        self._stored: dict[int, str] | None = None  # {step: hash of the checkpoint's manifest}; None: not read yet
        self._keys: set[str] = set()  # of this attempt
        self._ending, self._abandoned = threading.Event(), threading.Event()

    @contextmanager
    def copying(self) -> Iterator[Callable[[], None]]:
        """Copy until the end of the block.

        Yields: a function that copies the last checkpoint too. It waits for half of ``cancel_grace_seconds`` at most,
        so that a worker that is stopped still releases the run in time.
        """
        if not self._enabled:
            yield lambda: None
            return
        thread = threading.Thread(target=self.copy_until_ended, name="checkpoints", daemon=True)
        thread.start()

        def finish() -> None:
            self._ending.set()
            thread.join(self._settings.cancel_grace_seconds / 2)

        try:
            yield finish
        finally:
            self._abandoned.set()  # between two files; an upload of a file cannot be interrupted
            self._ending.set()

    def copy_until_ended(self) -> None:
        """Copy until the attempt ends and nothing is left to copy, or the lease is lost."""
        shutil.rmtree(self._links.parent, ignore_errors=True)  # of an attempt that was killed
        failures = 0
        try:
            while not self._abandoned.is_set():
                last, copied = self._ending.is_set(), False
                try:
                    copied, failures = self.copy_next(), 0
                except (UserError, OSError, *UNREACHABLE) as error:
                    failures += 1
                    log.warning("checkpoint_not_copied", tries=failures, error=str(error))
                if not copied:
                    if last:
                        return
                    self._ending.wait(min(_MAX_DELAY_SECONDS, self._settings.reap_seconds * 2.0**failures))
        except StaleLease:
            log.info("checkpoints_no_longer_copied", reason="the lease was lost")
        except Exception:  # a bug of ours costs copies, not the run
            log.exception("checkpoint_copies_failed")
        finally:
            shutil.rmtree(self._links, ignore_errors=True)  # links would keep removed checkpoints

    def copy_next(self) -> bool:
        """Copy the newest checkpoint that the store lacks, else a milestone. Returns: whether there was one.

        Raises: StaleLease, UNREACHABLE, UserError, OSError.
        """
        if self._stored is None:
            with self._database.reading() as session:
                self._stored = {each.step: each.content for each in stored_checkpoints(session, self._claim.run_id)}
        every, found = self._claim.spec.get("milestone_every"), local_checkpoints(self._run_dir.checkpoints)
        for step, checkpoint in found:
            if step == found[0][0] or (every and step % every == 0):
                try:
                    if self._stored.get(step) != sha256_file(checkpoint / _MANIFEST):
                        self._copy(step, checkpoint)
                        return True
                except FileNotFoundError:
                    if checkpoint.exists():
                        raise
                    # else the job has just removed it
        return False

    def _copy(self, step: int, checkpoint: Path) -> None:
        store, folder = self._artifacts.store, self._links / checkpoint.name
        shutil.rmtree(self._links, ignore_errors=True)
        digests = self._link(step, checkpoint, folder)
        files: dict[str, dict[str, Any]] = {
            name: {"bytes": status.st_size, "sha256": digests.get(name) or sha256_file(folder / name)}
            for name, status in regular_files(folder)
        }
        key = f"checkpoints/{self._claim.run_id}/{checkpoint.name}/{self._claim.attempt_id}"
        self._keys.add(key)
        for name in files:
            if self._abandoned.is_set():
                return
            store.send_file(key, name, folder / name)
        self._record(StoredCheckpoint(step, self._claim.attempt, key, files))
        log.info("checkpoint_copied", step=step, files=len(files))

    def _link(self, step: int, checkpoint: Path, folder: Path) -> dict[str, str]:
        """Link a checkpoint, which the job may remove meanwhile, and what a resumed run needs beside it, as it is now.

        Returns: SHA-256 by name of the files whose job has computed it.
        """
        stage(checkpoint, folder / _CHECKPOINT, link=True).publish()
        if self._run_dir.metrics_file.exists():
            shutil.copyfile(self._run_dir.metrics_file, folder / _METRICS)
            RunDir(folder).truncate_metrics(step)
        if self._run_dir.tokenizer_file.exists():
            shutil.copyfile(self._run_dir.tokenizer_file, folder / _TOKENIZER)
        best = self._run_dir.best_encoder
        if best.is_dir():  # the job replaces the whole folder
            before = best.stat().st_ino
            stage(best, folder / _BEST, link=True).publish()
            if best.stat().st_ino != before:
                raise FileNotFoundError(f"{best} has just been replaced")
        own = json.loads((folder / _CHECKPOINT / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return {f"{_CHECKPOINT}/{name}": digest for name, digest in own.items()}

    def _record(self, stored: StoredCheckpoint) -> None:
        """Name a complete copy, and remove those that no row names any more."""
        keep, every = self._claim.spec.get("keep_checkpoints", 2), self._claim.spec.get("milestone_every")
        newest = max([stored.step, *(step for step, _ in local_checkpoints(self._run_dir.checkpoints))])
        with self._database.session() as session:
            holder = self._artifacts.holder or ""
            lock_with_lease(session, self._claim)
            unnamed = record_stored_checkpoint(session, self._claim.run_id, holder, stored, newest, keep, every)
            named = stored_checkpoints(session, self._claim.run_id)
        self._stored = {each.step: each.content for each in named}
        for key in {*unnamed, *self._keys} - {each.key for each in named}:
            self._artifacts.store.remove(key)
            self._keys.discard(key)

    def fetch(self) -> None:
        """Fetch what this attempt starts from, where this home lacks it: its newest checkpoint, or one of another run.

        Damaged copies are skipped. RUN_DIR is locked.

        Raises: UserError ``store_unreachable``; AttemptInterrupted, StaleLease, UNREACHABLE, OSError.
        """
        if not self._enabled:
            return
        claim, run_dir, branch = self._claim, self._run_dir, self._claim.spec.get("branch")
        if not claim.from_scratch:
            self._fetch_newest(run_dir)
            if local_checkpoints(run_dir.checkpoints):
                return
        if branch:  # into the folder of that run, unless a job uses it, which has the newest checkpoint
            parent = RunDir(run_dir.path.parent / branch["run"])
            parent.path.mkdir(parents=True, exist_ok=True)
            if parent.try_lock():
                try:
                    self._fetch_newest(parent, branch["step"])
                finally:
                    parent.unlock()

    def _fetch_newest(self, run_dir: RunDir, step: int | None = None) -> None:
        """Fetch the newest whole checkpoint of a run, or that of ``step``, if its folder is behind."""

        def read_rows() -> list[StoredCheckpoint]:
            with self._database.reading() as session:
                return stored_checkpoints(session, run_dir.path.name)

        for stored in self._lease.persist(read_rows):
            if step not in (None, stored.step):
                continue
            if not _is_behind(run_dir, stored, only=step is not None):
                return
            name = f"step_{stored.step:08d}"
            folder = run_dir.path / "fetching"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                for file, entry in stored.files.items():
                    self._artifacts.store.download(
                        stored.key, file, entry, folder / file, self._lease.raise_if_interrupted
                    )
            except UserError as error:
                shutil.rmtree(folder, ignore_errors=True)
                if error.code not in ("artifact_damaged", "file_missing"):
                    raise
                log.warning("stored_checkpoint_damaged", step=stored.step, key=stored.key, error=str(error))
                continue
            _publish(folder, run_dir, name, alone=step is None)
            log.info("checkpoint_fetched", step=stored.step, key=stored.key)
            return


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
            return sha256_file(path / _MANIFEST) != stored.content
    return stored.step > step


def _publish(folder: Path, run_dir: RunDir, name: str, *, alone: bool) -> None:
    """Rename what was fetched into RUN_DIR, the checkpoint last. Raises: OSError.

    Args:
        alone: replacing checkpoints from which the run did not continue; else beside later checkpoints.
    """
    run_dir.checkpoints.mkdir(exist_ok=True)
    if alone or not any(path.name > name for path in run_dir.checkpoints.glob("step_*")):
        for source, target in ((_METRICS, run_dir.metrics_file), (_TOKENIZER, run_dir.tokenizer_file)):
            if (folder / source).exists():
                (folder / source).replace(target)
        remove_tree(run_dir.best_encoder)
        if (folder / _BEST).is_dir():
            run_dir.artifacts.mkdir(exist_ok=True)
            (folder / _BEST).rename(run_dir.best_encoder)
    fsync_tree(folder / _CHECKPOINT)
    for path in run_dir.checkpoints.glob("step_*"):
        if path.name == name or (alone and path.name > name):
            remove_tree(path)
    (folder / _CHECKPOINT).rename(run_dir.checkpoints / name)
    fsync_path(run_dir.checkpoints)
    shutil.rmtree(folder, ignore_errors=True)
