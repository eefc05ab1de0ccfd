"""Reads a checkpoint: its manifest, its checksums, and groups of tensors, whole or sharded, into any layout."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.train.checkpoint.writer import DTYPES, local_part, write_text
from lcl_core.train.distributed import RankGroup

_DTYPE_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}
_MAX_LISTED = 3


@dataclass(frozen=True)
class _Part:
    """A block of a tensor: its offset in the whole tensor, and its shape."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def end(self) -> tuple[int, ...]:
        return tuple(at + size for at, size in zip(self.offset, self.shape, strict=True))

    def overlap(self, other: _Part) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
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


class ShardedReader:
    """The tensors of one group of a checkpoint.

    Attributes:
        shapes, dtypes: of the whole tensors, by name.
    Raises: ValueError for a file that is no safetensors file or when parts are missing; OSError.
    """

    def __init__(self, files: list[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._parts: dict[Path, dict[str, _Part]] = {}
        for file in files:
            try:
                self._parts[file] = self._headers(file)
            except SafetensorError as error:
                raise ValueError(f"{file.name}: {error}") from error
        self._measure()

    def _headers(self, path: Path) -> dict[str, _Part]:
        parts = {}
        with safe_open(path, framework="pt") as file:
            offsets = json.loads((file.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
            for name in file.keys():  # noqa: SIM118  not a dict: the file itself cannot be iterated
                shape = tuple(file.get_slice(name).get_shape())
                self.dtypes[name] = _DTYPE_BY_NAME[file.get_slice(name).get_dtype()]
                parts[name] = _Part(tuple(offsets[name]["saved_offsets"]) if offsets else (0,) * len(shape), shape)
        return parts

    def _measure(self) -> None:
        held: dict[str, int] = {}
        for parts in self._parts.values():
            for name, part in parts.items():
                known = self.shapes.get(name, part.end)
                self.shapes[name] = tuple(max(pair) for pair in zip(known, part.end, strict=True))
                held[name] = held.get(name, 0) + math.prod(part.shape)
        if gaps := [name for name, shape in self.shapes.items() if held[name] != math.prod(shape)]:
            raise ValueError(f"parts of {', '.join(gaps[:_MAX_LISTED])} are missing")

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy into the tensors, each rank its own part, whatever the sharding when they were written."""
        local = {name: local_part(tensor) for name, tensor in targets.items()}
        with torch.no_grad():
            for path, parts in self._parts.items():
                with safe_open(path, framework="pt") as file:
                    for name in parts.keys() & local.keys():
                        target, offset = local[name]
                        if blocks := parts[name].overlap(_Part(offset, tuple(target.shape))):
                            target[blocks[1]].copy_(file.get_slice(name)[blocks[0]])

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


def _describe(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"


_NAME = "manifest.json"
_RANK_FILE = re.compile(r"^(?P<group>[^/]+)\.rank_(?P<rank>\d+)\.safetensors$")
_RANK_STATE = re.compile(r"^state\.rank_\d+\.json$")
_GROUP_FILE = re.compile(r"^(?P<group>[^/]+?)(/rank_\d+)?\.safetensors$")


@dataclass(frozen=True)
class CheckpointManifest:
    """
    Attributes:
        step: the step of the checkpoint.
        ranks: how many processes wrote it.
        files: sha256 by name, relative to the checkpoint.
    """

    step: int
    ranks: int
    files: dict[str, str]

    @classmethod
    def read(cls, checkpoint: Path) -> CheckpointManifest:
        """Raises: OSError, ValueError or TypeError when there is none or it is torn."""
        return cls(**json.loads((checkpoint / _NAME).read_text(encoding="utf-8")))

    def write(self, checkpoint: Path) -> None:
        write_text(checkpoint / _NAME, json.dumps(asdict(self), indent=1))

    def folders(self) -> set[str]:
        return {name.rpartition("/")[0] for name in self.files if "/" in name}

    def groups(self, checkpoint: Path) -> dict[str, list[Path]]:
        """The files of each group that all ranks share."""
        found: dict[str, list[Path]] = {}
        for name in sorted(self.files):
            if (match := _GROUP_FILE.match(name)) and not _RANK_FILE.match(name):
                found.setdefault(match["group"], []).append(checkpoint / name)
        return found

    def rank_states(self) -> list[str]:
        """The JSON files that belong to one rank each, by rank."""
        return sorted(name for name in self.files if _RANK_STATE.match(name))

    def rank_files(self, checkpoint: Path, rank: int) -> dict[str, Path]:
        """The file of each group that belongs to ``rank`` alone."""
        matches = [match for name in self.files if (match := _RANK_FILE.match(name))]
        return {match["group"]: checkpoint / match[0] for match in matches if int(match["rank"]) == rank}


def find_corruption(checkpoint: Path, ranks: RankGroup) -> str | None:
    """Problem of a checkpoint, the same on all ranks, which share the reading; none when it is whole."""
    problem: str | None
    try:
        manifest = CheckpointManifest.read(checkpoint)
        mine = sorted(manifest.files)[ranks.rank :: ranks.size]
        wrong = [name for name in mine if manifest.files[name] != sha256_file(checkpoint / name)]
        problem = f"checksum of {', '.join(wrong)} does not match" if wrong else None
        if not wrong:
            for files in manifest.groups(checkpoint).values():
                ShardedReader(files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    return next((each for each in ranks.all_gather_object(problem) if each), None)
