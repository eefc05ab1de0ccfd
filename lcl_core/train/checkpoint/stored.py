"""A group of tensors as it lies on the disk, whole or in parts, and how it comes back into any layout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lcl_core.errors import UserError
from lcl_core.train.checkpoint.files import DTYPES
from lcl_core.train.checkpoint.snapshot import local_part

_NAMED = {name: dtype for dtype, name in DTYPES.items()}
_SHOWN = 3


@dataclass(frozen=True)
class _Part:
    """A block of a tensor: where it begins in the whole one, and its shape."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def end(self) -> tuple[int, ...]:
        return tuple(at + size for at, size in zip(self.offset, self.shape, strict=True))

    def overlap(self, other: _Part) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
        """What both hold, as slices of this block and of the other; none when nothing."""
        begins = [max(pair) for pair in zip(self.offset, other.offset, strict=True)]
        ends = [min(pair) for pair in zip(self.end, other.end, strict=True)]
        if any(begin >= end for begin, end in zip(begins, ends, strict=True)):
            return None
        mine, others = (
            tuple(slice(begin - at, end - at) for begin, end, at in zip(begins, ends, block.offset, strict=True))
            for block in (self, other)
        )
        return mine, others


class StoredGroup:
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
                self.dtypes[name] = _NAMED[file.get_slice(name).get_dtype()]
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
            raise ValueError(f"parts of {', '.join(gaps[:_SHOWN])} are missing")

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy into the tensors, each rank its own part, however the parts were cut when they were written."""
        local = {name: local_part(tensor) for name, tensor in targets.items()}
        with torch.no_grad():
            for path, parts in self._parts.items():
                with safe_open(path, framework="pt") as file:
                    for name in parts.keys() & local.keys():
                        target, offset = local[name]
                        if blocks := parts[name].overlap(_Part(offset, tuple(target.shape))):
                            target[blocks[1]].copy_(file.get_slice(name)[blocks[0]])

    def whole(self) -> dict[str, Tensor]:
        """All tensors, put together on the CPU."""
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
                problems.append(f"{name} is {_words(*stored)}, here {_words(*mine)}")
        if problems:
            rest = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise UserError(
                f"checkpoint {checkpoint.name} does not fit this run's {group}: "
                f"{'; '.join(sorted(problems)[:_SHOWN])}{rest}. "
                "Resume with the spec that it was made with, or start a new run",
                code="checkpoint_mismatch",
                file=checkpoint,
            )


def _words(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"
