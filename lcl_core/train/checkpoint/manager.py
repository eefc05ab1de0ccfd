"""Saves, prunes and restores the checkpoints of a run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from torch import Tensor

from lcl_core.common.files import fsync_path, replace_tree, restore_trees, stage
from lcl_core.train.checkpoint.manifest import MANIFEST, CheckpointManifest, storage_errors
from lcl_core.train.checkpoint.reader import CheckpointFiles, OpenCheckpoint, ShardedReader
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

_WAITING = 2  # outgoing checkpoints, after which further ones are left out
_NAME, _DAMAGED = "step_", "damaged_step_"


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}"


def step_of(path: Path) -> int:
    return int(path.name.rpartition("_")[2])


def newest_first(folder: Path, prefix: str = _NAME) -> list[Path]:
    """The checkpoints in a folder. Raises: OSError; a folder that is not there has none."""
    try:
        names = os.listdir(folder)  # unlike glob, which finds nothing where the storage does not answer
    except FileNotFoundError:
        return []
    found = [folder / name for name in names if name.startswith(prefix) and name.removeprefix(prefix).isdecimal()]
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


def prune(
    folder: Path, step: int, keep: int, milestone_every: int | None, writer: str, damaged: Collection[Path] = ()
) -> None:
    """After ``step`` has been written: keep the newest ``keep`` and the milestones, remove the rest.

    The run went back to before ``damaged`` ones and those of later steps. These are renamed, and kept while there are
    fewer than ``keep`` others; milestones are kept until the run has written their step again.
    """
    for path in newest_first(folder):
        if path in damaged or step_of(path) > step:
            _set_aside(path, writer)
    past, aside = newest_first(folder), newest_first(folder, _DAMAGED)
    later = [path for path in aside if step_of(path) > step]
    kept = {*past[:keep], *later[: max(keep - len(past), 0)]}
    if milestone_every is not None:
        kept |= {path for path in (*past, *later) if step_of(path) % milestone_every == 0}
    for path in (*past, *aside):
        if path not in kept:
            discard(path, writer)


def _set_aside(path: Path, writer: str) -> None:
    aside = path.with_name(f"{_DAMAGED}{path.name.removeprefix(_NAME)}")
    if aside.exists():
        discard(aside, writer)
    path.rename(aside)


def discard(path: Path, writer: str) -> None:
    """Rename, then remove a checkpoint, so that a half-removed one is never read as a damaged one."""
    name = checkpoint_path(path.parent, step_of(path)).name
    hidden = partial_path(path.with_name(f"{name}_old"), writer)
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
        lacking: optional tensors, by group, that it does not have.
    """

    step: int
    state: dict[str, Any]
    ranks: int
    tensors: dict[str, dict[str, Tensor]]
    rank_tensors: dict[str, dict[str, Tensor]]
    lacking: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Snapshot:
    """What this rank writes for one step: copies, independent of the training."""

    step: int
    tensors: dict[str, TensorFile]
    texts: dict[str, str] = field(default_factory=dict)


