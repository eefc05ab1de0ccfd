"""Reads a checkpoint: its manifest, its checksums, and groups of tensors, whole or in parts, into any layout.

The ranks share the verification. Each then reads by itself what it needs: of a sharded tensor the parts that overlap
its own.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.files import sha256_file
from lcl_core.train.distributed import RankGroup

Groups = Mapping[str, Mapping[str, Tensor]]
MANIFEST, STATE = "manifest.json", "state.json"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPE_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}
# errors of a checkpoint with a missing file or with wrong content
_DAMAGE = (
    FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError
)  # fmt: skip
_RANK_FILE = re.compile(r"^(?P<group>[^/]+)\.rank_(?P<rank>\d+)\.safetensors$")
_GROUP_FILE = re.compile(r"^(?P<group>[^/]+?)(/rank_\d+)?\.safetensors$")
_MAX_LISTED = 3
_LENGTH_BYTES = 8  # of the header's length, with which a safetensors file begins


@dataclass(frozen=True)
class CheckpointManifest:
    """
    Attributes:
        ranks: how many processes wrote the checkpoint.
        files: sha256 by name, relative to the checkpoint.
    """

    step: int
    ranks: int
    files: dict[str, str]

    def groups(self) -> dict[str, list[str]]:
        """The files of each group that all ranks share."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.files):
            if (match := _GROUP_FILE.match(name)) and not _RANK_FILE.match(name):
                found.setdefault(match["group"], []).append(name)
        return found

    def rank_files(self, rank: int) -> dict[str, str]:
        """The file of each group that belongs to ``rank`` alone."""
        matches = [match for name in self.files if (match := _RANK_FILE.match(name))]
        return {match["group"]: match[0] for match in matches if int(match["rank"]) == rank}


def read_manifest(folder: Path) -> CheckpointManifest:
    return CheckpointManifest(**json.loads((folder / MANIFEST).read_bytes()))


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


@dataclass(frozen=True)
class StoredPart:
    """Where a file has a tensor or a part of one.

    Attributes:
        shape: of the part.
        offset: of the part in the whole tensor.
        begin: its first byte in the file.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    begin: int

    @property
    def end(self) -> tuple[int, ...]:
        """Of the part in the whole tensor."""
        return tuple(at + size for at, size in zip(self.offset, self.shape, strict=True))

    def overlap(
        self, offset: tuple[int, ...], shape: tuple[int, ...]
    ) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
        """What this part and another block have in common, as slices of each; None: nothing."""
        mine, others = [], []
        for at, size, other, length in zip(self.offset, self.shape, offset, shape, strict=True):
            begin, end = max(at, other), min(at + size, other + length)
            if begin >= end:
                return None
            mine.append(slice(begin - at, end - at))
            others.append(slice(begin - other, end - other))
        return tuple(mine), tuple(others)

    def read(self, content: mmap.mmap) -> Tensor:
        """The part, sharing the memory of ``content``, the file, where the address allows that."""
        count = math.prod(self.shape) * self.dtype.itemsize
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        raw = torch.frombuffer(content, dtype=torch.uint8, count=count, offset=self.begin)
        raw = raw.clone() if self.begin % self.dtype.itemsize else raw
        return raw.view(self.dtype).view(self.shape)


def part_and_offset(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Part on this rank, sharing its memory, and its offset in the whole tensor."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), (0,) * tensor.ndim
    (chunk,) = tensor.__create_chunk_list__()
    return tensor.to_local().detach(), tuple(chunk.offsets)


def read_header(path: Path) -> dict[str, StoredPart]:
    """The tensors of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        first, size = _LENGTH_BYTES + length, path.stat().st_size
        if first > size:
            raise ValueError(f"{path.name} is no safetensors file")
        header = json.loads(file.read(length))
    offsets = json.loads(header.pop("__metadata__", {}).get("DCP_SHARDING_INFO", "{}"))
    parts = {}
    for key, entry in header.items():
        shape, dtype, (begin, end) = tuple(entry["shape"]), _DTYPE_BY_NAME[entry["dtype"]], entry["data_offsets"]
        if begin < 0 or first + end > size or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{path.name}: the bytes of {key} do not fit")
        offset = tuple(offsets[key]["saved_offsets"]) if offsets else (0,) * len(shape)
        parts[key] = StoredPart(dtype, shape, offset, first + begin)
    return parts


