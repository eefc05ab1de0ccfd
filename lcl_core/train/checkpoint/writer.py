"""Files that one rank writes into a checkpoint: copied to the CPU, checksummed, flushed to the disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lcl_core.common.errors import UserError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write CPU tensors in the safetensors format. Returns: the sha256 of the file.

    Unlike the library's ``save_file`` it computes the checksum on the way, flushes the file to the disk, raises an
    OSError with its number on a full disk, and lets other threads run.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return _write_parts(path, [len(text).to_bytes(8, "little"), text, *map(_tensor_bytes, tensors.values())])


def write_text(path: Path, text: str) -> str:
    """Write and flush. Returns: the sha256 of the file."""
    return _write_parts(path, [text.encode()])


@contextmanager
def raise_disk_full(folder: Path) -> Iterator[None]:
    """Raises: UserError instead of the OSError of a full disk; any other error passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise UserError(
            "no space left to write a checkpoint; the earlier ones are whole. "
            "Free some space or lower keep_checkpoints, then resume the run",
            code="disk_full",
            file=folder,
        ) from error


def _tensor_bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_parts(path: Path, parts: list[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass
class TensorFile:
    """One safetensors file of a checkpoint.

    Attributes:
        tensors: contents by name.
        offsets: where each tensor begins in the whole one, when the file holds parts; else none.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    offsets: dict[str, tuple[int, ...]] | None = None

    def metadata(self) -> dict[str, str] | None:
        """Header as in torch.distributed.checkpoint's safetensors files, so that its reader reads these too."""
        if self.offsets is None:
            return None
        info = {name: {"saved_offsets": list(offset)} for name, offset in self.offsets.items()}
        return {"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(info), "format": "pt"}


def rank_file(group: str, rank: int) -> str:
    """File of a group with content of one rank alone."""
    return f"{group}.rank_{rank:05d}.safetensors"


def part_and_offset(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Part on this rank, sharing its memory, and its offset in the whole tensor."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), (0,) * tensor.ndim
    (chunk,) = tensor.__create_chunk_list__()
    return tensor.to_local().detach(), tuple(chunk.offsets)


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


class Staging:
    """CPU buffers that the snapshots of a run reuse; as large as what this rank writes."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def copy(self, files: dict[str, TensorFile]) -> dict[str, TensorFile]:
        """``files`` with copies of the tensors; valid until the next call."""
        copies = {
            name: TensorFile({key: self._copy(name, key, live) for key, live in file.tensors.items()}, file.offsets)
            for name, file in files.items()
        }
        for device in {live.device for file in files.values() for live in file.tensors.values() if live.is_cuda}:
            torch.cuda.synchronize(device)  # the copies from its memory run beside this thread
        return copies

    def _copy(self, file: str, name: str, live: Tensor) -> Tensor:
        buffer = self._buffers.get((file, name))
        if buffer is None or buffer.shape != live.shape or buffer.dtype != live.dtype:
            buffer = torch.empty(live.shape, dtype=live.dtype, pin_memory=live.is_cuda)
            self._buffers[file, name] = buffer
        return buffer.copy_(live, non_blocking=live.is_cuda)
