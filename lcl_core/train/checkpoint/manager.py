"""Saves, prunes and restores the checkpoints of a run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from lcl_core.common.files import fsync_path
from lcl_core.train.checkpoint.reader import CheckpointManifest, ShardedReader, find_corruption
from lcl_core.train.checkpoint.writer import (
    Groups,
    Staging,
    TensorFile,
    plan_files,
    raise_disk_full,
    rank_file,
    write_tensors,
    write_text,
)
from lcl_core.train.distributed import RankGroup


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def writer_name() -> str:
    """Name of this process in its partial folders."""
    return f"{socket.gethostname()}-{os.getpid()}"


def partial_path(path: Path, writer: str) -> Path:
    """Hidden folder in which ``writer`` prepares ``path``."""
    return path.with_name(f".{path.name}.{writer}.tmp")


def remove_partial(folder: Path) -> None:
    """Remove partial checkpoints of dead processes.

    Spares those of another live process of this machine: a folder outside a run directory may have two owners. A folder
    with this process's own id belongs to a dead process: containers share few ids.
    """
    for path in folder.glob(".step_*.tmp"):
        writer = path.name.removesuffix(".tmp").removeprefix(".").partition(".")[2]
        host, _, number = writer.rpartition("-")
        elsewhere = host != socket.gethostname() or not number.isdecimal()
        if elsewhere or int(number) == os.getpid() or not _process_alive(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def commit(finished: Path, target: Path, writer: str) -> None:
    """Rename a finished folder to ``target``, and flush; replaces an older ``target``."""
    if target.exists():
        discard(target, writer)
    finished.rename(target)
    fsync_path(target.parent)


def prune(folder: Path, step: int, keep: int, milestone_every: int | None, writer: str) -> None:
    """After ``step`` has been written: keep the newest ``keep`` and the milestones, remove the rest.

    Checkpoints of later steps are removed: they were damaged, and the run restarted from an earlier one.
    """
    past = [path for path in newest_first(folder) if step_of(path) <= step]
    kept = set(past[:keep])
    if milestone_every is not None:
        kept |= {path for path in past if step_of(path) % milestone_every == 0}
    for path in newest_first(folder):
        if path not in kept:
            discard(path, writer)


def discard(path: Path, writer: str) -> None:
    """Rename, then remove a checkpoint, so that a half-removed one is never read as a damaged one."""
    hidden = partial_path(path.with_name(f"{path.name}_old"), writer)
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden)


def _process_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A restored checkpoint.

    Attributes:
        state: the saved JSON.
        ranks: how many processes saved it.
        tensors: the groups that were not filled in place, whole, on the CPU.
        rank_tensors: what this rank saved for itself; empty when the number of ranks has changed.
        rank_states: JSON that each rank had beside ``state`` in checkpoints of older versions; newer ones have none.
    """

    step: int
    state: dict[str, Any]
    ranks: int
    tensors: dict[str, dict[str, Tensor]]
    rank_tensors: dict[str, dict[str, Tensor]]
    rank_states: list[dict[str, Any]]


@dataclass(frozen=True)
class _Snapshot:
    """What this rank writes for one step: copies, independent of the training."""

    step: int
    tensors: dict[str, TensorFile]
    texts: dict[str, str] = field(default_factory=dict)


