"""Checkpoints of a run in the artifact store: copied while it runs, fetched by a worker whose home lacks them.

    checkpoints/run_…/step_00000100/ATTEMPT_ID/
      files/checkpoint/…              the checkpoint
      files/metrics.jsonl             metric lines up to its step
      files/tokenizer.json            that of the run, if it learnt one
      files/artifacts/encoder_best/…  best weights so far, of a run with a monitor
      manifest.json                   written last: {"files": {name: {"bytes", "sha256"}}, "step", "attempt",
                                      "tensors": {file: {tensor: [first byte, bytes]}}}

A thread of the worker copies, not the job: the step loses no time to it, the job gets no credentials of the store, and
the copy goes on after the job has died. If the worker dies too, the next attempt in this home copies what is still
missing; one in another home continues from what has been copied. A row names each whole copy. It is written under the
run's lease, so an attempt that has lost it replaces nothing, and every attempt has keys of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, regular_files, remove_tree, sha256_file, write_atomically
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import (
    Artifacts,
    StoredCheckpoint,
    record_stored_checkpoint,
    stored_checkpoints,
    write_checked,
)
from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.session import UNREACHABLE, Database
from workers.lease_keeper import LeaseKeeper
from workers.logs import log_database_error
from workers.settings import WorkerSettings

CHECKPOINT, METRICS, TOKENIZER, BEST = "checkpoint", "metrics.jsonl", "tokenizer.json", "artifacts/encoder_best"
_OWN_MANIFEST = "manifest.json"  # of a checkpoint
_TENSORS = ".safetensors"
_MAX_DELAY_SECONDS = 60.0
_MAX_HEADER = 64 << 20  # bytes of the header of a safetensors file
_DAMAGES = ("artifact_damaged", "file_missing")
log = structlog.get_logger(__name__)


def copies_checkpoints(settings: WorkerSettings, claim: Claim) -> bool:
    """Whether the worker copies the checkpoints of this run. Jobs of other kinds keep no series of checkpoints."""
    return settings.checkpoints == "store" and claim.kind == "pretrain"


def local_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the complete checkpoints in a folder, newest first."""
    found = []
    for path in folder.glob("step_*"):
        digits = path.name.removeprefix("step_")
        if digits.isdecimal() and (path / _OWN_MANIFEST).is_file():
            found.append((int(digits), path))
    return sorted(found, reverse=True)


@contextmanager
def copied_checkpoints(
    database: Database, settings: WorkerSettings, artifacts: Artifacts, claim: Claim, run_dir: RunDir
) -> Iterator[Callable[[], None]]:
    """Copy the checkpoints of an attempt until the end of the block.

    Yields: a function that copies the last one too. It waits for half of ``cancel_grace_seconds`` at most, so that a
    worker that is stopped still hands the run back in time.
    """
    if not copies_checkpoints(settings, claim):
        yield lambda: None
        return
    copier = CheckpointCopier(database, settings, artifacts, claim, run_dir)
    thread = threading.Thread(target=copier.serve, name="checkpoints", daemon=True)
    thread.start()

    def finish() -> None:
        copier.ending.set()
        thread.join(settings.cancel_grace_seconds / 2)

    try:
        yield finish
    finally:
        copier.abandon()  # between two files; an upload of a file cannot be interrupted


@dataclass
class _Snapshot:
    """Links to one checkpoint and to what belongs to it, which stay until the copy is whole.

    Attributes:
        files: by name in the store.
        sent: names that have been sent.
        stored: the copy, once it is whole in the store.
    """

    step: int
    folder: Path
    key: str
    content: str
    files: dict[str, dict[str, Any]]
    sent: set[str] = field(default_factory=set)
    stored: StoredCheckpoint | None = None


