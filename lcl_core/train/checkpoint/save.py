"""Writes the checkpoints of a run in a background thread, and prunes them; :class:`CheckpointManager` restores, too."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, replace_tree, restore_trees
from lcl_core.train.checkpoint.load import (
    DTYPES,
    MANIFEST,
    STATE,
    CheckpointManifest,
    Groups,
    LoadedCheckpoint,
    find_problem,
    part_and_offset,
    read_checkpoint,
    storage_errors,
)
from lcl_core.train.distributed import RankGroup

_NAME = "step_"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


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


@dataclass
class TensorFile:
    """One safetensors file of a checkpoint.

    Attributes:
        offsets: where each tensor begins in the whole one, when the file holds parts; else none.
    """

    tensors: dict[str, Tensor]
    offsets: dict[str, tuple[int, ...]] | None = None

    def header(self) -> bytes:
        """With offsets as in torch.distributed.checkpoint's safetensors files, so that its reader reads these too."""
        entries: dict[str, Any] = {}
        if self.offsets is not None:
            info = {name: {"saved_offsets": list(offset)} for name, offset in self.offsets.items()}
            entries["__metadata__"] = {"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(info), "format": "pt"}
        end = 0
        for name, tensor in self.tensors.items():
            begin, end = end, end + tensor.nbytes
            entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        text = json.dumps(entries).encode()
        return text + b" " * (-len(text) % 8)  # the format wants the data aligned


def plan_files(groups: Groups, rank: int) -> dict[str, TensorFile]:
    """The files that ``rank`` writes, by name; with the live tensors.

    A group with sharded tensors is a folder with a file of each rank: its shards, and in the first one also the plain
    tensors. Any other group is one file, which rank 0 writes.
    """
    files: dict[str, TensorFile] = {}
    for group, tensors in groups.items():
        if not any(isinstance(tensor, DTensor) for tensor in tensors.values()):
            if rank == 0:
                files[f"{group}.safetensors"] = TensorFile({name: live.detach() for name, live in tensors.items()})
            continue
        own, offsets = {}, {}
        for name, tensor in tensors.items():
            if rank == 0 or (isinstance(tensor, DTensor) and tensor.to_local().numel()):
                own[name], offsets[name] = part_and_offset(tensor)
        if own:
            files[f"{group}/rank_{rank:05d}.safetensors"] = TensorFile(own, offsets)
    return files


def write_tensors(path: Path, file: TensorFile) -> str:
    """Write CPU tensors in the safetensors format. Returns: the sha256 of the file.

    Unlike the library's ``save_file`` it computes the checksum on the way, flushes the file to the disk, raises an
    OSError with its number on a full disk, and lets other threads run.
    """
    header = file.header()
    raw = [tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data for tensor in file.tensors.values()]
    return _write(path, len(header).to_bytes(8, "little"), header, *raw)


def _write(path: Path, *parts: bytes | memoryview) -> str:
    """Write and flush. Returns: the sha256 of the file."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


class CheckpointManager:
    """Saves in a background thread, and restores; all ranks make every call, in the same order.

    Args:
        folder: of the checkpoints; created when needed. All ranks have the same.
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
        on_written: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self.passed_over: list[tuple[str, str]] = []
        self._on_written = on_written
        self._ranks = RankGroup()
        self._buffers: dict[tuple[str, str], Tensor] = {}  # of the snapshots, on the CPU
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        if self._ranks.rank == 0:
            restore_trees(folder)
            for path in folder.glob(".step_*.tmp"):  # of an attempt that ended meanwhile
                shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, tensors: Groups, state: Mapping[str, Any], *, rank_tensors: Groups | None = None) -> None:
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
            files[f"{group}.rank_{rank:05d}.safetensors"] = TensorFile(dict(own))
        text = json.dumps(state, indent=1)
        self._writing = self._thread.submit(self._write_checkpoint, step, self._snapshot(files), text)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._ranks.close()

    def _snapshot(self, files: dict[str, TensorFile]) -> dict[str, TensorFile]:
        """``files`` with copies of the tensors; valid until the next call."""

        def copy(file: str, name: str, live: Tensor) -> Tensor:
            buffer = self._buffers.get((file, name))
            if buffer is None or buffer.shape != live.shape or buffer.dtype != live.dtype:
                buffer = torch.empty(live.shape, dtype=live.dtype, pin_memory=live.is_cuda)
                self._buffers[file, name] = buffer
            return buffer.copy_(live, non_blocking=live.is_cuda)

        copies = {
            path: TensorFile({name: copy(path, name, live) for name, live in file.tensors.items()}, file.offsets)
            for path, file in files.items()
        }
        for device in {live.device for file in files.values() for live in file.tensors.values() if live.is_cuda}:
            torch.cuda.synchronize(device)  # the copies from its memory run beside this thread
        return copies

    def _write_checkpoint(self, step: int, files: Mapping[str, TensorFile], state: str) -> None:
        target = checkpoint_path(self.folder, step)
        unfinished = _hidden(target)
        first = self._ranks.rank == 0

        def make_folder() -> None:
            if first:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)

        def write_own() -> dict[str, str]:
            digests = {STATE: _write(unfinished / STATE, state.encode())} if first else {}
            for name, file in files.items():
                (unfinished / name).parent.mkdir(exist_ok=True)
                digests[name] = write_tensors(unfinished / name, file)
            return digests

        def commit() -> None:
            if not first:
                return
            manifest = CheckpointManifest(step, self._ranks.size, digests)
            _write(unfinished / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
            for folder in {unfinished, *((unfinished / name).parent for name in digests)}:
                fsync_path(folder)
            replace_tree(unfinished, target)
            prune(self.folder, step, self.keep, self.milestone_every)
            self._on_written(step)

        try:
            self._on_all_ranks(make_folder)
            digests = {name: digest for own in self._on_all_ranks(write_own) for name, digest in own.items()}
            self._on_all_ranks(commit)
        except BaseException:
            if first:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _on_all_ranks(self, action: Callable[[], Any]) -> list[Any]:
        """Raises: UserError on all ranks where the disk of one is full."""

        def guarded() -> Any:
            try:
                return action()
            except OSError as error:
                if error.errno not in _DISK_FULL:
                    raise
                raise UserError(
                    "no space left to write a checkpoint; the earlier ones are whole. "
                    "Free some space or lower keep_checkpoints, then resume the run",
                    code="disk_full",
                    file=self.folder,
                ) from error

        return self._ranks.run_on_all_ranks(guarded)

    def load_newest(self, into: Groups | None = None) -> LoadedCheckpoint | None:
        """Read the newest checkpoint that is whole; damaged ones are skipped and named on standard error.

        Args:
            into: tensors, by group and name, to fill in place. Their sharding may differ from when they were saved.
                Other groups are returned as new CPU tensors.
        Returns: none when there is no checkpoint, or no whole one.
        Raises: UserError naming the tensors when the checkpoint does not fit ``into``; StoreError where the storage
            does not answer, which says nothing about a checkpoint.
        """
        self.wait()
        self.passed_over = []
        for name in self._ranks.run_on_all_ranks(self._list_names)[0]:
            problem = find_problem(self.folder / name, self._ranks)
            if problem is None:
                return read_checkpoint(self.folder / name, into or {}, self._ranks)
            self.passed_over.append((name, problem))
            if self._ranks.rank == 0:
                print(f"checkpoint {name} is passed over: {problem}", file=sys.stderr)  # noqa: T201
        return None

    def _list_names(self) -> list[str]:
        with storage_errors(self.folder):
            return [path.name for path in newest_first(self.folder)]
