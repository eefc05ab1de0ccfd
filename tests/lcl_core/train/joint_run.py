"""One rank of a step over documents that several ranks share.

    joint_run.py FOLDER RANK RANKS STRATEGY CUTS

FOLDER/case.safetensors holds the packed documents; CUTS (JSON) says which documents each micro-batch of each rank
takes. Rank 0 writes the gradients and the losses of two steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives import get_objective
from lcl_core.train import build_optimizer
from lcl_core.train.build import build_model
from lcl_core.train.ranks import Ranks
from lcl_core.train.step import TrainingStep


def main(folder: Path, rank: int, ranks: int, strategy: str, cuts: list[list[list[int]]]) -> None:
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    config = LCLConfig(**json.loads((folder / "config.json").read_text()))
    case = load_file(folder / "case.safetensors")
    batches = [_batch(case, documents, config) for documents in cuts[rank]]
    model = build_model(config, seed=0).train()
    meeting = Ranks()
    step = TrainingStep(model, get_objective("lcl"), meeting, strategy=strategy, max_grad_norm=0.5)
    optimizer = build_optimizer(model, lr=1e-3)
    facts = []
    for _ in range(2):
        report = step(optimizer, batches)
        shares = meeting.gather({name: float(loss) for name, loss in report.losses.items()})
        losses = {name: sum(share[name] for share in shares) for name in shares[0]}
        correct = sum(meeting.gather(float(report.correct)))
        facts.append({"losses": losses, "correct": correct, "norm": float(report.norm), "pairs": report.pairs})
    result = {f"grad.{name}": _whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    result |= {f"weight.{name}": _whole(p) for name, p in model.named_parameters()}
    if rank == 0:
        save_file(result, folder / f"result_{strategy}_{ranks}.safetensors")
        (folder / f"result_{strategy}_{ranks}.json").write_text(json.dumps(facts))
    if ranks > 1:
        dist.destroy_process_group()


def _batch(case: dict[str, Tensor], documents: list[int], config: LCLConfig) -> PackedBatch:
    rows = [case[f"row_{number}"] for number in documents]
    images = [case[f"pixels_{number}"] for number in documents]
    return PackedBatch.pack(rows, torch.cat(images), config)


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().clone()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5]))
