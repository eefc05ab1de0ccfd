"""One rank of a small FSDP2 training that goes on with another number of ranks each time.

    resized_checkpoints.py FOLDER RANK RANKS NUMBER

NUMBER: of the call.

Each call restores what is there, compares it with the whole tensors that the one before had, trains two more steps,
saves and writes its own whole tensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from lcl_core.train.checkpoint.save import CheckpointManager
from tests.lcl_core.train.sharded_checkpoints import Run, same


def main(folder, rank, ranks, number):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting_{number}", rank=rank, world_size=ranks)
    run = Run(ranks, number)
    expected = folder / "expected.safetensors"
    with CheckpointManager(folder / "checkpoints") as saver:
        loaded = saver.load_newest(run.groups())
        assert (loaded is None) == (not expected.exists())
        if loaded is not None:
            assert same(run.whole(), load_file(expected))
        done = 0 if loaded is None else loaded.step
        for step in (done + 1, done + 2):
            run.step(step)
        saver.save(done + 2, run.groups(), {})
        saver.wait()
        whole = run.whole()
        if rank == 0:
            save_file(whole, expected)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
