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
    """Names this process in the folders that it has not finished."""
    return f"{socket.gethostname()}-{os.getpid()}"


def partial_path(path: Path, writer: str) -> Path:
    """Where ``writer`` prepares ``path``; hidden until it is whole."""
    return path.with_name(f".{path.name}.{writer}.tmp")


def remove_partial(folder: Path) -> None:
    """Remove what dead processes left unfinished.

    A run directory has one owner at a time, so only another live process of this machine is spared, which
    happens to a folder outside a run directory. A folder of this very process id is a dead namesake's: the
    processes of containers share few numbers.
    """
    for path in folder.glob(".step_*.tmp"):
        writer = path.name.removesuffix(".tmp").removeprefix(".").partition(".")[2]
        host, _, number = writer.rpartition("-")
        elsewhere = host != socket.gethostname() or not number.isdecimal()
        if elsewhere or int(number) == os.getpid() or not _process_alive(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def commit(finished: Path, target: Path, writer: str) -> None:
    """Give a finished folder its name, on the disk too; an older one of that name goes."""
    if target.exists():
        discard(target, writer)
    finished.rename(target)
    fsync_path(target.parent)


def prune(folder: Path, step: int, keep: int, milestone_every: int | None, writer: str) -> None:
    """After ``step`` has been written: keep the newest ``keep`` and the milestones, remove the rest.

    Checkpoints of later steps are removed, whatever their number: the run went back to before them, since they
    were damaged, and they would take the place of good ones.
    """
    past = [path for path in newest_first(folder) if step_of(path) <= step]
    kept = set(past[:keep])
    if milestone_every is not None:
        kept |= {path for path in past if step_of(path) % milestone_every == 0}
    for path in newest_first(folder):
        if path not in kept:
            discard(path, writer)


def discard(path: Path, writer: str) -> None:
    """Remove a checkpoint; one half removed is never taken for a damaged one."""
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
    """A checkpoint that has been read.

    Attributes:
        step: the step that it was saved at.
        state: the JSON that was saved.
        tensors: the groups that were not filled in place, whole, on the CPU.
        rank_tensors, rank_state: what this rank saved for itself; empty when the number of ranks has changed.
    """

    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    rank_tensors: dict[str, dict[str, Tensor]]
    rank_state: dict[str, Any]


@dataclass(frozen=True)
class _Snapshot:
    """What this rank has to write for one step, cut loose from the training."""

    step: int
    tensors: dict[str, TensorFile]
    texts: dict[str, str] = field(default_factory=dict)


class CheckpointManager:
    """Saves and restores; with several processes, all of them make every call, in the same order.

    Args:
        folder: where the checkpoints are; made when needed. All ranks see the same one.
        keep: the newest so many stay.
        milestone_every: checkpoints of steps that this divides stay for ever.
        asynchronous: write in a background thread. The copy to CPU memory is taken before ``save`` returns.

    Attributes:
        passed_over: (name, reason) of the checkpoints that the last reading found damaged, the newest first.
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
        rank_state: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the checkpoint of ``step``, after the one before has been written.

        Args:
            tensors: by group and name. Plain tensors are the same on all ranks; DTensors are written in parts.
            state: JSON, the same on all ranks.
            rank_tensors, rank_state: what differs from rank to rank.
        Raises: UserError when the disk is full and OSError, both also for the checkpoint before.
        """
        self.wait()
        rank = self._ranks.rank
        files = plan_files(tensors, rank)
        for group, own in (rank_tensors or {}).items():
            files[rank_file(group, rank)] = TensorFile(dict(own))
        texts = {"state.json": json.dumps(state, indent=1)} if rank == 0 else {}
        if rank_state is not None:
            texts[f"state.rank_{rank:05d}.json"] = json.dumps(rank_state, indent=1)
        snapshot = _Snapshot(step, self._staging.copied(files), texts)
        if self._thread is None:
            self._write(snapshot)
        else:
            self._writing = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Return when nothing is being written. Raises: what the writing raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """``wait``, then end the thread and the ranks' group. Raises: what the writing raised."""
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
            self._first(lambda: _make_empty(unfinished))
            parts = self._together(lambda: _write_files(unfinished, snapshot))
            files = {name: digest for part in parts for name, digest in part.items()}
            self._first(
                lambda: self._commit(unfinished, target, CheckpointManifest(snapshot.step, self._ranks.size, files))
            )
        except BaseException:
            if self._ranks.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _together(self, action: Callable[[], Any]) -> list[Any]:
        def told() -> Any:
            with raise_disk_full(self.folder):
                return action()

        return self._ranks.run_on_all_ranks(told)

    def _first(self, action: Callable[[], None]) -> None:
        """Rank 0 acts, the others wait for it."""
        self._together(action if self._ranks.rank == 0 else lambda: None)

    def _commit(self, unfinished: Path, target: Path, manifest: CheckpointManifest) -> None:
        manifest.write(unfinished)
        for folder in {unfinished, *(unfinished / name for name in manifest.folders())}:
            fsync_path(folder)
        commit(unfinished, target, self._writer_name)
        prune(self.folder, manifest.step, self.keep, self.milestone_every, self._writer_name)

    def load_newest(self, into: Groups | None = None) -> LoadedCheckpoint | None:
        """Read the newest checkpoint that is whole; damaged ones are passed over and named on standard error.

        Args:
            into: tensors, by group and name, that are filled in place. They may be sharded otherwise than when they
                were saved. Other groups come back as new CPU tensors.
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
        same = manifest.ranks == self._ranks.size
        own = manifest.rank_files(path, self._ranks.rank) if same else {}
        rank_state = path / f"state.rank_{self._ranks.rank:05d}.json"
        return LoadedCheckpoint(
            step=manifest.step,
            state=_read_json(path / "state.json"),
            tensors={group: found.whole() for group, found in stored.items() if group not in into},
            rank_tensors={group: ShardedReader([file]).whole() for group, file in own.items()},
            rank_state=_read_json(rank_state) if same and rank_state.exists() else {},
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
