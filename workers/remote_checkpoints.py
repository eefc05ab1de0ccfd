"""Checkpoints of a run in the artifact store: copied while it runs, fetched by a worker whose home lacks them.

    checkpoints/run_…/step_00000100/ATTEMPT_ID/
      files/checkpoint/…              the checkpoint
      files/metrics.jsonl             metric lines up to its step
      files/tokenizer.json            that of the run, if it learnt one
      files/artifacts/encoder_best/…  best weights so far, of a run with a monitor
      manifest.json                   written last: {"files": {name: {"bytes", "sha256"}}, "step", "attempt",
                                      "tensors": {file: {tensor: [first byte, bytes]}}}

A thread of the worker copies, not the job: steps do not wait for it, the job gets no credentials of the store, and the
copy continues after the job has died. If the worker dies too, the next attempt in this home copies what is still
missing; one in another home continues from what has been copied. A row names each complete copy. It is written under
the run's lease, so an attempt that has lost it replaces nothing, and every attempt has keys of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import present_tree, regular_files, sha256_file, write_atomically
from lcl_core.common.logging import log_database_error
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import (
    Artifacts,
    StoredCheckpoint,
    record_stored_checkpoint,
    stored_checkpoints,
)
from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.train.checkpoint.manifest import DAMAGE, CheckpointManifest, storage_errors
from workers.settings import WorkerSettings

CHECKPOINT, METRICS, TOKENIZER, BEST = "checkpoint", "metrics.jsonl", "tokenizer.json", "artifacts/encoder_best"
OWN_MANIFEST = "manifest.json"  # of a checkpoint
_TENSORS = ".safetensors"
_MAX_DELAY_SECONDS = 60.0
_MAX_HEADER = 64 << 20  # bytes of the header of a safetensors file
log = structlog.get_logger(__name__)


def copies_checkpoints(settings: WorkerSettings, claim: Claim) -> bool:
    """Whether the worker copies the checkpoints of this run. Jobs of other kinds keep no series of checkpoints."""
    return settings.checkpoints == "store" and claim.kind == "pretrain"


def checkpoint_key(claim: Claim, name: str) -> str:
    """Key in the store of what this attempt copies."""
    return f"checkpoints/{claim.run_id}/{name}/{claim.attempt_id}"


def local_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the complete checkpoints in a folder, newest first."""
    return [(step, path) for step, path in written_checkpoints(folder) if is_whole(path)]


