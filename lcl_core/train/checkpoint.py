"""Checkpoints for exact resume: written under another name and renamed, checksummed; the newest valid one is used.

    checkpoints/step_00000100/
      model.safetensors        the weights
      optimizer.safetensors    first and second moments by parameter name, and the step of each
      state.json               step, data position and random generators of each rank, counters
      manifest.json            sha256 of the files above; written last

The first rank writes. What FSDP2 shards is gathered first, one tensor after the other, so a checkpoint has whole
tensors and is read by any number of ranks. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.files import fsync_path, replace_tree, sha256_file
from lcl_core.train.distributed import RankGroup

Groups = Mapping[str, Mapping[str, Tensor]]  # tensors by group and name; a group is a file
_MANIFEST, _STATE, _NAME = "manifest.json", "state.json", "step_"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
# errors of a checkpoint with a missing file or with wrong content
_DAMAGE = (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix(_NAME))


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder."""
    # os.listdir: glob finds nothing where the storage does not answer
    names = os.listdir(folder) if folder.exists() else []
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write CPU tensors in the safetensors format. Returns: the sha256 of the file.

    Unlike the library's ``save_file`` it computes the checksum on the way and lets other threads run.
    """
    entries: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)  # the format wants the data aligned
    raw = [tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data for tensor in tensors.values()]
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
    """Saves in a background thread of the first rank, and restores; all ranks make every call, in the same order.

    Args:
        folder: of the checkpoints; created when needed. All ranks have the same.
        milestone_every: checkpoints of steps that this divides are kept for ever.
        on_written: called on the first rank, from the thread that writes, with the step of each checkpoint on disk.

    Attributes:
        passed_over: (name, reason) of the checkpoints that ``load_newest`` found damaged, newest first; on rank 0.
    """

    def __init__(
        self,
        folder: Path,
        ranks: RankGroup,
        keep: int = 2,
        milestone_every: int | None = None,
        on_written: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self.passed_over: list[tuple[str, str]] = []
        self._on_written = on_written
        self._ranks = ranks
        self._buffers: dict[tuple[str, str], Tensor] = {}  # of the snapshots, on the CPU
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        if self._ranks.rank == 0:
            for path in folder.glob(f".{_NAME}*.tmp"):  # of an attempt that ended meanwhile
                shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, tensors: Groups, state: Mapping[str, Any]) -> None:
        """Save the checkpoint of ``step``, after the previous one has been written.

        The copy to CPU memory is taken before this returns.

        Args:
            state: JSON; that of rank 0 counts.
        """
        self.wait()
        copies = {group: self._copy(group, live) for group, live in tensors.items()}
        if self._ranks.rank == 0:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()  # the copies from its memory run beside this thread
            self._writing = self._thread.submit(self._write_checkpoint, step, copies, json.dumps(state, indent=1))

    def wait(self) -> None:
        """Wait until nothing is being written. Raises, on all ranks: the error of the rank that writes."""
        self._ranks.run_on_all_ranks(self._finish_writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._finish_writing()
        finally:
            self._thread.shutdown()

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _copy(self, group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole copies on the CPU of rank 0, valid until the next call; empty on other ranks."""
        copies: dict[str, Tensor] = {}
        for name, live in tensors.items():
            whole = live.full_tensor() if isinstance(live, DTensor) else live  # all ranks take part
            if self._ranks.rank > 0:
                continue
            if (group, name) not in self._buffers:
                empty = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=whole.is_cuda)
                self._buffers[group, name] = empty
            copies[name] = self._buffers[group, name].copy_(whole.detach(), non_blocking=whole.is_cuda)
        return copies

    def _write_checkpoint(self, step: int, groups: Groups, state: str) -> None:
        target = self.folder / f"{_NAME}{step:08d}"
        unfinished = _hidden(target)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            digests = {_STATE: _write(unfinished / _STATE, state.encode())}
            for group, tensors in groups.items():
                digests[f"{group}.safetensors"] = write_tensors(unfinished / f"{group}.safetensors", tensors)
            _write(unfinished / _MANIFEST, json.dumps({"step": step, "files": digests}, indent=1).encode())
            fsync_path(unfinished)
            replace_tree(unfinished, target)
            prune(self.folder, step, self.keep, self.milestone_every)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._on_written(step)

    def load_newest(self, into: Groups) -> dict[str, Any] | None:
        """Read the newest checkpoint that is whole; damaged ones are skipped and named on standard error.

        Args:
            into: tensors to fill in place, whatever their sharding.
        Returns: the saved state; none when there is no checkpoint, or no whole one.
        Raises: UserError naming the tensors when the checkpoint does not fit ``into``; StoreError where the storage
            does not answer, which says nothing about a checkpoint.
        """
        self.wait()
        name = self._ranks.run_on_all_ranks(lambda: self._newest_whole() if self._ranks.rank == 0 else None)[0]
        if name is None:
            return None
        folder = self.folder / name

        def read() -> Any:
            for group, tensors in into.items():
                _fill(folder / f"{group}.safetensors", tensors)
            return json.loads((folder / _STATE).read_bytes())

        state: dict[str, Any] = self._ranks.run_on_all_ranks(read)[self._ranks.rank]
        return state

    def _newest_whole(self) -> str | None:
        self.passed_over = []
        try:
            for path in newest_first(self.folder):
                problem = _find_problem(path)
                if problem is None:
                    return path.name
                self.passed_over.append((path.name, problem))
                print(f"checkpoint {path.name} is passed over: {problem}", file=sys.stderr)  # noqa: T201
        except OSError as error:
            raise StoreError(
                f"the checkpoints cannot be read at present ({error.strerror or error}), and may be whole. Mend the "
                "storage or the permissions of the folder, then resume the run",
                code="checkpoint_unreadable",
                file=self.folder,
            ) from error
        return None


def _find_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing. Raises: OSError where the storage does not answer."""
    try:
        files: dict[str, str] = json.loads((folder / _MANIFEST).read_bytes())["files"]
        wrong = [name for name, digest in files.items() if sha256_file(folder / name) != digest]
    except _DAMAGE as error:
        return f"{type(error).__name__}: {error}"
    return f"checksum of {', '.join(wrong)} does not match" if wrong else None


@torch.no_grad()
def _fill(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copy a file's tensors into these, or into this rank's parts of them. Raises: UserError where they do not fit."""
    with safe_open(file, "pt") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        needed = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if differing := sorted(name for name in shapes.keys() | needed.keys() if shapes.get(name) != needed.get(name)):
            name = differing[0]
            raise UserError(
                f"checkpoint {file.parent.name} does not fit this run: {name} is {shapes.get(name, 'missing')} there, "
                f"{needed.get(name, 'missing')} here, and {len(differing) - 1} other tensors differ. "
                "Resume with the spec that it was made with, or start a new run",
                code="conflict",
                file=file.parent,
            )
        for name, tensor in tensors.items():
            if not isinstance(tensor, DTensor):
                tensor.copy_(stored.get_tensor(name))
            elif tensor.to_local().numel():
                (chunk,) = tensor.__create_chunk_list__()
                block = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
                tensor.to_local().copy_(stored.get_slice(name)[block])
