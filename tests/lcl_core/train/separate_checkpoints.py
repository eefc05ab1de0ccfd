"""One rank of a small training whose ranks have different folders; it saves or restores.

separate_checkpoints.py save|load FOLDER RANK HOME[,HOME…] [plain]

The homes are those of the ranks, by rank. ``plain``: tensors that all ranks have whole, as with DDP.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from lcl_core.train.checkpoint import writer
from lcl_core.train.checkpoint.manager import CheckpointManager
from tests.lcl_core.train.sharded_checkpoints import Groups, Run, same

PART = 64  # bytes; so that small plain tensors are written in parts


class Plain(Run):
    def __init__(self, ranks: int, seed: int) -> None:
        super().__init__(1, seed)
        del ranks


def manager(folder: Path, home: str) -> CheckpointManager:
    return CheckpointManager(folder / home / "checkpoints", home=home, outgoing=folder / home / "outgoing")


def save(folder: Path, rank: int, homes: list[str], run: Run) -> None:
    (folder / homes[rank] / "outgoing").mkdir(parents=True, exist_ok=True)
    with manager(folder, homes[rank]) as saver:
        for number in (1, 2, 3, 4):
            run.step(number)
            own: Groups = {"rng": {"cpu": torch.tensor([rank])}}
            saver.save(number, run.groups(), {"step": number}, rank_tensors=own)
        saver.send_newest()
        whole = run.whole()
        if rank == 0:
            save_file(whole, folder / "expected.safetensors")


def load(folder: Path, rank: int, homes: list[str], run: Run) -> None:
    with manager(folder, homes[rank]) as saver:
        loaded = saver.load_newest(run.groups())
        assert loaded is not None, saver.passed_over
        assert loaded.state == {"step": 4}
        assert not saver.passed_over
        if loaded.ranks == len(homes):
            assert loaded.rank_tensors["rng"]["cpu"].tolist() == [rank]
        else:
            assert not loaded.rank_tensors
        assert same(run.whole(), load_file(folder / "expected.safetensors"))


def main(what: str, folder: Path, rank: int, homes: list[str], kind: str = "sharded") -> None:
    writer.MIN_PART_BYTES = PART
    size = len(homes)
    meeting = f"file://{folder}/meeting_{what}_{'_'.join(homes)}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    run = (Plain if kind == "plain" else Run)(size, 0 if what == "save" else 9)
    (save if what == "save" else load)(folder, rank, homes, run)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(","), *sys.argv[5:])