class CheckpointCopier:
    """Copies the newest checkpoint of a run that the store lacks, and its milestones, one at a time.

    While a copy takes longer than the next checkpoint, those between are left out.
    """

    def __init__(
        self, database: Database, settings: WorkerSettings, artifacts: Artifacts, claim: Claim, run_dir: RunDir
    ) -> None:
        self._database, self._settings, self._artifacts = database, settings, artifacts
        self._claim, self._run_dir = claim, run_dir
        self._attempt_id = hashlib.sha256(claim.token.encode()).hexdigest()[:16]
        self._folder = run_dir.path / "uploading" / self._attempt_id
        self._copied: dict[int, str] | None = None  # {step: hash of the checkpoint's manifest}; None: not read yet
        self._snapshot: _Snapshot | None = None
        self._sources: dict[str, tuple[str, str]] = {}  # (key, name) of the last copy by SHA-256
        self._unnamed: list[str] = []  # keys to remove
        self._scanned = -1  # when the folder of checkpoints had changed, as of the last look that found nothing new
        self.ending, self._abandoned = threading.Event(), threading.Event()

    def abandon(self) -> None:
        """End as soon as possible."""
        self._abandoned.set()
        self.ending.set()

    def serve(self) -> None:
        """Copy until ``ending`` is set and nothing is left to copy, or the lease is lost."""
        _remove(self._folder.parent)  # of an attempt that was killed
        failures = 0
        try:
            while not self._abandoned.is_set():
                last = self.ending.is_set()
                try:
                    if self._copy_next():
                        failures = 0
                        continue
                    failures = 0
                except UNREACHABLE as error:
                    log_database_error(error)
                    failures += 1
                except (UserError, OSError) as error:
                    failures += 1
                    step = None if self._snapshot is None else self._snapshot.step
                    log.warning("checkpoint_not_copied", step=step, tries=failures, error=str(error))
                if last:
                    return
                self.ending.wait(self._delay(failures))
        except StaleLease:
            log.info("checkpoints_no_longer_copied", reason="the lease was lost")
        except Exception:  # an error of ours costs copies, not the run
            log.exception("checkpoint_copies_failed")
        finally:
            _remove(self._folder)

    def _delay(self, failures: int) -> float:
        if not failures:
            return self._settings.watch_seconds
        return min(_MAX_DELAY_SECONDS, self._settings.reap_seconds * 2.0 ** (failures - 1))

    def _copy_next(self) -> bool:
        """Copy one checkpoint. Returns: whether there was one. Raises: StaleLease, UNREACHABLE, UserError, OSError."""
        store = self._artifacts.store  # opened before there is anything to copy
        scanned = _modified(self._run_dir.checkpoints)
        if scanned == self._scanned and not self.ending.is_set():
            return False
        snapshot = self._choose()
        if snapshot is None:
            self._scanned = scanned
            return False
        for name, entry in snapshot.files.items():
            if self._abandoned.is_set():
                return False
            if name not in snapshot.sent:
                store.send_file(snapshot.key, name, snapshot.folder / name, self._sources.get(entry["sha256"]))
                snapshot.sent.add(name)
        if snapshot.stored is None:
            manifest = store.put_manifest(snapshot.key, self._describe(snapshot))
            snapshot.stored = StoredCheckpoint(
                snapshot.step, self._claim.attempt, snapshot.key, manifest, snapshot.content
            )
        self._record(snapshot, snapshot.stored)
        return True

    def _record(self, snapshot: _Snapshot, stored: StoredCheckpoint) -> None:
        keep, every = self._claim.spec.get("keep_checkpoints", 2), self._claim.spec.get("milestone_every")
        holder = self._artifacts.holder or ""
        newest = max([stored.step, *(step for step, _ in local_checkpoints(self._run_dir.checkpoints))])
        with self._database.session() as session:
            unnamed = record_stored_checkpoint(session, self._claim, holder, stored, newest, keep, every)
            named = stored_checkpoints(session, self._claim.run_id)
        self._copied = {each.step: each.content for each in named}
        self._sources = {entry["sha256"]: (snapshot.key, name) for name, entry in snapshot.files.items()}
        self._snapshot = None
        _remove(snapshot.folder)
        size = sum(entry["bytes"] for entry in snapshot.files.values())
        log.info("checkpoint_copied", step=snapshot.step, files=len(snapshot.files), bytes=size)
        self._unnamed += unnamed
        while self._unnamed:
            self._artifacts.store.remove(self._unnamed[-1])
            self._unnamed.pop()

    def _choose(self) -> _Snapshot | None:
        """What is to be copied next: the newest checkpoint, else a milestone; None: the store has them."""
        if self._copied is None:
            with self._database.reading() as session:
                self._copied = {each.step: each.content for each in stored_checkpoints(session, self._claim.run_id)}
        every = self._claim.spec.get("milestone_every")
        found = local_checkpoints(self._run_dir.checkpoints)
        wanted = [(step, path) for step, path in found if step == found[0][0] or (every and step % every == 0)]
        current = self._snapshot
        if current is not None and (current.stored or current.step in dict(wanted)):
            return current
        for step, path in wanted:
            try:
                if self._copied.get(step) != sha256_file(path / _OWN_MANIFEST):
                    return self._prepare_snapshot(step, path)
            except FileNotFoundError:
                if path.exists():
                    raise
                # else the job has just removed it
        return None

    def _prepare_snapshot(self, step: int, checkpoint: Path) -> _Snapshot | None:
        """Raises: OSError."""
        self._discard()
        folder = self._folder / checkpoint.name
        own = json.loads((checkpoint / _OWN_MANIFEST).read_text(encoding="utf-8"))
        for name in (*own["files"], _OWN_MANIFEST):
            _link(checkpoint / name, folder / CHECKPOINT / name)
        self._link_context(folder, step)
        content = sha256_file(folder / CHECKPOINT / _OWN_MANIFEST)
        # the job computed these when it wrote the files
        known = {f"{CHECKPOINT}/{name}": digest for name, digest in own["files"].items()}
        files = {
            name: {"bytes": status.st_size, "sha256": known.get(name) or sha256_file(folder / name)}
            for name, status in regular_files(folder)
        }
        key = f"checkpoints/{self._claim.run_id}/{checkpoint.name}/{self._attempt_id}"
        self._snapshot = _Snapshot(step, folder, key, content, files)
        return self._snapshot

    def _discard(self) -> None:
        """Give up a copy for a newer checkpoint's."""
        if self._snapshot is not None:
            self._unnamed.append(self._snapshot.key)
            self._snapshot = None
        _remove(self._folder)

    def _link_context(self, folder: Path, step: int) -> None:
        """What a resumed run needs beside the checkpoint, as it is now. Raises: OSError."""
        if self._run_dir.metrics_file.exists():
            write_atomically(folder / METRICS, _metrics_until(self._run_dir.metrics_file, step), durable=False)
        if self._run_dir.tokenizer_file.exists():
            _link(self._run_dir.tokenizer_file, folder / TOKENIZER)
        best = self._run_dir.best_encoder
        if best.is_dir():  # the job replaces the whole folder
            before = best.stat().st_ino
            for name, _ in regular_files(best):
                _link(best / name, folder / BEST / name)
            if best.stat().st_ino != before:
                raise FileNotFoundError(f"{best} has just been replaced")

    def _describe(self, snapshot: _Snapshot) -> dict[str, Any]:
        tensors = {name: _tensor_ranges(snapshot.folder / name) for name in snapshot.files if name.endswith(_TENSORS)}
        return {
            "step": snapshot.step,
            "attempt": self._claim.attempt,
            "files": snapshot.files,
            "tensors": {name: ranges for name, ranges in tensors.items() if ranges},
        }