class CheckpointManager:
    """Saves and restores; with several processes, all of them make every call, in the same order.

    Args:
        folder: of the checkpoints; created when needed, the same for all ranks.
        keep: number of newest checkpoints to keep.
        milestone_every: checkpoints of steps that this divides are kept for ever.
        asynchronous: write in a background thread. The copy to CPU memory is taken before ``save`` returns.

    Attributes:
        passed_over: (name, reason) of the checkpoints that ``load_newest`` found damaged, newest first.
    """

    def __init__(
        self, folder: Path, keep: int = 2, milestone_every: int | None = None, asynchronous: bool = True
    ) -> None:
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self.passed_over: list[tuple[str, str]] = []
        self._ranks = RankGroup()
        self._writer_name: str = self._ranks.all_gather_object(writer_name())[0]
        self._staging = Staging()
        self._thread = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._writing: Future[None] | None = None
        if self._ranks.rank == 0:
            remove_partial(folder)

    def save(
        self,
        step: int,
        tensors: Groups,
        state: Mapping[str, Any],
        *,
        rank_tensors: Groups | None = None,
    ) -> None:
        """Save the checkpoint of ``step``, after the previous one has been written.

        Args:
            tensors: by group and name. Plain tensors are the same on all ranks; DTensors are written in parts.
            state: JSON, the same on all ranks.
            rank_tensors: of this rank alone.
        Raises: UserError when the disk is full and OSError, both also of the previous checkpoint.
        """
        self.wait()
        rank = self._ranks.rank
        files = plan_files(tensors, rank)
        for group, own in (rank_tensors or {}).items():
            files[rank_file(group, rank)] = TensorFile(dict(own))
        texts = {"state.json": json.dumps(state, indent=1)} if rank == 0 else {}
        snapshot = _Snapshot(step, self._staging.copy(files), texts)
        if self._thread is None:
            self._write(snapshot)
        else:
            self._writing = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Wait until nothing is being written. Raises: as ``save``."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """``wait``, then end the thread and the process group. Raises: as ``save``."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            self._ranks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, snapshot: _Snapshot) -> None:
        target = checkpoint_path(self.folder, snapshot.step)
        unfinished = partial_path(target, self._writer_name)
        try:
            self._on_rank_zero(lambda: _make_empty(unfinished))
            parts = self._on_all_ranks(lambda: _write_files(unfinished, snapshot))
            files = {name: digest for part in parts for name, digest in part.items()}
            self._on_rank_zero(
                lambda: self._commit(unfinished, target, CheckpointManifest(snapshot.step, self._ranks.size, files))
            )
        except BaseException:
            if self._ranks.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _on_all_ranks(self, action: Callable[[], Any]) -> list[Any]:
        def guarded() -> Any:
            with raise_disk_full(self.folder):
                return action()

        return self._ranks.run_on_all_ranks(guarded)

    def _on_rank_zero(self, action: Callable[[], None]) -> None:
        """Run ``action`` on rank 0; the others wait for it."""
        self._on_all_ranks(action if self._ranks.rank == 0 else lambda: None)

    def _commit(self, unfinished: Path, target: Path, manifest: CheckpointManifest) -> None:
        manifest.write(unfinished)
        for folder in {unfinished, *(unfinished / name for name in manifest.folders())}:
            fsync_path(folder)
        commit(unfinished, target, self._writer_name)
        prune(self.folder, manifest.step, self.keep, self.milestone_every, self._writer_name)

    def load_newest(self, into: Groups | None = None) -> LoadedCheckpoint | None:
        """Read the newest checkpoint that is whole; damaged ones are skipped and named on standard error.

        Args:
            into: tensors, by group and name, to fill in place. They may be sharded otherwise than when they were saved.
                Other groups are returned as new CPU tensors.
        Returns: none when there is no checkpoint, or no whole one.
        Raises: UserError naming the tensors when the checkpoint does not fit ``into``.
        """
        self.wait()
        self.passed_over = []
        for name in self._ranks.all_gather_object([path.name for path in newest_first(self.folder)])[0]:
            path = self.folder / name
            if problem := find_corruption(path, self._ranks):
                self.passed_over.append((name, problem))
                if self._ranks.rank == 0:
                    print(f"checkpoint {name} is passed over: {problem}", file=sys.stderr)  # noqa: T201
                continue
            return self._read(path, into or {})
        return None

    def _read(self, path: Path, into: Groups) -> LoadedCheckpoint:
        manifest = CheckpointManifest.read(path)
        stored = {group: ShardedReader(files) for group, files in manifest.groups(path).items()}
        for group, targets in into.items():
            stored.get(group, ShardedReader([])).require_fit(targets, group, path)
        for group, targets in into.items():
            stored[group].fill(targets)
        own = manifest.rank_files(path, self._ranks.rank) if manifest.ranks == self._ranks.size else {}
        return LoadedCheckpoint(
            step=manifest.step,
            state=_read_json(path / "state.json"),
            ranks=manifest.ranks,
            tensors={group: found.whole() for group, found in stored.items() if group not in into},
            rank_tensors={group: ShardedReader([file]).whole() for group, file in own.items()},
            rank_states=[_read_json(path / name) for name in manifest.rank_states()],
        )


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_files(folder: Path, snapshot: _Snapshot) -> dict[str, str]:
    """Write this rank's files. Returns: their checksums by name."""
    digests = {}
    for name, file in snapshot.tensors.items():
        (folder / name).parent.mkdir(exist_ok=True)
        digests[name] = write_tensors(folder / name, file.tensors, file.metadata())
    for name, text in snapshot.texts.items():
        digests[name] = write_text(folder / name, text)
    return digests


def _read_json(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read
