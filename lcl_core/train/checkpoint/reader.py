"""Reads a checkpoint: its manifest, its checksums, and groups of tensors, whole or sharded, into any layout.

The ranks share the work: each reads its part of the files once, for the checksums, and sends their headers to the
others. A rank then knows where every tensor is, and besides its own part opens only files with a part of its shard.
Where ranks have different folders, a file has to be in one of them: a rank of that folder sends what others need.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lcl_core.common.errors import UserError
from lcl_core.train.checkpoint.manifest import DAMAGE, MANIFEST, CheckpointManifest, storage_errors
from lcl_core.train.checkpoint.writer import DTYPES, part_and_offset
from lcl_core.train.distributed import RankGroup

_DTYPE_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}
_MAX_LISTED = 3
_MOST_OPEN = 128  # files at once; systems allow 1024 per process
_LENGTH_BYTES = 8  # of the header's length, with which a safetensors file begins


@dataclass(frozen=True)
class _Block:
    """A block of a tensor: its offset in the whole tensor, and its shape."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def end(self) -> tuple[int, ...]:
        return tuple(at + size for at, size in zip(self.offset, self.shape, strict=True))

    def overlap(self, other: _Block) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
        """Intersection as slices of this block and of the other; none when empty."""
        begins = [max(pair) for pair in zip(self.offset, other.offset, strict=True)]
        ends = [min(pair) for pair in zip(self.end, other.end, strict=True)]
        if any(begin >= end for begin, end in zip(begins, ends, strict=True)):
            return None
        mine, others = (
            tuple(slice(begin - at, end - at) for begin, end, at in zip(begins, ends, block.offset, strict=True))
            for block in (self, other)
        )
        return mine, others


class CheckpointFiles:
    """The files of a checkpoint, each of which is opened once, if at most ``_MOST_OPEN`` are read. Raises: OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, BufferedReader] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def open(self, name: str) -> BufferedReader:
        """The file, at its beginning."""
        file = self._open.pop(name, None)
        if file is None:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            file = (self.folder / name).open("rb")
        self._open[name] = file  # the last one used is the last to be closed
        file.seek(0)
        return file

    def sha256(self, name: str) -> str:
        return hashlib.file_digest(self.open(name), "sha256").hexdigest()

    def read_json(self, name: str) -> dict[str, Any]:
        """Raises: ValueError too."""
        read: dict[str, Any] = json.loads(self.open(name).read())
        return read

    @contextmanager
    def mapped(self, name: str) -> Iterator[mmap.mmap]:
        """The file's bytes in memory; pages that were read for a checksum just before are not read again."""
        with mmap.mmap(self.open(name).fileno(), 0, access=mmap.ACCESS_COPY) as content:
            yield content