def fetch_checkpoints(
    database: Database,
    settings: WorkerSettings,
    artifacts: Artifacts,
    claim: Claim,
    run_dir: RunDir,
    lease: LeaseKeeper,
) -> None:
    """Fetch what this attempt starts from, where this home lacks it: its newest checkpoint, or one of another run.

    Damaged copies are passed over, with a line in the run's log. RUN_DIR is locked.

    Raises: UserError ``store_unreachable``; AttemptInterrupted, StaleLease, UNREACHABLE, OSError.
    """
    _remove(run_dir.path / "fetching")
    if not copies_checkpoints(settings, claim):
        return
    fetcher = _Fetcher(database, artifacts, lease, run_dir.log_file)
    if not claim.from_scratch:
        fetcher.fetch(run_dir)
        if local_checkpoints(run_dir.checkpoints):
            return
        if claim.continues not in (None, (claim.spec.get("branch") or {}).get("run")):
            fetcher.fetch_from(RunDir(run_dir.path.parent / claim.continues))
    if branch := claim.spec.get("branch"):
        fetcher.fetch_from(RunDir(run_dir.path.parent / branch["run"]), branch["step"])


@dataclass(frozen=True)
class _Fetcher:
    database: Database
    artifacts: Artifacts
    lease: LeaseKeeper
    log_file: Path

    def fetch_from(self, parent: RunDir, step: int | None = None) -> None:
        """:meth:`fetch` for the folder of another run, unless a job is at work in it, which has what there is."""
        if self.lease.persist(lambda: self._read_rows(parent.path.name)):
            parent.path.mkdir(parents=True, exist_ok=True)
            if parent.try_lock():
                try:
                    self.fetch(parent, step)
                finally:
                    parent.unlock()

    def fetch(self, run_dir: RunDir, step: int | None = None) -> None:
        """Fetch the newest whole checkpoint of a run, or that of ``step``, if its folder is behind."""
        folder = run_dir.path / "fetching"
        for stored in self.lease.persist(lambda: self._read_rows(run_dir.path.name)):
            if step not in (None, stored.step):
                continue
            if not _is_behind(run_dir, stored, only=step is not None):
                return
            name = f"step_{stored.step:08d}"
            try:
                _fetch(self.artifacts, stored, folder, self.lease.raise_if_interrupted)
            except UserError as error:
                if error.code not in _DAMAGES:
                    raise
                log.warning("stored_checkpoint_damaged", step=stored.step, key=stored.key, error=str(error))
                _append_line(self.log_file, f"checkpoint {name} in the store is passed over: {error}")
                continue
            _publish(folder, run_dir, name, alone=step is None)
            log.info("checkpoint_fetched", step=stored.step, key=stored.key)
            _append_line(self.log_file, f"checkpoint {name} was fetched from the store")
            return

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
            return sha256_file(path / _OWN_MANIFEST) != stored.content
    return stored.step > step


