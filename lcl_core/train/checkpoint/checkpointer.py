"""The writer and reader of a run's checkpoints."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from lcl_core.train.checkpoint import folder as folders
from lcl_core.train.checkpoint.files import disk_full_told, sync_folder, write_tensors, write_text
from lcl_core.train.checkpoint.manifest import Manifest, damage
from lcl_core.train.checkpoint.snapshot import Groups, Staging, TensorFile, plan, rank_file
from lcl_core.train.checkpoint.stored import StoredGroup
from lcl_core.train.ranks import Ranks


@dataclass(frozen=True)
class Loaded:
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


class Checkpointer:
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
        self._ranks = Ranks()
        self._writer_name: str = self._ranks.gather(folders.writer_name())[0]
        self._staging = Staging()
        self._thread = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._writing: Future[None] | None = None
        if self._ranks.rank == 0:
            folders.sweep(folder)

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
        files = plan(tensors, rank)
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
        target = folders.checkpoint_path(self.folder, snapshot.step)
        unfinished = folders.beside(target, self._writer_name)
        try:
            self._first(lambda: _fresh(unfinished))
            parts = self._together(lambda: _write_files(unfinished, snapshot))
            files = {name: digest for part in parts for name, digest in part.items()}
            self._first(lambda: self._commit(unfinished, target, Manifest(snapshot.step, self._ranks.size, files)))
        except BaseException:
            if self._ranks.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _together(self, action: Callable[[], Any]) -> list[Any]:
        def told() -> Any:
            with disk_full_told(self.folder):
                return action()

        return self._ranks.together(told)

    def _first(self, action: Callable[[], None]) -> None:
        """Rank 0 acts, the others wait for it."""
        self._together(action if self._ranks.rank == 0 else lambda: None)

    def _commit(self, unfinished: Path, target: Path, manifest: Manifest) -> None:
        manifest.write(unfinished)
        for folder in {unfinished, *(unfinished / name for name in manifest.folders())}:
            sync_folder(folder)
        folders.put_in_place(unfinished, target, self._writer_name)
        folders.prune(self.folder, manifest.step, self.keep, self.milestone_every, self._writer_name)

    def load_newest(self, into: Groups | None = None) -> Loaded | None:
        """Read the newest checkpoint that is whole; damaged ones are passed over and named on standard error.

        Args:
            into: tensors, by group and name, that are filled in place. They may be sharded otherwise than when they
                were saved. Other groups come back as new CPU tensors.
        Returns: none when there is no checkpoint, or no whole one.
        Raises: UserError naming the tensors when the checkpoint does not fit ``into``.
        """
        self.wait()
        self.passed_over = []
        for name in self._ranks.gather([path.name for path in folders.newest_first(self.folder)])[0]:
            path = self.folder / name
            if problem := damage(path, self._ranks):
                self.passed_over.append((name, problem))
                if self._ranks.rank == 0:
                    print(f"checkpoint {name} is passed over: {problem}", file=sys.stderr)  # noqa: T201
                continue
            return self._read(path, into or {})
        return None

    def _read(self, path: Path, into: Groups) -> Loaded:
        manifest = Manifest.read(path)
        stored = {group: StoredGroup(files) for group, files in manifest.groups(path).items()}
        for group, targets in into.items():
            stored.get(group, StoredGroup([])).require_fit(targets, group, path)
        for group, targets in into.items():
            stored[group].fill(targets)
        same = manifest.ranks == self._ranks.size
        own = manifest.rank_files(path, self._ranks.rank) if same else {}
        rank_state = path / f"state.rank_{self._ranks.rank:05d}.json"
        return Loaded(
            step=manifest.step,
            state=_json(path / "state.json"),
            tensors={group: found.whole() for group, found in stored.items() if group not in into},
            rank_tensors={group: StoredGroup([file]).whole() for group, file in own.items()},
            rank_state=_json(rank_state) if same and rank_state.exists() else {},
        )


def _fresh(folder: Path) -> None:
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


def _json(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read