class CheckpointManager:
    """Saves and restores; with several processes, all of them make every call, in the same order.

    Args:
        folder: of the checkpoints; created when needed. Ranks may have different ones, with the same name or not: each
            folder then holds the files of its ranks, and the manifest.
        keep: number of newest checkpoints to keep.
        milestone_every: checkpoints of steps that this divides are kept for ever.
        asynchronous: write in a background thread. The copy to CPU memory is taken before ``save`` returns.
        on_written: called on the first rank, from the thread that writes, with the step of each checkpoint on disk.
        home: identifies the disk of ``folder``; ranks with the same one share the folder.
        outgoing: if the first rank has this folder, every folder of ranks gets links there to the same checkpoints, for
            the worker to copy and remove. While two are waiting, only milestones are added, and the newest one when
            ``send_newest`` is called.

    Attributes:
        passed_over: (name, reason) of the checkpoints that ``load_newest`` found damaged, newest first.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        milestone_every: int | None = None,
        asynchronous: bool = True,
        on_written: Callable[[int], None] | None = None,
        *,
        home: str = "",
        outgoing: Path | None = None,
    ) -> None:
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self.passed_over: list[tuple[str, str]] = []
        self._damaged: list[Path] = []  # until the next one is saved
        self._on_written = on_written
        self._ranks = RankGroup()
        names = self._ranks.all_gather_object([writer_name(), home])
        self._writer_name: str = names[0][0]
        homes = [home for _, home in names]
        self._homes = [homes.index(home) for home in homes]  # by rank, the first rank of the same folder
        self._first = self._homes[self._ranks.rank] == self._ranks.rank
        self._outgoing = outgoing
        self._staging = Staging()
        self._thread = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._writing: Future[None] | None = None
        self._unsent: int | None = None  # step of the newest checkpoint of this process, if it was left out
        if self._first:
            restore_trees(folder)
            remove_partial(folder)

    def save(
        self,
        step: int,
        tensors: Groups,
        state: Mapping[str, Any],
        *,
        rank_tensors: Groups | None = None,
        only_first: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        """Save the checkpoint of ``step``, after the previous one has been written.

        Args:
            tensors: by group and name. Plain tensors are the same on all ranks. The ranks share the writing.
            state: JSON, the same on all ranks.
            rank_tensors: of this rank alone.
            only_first: plain tensors, by group and name, of which those of rank 0 count: they differ between ranks.
        Raises: UserError when the disk is full and OSError, both also of the previous checkpoint.
        """
        self.wait()
        rank = self._ranks.rank
        files = plan_files(tensors, rank, self._ranks.size, only_first)
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

    def send_newest(self) -> None:
        """``wait``, then add the newest saved checkpoint to the outgoing ones unless it was: no other one follows.

        Raises: as ``save``.
        """
        self.wait()
        step = self._unsent
        if step is not None and self._on_all_ranks(self._has_outgoing)[0]:
            self._on_first_ranks(lambda: self._link_outgoing(checkpoint_path(self.folder, step)))
            self._unsent = None

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

        def write() -> dict[str, Any]:
            return {"files": _write_files(unfinished, snapshot), "sends": self._sends(snapshot.step)}

        try:
            self._on_first_ranks(lambda: _make_empty(unfinished))
            parts = self._on_all_ranks(write)
            files = {name: digest for part in parts for name, digest in part["files"].items()}
            manifest = CheckpointManifest(snapshot.step, self._ranks.size, files)
            sends = parts[0]["sends"]  # of the first rank, for all
            self._on_first_ranks(lambda: self._commit(unfinished, target, manifest, sends=sends))
            self._unsent = None if sends else snapshot.step
        except BaseException:
            if self._first:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _has_outgoing(self) -> bool:
        return self._outgoing is not None and self._outgoing.is_dir()

    def _sends(self, step: int) -> bool:
        """Whether the checkpoint is among the outgoing ones as soon as it is saved."""
        if self._outgoing is None or not self._has_outgoing():
            return False
        milestone = self.milestone_every is not None and step % self.milestone_every == 0
        return milestone or len(newest_first(self._outgoing)) < _WAITING

    def _link_outgoing(self, checkpoint: Path) -> None:
        if self._outgoing is not None:
            stage(checkpoint, self._outgoing / checkpoint.name, link=True).publish()

    def _on_all_ranks(self, action: Callable[[], Any]) -> list[Any]:
        def guarded() -> Any:
            with raise_disk_full(self.folder):
                return action()

        return self._ranks.run_on_all_ranks(guarded)

    def _on_first_ranks(self, action: Callable[[], None]) -> None:
        """Run ``action`` on the first rank of each folder; the others wait for it."""
        self._on_all_ranks(action if self._first else lambda: None)

    def _commit(self, unfinished: Path, target: Path, manifest: CheckpointManifest, *, sends: bool) -> None:
        write_text(unfinished / MANIFEST, manifest.to_json())
        for folder in (unfinished, *filter(Path.is_dir, (unfinished / name for name in manifest.folders()))):
            fsync_path(folder)
        replace_tree(unfinished, target)
        if sends:
            self._link_outgoing(target)
        damaged = {path for path in self._damaged if path != target}
        prune(self.folder, manifest.step, self.keep, self.milestone_every, self._writer_name, damaged)
        self._damaged = []
        if self._on_written is not None and self._ranks.rank == 0:
            self._on_written(manifest.step)

    def load_newest(
        self, into: Groups | None = None, optional: Mapping[str, Collection[str]] = MappingProxyType({})
    ) -> LoadedCheckpoint | None:
        """Read the newest checkpoint that is whole; damaged ones are skipped and named on standard error.

        Args:
            into: tensors, by group and name, to fill in place. Their sharding may differ from when they were saved.
                Other groups are returned as new CPU tensors.
            optional: names, by group, that checkpoints of older versions lack; those tensors are not filled then.
        Returns: none when there is no checkpoint, or no whole one.
        Raises: UserError naming the tensors when the checkpoint does not fit ``into``; StoreError where the storage
            does not answer, which says nothing about a checkpoint; OSError.
        """
        self.wait()
        self.passed_over, self._damaged = [], []
        for name in self._ranks.run_on_all_ranks(self._list_names)[0]:
            path = self.folder / name
            with CheckpointFiles(path) as files:
                stored = OpenCheckpoint(files, self._ranks, self._homes)
                if stored.problem is None:
                    with storage_errors(path):
                        return self._read(stored, into or {}, optional)
            self.passed_over.append((name, stored.problem))
            self._damaged.append(path)
            if self._ranks.rank == 0:
                print(f"checkpoint {name} is passed over: {stored.problem}", file=sys.stderr)  # noqa: T201
        return None

    def _list_names(self) -> list[str]:
        with storage_errors(self.folder):
            return [path.name for path in newest_first(self.folder)]

    def _read(self, stored: OpenCheckpoint, into: Groups, optional: Mapping[str, Collection[str]]) -> LoadedCheckpoint:
        manifest, files = stored.manifest, stored.files
        lacking: dict[str, list[str]] = {}
        for group, targets in into.items():
            found = stored.groups.get(group, ShardedReader(files, {}))
            lacking[group] = [name for name in optional.get(group, ()) if name not in found.shapes]
            found.require_fit(_without(targets, lacking[group]), group, files.folder)
        for group, targets in into.items():
            stored.groups[group].fill(_without(targets, lacking[group]))
        return LoadedCheckpoint(
            step=manifest.step,
            state=stored.read_json("state.json"),
            ranks=manifest.ranks,
            tensors={group: found.whole() for group, found in stored.groups.items() if group not in into},
            rank_tensors=stored.rank_tensors(self._ranks.rank) if manifest.ranks == self._ranks.size else {},
            lacking=lacking,
        )


def _without(tensors: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


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
