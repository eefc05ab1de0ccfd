"""One rank that has the same tensors as all others, as with DDP, and saves or restores them.

    replicated_checkpoints.py FOLDER RANK RANKS save|load

Prints the files of the checkpoint that it opened.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from lcl_core.train.checkpoint import writer
from lcl_core.train.checkpoint.manager import CheckpointManager

ONLY_FIRST = {"model": ["mean"]}


def groups(rank: int, *, filled: bool = True) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "scale": torch.tensor(0.5),
        "flags": torch.randn(3, generator=generator) > 0,  # an odd number of bytes before the others
        "weight": torch.randn(100, 7, generator=generator),
        "half": torch.randn(33, 2, 2, generator=generator).bfloat16(),
        "empty": torch.zeros(0, 2),
        "mean": torch.full((5,), float(rank)),
    }
    if not filled:
        tensors = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    return {"model": tensors, "optimizer": {"moment": tensors["weight"] * 2}}


def main(folder: Path, rank: int, ranks: int, how: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/{how}_{ranks}", rank=rank, world_size=ranks)
    writer.MIN_PART_BYTES = 1
    opened: list[str] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and f"{folder}/checkpoints/step_00000001/" in str(arguments[0]):
            opened.append(str(arguments[0]).partition("/step_00000001/")[2])

    with CheckpointManager(folder / "checkpoints") as saver:
        if how == "save":
            own = {"rng": {"cpu": torch.tensor([rank])}}
            saver.save(1, groups(rank), {}, rank_tensors=own, only_first=ONLY_FIRST)
            saver.wait()
        else:
            sys.addaudithook(note)
            into = groups(rank, filled=False)
            loaded = saver.load_newest({"model": into["model"]})
            assert loaded is not None
            found = into | loaded.tensors
            for group, tensors in groups(0).items():
                assert all(torch.equal(tensor, found[group][name]) for name, tensor in tensors.items())
    dist.destroy_process_group()
    sys.stdout.write("\n".join(name for name in opened if "." in name))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
