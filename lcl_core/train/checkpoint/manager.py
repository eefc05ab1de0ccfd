"""Saves, prunes and restores the checkpoints of a run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from lcl_core.common.files import fsync_path, replace_tree, restore_trees
from lcl_core.train.checkpoint.manifest import MANIFEST, CheckpointManifest, storage_errors
from lcl_core.train.checkpoint.reader import StoredGroup, find_problem, open_groups, read_json, read_manifest
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

_NAME, _STATE = "step_", "state.json"


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{_NAME}{step:08d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix(_NAME))


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder."""
    try:
        names = os.listdir(folder)  # unlike glob, which finds nothing where the storage does not answer
    except FileNotFoundError:
        return []
    found = [folder / name for name in names if name.startswith(_NAME) and name.removeprefix(_NAME).isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def _hidden(path: Path) -> Path:
    """Where ``path`` is prepared, or removed, so that a part of it is never read as a damaged checkpoint."""
    return path.with_name(f".{path.name}.tmp")


def prune(folder: Path, step: int, keep: int, milestone_every: int | None) -> None:
    """After ``step`` has been written: keep the newest ``keep`` and the milestones.

    Those of later steps are damaged: the run went back to before them.
    """
    paths = newest_first(folder)
    past = [path for path in paths if step_of(path) <= step]
    milestones = [path for path in past if milestone_every is not None and step_of(path) % milestone_every == 0]
    for path in set(paths) - set(past[:keep]) - set(milestones):
        shutil.rmtree(_hidden(path), ignore_errors=True)
        path.rename(_hidden(path))
        shutil.rmtree(_hidden(path))


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A restored checkpoint.

    Attributes:
        state: the saved JSON.
        ranks: how many processes saved it.
        tensors: the groups that were not filled in place, whole, on the CPU.
        rank_tensors: what this rank saved for itself; empty when the number of ranks has changed.
    """

    step: int
    state: dict[str, Any]
    ranks: int
    tensors: dict[str, dict[str, Tensor]]
    rank_tensors: dict[str, dict[str, Tensor]]


class CheckpointManager:
    """Saves in a background thread, and restores; all ranks make every call, in the same order.

    Args:
        folder: of the checkpoints; created when needed. All ranks have the same.
        keep: number of newest checkpoints to keep.
        milestone_every: checkpoints of steps that this divides are kept for ever.
        on_written: called on the first rank, from the thread that writes, with the step of each checkpoint on disk.

    Attributes:
        passed_over: (name, reason) of the checkpoints that ``load_newest`` found damaged, newest first.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        milestone_every: int | None = None,
        on_written: Callable[[int], None] | None = None,
    ) -> None:
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self.passed_over: list[tuple[str, str]] = []
        self._on_written = on_written
        self._ranks = RankGroup()
        self._staging = Staging()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        if self._ranks.rank == 0:
            restore_trees(folder)
            for path in folder.glob(".step_*.tmp"):  # of an attempt that ended meanwhile
                shutil.rmtree(path, ignore_errors=True)

    def save(
        self,
        step: int,
        tensors: Groups,
        state: Mapping[str, Any],
        *,
        rank_tensors: Groups | None = None,
    ) -> None:
        """Save the checkpoint of ``step``, after the previous one has been written.

        The copy to CPU memory is taken before this returns.

        Args:
            tensors: by group and name; of plain ones those of rank 0 count.
            state: JSON, the same on all ranks.
            rank_tensors: of this rank alone.
        """
        self.wait()
        rank = self._ranks.rank
        files = plan_files(tensors, rank)
        for group, own in (rank_tensors or {}).items():
            files[rank_file(group, rank)] = TensorFile(dict(own))
        text = json.dumps(state, indent=1) if rank == 0 else None
        self._writing = self._thread.submit(self._write, step, self._staging.copy(files), text)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """``wait``, then end the thread and the process group."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._ranks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, step: int, files: Mapping[str, TensorFile], state: str | None) -> None:
        target = checkpoint_path(self.folder, step)
        unfinished = _hidden(target)
        first = self._ranks.rank == 0

        def make_folder() -> None:
            if first:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)

        def write_own() -> dict[str, str]:
            digests = {} if state is None else {_STATE: write_text(unfinished / _STATE, state)}
            for name, file in files.items():
                (unfinished / name).parent.mkdir(exist_ok=True)
                digests[name] = write_tensors(unfinished / name, file.tensors, file.metadata())
            return digests

        try:
            self._on_all_ranks(make_folder)
            digests = {name: digest for own in self._on_all_ranks(write_own) for name, digest in own.items()}
            manifest = CheckpointManifest(step, self._ranks.size, digests)
            self._on_all_ranks(lambda: self._commit(unfinished, target, manifest) if first else None)
        except BaseException:
            if first:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _on_all_ranks(self, action: Callable[[], Any]) -> list[Any]:
        def guarded() -> Any:
            with raise_disk_full(self.folder):
                return action()

        return self._ranks.run_on_all_ranks(guarded)

    def _commit(self, unfinished: Path, target: Path, manifest: CheckpointManifest) -> None:
        write_text(unfinished / MANIFEST, manifest.to_json())
        for folder in (unfinished, *(unfinished / name for name in manifest.folders())):
            fsync_path(folder)
        replace_tree(unfinished, target)
        prune(self.folder, manifest.step, self.keep, self.milestone_every)
        if self._on_written is not None:
            self._on_written(manifest.step)

    def load_newest(self, into: Groups | None = None) -> LoadedCheckpoint | None:
        """Read the newest checkpoint that is whole; damaged ones are skipped and named on standard error.

        Args:
            into: tensors, by group and name, to fill in place. Their sharding may differ from when they were saved.
                Other groups are returned as new CPU tensors.
        Returns: none when there is no checkpoint, or no whole one.
        Raises: UserError naming the tensors when the checkpoint does not fit ``into``; StoreError where the storage
            does not answer, which says nothing about a checkpoint; OSError.
        """
        self.wait()
        self.passed_over = []
        for name in self._ranks.run_on_all_ranks(self._list_names)[0]:
            path = self.folder / name
            problem = find_problem(path, self._ranks)
            if problem is None:
                return self._read(path, into or {})
            self.passed_over.append((name, problem))
            if self._ranks.rank == 0:
                print(f"checkpoint {name} is passed over: {problem}", file=sys.stderr)  # noqa: T201
        return None

    def _list_names(self) -> list[str]:
        with storage_errors(self.folder):
            return [path.name for path in newest_first(self.folder)]

    def _read(self, path: Path, into: Groups) -> LoadedCheckpoint:
        loaded: list[LoadedCheckpoint] = []

        def read() -> None:
            with storage_errors(path):
                manifest = read_manifest(path)
                groups = open_groups(path, manifest)
                for group, targets in into.items():
                    groups.get(group, StoredGroup()).require_fit(targets, group, path)
                for group, targets in into.items():
                    groups[group].fill(targets)
                own = manifest.rank_files(self._ranks.rank) if manifest.ranks == self._ranks.size else {}
                tensors = {group: found.whole() for group, found in groups.items() if group not in into}
                rank_tensors = {group: StoredGroup([path / name]).whole() for group, name in own.items()}
                state = read_json(path / _STATE)
                loaded.append(LoadedCheckpoint(manifest.step, state, manifest.ranks, tensors, rank_tensors))

        self._ranks.run_on_all_ranks(read)
        return loaded[0]