class StoredGroup:
    """The tensors of one group of a checkpoint, in any number of files.

    Attributes:
        shapes, dtypes: of the whole tensors, by name.
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self._parts = {path: read_header(path) for path in files}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        stored: dict[str, int] = {}
        for parts in self._parts.values():
            for name, part in parts.items():
                known = self.shapes.get(name, part.end)
                self.shapes[name] = tuple(max(pair) for pair in zip(known, part.end, strict=True))
                self.dtypes[name] = part.dtype
                stored[name] = stored.get(name, 0) + math.prod(part.shape)
        if gaps := [name for name, shape in self.shapes.items() if stored[name] != math.prod(shape)]:
            raise ValueError(f"parts of {', '.join(gaps[:_MAX_LISTED])} are missing")

    @torch.no_grad()
    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy into the tensors, or into this rank's parts of them, whatever the sharding when they were written."""
        own = {name: part_and_offset(target) for name, target in targets.items()}
        for path, parts in self._parts.items():
            overlaps = []
            for name, part in parts.items():
                if name in own and (blocks := part.overlap(own[name][1], tuple(own[name][0].shape))):
                    overlaps.append((name, part, blocks))
            if not overlaps:
                continue
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as content:
                for name, part, (theirs, ours) in overlaps:
                    own[name][0][ours].copy_(part.read(content)[theirs])

    def whole(self) -> dict[str, Tensor]:
        """All tensors, assembled on the CPU."""
        tensors = {name: torch.empty(shape, dtype=self.dtypes[name]) for name, shape in self.shapes.items()}
        self.fill(tensors)
        return tensors

    def require_fit(self, targets: Mapping[str, Tensor], group: str, checkpoint: Path) -> None:
        """Raises: UserError naming the tensors that one side lacks or that differ in shape or type."""
        problems = [f"{name} is missing" for name in targets if name not in self.shapes]
        problems += [f"{name} is not in this run" for name in self.shapes if name not in targets]
        for name in targets.keys() & self.shapes.keys():
            mine = _describe(tuple(targets[name].shape), targets[name].dtype)
            stored = _describe(self.shapes[name], self.dtypes[name])
            if mine != stored:
                problems.append(f"{name} is {stored}, here {mine}")
        if problems:
            rest = f" and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
            raise UserError(
                f"checkpoint {checkpoint.name} does not fit this run's {group}: "
                f"{'; '.join(sorted(problems)[:_MAX_LISTED])}{rest}. "
                "Resume with the spec that it was made with, or start a new run",
                code="checkpoint_mismatch",
                file=checkpoint,
            )


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raises: StoreError where the storage of a checkpoint, or of all, does not answer; errors of damage pass."""
    try:
        yield
    except _DAMAGE:
        raise
    except OSError as error:
        raise StoreError(
            f"it cannot be read at present ({error.strerror or error}), and may be whole. Mend the storage or the "
            "permissions of the folder, then resume the run; or rename this checkpoint, to go on from an earlier one",
            code="checkpoint_unreadable",
            file=path,
        ) from error


def _describe(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"


def _open_groups(folder: Path, manifest: CheckpointManifest) -> dict[str, StoredGroup]:
    return {group: StoredGroup(folder / name for name in names) for group, names in manifest.groups().items()}


def find_problem(folder: Path, ranks: RankGroup) -> str | None:
    """What is wrong with a checkpoint; None: nothing. Each rank verifies a part of the files, all get the same answer.

    Raises: StoreError, on all ranks, where the storage of one does not answer.
    """

    def verify() -> str | None:
        try:
            with storage_errors(folder):
                manifest = read_manifest(folder)
                names = sorted(manifest.files)[ranks.rank :: ranks.size]
                wrong = [name for name in names if sha256_file(folder / name) != manifest.files[name]]
                if not wrong:
                    _open_groups(folder, manifest)
        except _DAMAGE as error:
            return f"{type(error).__name__}: {error}"
        return f"checksum of {', '.join(wrong)} does not match" if wrong else None

    found: list[str | None] = ranks.run_on_all_ranks(verify)
    return next(filter(None, found), None)


def read_checkpoint(path: Path, into: Groups, ranks: RankGroup) -> LoadedCheckpoint:
    """A whole checkpoint; arguments and errors as of ``CheckpointManager.load_newest``."""
    loaded: list[LoadedCheckpoint] = []

    def read() -> None:
        with storage_errors(path):
            manifest = read_manifest(path)
            groups = _open_groups(path, manifest)
            for group, targets in into.items():
                groups.get(group, StoredGroup()).require_fit(targets, group, path)
            for group, targets in into.items():
                groups[group].fill(targets)
            own = manifest.rank_files(ranks.rank) if manifest.ranks == ranks.size else {}
            tensors = {group: stored.whole() for group, stored in groups.items() if group not in into}
            rank_tensors = {group: StoredGroup([path / name]).whole() for group, name in own.items()}
            state = json.loads((path / STATE).read_bytes())
            loaded.append(LoadedCheckpoint(manifest.step, state, manifest.ranks, tensors, rank_tensors))

    ranks.run_on_all_ranks(read)
    return loaded[0]
