"""One rank of a small FSDP2 training that saves or restores.

    sharded_checkpoints.py FOLDER RANK RANKS

Two ranks write checkpoints at steps 1 and 2 and ``expected/``: the whole tensors of step 2 and of step 3, to which
they train on without saving. Any number of ranks then restores and compares bit by bit.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lcl_core.train import checkpoint
from lcl_core.train.checkpoint import CheckpointManager
from lcl_core.train.distributed import RankGroup
from lcl_core.train.optimizer import training_tensors


class Net(nn.Module):
    """Rows that two ranks cannot halve, a single row, and a scalar, which FSDP2 does not take."""

    def __init__(self):
        super().__init__()
        self.odd = nn.Linear(3, 5)
        self.single = nn.Linear(5, 1)
        self.scale = nn.Parameter(torch.tensor(0.5))


class Run:
    def __init__(self, ranks, seed):
        torch.manual_seed(seed)
        self.model = Net()
        self.mesh = init_device_mesh("cpu", (ranks,))
        if ranks > 1:
            fully_shard(self.model, mesh=self.mesh, ignored_params={self.model.scale})
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)

    def step(self, number):
        generator = torch.Generator().manual_seed(number)
        for parameter in self.model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            sharded = isinstance(parameter, DTensor)
            parameter.grad = distribute_tensor(gradient, self.mesh, parameter.placements) if sharded else gradient
        self.optimizer.step()

    def groups(self):
        return training_tensors(self.model, self.optimizer)

    def whole(self):
        """Everything on every rank, by GROUP/NAME."""
        return {f"{group}/{name}": full(t) for group, tensors in self.groups().items() for name, t in tensors.items()}


def full(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def same(got, expected):
    return got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in expected)


def save(folder, rank, ranks):
    run = Run(ranks, seed=0)
    with CheckpointManager(folder / "checkpoints", RankGroup(), keep=3) as saver:
        for number in (1, 2, 3):
            run.step(number)
            whole = run.whole()
            if number > 1 and rank == 0:
                (folder / "expected").mkdir(exist_ok=True)
                save_file(whole, folder / "expected" / f"{number}.safetensors")
            if number < 3:  # step 3 changes the weights while step 2 is being written
                saver.save(number, run.groups(), {"step": number})
        saver.wait()
        fail_on_the_first_rank(saver, run)


def fail_on_the_first_rank(saver, run):
    """Its disk is full: all ranks hear of it, and nothing is left behind."""

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoint.write_tensors = full_disk
    saver.save(3, run.groups(), {})
    with pytest.raises((OSError, RuntimeError), match="No space left"):
        saver.wait()
    dist.barrier()
    assert sorted(path.name for path in saver.folder.iterdir()) == ["step_00000001", "step_00000002"]


def load(folder, rank, ranks):
    run = Run(ranks, seed=9)
    expected = {number: load_file(folder / "expected" / f"{number}.safetensors") for number in (2, 3)}
    with CheckpointManager(folder / "checkpoints", RankGroup()) as saver:
        assert saver.load_newest(run.groups()) == {"step": 2}
        assert same(run.whole(), expected[2])
        run.step(3)
        assert same(run.whole(), expected[3])
        if ranks == 1:
            return
        victim = saver.folder / "step_00000002" / "model.safetensors"
        whole = victim.read_bytes()
        dist.barrier()
        if rank == 0:
            victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0xFF]))
        assert saver.load_newest(run.groups()) == {"step": 1}
        dist.barrier()
        if rank == 0:
            victim.write_bytes(whole)


def main(folder, rank, ranks):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting_{ranks}", rank=rank, world_size=ranks)
    if ranks > 1:
        save(folder, rank, ranks)
    load(folder, rank, ranks)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