def _fetch(artifacts: Artifacts, stored: StoredCheckpoint, folder: Path, progress: Callable[[], None]) -> None:
    """Raises: UserError ``artifact_damaged``, ``file_missing``, ``store_unreachable``; OSError; as ``progress``."""
    store = artifacts.store
    _remove(folder)
    for name, entry in store.read_manifest(stored.key, stored.manifest)["files"].items():
        if not _is_ours(name):
            raise UserError("the manifest in the store names a file that no checkpoint has", code="artifact_damaged")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        chunks = store.read_stream(stored.key, name, 0, entry["bytes"])
        write_checked(target, chunks, entry["sha256"], progress)


def _publish(folder: Path, run_dir: RunDir, name: str, *, alone: bool) -> None:
    """Rename what was fetched into RUN_DIR, the checkpoint last. Raises: OSError.

    Args:
        alone: in place of what an attempt left that the run did not go on from; else beside later checkpoints.
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
    _remove(folder)


def _modified(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return -1


def _remove(folder: Path) -> None:
    """Remove a folder of this attempt alone, of which nothing may stay: links would keep removed checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)


def _is_ours(name: str) -> bool:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and (name in (METRICS, TOKENIZER) or name.startswith((f"{CHECKPOINT}/", f"{BEST}/")))


def _append_line(log_file: Path, line: str) -> None:
    with log_file.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _link(source: Path, target: Path) -> None:
    """A hard link, which the removal of ``source`` leaves; a copy where the disk has none. Raises: OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _metrics_until(file: Path, step: int) -> bytes:
    """The complete lines up to ``step``."""
    kept = []
    with file.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, AttributeError):
                if line.endswith(b"\n") and json.loads(line).get("step", 0) <= step:
                    kept.append(line)
    return b"".join(kept)


def _tensor_ranges(file: Path) -> dict[str, list[int]]:
    """{tensor: [first byte in the file, bytes]} of a safetensors file; empty where it cannot be read."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length)) if length <= _MAX_HEADER else {}
    except (OSError, struct.error, ValueError):
        return {}
    ranges = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: [8 + length + begin, end - begin] for name, (begin, end) in ranges.items()}