def written_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """As ``local_checkpoints``, with those of which other homes have a part."""
    found = []
    for path in folder.glob("step_*"):
        digits = path.name.removeprefix("step_")
        if digits.isdecimal() and (path / OWN_MANIFEST).is_file():
            found.append((int(digits), path))
    return sorted(found, reverse=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether a folder has all files of its checkpoint; whether they are damaged is for who reads them.

    Raises: StoreError where the storage does not answer; OSError.
    """
    try:
        with storage_errors(checkpoint):
            return all((checkpoint / name).is_file() for name in read_own_manifest(checkpoint).files)
    except DAMAGE:
        return False


def read_own_manifest(checkpoint: Path) -> CheckpointManifest:
    """Raises: OSError, ValueError, TypeError."""
    return CheckpointManifest(**json.loads((checkpoint / OWN_MANIFEST).read_text(encoding="utf-8")))


@contextmanager
def copied_checkpoints(
    database: Database,
    settings: WorkerSettings,
    artifacts: Artifacts,
    claim: Claim,
    run_dir: RunDir,
) -> Iterator[Callable[[], None]]:
    """Copy the checkpoints of an attempt until the end of the block.

    Yields: a function that copies the last one too. It waits for half of ``cancel_grace_seconds`` at most, so that a
    worker that is stopped still releases the run in time.
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
class Snapshot:
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
        self._folder = run_dir.path / "uploading" / claim.attempt_id
        self._copied: dict[int, str] | None = None  # {step: hash of the checkpoint's manifest}; None: not read yet
        self._snapshot: Snapshot | None = None
        self._sources: dict[str, tuple[str, str]] = {}  # (key, name) of the last copy by SHA-256
        self._unnamed: list[str] = []  # keys to remove
        self._scanned: list[tuple[int, int, int]] | None = None  # checkpoints when nothing was left to copy
        self.ending, self._abandoned = threading.Event(), threading.Event()

    def abandon(self) -> None:
        """End as soon as possible."""
        self._abandoned.set()
        self.ending.set()

    def serve(self) -> None:
        """Copy until ``ending`` is set and nothing is left to copy, or the lease is lost."""
        remove_links(self._folder.parent)  # of an attempt that was killed
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
        except Exception:  # a bug of ours costs copies, not the run
            log.exception("checkpoint_copies_failed")
        finally:
            remove_links(self._folder)

    def _delay(self, failures: int) -> float:
        if not failures:
            return self._settings.watch_seconds
        return min(_MAX_DELAY_SECONDS, self._settings.reap_seconds * 2.0 ** (failures - 1))

    def _copy_next(self) -> bool:
        """Copy one checkpoint. Returns: whether there was one. Raises: StaleLease, UNREACHABLE, UserError, OSError."""
        store = self._artifacts.store  # opened before there is anything to copy
        scanned = _identities(self._run_dir.checkpoints)
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

    def _record(self, snapshot: Snapshot, stored: StoredCheckpoint) -> None:
        keep, every = self._claim.spec.get("keep_checkpoints", 2), self._claim.spec.get("milestone_every")
        holder = self._artifacts.holder or ""
        newest = max([stored.step, *(step for step, _ in written_checkpoints(self._run_dir.checkpoints))])
        with self._database.session() as session:
            unnamed = record_stored_checkpoint(session, self._claim, holder, stored, newest, keep, every)
            named = stored_checkpoints(session, self._claim.run_id)
        self._copied = {each.step: each.content for each in named}
        self._sources = {entry["sha256"]: (snapshot.key, name) for name, entry in snapshot.files.items()}
        self._snapshot = None
        remove_links(snapshot.folder)
        size = sum(entry["bytes"] for entry in snapshot.files.values())
        log.info("checkpoint_copied", step=snapshot.step, files=len(snapshot.files), bytes=size)
        self._unnamed += unnamed
        while self._unnamed:
            self._artifacts.store.remove(self._unnamed[-1])
            self._unnamed.pop()

    def _choose(self) -> Snapshot | None:
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
                if self._copied.get(step) != sha256_file(path / OWN_MANIFEST):
                    return self._prepare_snapshot(step, path)
            except FileNotFoundError:
                if path.exists():
                    raise
                # else the job has just removed it
        return None

    def _prepare_snapshot(self, step: int, checkpoint: Path) -> Snapshot | None:
        """Raises: OSError."""
        self._discard()
        folder = self._folder / checkpoint.name
        own = read_own_manifest(checkpoint)
        for name in (*own.files, OWN_MANIFEST):
            link_or_copy(checkpoint / name, folder / CHECKPOINT / name)
        self._link_context(folder, step)
        content = sha256_file(folder / CHECKPOINT / OWN_MANIFEST)
        # the job computed these when it wrote the files
        known = {f"{CHECKPOINT}/{name}": digest for name, digest in own.files.items()}
        files = {
            name: {"bytes": status.st_size, "sha256": known.get(name) or sha256_file(folder / name)}
            for name, status in regular_files(folder)
        }
        key = checkpoint_key(self._claim, checkpoint.name)
        self._snapshot = Snapshot(step, folder, key, content, files)
        return self._snapshot

    def _discard(self) -> None:
        """Give up a copy for a newer checkpoint's."""
        if self._snapshot is not None:
            self._unnamed.append(self._snapshot.key)
            self._snapshot = None
        remove_links(self._folder)

    def _link_context(self, folder: Path, step: int) -> None:
        """What a resumed run needs beside the checkpoint, as it is now. Raises: OSError."""
        if self._run_dir.metrics_file.exists():
            write_atomically(folder / METRICS, _metrics_until(self._run_dir.metrics_file, step), durable=False)
        if self._run_dir.tokenizer_file.exists():
            link_or_copy(self._run_dir.tokenizer_file, folder / TOKENIZER)
        best = present_tree(self._run_dir.best_encoder)
        if best is not None:  # the job replaces the whole folder
            before = best.stat().st_ino
            for name, _ in regular_files(best):
                link_or_copy(best / name, folder / BEST / name)
            if best.stat().st_ino != before:
                raise FileNotFoundError(f"{best} has just been replaced")

    def _describe(self, snapshot: Snapshot) -> dict[str, Any]:
        """Content of the manifest."""
        tensors = {name: tensor_ranges(snapshot.folder / name) for name in snapshot.files if name.endswith(_TENSORS)}
        return {
            "step": snapshot.step,
            "attempt": self._claim.attempt,
            "files": snapshot.files,
            "tensors": {name: ranges for name, ranges in tensors.items() if ranges},
        }


def _identities(folder: Path) -> list[tuple[int, int, int]]:
    """(step, inode and time of its manifest) of each complete checkpoint.

    The time of the folder alone would not do: it is as coarse as the kernel's clock tick.
    """
    found = []
    for step, path in written_checkpoints(folder):
        with suppress(FileNotFoundError):  # the job has just removed it
            status = (path / OWN_MANIFEST).stat()
            found.append((step, status.st_ino, status.st_mtime_ns))
    return found


def remove_links(folder: Path) -> None:
    """Remove a folder of this attempt alone, completely: links left in it would keep removed checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
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


def tensor_ranges(file: Path) -> dict[str, list[int]]:
    """{tensor: [first byte in the file, bytes]} of a safetensors file; empty where it cannot be read."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length)) if length <= _MAX_HEADER else {}
    except (OSError, struct.error, ValueError):
        return {}
    ranges = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: [8 + length + begin, end - begin] for name, (begin, end) in ranges.items()}