@dataclass(frozen=True)
class StoredPart:
    """Where a file has a tensor or a part of one.

    Attributes:
        dtype: as safetensors names it.
        shape: of the part.
        offset: of the part in the whole tensor.
        begin: its first byte in the file.
        value: its bytes in hex, for a scalar: FSDP2 keeps these whole on every rank, so all need what one file has.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    begin: int
    value: str | None = None

    @property
    def block(self) -> _Block:
        return _Block(self.offset, self.shape)

    def raw(self, content: mmap.mmap | None) -> Tensor:
        """Its bytes, sharing the memory of ``content``, the file, where the address allows that; none: to be filled."""
        dtype = _DTYPE_BY_NAME[self.dtype]
        count = math.prod(self.shape) * dtype.itemsize
        if self.value is not None:
            return torch.frombuffer(bytearray.fromhex(self.value), dtype=torch.uint8)
        if content is None:
            return torch.empty(count, dtype=torch.uint8)
        found = torch.frombuffer(content, dtype=torch.uint8, count=count, offset=self.begin)
        return found.clone() if self.begin % dtype.itemsize else found

    def tensor(self, raw: Tensor) -> Tensor:
        return raw.view(_DTYPE_BY_NAME[self.dtype]).view(self.shape)


Headers = dict[str, dict[str, StoredPart]]  # by file and tensor


def read_header(files: CheckpointFiles, name: str) -> dict[str, StoredPart]:
    """The tensors of a safetensors file whose checksum is right. Raises: ValueError for another file; OSError."""
    file = files.open(name)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    size = file.seek(0, 2)
    if _LENGTH_BYTES + length > size:
        raise ValueError(f"{name} is no safetensors file")
    file.seek(_LENGTH_BYTES)
    header = json.loads(file.read(length))
    offsets = json.loads(header.pop("__metadata__", {}).get("DCP_SHARDING_INFO", "{}"))
    parts = {}
    for key, entry in header.items():
        shape, (begin, end) = tuple(entry["shape"]), (_LENGTH_BYTES + length + at for at in entry["data_offsets"])
        needed = math.prod(shape) * _DTYPE_BY_NAME[entry["dtype"]].itemsize
        if begin < _LENGTH_BYTES + length or end > size or end - begin != needed:
            raise ValueError(f"{name}: the bytes of {key} do not fit")
        offset = tuple(offsets[key]["saved_offsets"]) if offsets else (0,) * len(shape)
        value = None
        if not shape:
            file.seek(begin)
            value = file.read(end - begin).hex()
        parts[key] = StoredPart(entry["dtype"], shape, offset, begin, value)
    return parts


@dataclass(frozen=True)
class Senders:
    """Ranks that fill tensors together: of each file one reads the plain tensors, and sends them to the others.

    Attributes:
        absent: files that this rank's folder lacks; none: all ranks have one folder. Shards of these are sent too.
    """

    ranks: RankGroup
    by_file: Mapping[str, int]
    absent: frozenset[str] | None = None

    def gather_needed(self, own: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """(file, tensor) of the shards that are to be sent. ``own``: those that this rank needs, of any file."""
        if self.absent is None:
            return set()
        lacking = [[file, name] for file, name in own if file in self.absent]
        return {(file, name) for each in self.ranks.all_gather_object(lacking) for file, name in each}


@dataclass(frozen=True)
class _Copy:
    """A block of a stored part that goes to ``target``; ``sent`` by one rank to all, also where it goes nowhere."""

    part: StoredPart
    block: tuple[slice, ...]
    target: Tensor | None
    sent: bool


class ShardedReader:
    """The tensors of one group of a checkpoint.

    Args:
        parts: of the group, by file and tensor.
        senders: then all ranks make every call, with the same plain tensors; none: this rank reads for itself.
    Attributes:
        shapes, dtypes: of the whole tensors, by name.
    Raises: ValueError when parts are missing.
    """

    def __init__(self, files: CheckpointFiles, parts: Headers, senders: Senders | None = None) -> None:
        self._files, self._parts, self._senders = files, parts, senders
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        held: dict[str, int] = {}
        for file in parts.values():
            for name, part in file.items():
                known = self.shapes.get(name, part.block.end)
                self.shapes[name] = tuple(max(pair) for pair in zip(known, part.block.end, strict=True))
                self.dtypes[name] = _DTYPE_BY_NAME[part.dtype]
                held[name] = held.get(name, 0) + math.prod(part.shape)
        if gaps := [name for name, shape in self.shapes.items() if held[name] != math.prod(shape)]:
            raise ValueError(f"parts of {', '.join(gaps[:_MAX_LISTED])} are missing")

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy into the tensors, each rank its own part, whatever the sharding when they were written."""
        found = {file: dict(self._overlaps(parts, targets)) for file, parts in self._parts.items()}
        needed: set[tuple[str, str]] = set()
        if self._senders is not None:
            shards = [(file, name) for file, names in found.items() for name in names if _is_shard(targets[name])]
            needed = self._senders.gather_needed(shards)
        for file, parts in self._parts.items():
            wanted: list[_Copy] = []
            for name, part in parts.items():
                overlap = found[file].get(name)
                plain = overlap is not None and self._senders is not None and not _is_shard(targets[name])
                sent = part.value is None and (plain or (file, name) in needed)
                if overlap is not None or sent:
                    block, target = overlap or ((), None)
                    wanted.append(_Copy(part, block, target, sent))
            self._copy(file, wanted)

    def _overlaps(
        self, parts: Mapping[str, StoredPart], targets: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, tuple[tuple[slice, ...], Tensor]]]:
        """Of each part of a file that this rank needs: the block of it, and where that goes."""
        for name, part in parts.items():
            if name in targets:
                target, offset = part_and_offset(targets[name])
                if blocks := part.block.overlap(_Block(offset, tuple(target.shape))):
                    yield name, (blocks[0], target[blocks[1]])

    @torch.no_grad()
    def _copy(self, file: str, wanted: list[_Copy]) -> None:
        senders = self._senders
        sends = senders is not None and senders.by_file[file] == senders.ranks.rank
        reads = any(each.part.value is None and (sends or not each.sent) for each in wanted)
        with self._files.mapped(file) if reads else nullcontext() as content:
            for each in wanted:
                raw = each.part.raw(content)
                if each.sent and senders is not None:
                    senders.ranks.broadcast(raw, senders.by_file[file])
                if each.target is not None:
                    each.target.copy_(each.part.tensor(raw)[each.block])

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
            mine = (tuple(targets[name].shape), targets[name].dtype)
            stored = (self.shapes[name], self.dtypes[name])
            if mine != stored:
                problems.append(f"{name} is {_describe(*stored)}, here {_describe(*mine)}")
        if problems:
            rest = f" and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
            raise UserError(
                f"checkpoint {checkpoint.name} does not fit this run's {group}: "
                f"{'; '.join(sorted(problems)[:_MAX_LISTED])}{rest}. "
                "Resume with the spec that it was made with, or start a new run",
                code="checkpoint_mismatch",
                file=checkpoint,
            )


