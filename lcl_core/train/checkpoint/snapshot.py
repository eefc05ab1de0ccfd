"""What this rank writes, copied to the CPU before the next step changes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

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
        """The header of torch.distributed.checkpoint's safetensors files, whose reader can read these too."""
        if self.offsets is None:
            return None
        info = {name: {"saved_offsets": list(offset)} for name, offset in self.offsets.items()}
        return {"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(info), "format": "pt"}


def rank_file(group: str, rank: int) -> str:
    """The file of a group whose content belongs to one rank alone."""
    return f"{group}.rank_{rank:05d}.safetensors"


def local_part(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """What lies on this rank, sharing its memory, and where it begins in the whole tensor."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), (0,) * tensor.ndim
    (chunk,) = tensor.__create_chunk_list__()
    return tensor.to_local().detach(), tuple(chunk.offsets)


def plan(groups: Groups, rank: int) -> dict[str, TensorFile]:
    """The files that ``rank`` writes, by name; their tensors are still the live ones.

    A group without sharded tensors is one file, which rank 0 writes. A group with sharded tensors is a folder with
    a file a rank; what is the same on all ranks is in rank 0's.
    """
    files: dict[str, TensorFile] = {}
    for group, tensors in groups.items():
        if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
            if (part := _shards(tensors, rank)).tensors:
                files[f"{group}/rank_{rank:05d}.safetensors"] = part
        elif rank == 0:
            files[f"{group}.safetensors"] = TensorFile({name: tensor.detach() for name, tensor in tensors.items()})
    return files


def _shards(tensors: Mapping[str, Tensor], rank: int) -> TensorFile:
    file = TensorFile(offsets={})
    assert file.offsets is not None
    for name, tensor in tensors.items():
        if _writes(tensor, rank):
            file.tensors[name], file.offsets[name] = local_part(tensor)
    return file


def _writes(tensor: Tensor, rank: int) -> bool:
    if not isinstance(tensor, DTensor):
        return rank == 0
    if tensor.to_local().numel() == 0:
        return tensor.numel() == 0 and rank == 0
    # of equal copies, along a mesh dimension that replicates, the first is written
    copies = [dim for dim, placement in enumerate(tensor.placements) if placement.is_replicate()]
    return all(tensor.device_mesh.get_local_rank(dim) == 0 for dim in copies)


class Staging:
    """CPU memory that the snapshots of a run share, one after the other. As large as what this rank writes."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def copied(self, files: dict[str, TensorFile]) -> dict[str, TensorFile]:
        """``files`` with copies of the tensors; valid until the next call."""
        taken = {
            name: TensorFile({key: self._copy(name, key, live) for key, live in file.tensors.items()}, file.offsets)
            for name, file in files.items()
        }
        if any(live.is_cuda for file in files.values() for live in file.tensors.values()):
            torch.cuda.synchronize()  # the copies from GPU memory run beside this thread
        return taken

    def _copy(self, file: str, name: str, live: Tensor) -> Tensor:
        buffer = self._buffers.get((file, name))
        if buffer is None or buffer.shape != live.shape or buffer.dtype != live.dtype:
            buffer = torch.empty(live.shape, dtype=live.dtype, pin_memory=live.is_cuda)
            self._buffers[file, name] = buffer
        return buffer.copy_(live, non_blocking=live.is_cuda)