def _is_shard(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def _describe(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"


_TENSORS = ".safetensors"


class OpenCheckpoint:
    """A checkpoint on disk, which all ranks open together.

    Args:
        homes: by rank, the first rank that has the same folder; none: all ranks have one.
    Attributes:
        problem: what is wrong with it, the same on all ranks; none when it is whole.
        manifest, groups: what it contains, when it is whole.
    Raises: StoreError, on all ranks, where the storage of one does not answer; OSError.
    """

    manifest: CheckpointManifest
    groups: dict[str, ShardedReader]

    def __init__(self, files: CheckpointFiles, ranks: RankGroup, homes: Sequence[int] = ()) -> None:
        self.files, self._ranks, self._homes = files, ranks, homes
        self._separate = len(set(homes)) > 1
        self._headers: Headers = {}
        self._owners: dict[str, int] = {}
        found = ranks.run_on_all_ranks(self._verify_own)
        self.problem: str | None = next((each["problem"] for each in found if "problem" in each), None)
        if self.problem is not None:
            return
        for headers in (each["headers"] for each in found):
            for name, parts in headers.items():
                self._headers[name] = {key: _part_from_json(part) for key, part in parts.items()}
        try:
            with storage_errors(files.folder):
                self.groups = {group: self._reader(names) for group, names in self.manifest.groups().items()}
        except DAMAGE as error:
            self.problem = f"{type(error).__name__}: {error}"

    def _verify_own(self) -> dict[str, Any]:
        """Headers of the files that this rank verifies, or the problem. Raises: StoreError, OSError."""
        try:
            with storage_errors(self.files.folder):
                self.manifest = CheckpointManifest(**self._read_manifest())
                self._owners = self._find_owners()
                return self._verify([name for name, owner in self._owners.items() if owner == self._ranks.rank])
        except DAMAGE as error:
            return {"problem": f"{type(error).__name__}: {error}"}

    def _read_manifest(self) -> dict[str, Any]:
        """That of this rank's folder; of several folders, that of the first rank's. Raises: as ``DAMAGE``; OSError."""
        if not self._separate:
            return self.files.read_json(MANIFEST)
        manifest: dict[str, Any] = self._ranks.run_on_all_ranks(self._read_first_manifest)[0]
        if "problem" in manifest:
            raise ValueError(manifest["problem"])
        return manifest

    def _read_first_manifest(self) -> dict[str, Any]:
        """On the first rank: its manifest, or the problem. Raises: StoreError, OSError."""
        if self._ranks.rank:
            return {}
        try:
            with storage_errors(self.files.folder):
                return self.files.read_json(MANIFEST)
        except DAMAGE as error:
            return {"problem": f"{type(error).__name__}: {error}"}

    def _find_owners(self) -> dict[str, int]:
        """The rank that verifies each file, and reads it for others; one whose folder has it, where there are several.

        On all ranks or on none: no error of this rank alone.
        """
        owners = self.manifest.owners(self._ranks.size)
        if not self._separate:
            return owners
        first = self._homes[self._ranks.rank] == self._ranks.rank
        present = self._ranks.run_on_all_ranks(lambda: self._list_present() if first else [])
        having = {name: rank for rank, names in reversed(list(enumerate(present))) for name in names}
        folders = [set(names) for names in present]
        return {
            name: owner if name in folders[self._homes[owner]] else having.get(name, owner)
            for name, owner in owners.items()
        }

    def _list_present(self) -> list[str]:
        """Files of the checkpoint in this rank's folder, unless it has another checkpoint of that step.

        Raises: StoreError, OSError.
        """
        with storage_errors(self.files.folder):
            try:
                if CheckpointManifest(**self.files.read_json(MANIFEST)) != self.manifest:
                    return []
            except DAMAGE:
                return []
            return [name for name in self.manifest.files if (self.files.folder / name).is_file()]

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the checkpoint. All ranks call this. Raises: OSError, ValueError."""
        if not self._separate:
            return self.files.read_json(name)
        owner = self._owners[name]
        own = self.files.read_json(name) if owner == self._ranks.rank else None
        read: dict[str, Any] = self._ranks.all_gather_object(own)[owner]
        return read

    def rank_tensors(self, rank: int) -> dict[str, dict[str, Tensor]]:
        """What ``rank`` saved for itself, by group. All ranks call this, each with its own number."""
        if not self._separate:
            files = self.manifest.rank_files(rank)
            return {group: ShardedReader(self.files, self._parts([name])).whole() for group, name in files.items()}
        own: dict[str, dict[str, Tensor]] = {}
        for each in range(self._ranks.size):
            for group, name in self.manifest.rank_files(each).items():
                tensors = self._reader([name]).whole()
                if each == rank:
                    own[group] = tensors
        return own

    def _reader(self, names: Iterable[str]) -> ShardedReader:
        """A reader that fills tensors together with those of the other ranks."""
        senders = None
        if self._ranks.size > 1:
            absent = frozenset(name for name in self._owners if not (self.files.folder / name).is_file())
            senders = Senders(self._ranks, self._owners, absent if self._separate else None)
        return ShardedReader(self.files, self._parts(names), senders)

    def _parts(self, names: Iterable[str]) -> Headers:
        return {name: self._headers[name] for name in names}

    def _verify(self, names: list[str]) -> dict[str, Any]:
        """Headers of these files, or the problem. Raises: as ``read_header``."""
        wrong: list[str] = []
        headers: dict[str, Any] = {}
        for name in names:
            if self.manifest.files[name] != self.files.sha256(name):
                wrong.append(name)
            elif name.endswith(_TENSORS):
                headers[name] = {key: astuple(part) for key, part in read_header(self.files, name).items()}
        return {"problem": f"checksum of {', '.join(wrong)} does not match"} if wrong else {"headers": headers}


def _part_from_json(part: list[Any]) -> StoredPart:
    dtype, shape, offset, begin, value = part
    return StoredPart(dtype, tuple(shape), tuple(offset), begin, value)
